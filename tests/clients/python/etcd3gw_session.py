"""A session of the package etcd3gw, which calls by JSON, against a cluster of three, whose leader is killed and comes back meanwhile."""

import os

from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception
from etcd3gw.utils import _decode, _encode

from harness import ENDPOINTS, control, host_port, refused, run, until, watched


def connect(endpoint=ENDPOINTS[0]):
    host, port = host_port(endpoint)
    return Etcd3Client(host=host, port=port, timeout=10)


client = connect()


def kv():
    assert client.api_path == "/v3/", client.api_path
    client.put("kv/a", "1")
    client.put("kv/a", "2")
    value, metadata = client.get("kv/a", metadata=True)[0]
    assert (value, metadata["version"]) == (b"2", "2")
    assert client.get("kv/none") == []
    assert client.create("kv/new", "x") and not client.create("kv/new", "y")
    assert client.replace("kv/new", "x", "y") and not client.replace("kv/new", "x", "z")
    for i in range(9):
        client.put(f"kv/b{i}", str(9 - i))
    found = client.get_prefix("kv/b", sort_order="ascend", sort_target="value")
    assert [value for value, _ in found] == [str(i).encode() for i in range(1, 10)]
    assert len(client.get_prefix("kv/b", sort_order="descend", sort_target="key")) == 9
    assert client.delete("kv/new") and not client.delete("kv/new")
    assert client.delete_prefix("kv/b") and client.get_prefix("kv/b") == []
    client.put("kv/binary", bytes(range(256)))
    assert client.get("kv/binary") == [bytes(range(256))]
    refused("key is not provided", lambda: client.put("", "x"))


def txn():
    key, value = _encode("txn/a"), _encode("mine")
    create = {
        "compare": [{"key": key, "result": "EQUAL", "target": "CREATE", "create_revision": 0}],
        "success": [{"request_put": {"key": key, "value": value}}],
        "failure": [{"request_range": {"key": key}}],
    }
    assert client.transaction(create)["succeeded"]
    again = client.transaction(create)
    assert not again.get("succeeded")
    assert _decode(again["responses"][0]["response_range"]["kvs"][0]["value"]) == b"mine"
    twice = {"success": [{"request_put": {"key": key, "value": value}}] * 2}
    refused("duplicate key", lambda: client.transaction(twice))


def watch():
    events, cancel = client.watch_prefix("watch/")
    client.put("watch/a", "1")
    client.put("watch/a", "2")
    client.delete("watch/a")
    seen = [next(events) for _ in range(3)]
    assert [event["kv"].get("value") for event in seen] == [b"1", b"2", None]
    assert seen[2]["type"] == "DELETE" and seen[2]["kv"]["key"] == b"watch/a"
    cancel()
    try:
        client.watch_once("watch/none", timeout=1)
        raise AssertionError("nothing was there to be seen")
    except Etcd3Exception as error:
        assert type(error).__name__ == "WatchTimedOut", error


def lease():
    kept = client.lease(5)
    client.put("lease/a", "x", lease=kept)
    assert 0 <= kept.ttl() <= 5 and kept.keys() == [b"lease/a"] and kept.refresh() == 5
    assert kept.revoke() and client.get("lease/a") == [] and kept.ttl() == -1
    # One that nobody keeps ends, and takes its key along.
    client.put("lease/b", "x", lease=client.lease(1))
    until("its end", lambda: client.get("lease/b") == [])


def lock():
    one, two = client.lock("lock", ttl=20), client.lock("lock", ttl=20)
    assert one.acquire() and one.is_acquired() and not two.acquire()
    assert one.refresh() == 20 and one.release() and two.acquire() and two.release()


def members():
    assert len(client.members()) == 3
    status = client.status()
    assert status["version"] and int(status["leader"]) and int(status["dbSize"])


def leader_killed():
    leader = control("leader")
    survivor = connect(next(endpoint for endpoint in ENDPOINTS if endpoint != leader))
    doomed = connect(leader)
    kept = survivor.lease(10)
    survivor.put("killed/lease", "x", lease=kept)
    held = survivor.lock("killed/lock", ttl=60)
    assert held.acquire()
    survivor.put("killed/n", "-1")
    begin = int(survivor.get("killed/n", metadata=True)[0][1]["mod_revision"])
    events, cancel = survivor.watch("killed/n", start_revision=begin + 1)
    last = -1

    def write(through, count):
        nonlocal last
        for _ in range(count):
            # A put of unknown outcome is put again: it is the same value.
            until("a write", lambda: through.put("killed/n", str(last + 1)))
            last += 1
            if last % 10 == 0:
                until("a keep-alive", lambda: kept.refresh() == 10)

    write(doomed, 30)
    assert control("kill-leader") == leader
    write(survivor, 50)
    assert until("the lock is still held", held.is_acquired)
    assert control("restart") == "ok"
    write(doomed, 50)
    seen = []
    while not seen or seen[-1][0] != last:
        pair = next(events)["kv"]
        seen.append((int(pair["value"]), int(pair["mod_revision"])))
    watched(seen, begin, last)
    cancel()
    assert survivor.get("killed/lease") == [b"x"]
    assert held.release() and kept.revoke()


def auth():
    """It has no calls for users of its own; whatever has a path can be posted."""

    def post(who, path, **body):
        return who.post(who.get_url(path), json=body)

    post(client, "/auth/role/add", name="root")
    post(client, "/auth/user/add", name="root", password="secret")
    post(client, "/auth/user/grant", user="root", role="root")
    post(client, "/auth/user/add", name="alice", password="wonder")
    client.put("auth/a", "1")
    post(client, "/auth/enable")
    refused("user name is empty", lambda: client.get("auth/a"))

    def as_user(name, password):
        user = connect()
        user.session.headers["Authorization"] = post(client, "/auth/authenticate", name=name, password=password)["token"]
        return user

    root = as_user("root", "secret")
    assert root.get("auth/a") == [b"1"]
    refused("permission denied", lambda: as_user("alice", "wonder").get("auth/a"))
    refused("authentication failed", lambda: as_user("alice", "wrong"))
    post(root, "/auth/disable")
    assert client.get("auth/a") == [b"1"]
    for name in ("alice", "root"):
        post(client, "/auth/user/delete", name=name)
    post(client, "/auth/role/delete", role="root")


run([
    ("kv", kv),
    ("txn", txn),
    ("watch", watch),
    ("lease", lease),
    ("lock", lock),
    ("members", members),
    ("leader killed", leader_killed),
    ("auth", auth),
])
# A watcher's thread may wait for what never comes.
os._exit(0)
