"""A session of the package etcd3 against a cluster of three, whose leader is killed and comes back meanwhile."""

import io
import os
import threading

import etcd3
import grpc

from harness import ENDPOINTS, control, host_port, refused, run, until, watched


def connect(endpoint=ENDPOINTS[0], **more):
    host, port = host_port(endpoint)
    connected = etcd3.client(host=host, port=port, timeout=10, **more)
    # It sends the token twice, once in a way that gRPC refuses without TLS.
    connected.call_credentials = None
    return connected


client = connect()


def kv():
    client.put("kv/a", "1")
    assert client.put("kv/a", "2", prev_kv=True).prev_kv.value == b"1"
    value, metadata = client.get("kv/a")
    assert (value, metadata.version, metadata.key) == (b"2", 2, b"kv/a")
    assert client.get("kv/none") == (None, None)
    for i in range(9):
        client.put(f"kv/b{i}", str(9 - i))
    assert [value for value, _ in client.get_prefix("kv/b", sort_order="ascend", sort_target="value")][0] == b"1"
    assert len(list(client.get_range("kv/b2", "kv/b5"))) == 3
    assert len(list(client.get_prefix("kv/b", keys_only=True))) == 9
    assert client.put_if_not_exists("kv/new", "x") and not client.put_if_not_exists("kv/new", "y")
    assert client.replace("kv/new", "x", "y") and not client.replace("kv/new", "x", "z")
    assert client.delete("kv/new") and not client.delete("kv/new")
    assert client.delete_prefix("kv/b").deleted == 9
    refused("requested lease not found", lambda: client.put("kv/a", "x", lease=77))
    refused("key is not provided", lambda: client.put("", "x"))


def txn():
    transactions = client.transactions
    for succeeds in (True, False):
        succeeded, answers = client.transaction(
            compare=[transactions.create("txn/a") == 0],
            success=[transactions.put("txn/a", "mine")],
            failure=[transactions.get("txn/a")],
        )
        assert succeeded == succeeds
    assert answers[0][0][0] == b"mine"
    succeeded, _ = client.transaction(
        compare=[transactions.value("txn/a") == "mine", transactions.version("txn/a") < 2, transactions.mod("txn/a") > 0],
        success=[transactions.delete("txn/a"), transactions.txn([], [transactions.put("txn/b", "x")], [])],
        failure=[],
    )
    assert succeeded and client.get("txn/a")[0] is None and client.get("txn/b")[0] == b"x"
    twice = [transactions.put("txn/c", "1"), transactions.put("txn/c", "2")]
    refused("duplicate key", lambda: client.transaction([], twice, []))


def watch():
    begin = client.put("watch/a", "0").header.revision
    events, cancel = client.watch_prefix("watch/", start_revision=begin, prev_kv=True)
    client.put("watch/a", "1")
    client.delete("watch/a")
    seen = [next(events) for _ in range(3)]
    assert [type(event).__name__ for event in seen] == ["PutEvent", "PutEvent", "DeleteEvent"]
    assert (seen[1].value, seen[1].prev_value) == (b"1", b"0")
    cancel()
    told = threading.Event()
    watch_id = client.add_watch_callback("watch/b", lambda _: told.set())
    client.put("watch/b", "1")
    assert told.wait(10)
    client.cancel_watch(watch_id)
    try:
        client.watch_once("watch/none", timeout=0.2)
        raise AssertionError("nothing was there to be seen")
    except etcd3.exceptions.WatchTimedOut:
        pass


def lease():
    kept = client.lease(5)
    client.put("lease/a", "x", lease=kept)
    assert kept.granted_ttl == 5 and kept.remaining_ttl <= 5 and list(kept.keys) == [b"lease/a"]
    assert kept.refresh()[0].TTL == 5
    kept.revoke()
    assert client.get("lease/a")[0] is None and kept.remaining_ttl == -1
    # One that nobody keeps ends, and takes its key along.
    put = client.put("lease/b", "x", lease=client.lease(1))
    events, cancel = client.watch("lease/b", start_revision=put.header.revision + 1)
    assert isinstance(next(events), etcd3.events.DeleteEvent)
    cancel()


