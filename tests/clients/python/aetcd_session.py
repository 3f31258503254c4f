"""A session of the package aetcd against a cluster of three, whose leader is killed and comes back meanwhile."""

import asyncio
import io
import time

import aetcd

from harness import ENDPOINTS, PATIENCE, control, host_port, watched


def connect(endpoint=ENDPOINTS[0], **more):
    host, port = host_port(endpoint)
    return aetcd.Client(host=host, port=port, timeout=10, **more)


async def refused(text, call):
    try:
        answer = await call
    except aetcd.ClientError as error:
        assert text in str(error), f"the refusal is {error!r}"
        return
    raise AssertionError(f"it was not refused: {text}: {answer!r}")


async def until(what, holds):
    deadline = time.monotonic() + PATIENCE
    while True:
        failed = None
        try:
            found = await holds()
            if found:
                return found
        except aetcd.ClientError as error:
            failed = error
        assert time.monotonic() < deadline, f"not in time: {what}: {failed!r}"
        # Nobody tells when.
        await asyncio.sleep(0.02)


async def kv(client):
    await client.put(b"kv/a", b"1")
    assert (await client.put(b"kv/a", b"2", prev_kv=True)).prev_kv.value == b"1"
    found = await client.get(b"kv/a")
    assert (found.value, found.version, found.key) == (b"2", 2, b"kv/a")
    assert await client.get(b"kv/none") is None
    for i in range(9):
        await client.put(b"kv/b%d" % i, b"%d" % (9 - i))
    all_of = await client.get_prefix(b"kv/b", sort_order="ascend", sort_target="value")
    assert len(all_of) == 9 and all_of[0].value == b"1"
    assert len(await client.get_range(b"kv/b2", b"kv/b5")) == 3
    assert await client.replace(b"kv/a", b"2", b"3") and not await client.replace(b"kv/a", b"2", b"4")
    assert (await client.delete(b"kv/a", prev_kv=True)).prev_kv.value == b"3"
    assert await client.delete(b"kv/a") is None
    assert (await client.delete_prefix(b"kv/b")).deleted == 9
    await refused("requested lease not found", client.put(b"kv/a", b"x", lease=77))
    await refused("key is not provided", client.put(b"", b"x"))


async def txn(client):
    transactions = client.transactions
    for succeeds in (True, False):
        succeeded, answers = await client.transaction(
            compare=[transactions.create(b"txn/a") == 0],
            success=[transactions.put(b"txn/a", b"mine")],
            failure=[transactions.get(b"txn/a")],
        )
        assert succeeded == succeeds
    assert answers[0][0][0] == b"mine"
    succeeded, _ = await client.transaction(
        compare=[transactions.value(b"txn/a") == b"mine", transactions.version(b"txn/a") < 2],
        success=[transactions.delete(b"txn/a")],
        failure=[],
    )
    assert succeeded and await client.get(b"txn/a") is None
    twice = [transactions.put(b"txn/c", b"1"), transactions.put(b"txn/c", b"2")]
    await refused("duplicate key", client.transaction([], twice, []))


async def watch(client):
    begin = (await client.put(b"watch/a", b"0")).header.revision
    watching = await client.watch_prefix(b"watch/", start_revision=begin)
    await client.put(b"watch/a", b"1")
    await client.delete(b"watch/a")
    seen = []
    async for event in watching:
        seen.append(event)
        if len(seen) == 3:
            await watching.cancel()
    assert [event.kind for event in seen] == [aetcd.EventKind.PUT, aetcd.EventKind.PUT, aetcd.EventKind.DELETE]
    assert [event.kv.value for event in seen] == [b"0", b"1", b""]
    try:
        await client.watch_once(b"watch/none", timeout=1)
        raise AssertionError("nothing was there to be seen")
    except aetcd.WatchTimeoutError:
        pass


async def lease(client):
    kept = await client.lease(5)
    await client.put(b"lease/a", b"x", lease=kept)
    assert await kept.granted_ttl() == 5 and list(await kept.keys()) == [b"lease/a"]
    assert (await kept.refresh()).TTL == 5
    await refused("", client.lease(5, lease_id=kept.id))
    await kept.revoke()
    assert await client.get(b"lease/a") is None and await kept.remaining_ttl() == -1
    # One that nobody keeps ends, and takes its key along.
    put = await client.put(b"lease/b", b"x", lease=await client.lease(1))
    event = await client.watch_once(b"lease/b", timeout=PATIENCE, start_revision=put.header.revision + 1)
    assert event.kind == aetcd.EventKind.DELETE


