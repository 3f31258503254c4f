package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func newSession(s *session) *concurrency.Session {
	return get(concurrency.NewSession(s.Client, concurrency.WithTTL(30)))
}

func mutex(s *session) {
	var inside atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			session := newSession(s)
			defer session.Close()
			lock := concurrency.NewMutex(session, "mutex")
			for range 3 {
				must(lock.Lock(soon()))
				equal("how many hold it", inside.Add(1), 1)
				time.Sleep(time.Millisecond) // Others have time to be wrong.
				inside.Add(-1)
				must(lock.Unlock(soon()))
			}
		}()
	}
	all.Wait()
	one, two := newSession(s), newSession(s)
	held, tried := concurrency.NewMutex(one, "mutex"), concurrency.NewMutex(two, "mutex")
	must(held.Lock(soon()))
	equal("the refusal", tried.TryLock(soon()), concurrency.ErrLocked)
	check(get(s.Txn(soon()).If(held.IsOwner()).Commit()).Succeeded, "whoever holds it is its owner")
	// Whose session ends lets go.
	must(one.Close())
	must(tried.Lock(soon()))
	must(tried.Unlock(soon()))
	must(two.Close())
}

func election(s *session) {
	one, two := newSession(s), newSession(s)
	first, second := concurrency.NewElection(one, "election"), concurrency.NewElection(two, "election")
	_, err := first.Leader(soon())
	equal("the refusal", err, concurrency.ErrElectionNoLeader)
	must(first.Campaign(soon(), "one"))
	ctx, cancel := context.WithCancel(soon())
	defer cancel()
	observed := second.Observe(ctx)
	equal("who is observed", string((<-observed).Kvs[0].Value), "one")
	elected := make(chan error)
	go func() { elected <- second.Campaign(soon(), "two") }()
	must(first.Proclaim(soon(), "one, still"))
	equal("what is observed", string((<-observed).Kvs[0].Value), "one, still")
	must(first.Resign(soon()))
	must(<-elected)
	equal("who leads", string(get(second.Leader(soon())).Kvs[0].Value), "two")
	equal("who is observed", string((<-observed).Kvs[0].Value), "two")
	must(two.Close())
	must(one.Close())
}

func stm(s *session) {
	// Its reads are serializable ones at the revision of the first: another member may not have that yet.
	client := get(connect(s.endpoints[:1], "", ""))
	defer client.Close()
	const accounts = 5
	for i := range accounts {
		get(s.Put(soon(), fmt.Sprintf("stm/%d", i), "100"))
	}
	var all sync.WaitGroup
	for worker := range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			for step := range 10 {
				from, to := fmt.Sprintf("stm/%d", (worker+step)%accounts), fmt.Sprintf("stm/%d", (worker+2*step+1)%accounts)
				get(concurrency.NewSTM(client, func(stm concurrency.STM) error {
					var has, had int
					fmt.Sscan(stm.Get(from), &has)
					stm.Put(from, fmt.Sprint(has-1))
					fmt.Sscan(stm.Get(to), &had)
					stm.Put(to, fmt.Sprint(had+1))
					return nil
				}, concurrency.WithIsolation(concurrency.Serializable), concurrency.WithAbortContext(soon())))
			}
		}()
	}
	all.Wait()
	sum := 0
	for _, kv := range get(s.Get(soon(), "stm/", clientv3.WithPrefix())).Kvs {
		var has int
		fmt.Sscan(string(kv.Value), &has)
		sum += has
	}
	equal("the sum", sum, 100*accounts)
}

// leaderKilled writes, watches, keeps a lease, holds a lock and leads an election while the cluster's leader is killed and comes back.
func leaderKilled(s *session) {
	session := newSession(s)
	lock := concurrency.NewMutex(session, "killed/lock")
	must(lock.Lock(soon()))
	lead := concurrency.NewElection(session, "killed/election")
	must(lead.Campaign(soon(), "me"))
	kept := get(s.Grant(soon(), 10))
	get(s.Put(soon(), "killed/lease", "x", clientv3.WithLease(kept.ID)))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	alive := get(s.KeepAlive(ctx, kept.ID))
	go func() {
		for range alive {
		}
	}()
	begin := get(s.Put(soon(), "killed/n", "-1")).Header.Revision
	events := s.Watch(clientv3.WithRequireLeader(ctx), "killed/n", clientv3.WithRev(begin+1))
	acknowledged := make(chan int)
	stop := make(chan struct{})
	go func() {
		defer close(acknowledged)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			// A put of unknown outcome is put again: it is the same value.
			until("a write", func() bool {
				_, err := s.Put(soon(), "killed/n", fmt.Sprint(n))
				return err == nil
			})
			acknowledged <- n
		}
	}()
	await := func(count int) int {
		last := 0
		for range count {
			last = <-acknowledged
		}
		return last
	}
	await(50)
	control("kill-leader")
	await(50)
	check(get(s.Txn(soon()).If(lock.IsOwner()).Commit()).Succeeded, "the lock is still held")
	other := newSession(s)
	equal("the refusal", concurrency.NewMutex(other, "killed/lock").TryLock(soon()), concurrency.ErrLocked)
	equal("who leads", string(get(lead.Leader(soon())).Kvs[0].Value), "me")
	equal("the answer", control("restart"), "ok")
	last := await(50)
	close(stop)
	for n := range acknowledged {
		last = n
	}
	watched(s, events, begin, last)
	equal("what hangs on the lease", get(s.Get(soon(), "killed/lease")).Count, 1)
	must(lead.Resign(soon()))
	must(lock.Unlock(soon()))
	must(other.Close())
	must(session.Close())
}

