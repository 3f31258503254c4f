// A session of etcd3 for Node against a cluster of three, whose leader is killed and comes back meanwhile.
//
// ENDPOINTS names the members, CONTROL whom to ask to kill one. Each scenario that holds prints "ok NAME SECONDS".
'use strict';

const assert = require('node:assert');
const { once } = require('node:events');
const net = require('node:net');
const { Etcd3, EtcdLockFailedError, EtcdPermissionDeniedError } = require('etcd3');

const hosts = process.env.ENDPOINTS.split(',').map((endpoint) => `http://${endpoint}`);
// Milliseconds for one call, across an election.
const PATIENCE = 20000;
const connect = (more) =>
  new Etcd3({
    hosts,
    dialTimeout: 2000,
    grpcOptions: { 'grpc.keepalive_time_ms': 2000, 'grpc.keepalive_timeout_ms': 2000 },
    ...more,
  });
const client = connect();

async function control(ask) {
  const [host, port] = process.env.CONTROL.split(':');
  const socket = net.connect(Number(port), host);
  socket.write(`${ask}\n`);
  let answer = '';
  for await (const piece of socket) answer += piece;
  return answer.trim();
}

// Looks until it holds; what fails is tried again.
async function until(what, holds) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    let failed;
    try {
      const found = await holds();
      if (found) return found;
    } catch (error) {
      failed = error;
    }
    assert(Date.now() < deadline, `not in time: ${what}: ${failed}`);
    // Nobody tells when.
    await new Promise((done) => setTimeout(done, 20));
  }
}

const refused = (text, promise) => assert.rejects(promise, (error) => error.message.includes(text));