async def lock(client):
    one, two = client.lock(b"lock", ttl=20), client.lock(b"lock", ttl=20)
    assert await one.acquire() and await one.is_acquired() and not await two.acquire(timeout=1)
    assert (await one.refresh()).TTL == 20
    assert await one.release() and await two.acquire() and await two.release()


async def maintenance(client):
    assert len([member async for member in client.members()]) == 3
    status = await client.status()
    assert status.version and status.db_size > 0 and status.leader
    assert [alarm async for alarm in client.list_alarms()] == []
    assert await client.hash() is not None
    await client.defragment()
    revision = (await client.put(b"maintenance/a", b"1")).header.revision
    await client.put(b"maintenance/a", b"2")
    await client.compact(revision, physical=True)
    file = io.BytesIO()
    await client.snapshot(file)
    assert file.tell() > 0


async def leader_killed(_):
    leader = control("leader")
    async with connect(next(endpoint for endpoint in ENDPOINTS if endpoint != leader)) as survivor, connect(leader) as doomed:
        kept = await survivor.lease(10)
        await survivor.put(b"killed/lease", b"x", lease=kept)
        held = survivor.lock(b"killed/lock", ttl=60)
        assert await held.acquire()
        begin = (await survivor.put(b"killed/n", b"-1")).header.revision
        watching = await survivor.watch(b"killed/n", start_revision=begin + 1)
        last = -1

        async def write(through, count):
            nonlocal last
            for _ in range(count):
                number = b"%d" % (last + 1)
                # A put of unknown outcome is put again: it is the same value.
                await until("a write", lambda: through.put(b"killed/n", number))
                last += 1
                if last % 10 == 0:
                    await until("a keep-alive", kept.refresh)

        await write(doomed, 30)
        assert await asyncio.to_thread(control, "kill-leader") == leader
        await write(survivor, 50)
        assert await until("the lock is still held", held.is_acquired)
        assert await asyncio.to_thread(control, "restart") == "ok"
        # The connection to the one that was killed comes back by itself.
        await write(doomed, 50)
        seen = []
        async for event in watching:
            seen.append((int(event.kv.value), event.kv.mod_revision))
            if seen[-1][0] == last:
                await watching.cancel()
        watched(seen, begin, last)
        assert (await survivor.get(b"killed/lease")).value == b"x"
        assert await held.release()
        await kept.revoke()


async def auth(client):
    """It has no calls for users of its own, but its stubs have."""
    from aetcd import rpc

    stub = rpc.AuthStub(client.channel)
    await stub.RoleAdd(rpc.AuthRoleAddRequest(name="root"))
    await stub.UserAdd(rpc.AuthUserAddRequest(name="root", password="secret"))
    await stub.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
    await stub.UserAdd(rpc.AuthUserAddRequest(name="alice", password="wonder"))
    await client.put(b"auth/a", b"1")
    await stub.AuthEnable(rpc.AuthEnableRequest())
    await refused("user name is empty", client.get(b"auth/a"))
    async with connect(username="root", password="secret") as root:
        assert (await root.get(b"auth/a")).value == b"1"
        async with connect(ENDPOINTS[1], username="alice", password="wonder") as alice:
            await refused("permission denied", alice.get(b"auth/a"))
        await refused("authentication failed", connect(username="root", password="wrong").connect())
        await rpc.AuthStub(root.channel).AuthDisable(rpc.AuthDisableRequest(), metadata=root.metadata)
    assert (await client.get(b"auth/a")).value == b"1"
    for name in ("alice", "root"):
        await stub.UserDelete(rpc.AuthUserDeleteRequest(name=name))
    await stub.RoleDelete(rpc.AuthRoleDeleteRequest(role="root"))


async def main():
    scenarios = [
        ("kv", kv),
        ("txn", txn),
        ("watch", watch),
        ("lease", lease),
        ("lock", lock),
        ("cluster and maintenance", maintenance),
        ("leader killed", leader_killed),
        ("auth", auth),
    ]
    async with connect() as client:
        for name, scenario in scenarios:
            begin = time.monotonic()
            await scenario(client)
            print(f"ok {name} {time.monotonic() - begin:.1f}")
    print(f"done {len(scenarios)}")


asyncio.run(main())