// watched looks whether each value was seen, in order, the last one being the last that was acknowledged.
func watched(s *session, events clientv3.WatchChan, begin int64, last int) {
	expected, revision := 0, begin
	for expected <= last {
		select {
		case answer, open := <-events:
			if !open || answer.Err() != nil {
				// As told to: no leader for a while. Whoever wants to go on watches again.
				check(!open || errors.Is(answer.Err(), rpctypes.ErrNoLeader), "the watcher ended with %v", answer.Err())
				events = s.Watch(soon(), "killed/n", clientv3.WithRev(revision+1))
				continue
			}
			for _, event := range answer.Events {
				check(event.Kv.ModRevision > revision, "revision %d after %d", event.Kv.ModRevision, revision)
				revision = event.Kv.ModRevision
				var n int
				fmt.Sscan(string(event.Kv.Value), &n)
				// The same value again is one whose first outcome was unknown.
				check(n == expected || n == expected-1, "%d where %d should follow", n, expected)
				expected = n + 1
			}
		case <-time.After(patience):
			panic(fmt.Sprintf("%d was never seen, of %d", expected, last))
		}
	}
}

func auth(s *session) {
	get(s.RoleAdd(soon(), "root"))
	get(s.UserAdd(soon(), "root", "secret"))
	get(s.UserGrantRole(soon(), "root", "root"))
	get(s.RoleAdd(soon(), "reader"))
	get(s.RoleGrantPermission(soon(), "reader", "auth/", clientv3.GetPrefixRangeEnd("auth/"), clientv3.PermissionType(clientv3.PermRead)))
	get(s.UserAdd(soon(), "alice", "wonder"))
	get(s.UserGrantRole(soon(), "alice", "reader"))
	get(s.Put(soon(), "auth/a", "1"))
	get(s.AuthEnable(soon()))
	_, err := s.Get(soon(), "auth/a")
	equal("the refusal", err, rpctypes.ErrUserEmpty)
	_, err = connect(s.endpoints, "alice", "wrong")
	check(err != nil && err.Error() == rpctypes.ErrAuthFailed.Error(), "the refusal is %v", err)
	alice := get(connect(s.endpoints, "alice", "wonder"))
	defer alice.Close()
	equal("what she reads", string(get(alice.Get(soon(), "auth/a")).Kvs[0].Value), "1")
	_, err = alice.Put(soon(), "auth/a", "2")
	equal("the refusal", err, rpctypes.ErrPermissionDenied)
	denied := <-alice.Watch(soon(), "other")
	check(denied.Canceled && denied.Err() != nil, "a watcher that is not hers")
	root := get(connect(s.endpoints, "root", "secret"))
	defer root.Close()
	equal("her roles", get(root.UserGet(soon(), "alice")).Roles[0], "reader")
	equal("the users", len(get(root.UserList(soon())).Users), 2)
	get(root.RoleRevokePermission(soon(), "reader", "auth/", clientv3.GetPrefixRangeEnd("auth/")))
	_, err = alice.Get(soon(), "auth/a")
	equal("the refusal", err, rpctypes.ErrPermissionDenied)
	get(root.UserChangePassword(soon(), "alice", "land"))
	_, err = connect(s.endpoints, "alice", "wonder")
	check(err != nil, "the old password is none")
	get(root.AuthDisable(soon()))
	equal("what anybody reads", string(get(s.Get(soon(), "auth/a")).Kvs[0].Value), "1")
	get(s.UserDelete(soon(), "alice"))
	get(s.UserDelete(soon(), "root"))
	get(s.RoleDelete(soon(), "reader"))
	get(s.RoleDelete(soon(), "root"))
}
