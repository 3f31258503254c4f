"""Patroni's own class for etcd (`patroni.dcs.etcd3.Etcd3`), as two nodes of a PostgreSQL cluster use it, by JSON, against a cluster of three
whose leader is killed and comes back meanwhile: the race to lead, keeping the lead, and taking over."""

import logging
import os
import time

from patroni.dcs.etcd3 import Etcd3
from patroni.postgresql.mpp import get_mpp

from harness import ENDPOINTS, PATIENCE, control, run, until

# Its watcher says whenever it begins anew, which it does after each refused write.
logging.basicConfig(level=logging.CRITICAL)
# As short as Patroni allows to be useful.
TTL, LOOP_WAIT, RETRY_TIMEOUT = 8, 1, 6


def node(name, hosts=ENDPOINTS, **more):
    config = {
        "hosts": list(hosts),
        "namespace": "service",
        "scope": "demo",
        "name": name,
        "ttl": TTL,
        "loop_wait": LOOP_WAIT,
        "retry_timeout": RETRY_TIMEOUT,
        **more,
    }
    return Etcd3(config, get_mpp({}))


alice, bob = node("alice"), node("bob")


def leader_of(patroni):
    cluster = patroni.get_cluster()
    return cluster.leader.name if cluster.leader else None


def sees(patroni, what, holds):
    """A node knows the others' keys from its watcher, so a moment later."""
    until(what, lambda: holds(patroni.get_cluster()))


def leads(name, *nodes):
    for each in nodes:
        until(f"{name} leads", lambda: leader_of(each) == name)


def bootstrap():
    assert alice.initialize(create_new=True, sysid="7000")
    assert not bob.initialize(create_new=True, sysid="7001"), "one of them initialises"
    for each, port in ((alice, 5432), (bob, 5433)):
        each.get_cluster()
        assert each.touch_member({"conn_url": f"postgres://127.0.0.1:{port}/postgres", "state": "running", "role": "replica"})
    sees(bob, "both members", lambda cluster: sorted(member.name for member in cluster.members) == ["alice", "bob"])
    assert bob.get_cluster().initialize == "7000"
    assert alice.set_config_value('{"ttl":8}')
    sees(bob, "the settings", lambda cluster: cluster.config and cluster.config.data == {"ttl": 8})


def race():
    assert alice.attempt_to_acquire_leader()
    assert not bob.attempt_to_acquire_leader(), "one of them leads"
    leads("alice", alice, bob)
    assert alice.update_leader(alice.get_cluster(), 100, {}, {})
    sees(bob, "what it wrote down", lambda cluster: cluster.status.last_lsn == 100)


def settings():
    config = alice.get_cluster().config
    assert alice.set_config_value('{"ttl":9}', config.version)
    assert not bob.set_config_value('{"ttl":10}', config.version), "who changes an old one is refused"
    version = alice.set_sync_state_value('{"leader":"alice"}')
    assert version and not bob.set_sync_state_value('{"leader":"bob"}', str(int(version) - 1))
    assert alice.set_failover_value('{"leader":"alice","member":"bob"}')
    sees(bob, "the failover", lambda cluster: cluster.failover and cluster.failover.candidate == "bob")
    assert alice.set_history_value("[]") and alice.delete_sync_state(str(version))


def watch():
    bob.get_cluster()
    begin = time.monotonic()
    # It sleeps until something about the leader changes.
    bob.event.clear()
    assert alice.delete_leader(alice.get_cluster().leader)
    assert bob.watch(None, 10) and time.monotonic() - begin < 5, "it is woken"
    until("bob leads", lambda: bob.attempt_to_acquire_leader())
    leads("bob", alice, bob)
    assert not alice.attempt_to_acquire_leader()


def leader_killed():
    """Whoever leads goes on leading while the store elects, as long as its loop runs; nobody else ever does."""
    kept = 0

    def loop(rounds):
        nonlocal kept
        for _ in range(rounds):
            cluster = until("the cluster is read", bob.get_cluster)
            assert cluster.leader and cluster.leader.name == "bob", f"{cluster.leader} leads"
            # Every call has PostgreSQL's patience of its own; one may fail while nobody leads the store.
            until("the lead is kept", lambda: bob.update_leader(bob.get_cluster(), 200, {}, {}))
            bob.get_cluster()
            assert not alice.attempt_to_acquire_leader()
            kept += 1
            time.sleep(0.2)  # A part of the pause between two rounds of Patroni's loop.

    loop(3)
    control("kill-leader")
    loop(10)
    assert control("restart") == "ok"
    loop(5)
    assert kept == 18
    leads("bob", alice)


def failover():
    """Who leads and stops to say so loses the lead when its time is over, and not before."""
    assert bob.update_leader(bob.get_cluster(), 300, {}, {})
    last = time.monotonic()
    taken = until_taken(last)
    assert taken - last >= TTL - 1, f"after {taken - last} s"
    leads("alice", alice, bob)
    assert alice.delete_leader(alice.get_cluster().leader)
    leads(None, alice, bob)


def until_taken(since):
    while not alice.attempt_to_acquire_leader():
        assert time.monotonic() - since < TTL + PATIENCE, "nobody takes over"
        alice.touch_member({"state": "running"})
        time.sleep(0.2)  # A part of the pause between two rounds of Patroni's loop.
    return time.monotonic()


def auth():
    client = alice._client
    client.call_rpc("/auth/role/add", {"name": "root"})
    client.call_rpc("/auth/user/add", {"name": "root", "password": "secret"})
    client.call_rpc("/auth/user/grant", {"user": "root", "role": "root"})
    client.call_rpc("/auth/enable", {})
    root = node("carol", username="root", password="secret")
    assert root.get_cluster().initialize == "7000"
    assert root.attempt_to_acquire_leader()
    leads("carol", root)
    assert root.delete_cluster()
    sees(root, "nothing", lambda cluster: cluster.is_empty())
    root._client.call_rpc("/auth/disable", {})
    client.call_rpc("/auth/user/delete", {"name": "root"})
    client.call_rpc("/auth/role/delete", {"role": "root"})


run([
    ("bootstrap", bootstrap),
    ("leader race", race),
    ("settings", settings),
    ("watch", watch),
    ("leader killed", leader_killed),
    ("failover", failover),
    ("auth", auth),
])
# Its watchers' threads would wait for ever.
os._exit(0)