def lock():
    one, two = client.lock("lock", ttl=20), client.lock("lock", ttl=20)
    assert one.acquire() and one.is_acquired() and not two.acquire(timeout=1)
    assert one.refresh()[0].TTL == 20
    assert one.release() and two.acquire() and two.release()
    with client.lock("lock", ttl=20) as held:
        assert held.is_acquired()


def maintenance():
    assert len(list(client.members)) == 3
    status = client.status()
    assert status.version and status.db_size > 0 and status.leader in list(client.members) or status.leader
    assert list(client.list_alarms()) == [] and client.hash() is not None
    client.defragment()
    revision = client.put("maintenance/a", "1").header.revision
    client.put("maintenance/a", "2")
    client.compact(revision, physical=True)
    try:
        events, cancel = client.watch("maintenance/a", start_revision=revision - 1)
        next(events)
        raise AssertionError("what was compacted cannot be watched")
    except etcd3.exceptions.RevisionCompactedError as error:
        assert error.compacted_revision == revision
    file = io.BytesIO()
    client.snapshot(file)
    assert file.tell() > 0


def leader_killed():
    leader = control("leader")
    survivor = connect(next(endpoint for endpoint in ENDPOINTS if endpoint != leader))
    doomed = connect(leader)
    kept = survivor.lease(10)
    survivor.put("killed/lease", "x", lease=kept)
    held = survivor.lock("killed/lock", ttl=60)
    assert held.acquire()
    begin = survivor.put("killed/n", "-1").header.revision
    events, cancel = survivor.watch("killed/n", start_revision=begin + 1)
    acknowledged = [-1]

    def write(through, count):
        for _ in range(count):
            number = acknowledged[0] + 1
            # A put of unknown outcome is put again: it is the same value.
            until("a write", lambda: through.put("killed/n", str(number)))
            acknowledged[0] = number
            if number % 10 == 0:
                until("a keep-alive", lambda: kept.refresh())

    write(doomed, 30)
    assert control("kill-leader") == leader
    write(survivor, 50)
    assert until("the lock is still held", held.is_acquired)
    assert control("restart") == "ok"
    # The connection to the one that was killed comes back by itself.
    write(doomed, 50)
    seen = []
    while not seen or seen[-1][0] != acknowledged[0]:
        event = next(events)
        seen.append((int(event.value), event.mod_revision if hasattr(event, "mod_revision") else event._event.kv.mod_revision))
    watched(seen, begin, acknowledged[0])
    cancel()
    assert survivor.get("killed/lease")[0] == b"x"
    assert held.release()
    kept.revoke()


def auth():
    """It has no calls for users of its own, but its stubs have."""
    from etcd3 import etcdrpc as rpc

    stub = rpc.AuthStub(client.channel)
    stub.RoleAdd(rpc.AuthRoleAddRequest(name="root"))
    stub.UserAdd(rpc.AuthUserAddRequest(name="root", password="secret"))
    stub.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
    stub.UserAdd(rpc.AuthUserAddRequest(name="alice", password="wonder"))
    client.put("auth/a", "1")
    stub.AuthEnable(rpc.AuthEnableRequest())
    refused("user name is empty", lambda: client.get("auth/a"))
    root = connect(user="root", password="secret")
    assert root.get("auth/a")[0] == b"1"
    alice = connect(ENDPOINTS[1], user="alice", password="wonder")
    refused("permission denied", lambda: alice.get("auth/a"))
    refused("authentication failed", lambda: connect(user="root", password="wrong"))
    rpc.AuthStub(root.channel).AuthDisable(rpc.AuthDisableRequest(), metadata=root.metadata)
    assert client.get("auth/a")[0] == b"1"
    for name in ("alice", "root"):
        stub.UserDelete(rpc.AuthUserDeleteRequest(name=name))
    stub.RoleDelete(rpc.AuthRoleDeleteRequest(role="root"))


run([
    ("kv", kv),
    ("txn", txn),
    ("watch", watch),
    ("lease", lease),
    ("lock", lock),
    ("cluster and maintenance", maintenance),
    ("leader killed", leader_killed),
    ("auth", auth),
])
# The watcher's thread would wait for ever.
os._exit(0)
