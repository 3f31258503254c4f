import static java.nio.charset.StandardCharsets.UTF_8;

import io.etcd.jetcd.Auth;
import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Lease;
import io.etcd.jetcd.Lock;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.auth.Permission;
import io.etcd.jetcd.election.CampaignResponse;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.maintenance.StatusResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.CompactOption;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.support.CloseableClient;
import io.etcd.jetcd.watch.WatchEvent;
import io.grpc.stub.StreamObserver;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.Socket;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A session of jetcd against a cluster of three, whose leader is killed and comes back meanwhile.
 *
 * <p>ENDPOINTS names the members, CONTROL whom to ask to kill one. Each scenario that holds prints "ok NAME SECONDS".
 */
public final class Session {
  /** Seconds for one call, across an election. */
  private static final long PATIENCE = 20;

  private interface Scenario {
    void run() throws Exception;
  }

  private final String[] endpoints;
  private final Client client;
  private final KV kv;

  private Session(String[] endpoints) {
    this.endpoints = endpoints;
    this.client = connect(null, null);
    this.kv = client.getKVClient();
  }

  public static void main(String[] arguments) throws Exception {
    String[] endpoints = System.getenv("ENDPOINTS").split(",");
    for (int i = 0; i < endpoints.length; i++) {
      endpoints[i] = "http://" + endpoints[i];
    }
    Session session = new Session(endpoints);
    Map<String, Scenario> scenarios = new LinkedHashMap<>();
    scenarios.put("kv", session::keyValues);
    scenarios.put("txn", session::transactions);
    scenarios.put("compaction", session::compaction);
    scenarios.put("watch", session::watch);
    scenarios.put("lease", session::lease);
    scenarios.put("lock", session::lock);
    scenarios.put("election", session::election);
    scenarios.put("cluster and maintenance", session::maintenance);
    scenarios.put("leader killed", session::leaderKilled);
    scenarios.put("auth", session::auth);
    for (Map.Entry<String, Scenario> each : scenarios.entrySet()) {
      long begin = System.nanoTime();
      each.getValue().run();
      System.out.printf("ok %s %.1f%n", each.getKey(), (System.nanoTime() - begin) / 1e9);
    }
    System.out.printf("done %d%n", scenarios.size());
    session.client.close();
    // Threads of the client's libraries may linger.
    System.exit(0);
  }

  private Client connect(String user, String password) {
    var builder = Client.builder()
        .endpoints(endpoints)
        .connectTimeout(Duration.ofSeconds(5))
        .keepaliveTime(Duration.ofSeconds(2))
        .keepaliveTimeout(Duration.ofSeconds(2))
        .retryMaxDuration(Duration.ofSeconds(PATIENCE));
    if (user != null) {
      builder.user(bytes(user)).password(bytes(password));
    }
    return builder.build();
  }

  private static ByteSequence bytes(String text) {
    return ByteSequence.from(text, UTF_8);
  }

  private static <T> T get(CompletableFuture<T> future) throws Exception {
    return future.get(PATIENCE, TimeUnit.SECONDS);
  }