const scenarios = {
  async kv() {
    await client.put('kv/a').value('1');
    const before = await client.put('kv/a').value('2').getPrevious();
    assert.strictEqual(before.value.toString(), '1');
    assert.strictEqual(await client.get('kv/a').string(), '2');
    assert.strictEqual(await client.get('kv/a').number(), 2);
    assert.strictEqual(await client.get('kv/a').revision(before.mod_revision).string(), '1');
    assert.strictEqual(await client.get('kv/none').string(), null);
    assert.strictEqual(await client.get('kv/none').exists(), false);
    for (let i = 0; i < 9; i++) await client.put(`kv/b${i}`).value(9 - i);
    assert.strictEqual(await client.getAll().prefix('kv/b').count(), 9);
    assert.deepStrictEqual(await client.getAll().prefix('kv/b').limit(2).keys(), ['kv/b0', 'kv/b1']);
    assert.deepStrictEqual(await client.getAll().prefix('kv/b').sort('Value', 'Ascend').limit(1).numbers(), { 'kv/b8': 1 });
    assert.strictEqual((await client.getAll().inRange({ start: 'kv/b2', end: 'kv/b5' }).keys()).length, 3);
    assert.strictEqual((await client.delete().prefix('kv/b').getPrevious()).length, 9);
    await client.put('kv/a').ignoreLease().touch();
    await refused('requested lease not found', client.put('kv/a').value('x').lease('77').exec());
    await refused('key is not provided', client.put('').value('x').exec());
    const inside = client.namespace('kv/space/');
    await inside.put('a').value('inside');
    assert.strictEqual(await client.get('kv/space/a').string(), 'inside');
    assert.deepStrictEqual(await inside.getAll().keys(), ['a']);
  },

  async txn() {
    const create = () =>
      client.if('txn/a', 'Create', '==', 0).then(client.put('txn/a').value('mine')).else(client.get('txn/a')).commit();
    assert.strictEqual((await create()).succeeded, true);
    const again = await create();
    assert.strictEqual(again.succeeded, false);
    assert.strictEqual(again.responses[0].response_range.kvs[0].value.toString(), 'mine');
    const both = await client.if('txn/a', 'Value', '==', 'mine').and('txn/a', 'Version', '<', 2).then(client.delete().key('txn/a')).commit();
    assert.strictEqual(both.succeeded, true);
    await refused('duplicate key', client.if('txn/a', 'Create', '==', 0).then(client.put('txn/a').value(1), client.put('txn/a').value(2)).commit());
  },

  async stm() {
    await client.put('stm/n').value(0);
    const add = () =>
      client.stm({ retries: 50 }).transact(async (tx) => {
        const n = await tx.get('stm/n').number();
        await tx.put('stm/n').value(n + 1);
      });
    await Promise.all(Array.from({ length: 8 }, add));
    assert.strictEqual(await client.get('stm/n').number(), 8);
  },

  async watch() {
    const { header } = await client.put('watch/a').value('0').exec();
    const watcher = await client.watch().prefix('watch/').startRevision(header.revision).withPreviousKV().create();
    const events = [];
    watcher.on('data', (answer) => events.push(...answer.events));
    await client.put('watch/a').value('1');
    await client.if('watch/a', 'Version', '>', 0).then(client.put('watch/b').value('2'), client.delete().key('watch/a')).commit();
    await until('four events', () => events.length === 4);
    assert.deepStrictEqual(events.map((event) => event.type), ['Put', 'Put', 'Put', 'Delete']);
    assert.strictEqual(events[1].prev_kv.value.toString(), '0');
    assert.strictEqual(events[2].kv.mod_revision, events[3].kv.mod_revision);
    await watcher.cancel();
    const deletes = await client.watch().key('watch/c').only('delete').create();
    const deleted = once(deletes, 'delete');
    await client.put('watch/c').value('1');
    await client.delete().key('watch/c');
    assert.strictEqual((await deleted)[0].key.toString(), 'watch/c');
    await deletes.cancel();
  },

  async lease() {
    const lease = client.lease(5, { autoKeepAlive: false });
    await lease.put('lease/a').value('x').exec();
    assert.strictEqual((await lease.keepaliveOnce()).TTL, '5');
    await lease.revoke();
    assert.strictEqual(await client.get('lease/a').string(), null);
    // One that nobody keeps ends, and takes its key along.
    const brief = client.lease(1, { autoKeepAlive: false });
    const put = await brief.put('lease/b').value('x').exec();
    const watcher = await client.watch().key('lease/b').startRevision(String(BigInt(put.header.revision) + 1n)).create();
    await once(watcher, 'delete');
    await watcher.cancel();
    await assert.rejects(brief.keepaliveOnce());
  },

  async lock() {
    let inside = 0;
    // It does not wait by itself: whoever finds it taken tries again.
    const work = async () => {
      const lock = await until('the lock', () =>
        client.lock('lock').ttl(10).acquire().catch((error) => {
          if (!(error instanceof EtcdLockFailedError)) throw error;
        }),
      );
      assert.strictEqual(++inside, 1);
      // Others have time to be wrong.
      await new Promise((done) => setTimeout(done, 2));
      inside--;
      await lock.release();
    };
    await Promise.all([work(), work(), work()]);
  },

  async election() {
    const election = client.election('election', 10);
    assert.strictEqual(await election.leader(), undefined);
    const first = await election.campaign('one').wait();
    assert.strictEqual(await election.leader(), 'one');
    const observer = await election.observe();
    assert.strictEqual(observer.leader(), 'one');
    const second = election.campaign('two');
    const elected = once(second, 'elected');
    await first.proclaim('one, still');
    await until('what was proclaimed', () => observer.leader() === 'one, still');
    await first.resign();
    await elected;
    await until('the next', () => observer.leader() === 'two');
    await observer.cancel();
    await second.resign();
  },

  async 'cluster and maintenance'() {
    assert.strictEqual((await client.cluster.memberList({})).members.length, 3);
    const status = await client.maintenance.status();
    assert(Number(status.dbSize) > 0 && status.version && status.leader !== '0');
    assert.deepStrictEqual((await client.maintenance.alarm({ action: 'GET' })).alarms, []);
    assert((await client.maintenance.hash()).hash !== undefined);
    const { header } = await client.put('maintenance/a').value('1').exec();
    await client.kv.compact({ revision: header.revision, physical: true });
    await refused('compacted', client.get('maintenance/a').revision(String(BigInt(header.revision) - 1n)).exec());
  },

  async 'leader killed'() {
    const lease = client.lease(10);
    lease.on('lost', (error) => {
      throw error;
    });
    await lease.put('killed/lease').value('x').exec();
    const lock = await client.lock('killed/lock').ttl(10).acquire();
    const { header } = await client.put('killed/n').value(-1).exec();
    const watcher = await client.watch().key('killed/n').startRevision(String(BigInt(header.revision) + 1n)).create();
    const seen = [];
    watcher.on('put', (kv) => seen.push(kv));
    let acknowledged = -1;
    let stop = false;
    const writer = (async () => {
      for (let n = 0; !stop; n++) {
        // A put of unknown outcome is put again: it is the same value.
        await until('a write', () => client.put('killed/n').value(n).options({ deadline: Date.now() + 3000 }).exec());
        acknowledged = n;
      }
    })();
    const more = async () => {
      const goal = acknowledged + 50;
      await until(`${goal} writes`, () => acknowledged >= goal);
    };
    await more();
    await control('kill-leader');
    await more();
    await until('the lock is still held', async () => (await client.get('killed/lock').string()) !== null);
    assert.strictEqual(await control('restart'), 'ok');
    await more();
    stop = true;
    await writer;
    await until('all were seen', () => seen.length && Number(seen.at(-1).value) === acknowledged);
    let expected = 0;
    let revision = BigInt(header.revision);
    for (const kv of seen) {
      assert(BigInt(kv.mod_revision) > revision, 'revisions rise');
      revision = BigInt(kv.mod_revision);
      const n = Number(kv.value);
      // The same again is one whose first outcome was unknown.
      assert(n === expected || n === expected - 1, `${n} where ${expected} should follow`);
      expected = n + 1;
    }
    await watcher.cancel();
    assert.strictEqual(await client.get('killed/lease').string(), 'x');
    await lock.release();
    await lease.revoke();
  },

  async auth() {
    const root = client.role('root');
    await root.create();
    await client.user('root').create('secret');
    await client.user('root').addRole('root');
    const reader = client.role('reader');
    await reader.create();
    await reader.grant({ permission: 'Read', range: client.range({ prefix: 'auth/' }) });
    await client.user('alice').create('wonder');
    await client.user('alice').addRole('reader');
    await client.put('auth/a').value('1');
    await client.auth.authEnable();
    await refused('user name is empty', client.get('auth/a').exec());
    const alice = connect({ auth: { username: 'alice', password: 'wonder' } });
    assert.strictEqual(await alice.get('auth/a').string(), '1');
    await assert.rejects(alice.put('auth/a').value('2').exec(), EtcdPermissionDeniedError);
    const wrong = connect({ auth: { username: 'alice', password: 'wrong' } });
    await refused('authentication failed', wrong.get('auth/a').exec());
    const admin = connect({ auth: { username: 'root', password: 'secret' } });
    assert.deepStrictEqual((await admin.getUsers()).map((user) => user.name).sort(), ['alice', 'root']);
    assert.strictEqual((await admin.role('reader').permissions())[0].permission, 'Read');
    await admin.user('alice').removeRole('reader');
    await assert.rejects(alice.get('auth/a').exec());
    await admin.auth.authDisable();
    assert.strictEqual(await client.get('auth/a').string(), '1');
    for (const user of ['alice', 'root']) await client.user(user).delete();
    for (const role of [reader, root]) await role.delete();
    for (const each of [alice, wrong, admin]) each.close();
  },
};

async function main() {
  for (const [name, run] of Object.entries(scenarios)) {
    const begin = Date.now();
    await run();
    console.log(`ok ${name} ${((Date.now() - begin) / 1000).toFixed(1)}`);
  }
  client.close();
  console.log(`done ${Object.keys(scenarios).length}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