  private static void check(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  private static void equal(String what, Object is, Object should) {
    check(should.equals(is), what + " is " + is + ", not " + should);
  }

  /** The text of a refusal. */
  private static void refused(String text, CompletableFuture<?> future) throws Exception {
    try {
      get(future);
    } catch (ExecutionException refusal) {
      check(refusal.getCause().toString().contains(text), "the refusal is " + refusal.getCause());
      return;
    }
    throw new AssertionError("it was not refused: " + text);
  }

  private static String control(String ask) throws Exception {
    String[] address = System.getenv("CONTROL").split(":");
    try (Socket socket = new Socket(address[0], Integer.parseInt(address[1]))) {
      socket.getOutputStream().write((ask + "\n").getBytes(UTF_8));
      return new BufferedReader(new InputStreamReader(socket.getInputStream(), UTF_8)).readLine();
    }
  }

  private String value(String key) throws Exception {
    GetResponse found = get(kv.get(bytes(key)));
    return found.getKvs().isEmpty() ? null : found.getKvs().get(0).getValue().toString(UTF_8);
  }

  private void keyValues() throws Exception {
    long first = get(kv.put(bytes("kv/a"), bytes("1"))).getHeader().getRevision();
    var second = get(kv.put(bytes("kv/a"), bytes("2"), PutOption.builder().withPrevKV().build()));
    equal("the value before", second.getPrevKv().getValue().toString(UTF_8), "1");
    for (int i = 0; i < 9; i++) {
      get(kv.put(bytes("kv/b" + i), bytes("" + (9 - i))));
    }
    GetOption some = GetOption.builder().isPrefix(true).withLimit(3).build();
    GetResponse found = get(kv.get(bytes("kv/b"), some));
    equal("the count", found.getCount(), 9L);
    equal("the pairs", found.getKvs().size(), 3);
    check(found.isMore(), "there is more");
    GetOption sorted = GetOption.builder().isPrefix(true).withSortField(GetOption.SortTarget.VALUE)
        .withSortOrder(GetOption.SortOrder.ASCEND).build();
    equal("the least value's key", get(kv.get(bytes("kv/b"), sorted)).getKvs().get(0).getKey().toString(UTF_8), "kv/b8");
    GetOption old = GetOption.builder().withRevision(first).build();
    equal("the old value", get(kv.get(bytes("kv/a"), old)).getKvs().get(0).getValue().toString(UTF_8), "1");
    GetOption count = GetOption.builder().isPrefix(true).withCountOnly(true).build();
    equal("what is counted", get(kv.get(bytes("kv/"), count)).getCount(), 10L);
    DeleteOption all = DeleteOption.builder().isPrefix(true).withPrevKV(true).build();
    equal("what was deleted", get(kv.delete(bytes("kv/b"), all)).getPrevKvs().size(), 9);
    equal("what is left", value("kv/b1") == null, true);
    refused("key is not provided", kv.put(bytes(""), bytes("x")));
    refused("required revision is a future revision",
        kv.get(bytes("kv/a"), GetOption.builder().withRevision(1L << 40).build()));
    refused("requested lease not found",
        kv.put(bytes("kv/a"), bytes("x"), PutOption.builder().withLeaseId(77).build()));
  }

  private void transactions() throws Exception {
    Cmp missing = new Cmp(bytes("txn/a"), Cmp.Op.EQUAL, CmpTarget.createRevision(0));
    for (boolean succeeds : new boolean[] {true, false}) {
      var done = get(kv.txn().If(missing)
          .Then(Op.put(bytes("txn/a"), bytes("mine"), PutOption.DEFAULT))
          .Else(Op.get(bytes("txn/a"), GetOption.DEFAULT))
          .commit());
      equal("whether it is created", done.isSucceeded(), succeeds);
      if (!succeeds) {
        equal("what is there", done.getGetResponses().get(0).getKvs().get(0).getValue().toString(UTF_8), "mine");
      }
    }
    Op put = Op.put(bytes("txn/b"), bytes("x"), PutOption.DEFAULT);
    var nested = get(kv.txn()
        .If(new Cmp(bytes("txn/a"), Cmp.Op.EQUAL, CmpTarget.value(bytes("mine"))),
            new Cmp(bytes("txn/a"), Cmp.Op.LESS, CmpTarget.version(2)))
        .Then(Op.txn(new Cmp[0], new Op[] {put}, new Op[0]),
            Op.delete(bytes("txn/a"), DeleteOption.DEFAULT))
        .commit());
    check(nested.isSucceeded(), "the compares hold");
    equal("what was put", value("txn/b"), "x");
    refused("duplicate key given in txn request", kv.txn().Then(put, put).commit());
  }

  private void compaction() throws Exception {
    get(kv.put(bytes("compaction/a"), bytes("1")));
    long second = get(kv.put(bytes("compaction/a"), bytes("2"))).getHeader().getRevision();
    get(kv.put(bytes("compaction/a"), bytes("3")));
    get(kv.compact(second, CompactOption.builder().withCompactPhysical(true).build()));
    GetOption kept = GetOption.builder().withRevision(second).build();
    equal("what is kept", get(kv.get(bytes("compaction/a"), kept)).getKvs().get(0).getValue().toString(UTF_8), "2");
    refused("required revision has been compacted",
        kv.get(bytes("compaction/a"), GetOption.builder().withRevision(second - 1).build()));
  }

  private void watch() throws Exception {
    long begin = get(kv.put(bytes("watch/a"), bytes("0"))).getHeader().getRevision();
    BlockingQueue<WatchEvent> seen = new LinkedBlockingQueue<>();
    WatchOption all = WatchOption.builder().isPrefix(true).withRevision(begin).withPrevKV(true).build();
    try (Watch.Watcher watcher = client.getWatchClient().watch(bytes("watch/"), all,
        response -> seen.addAll(response.getEvents()))) {
      get(kv.put(bytes("watch/a"), bytes("1")));
      get(kv.txn().Then(Op.put(bytes("watch/b"), bytes("2"), PutOption.DEFAULT),
          Op.delete(bytes("watch/a"), DeleteOption.DEFAULT)).commit());
      List<WatchEvent> events = new ArrayList<>();
      for (int i = 0; i < 4; i++) {
        events.add(seen.poll(PATIENCE, TimeUnit.SECONDS));
      }
      equal("the first", events.get(0).getKeyValue().getValue().toString(UTF_8), "0");
      equal("what was there", events.get(1).getPrevKV().getValue().toString(UTF_8), "0");
      equal("the last", events.get(3).getEventType(), WatchEvent.EventType.DELETE);
      equal("the revision of one transaction", events.get(2).getKeyValue().getModRevision(),
          events.get(3).getKeyValue().getModRevision());
    }
    CompletableFuture<Throwable> ended = new CompletableFuture<>();
    WatchOption compacted = WatchOption.builder().withRevision(1).build();
    try (Watch.Watcher watcher = client.getWatchClient().watch(bytes("watch/a"), compacted,
        Watch.listener(response -> { }, ended::complete))) {
      check(get(ended).toString().contains("compacted"), "the end is " + ended.get());
    }
  }

  private void lease() throws Exception {
    Lease leases = client.getLeaseClient();
    long id = get(leases.grant(5)).getID();
    get(kv.put(bytes("lease/a"), bytes("x"), PutOption.builder().withLeaseId(id).build()));
    var left = get(leases.timeToLive(id, LeaseOption.builder().withAttachedKeys().build()));
    equal("what was granted", left.getGrantedTTL(), 5L);
    equal("its key", left.getKeys().get(0).toString(UTF_8), "lease/a");
    equal("what it is kept for", get(leases.keepAliveOnce(id)).getTTL(), 5L);
    get(leases.revoke(id));
    check(value("lease/a") == null, "its key goes with it");
    refused("requested lease not found", leases.revoke(id));
    long brief = get(leases.grant(1)).getID();
    CompletableFuture<WatchEvent> gone = new CompletableFuture<>();
    long put = get(kv.put(bytes("lease/b"), bytes("x"), PutOption.builder().withLeaseId(brief).build()))
        .getHeader().getRevision();
    WatchOption after = WatchOption.builder().withRevision(put + 1).build();
    try (Watch.Watcher watcher = client.getWatchClient().watch(bytes("lease/b"), after,
        response -> gone.complete(response.getEvents().get(0)))) {
      equal("what its end is", get(gone).getEventType(), WatchEvent.EventType.DELETE);
    }
  }

  private void lock() throws Exception {
    Lock locks = client.getLockClient();
    long one = get(client.getLeaseClient().grant(30)).getID();
    long two = get(client.getLeaseClient().grant(30)).getID();
    ByteSequence held = get(locks.lock(bytes("lock"), one)).getKey();
    check(held.toString(UTF_8).startsWith("lock/"), "its key is " + held);
    var waiting = locks.lock(bytes("lock"), two);
    check(!waiting.isDone(), "nobody else has it");
    get(locks.unlock(held));
    ByteSequence next = get(waiting).getKey();
    check(!next.equals(held), "another key for another owner");
    // A lease that ends lets go.
    var third = locks.lock(bytes("lock"), one);
    get(client.getLeaseClient().revoke(two));
    get(locks.unlock(get(third).getKey()));
    get(client.getLeaseClient().revoke(one));
  }

  private void election() throws Exception {
    Election elections = client.getElectionClient();
    refused("NoLeaderException", elections.leader(bytes("election")));
    long one = get(client.getLeaseClient().grant(30)).getID();
    long two = get(client.getLeaseClient().grant(30)).getID();
    BlockingQueue<String> observed = new LinkedBlockingQueue<>();
    elections.observe(bytes("election"), new Election.Listener() {
      @Override
      public void onNext(LeaderResponse response) {
        observed.add(response.getKv().getValue().toString(UTF_8));
      }

      @Override
      public void onError(Throwable error) {
        observed.add(error.toString());
      }

      @Override
      public void onCompleted() {
      }
    });
    CampaignResponse first = get(elections.campaign(bytes("election"), one, bytes("one")));
    equal("who is observed", observed.poll(PATIENCE, TimeUnit.SECONDS), "one");
    var second = elections.campaign(bytes("election"), two, bytes("two"));
    get(elections.proclaim(first.getLeader(), bytes("one, still")));
    equal("what is observed", observed.poll(PATIENCE, TimeUnit.SECONDS), "one, still");
    get(elections.resign(first.getLeader()));
    CampaignResponse leads = get(second);
    equal("who leads", get(elections.leader(bytes("election"))).getKv().getValue().toString(UTF_8), "two");
    equal("who is observed", observed.poll(PATIENCE, TimeUnit.SECONDS), "two");
    get(elections.resign(leads.getLeader()));
    get(client.getLeaseClient().revoke(one));
    get(client.getLeaseClient().revoke(two));
  }

  private void maintenance() throws Exception {
    equal("the members", get(client.getClusterClient().listMember()).getMembers().size(), 3);
    long leaders = 0;
    for (String endpoint : endpoints) {
      StatusResponse status = get(client.getMaintenanceClient().statusMember(endpoint));
      check(status.getDbSize() > 0 && !status.getVersion().isEmpty(), "a status says something");
      if (status.getLeader() == status.getHeader().getMemberId()) {
        leaders++;
      }
    }
    equal("the leaders", leaders, 1L);
    get(client.getMaintenanceClient().defragmentMember(endpoints[0]));
    equal("the alarms", get(client.getMaintenanceClient().listAlarms()).getAlarms().size(), 0);
    check(get(client.getMaintenanceClient().hashKV(endpoints[1], 0)).getHash() != 0, "a store has a hash");
    var snapshot = new java.io.ByteArrayOutputStream();
    check(get(client.getMaintenanceClient().snapshot(snapshot)) > 0, "a snapshot has bytes");
  }

  private void leaderKilled() throws Exception {
    long lease = get(client.getLeaseClient().grant(10)).getID();
    get(kv.put(bytes("killed/lease"), bytes("x"), PutOption.builder().withLeaseId(lease).build()));
    AtomicInteger kept = new AtomicInteger();
    CloseableClient keeping = client.getLeaseClient().keepAlive(lease, new StreamObserver<>() {
      @Override
      public void onNext(LeaseKeepAliveResponse response) {
        kept.incrementAndGet();
      }

      @Override
      public void onError(Throwable error) {
      }

      @Override
      public void onCompleted() {
      }
    });
    ByteSequence held = get(client.getLockClient().lock(bytes("killed/lock"), lease)).getKey();
    long begin = get(kv.put(bytes("killed/n"), bytes("-1"))).getHeader().getRevision();
    BlockingQueue<KeyValue> seen = new LinkedBlockingQueue<>();
    WatchOption after = WatchOption.builder().withRevision(begin + 1).build();
    try (Watch.Watcher watcher = client.getWatchClient().watch(bytes("killed/n"), after,
        response -> response.getEvents().forEach(event -> seen.add(event.getKeyValue())))) {
      AtomicInteger acknowledged = new AtomicInteger(-1);
      AtomicBoolean stop = new AtomicBoolean();
      Thread writer = new Thread(() -> {
        for (int n = 0; !stop.get(); n++) {
          // A put of unknown outcome is put again: it is the same value.
          while (true) {
            try {
              kv.put(bytes("killed/n"), bytes("" + n)).get(3, TimeUnit.SECONDS);
              break;
            } catch (Exception again) {
              check(!stop.get(), "not in time: " + again);
            }
          }
          acknowledged.set(n);
        }
      });
      writer.start();
      await(acknowledged, 50);
      control("kill-leader");
      await(acknowledged, acknowledged.get() + 50);
      check(value(held.toString(UTF_8)) != null, "the lock is still held");
      equal("the answer", control("restart"), "ok");
      await(acknowledged, acknowledged.get() + 50);
      stop.set(true);
      writer.join();
      watched(seen, begin, acknowledged.get());
    }
    check(value("killed/lease") != null && kept.get() > 0, "the lease was kept");
    get(client.getLockClient().unlock(held));
    keeping.close();
    get(client.getLeaseClient().revoke(lease));
  }

  private static void await(AtomicInteger acknowledged, int number) throws Exception {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(2 * PATIENCE);
    while (acknowledged.get() < number) {
      check(System.nanoTime() < deadline, "not in time: " + number + " writes; " + acknowledged.get());
      // Nobody tells when.
      Thread.sleep(10);
    }
  }

  /** Each value, in order; the same again is one whose first outcome was unknown. */
  private static void watched(BlockingQueue<KeyValue> seen, long begin, int last) throws Exception {
    long revision = begin;
    for (int expected = 0; expected <= last;) {
      KeyValue next = seen.poll(PATIENCE, TimeUnit.SECONDS);
      check(next != null, expected + " was never seen, of " + last);
      check(next.getModRevision() > revision, "revision " + next.getModRevision() + " after " + revision);
      revision = next.getModRevision();
      int n = Integer.parseInt(next.getValue().toString(UTF_8));
      check(n == expected || n == expected - 1, n + " where " + expected + " should follow");
      expected = n + 1;
    }
  }

  private void auth() throws Exception {
    Auth auth = client.getAuthClient();
    get(auth.roleAdd(bytes("root")));
    get(auth.userAdd(bytes("root"), bytes("secret")));
    get(auth.userGrantRole(bytes("root"), bytes("root")));
    get(auth.roleAdd(bytes("reader")));
    get(auth.roleGrantPermission(bytes("reader"), bytes("auth/"), bytes("auth0"), Permission.Type.READ));
    get(auth.userAdd(bytes("alice"), bytes("wonder")));
    get(auth.userGrantRole(bytes("alice"), bytes("reader")));
    get(kv.put(bytes("auth/a"), bytes("1")));
    get(auth.authEnable());
    refused("user name is empty", kv.get(bytes("auth/a")));
    try (Client alice = connect("alice", "wonder"); Client root = connect("root", "secret")) {
      GetResponse found = get(alice.getKVClient().get(bytes("auth/a")));
      equal("what she reads", found.getKvs().get(0).getValue().toString(UTF_8), "1");
      refused("permission denied", alice.getKVClient().put(bytes("auth/a"), bytes("2")));
      equal("her role", get(root.getAuthClient().userGet(bytes("alice"))).getRoles().get(0), "reader");
      get(root.getAuthClient().userRevokeRole(bytes("alice"), bytes("reader")));
      refused("permission denied", alice.getKVClient().get(bytes("auth/a")));
      get(root.getAuthClient().authDisable());
    }
    equal("what anybody reads", value("auth/a"), "1");
    get(auth.userDelete(bytes("alice")));
    get(auth.userDelete(bytes("root")));
    get(auth.roleDelete(bytes("reader")));
    get(auth.roleDelete(bytes("root")));
  }
}
