package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
)

func kv(s *session) {
	first := get(s.Put(soon(), "kv/a", "1"))
	second := get(s.Put(soon(), "kv/a", "2", clientv3.WithPrevKV()))
	equal("the value before", string(second.PrevKv.Value), "1")
	check(second.Header.Revision == first.Header.Revision+1, "revisions follow each other")
	for i := range 9 {
		get(s.Put(soon(), fmt.Sprintf("kv/b%d", i), fmt.Sprint(9-i)))
	}
	found := get(s.Get(soon(), "kv/b", clientv3.WithPrefix(), clientv3.WithLimit(3)))
	equal("the count", found.Count, 9)
	equal("the pairs", len(found.Kvs), 3)
	check(found.More, "there is more")
	found = get(s.Get(soon(), "kv/b", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend)))
	equal("the least value's key", string(found.Kvs[0].Key), "kv/b8")
	found = get(s.Get(soon(), "kv/a", clientv3.WithRev(first.Header.Revision)))
	equal("the old value", string(found.Kvs[0].Value), "1")
	found = get(s.Get(soon(), "kv/b3", clientv3.WithFromKey(), clientv3.WithKeysOnly(), clientv3.WithLimit(1)))
	equal("the key", string(found.Kvs[0].Key), "kv/b3")
	equal("its value", string(found.Kvs[0].Value), "")
	equal("what is counted", get(s.Get(soon(), "kv/", clientv3.WithPrefix(), clientv3.WithCountOnly())).Count, 10)
	deleted := get(s.Delete(soon(), "kv/b", clientv3.WithPrefix(), clientv3.WithPrevKV()))
	equal("what was deleted", deleted.Deleted, 9)
	equal("what was there", len(deleted.PrevKvs), 9)
	_, err := s.Put(soon(), "", "x")
	equal("the refusal", err, rpctypes.ErrEmptyKey)
	_, err = s.Get(soon(), "kv/a", clientv3.WithRev(1<<40))
	check(errors.Is(err, rpctypes.ErrFutureRev), "the refusal is %v", err)
	_, err = s.Put(soon(), "kv/a", "x", clientv3.WithLease(77))
	equal("the refusal", err, rpctypes.ErrLeaseNotFound)
	_, err = s.Put(soon(), "kv/none", "", clientv3.WithIgnoreValue())
	equal("the refusal", err, rpctypes.ErrKeyNotFound)
	large := make([]byte, 1<<20)
	get(s.Put(soon(), "kv/large", string(large)))
	equal("its size", len(get(s.Get(soon(), "kv/large")).Kvs[0].Value), 1<<20)
	_, err = s.Put(soon(), "kv/large", string(make([]byte, 1600000)))
	equal("the refusal", err, rpctypes.ErrRequestTooLarge)
}

func txn(s *session) {
	create := func() *clientv3.TxnResponse {
		return get(s.Txn(soon()).
			If(clientv3.Compare(clientv3.CreateRevision("txn/a"), "=", 0)).
			Then(clientv3.OpPut("txn/a", "mine")).
			Else(clientv3.OpGet("txn/a")).
			Commit())
	}
	check(create().Succeeded, "it is created once")
	again := create()
	check(!again.Succeeded, "it is created once only")
	equal("what is there", string(again.Responses[0].GetResponseRange().Kvs[0].Value), "mine")
	nested := get(s.Txn(soon()).
		If(clientv3.Compare(clientv3.Value("txn/"), ">", "").WithPrefix(), clientv3.Compare(clientv3.Version("txn/a"), "<", 2)).
		Then(
			clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("txn/b", "x")}, nil),
			clientv3.OpDelete("txn/a", clientv3.WithPrevKV()),
		).
		Commit())
	check(nested.Succeeded, "the compares hold")
	equal("what was deleted", string(nested.Responses[1].GetResponseDeleteRange().PrevKvs[0].Value), "mine")
	_, err := s.Txn(soon()).Then(clientv3.OpPut("txn/c", "1"), clientv3.OpPut("txn/c", "2")).Commit()
	equal("the refusal", err, rpctypes.ErrDuplicateKey)
	ops := make([]clientv3.Op, 129)
	for i := range ops {
		ops[i] = clientv3.OpGet("txn/a")
	}
	_, err = s.Txn(soon()).Then(ops...).Commit()
	equal("the refusal", err, rpctypes.ErrTooManyOps)
}

func compaction(s *session) {
	get(s.Put(soon(), "compaction/a", "1"))
	second := get(s.Put(soon(), "compaction/a", "2")).Header.Revision
	get(s.Put(soon(), "compaction/a", "3"))
	get(s.Compact(soon(), second, clientv3.WithCompactPhysical()))
	equal("what is kept", string(get(s.Get(soon(), "compaction/a", clientv3.WithRev(second))).Kvs[0].Value), "2")
	_, err := s.Get(soon(), "compaction/a", clientv3.WithRev(second-1))
	check(errors.Is(err, rpctypes.ErrCompacted), "the refusal is %v", err)
	events := <-s.Watch(soon(), "compaction/a", clientv3.WithRev(second-1))
	equal("the revision of the compaction", events.CompactRevision, second)
	equal("the refusal", events.Err(), rpctypes.ErrCompacted)
}

func watch(s *session) {
	ctx, cancel := context.WithCancel(soon())
	defer cancel()
	begin := get(s.Put(soon(), "watch/a", "0")).Header.Revision
	all := s.Watch(ctx, "watch/", clientv3.WithPrefix(), clientv3.WithRev(begin), clientv3.WithPrevKV())
	deletes := s.Watch(ctx, "watch/", clientv3.WithPrefix(), clientv3.WithFilterPut())
	created := <-s.Watch(ctx, "watch/other", clientv3.WithCreatedNotify())
	check(created.Created, "it is said that it is created")
	get(s.Put(soon(), "watch/a", "1"))
	get(s.Txn(soon()).Then(clientv3.OpPut("watch/b", "2"), clientv3.OpDelete("watch/a")).Commit())
	var seen []*clientv3.Event
	for len(seen) < 4 {
		seen = append(seen, (<-all).Events...)
	}
	equal("the first", string(seen[0].Kv.Value), "0")
	check(seen[0].IsCreate() && seen[1].IsModify(), "what was created and what was changed")
	equal("what was there", string(seen[1].PrevKv.Value), "0")
	equal("the revision of one transaction", seen[2].Kv.ModRevision, seen[3].Kv.ModRevision)
	deleted := <-deletes
	equal("what was deleted", string(deleted.Events[0].Kv.Key), "watch/a")
	equal("its kind", deleted.Events[0].Type, clientv3.EventTypeDelete)
	must(s.RequestProgress(ctx))
	cancel()
	for range all {
	}
}

func lease(s *session) {
	granted := get(s.Grant(soon(), 5))
	get(s.Put(soon(), "lease/a", "x", clientv3.WithLease(granted.ID)))
	left := get(s.TimeToLive(soon(), granted.ID, clientv3.WithAttachedKeys()))
	equal("what was granted", left.GrantedTTL, 5)
	check(left.TTL >= 0 && left.TTL <= 5, "%d s are left", left.TTL)
	equal("its key", string(left.Keys[0]), "lease/a")
	check(len(get(s.Leases(soon())).Leases) >= 1, "it is listed")
	equal("what it is kept for", get(s.KeepAliveOnce(soon(), granted.ID)).TTL, 5)
	get(s.Revoke(soon(), granted.ID))
	equal("what is left of it", get(s.TimeToLive(soon(), granted.ID)).TTL, -1)
	equal("what is left of its key", get(s.Get(soon(), "lease/a")).Count, 0)
	_, err := s.Revoke(soon(), granted.ID)
	equal("the refusal", err, rpctypes.ErrLeaseNotFound)
	_, err = s.KeepAliveOnce(soon(), granted.ID)
	equal("the refusal", err, rpctypes.ErrLeaseNotFound)
	// One that nobody keeps ends, and takes its key along.
	short := get(s.Grant(soon(), 1))
	put := get(s.Put(soon(), "lease/b", "x", clientv3.WithLease(short.ID)))
	gone := <-s.Watch(soon(), "lease/b", clientv3.WithRev(put.Header.Revision+1))
	equal("what its end is", gone.Events[0].Type, clientv3.EventTypeDelete)
}

func namespaces(s *session) {
	store := namespace.NewKV(s.KV, "space/")
	watcher := namespace.NewWatcher(s.Watcher, "space/")
	leases := namespace.NewLease(s.Lease, "space/")
	ctx, cancel := context.WithCancel(soon())
	defer cancel()
	events := watcher.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-events
	granted := get(leases.Grant(soon(), 30))
	get(store.Put(soon(), "a", "1", clientv3.WithLease(granted.ID)))
	equal("the key outside", string(get(s.Get(soon(), "space/a")).Kvs[0].Value), "1")
	equal("the key inside", string(get(store.Get(soon(), "", clientv3.WithPrefix())).Kvs[0].Key), "a")
	equal("the event's key", string((<-events).Events[0].Kv.Key), "a")
	equal("the lease's key", string(get(leases.TimeToLive(soon(), granted.ID, clientv3.WithAttachedKeys())).Keys[0]), "a")
	check(get(store.Txn(soon()).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).Then(clientv3.OpDelete("a")).Commit()).Succeeded, "the compare holds")
	equal("what is left", get(s.Get(soon(), "space/", clientv3.WithPrefix())).Count, 0)
}

func maintenance(s *session) {
	members := get(s.MemberList(soon()))
	equal("the members", len(members.Members), 3)
	leaders := 0
	var hashes []uint32
	revision := get(s.Put(soon(), "maintenance/a", "1")).Header.Revision
	for _, endpoint := range s.endpoints {
		// A member that lags behind has no such revision yet.
		until("the member has applied it", func() bool {
			hash, err := s.HashKV(soon(), endpoint, revision)
			if err == nil {
				hashes = append(hashes, hash.Hash)
			}
			return err == nil
		})
		status := get(s.Status(soon(), endpoint))
		if status.Leader == status.Header.MemberId {
			leaders++
		}
		check(status.DbSize > 0 && status.RaftIndex > 0 && status.Version != "", "a status says something: %v", status)
	}
	equal("the leaders", leaders, 1)
	check(hashes[0] == hashes[1] && hashes[1] == hashes[2], "the members have different stores: %v", hashes)
	get(s.Defragment(soon(), s.endpoints[0]))
	equal("the alarms", len(get(s.AlarmList(soon())).Alarms), 0)
	var leader string
	var to uint64
	for _, endpoint := range s.endpoints {
		status := get(s.Status(soon(), endpoint))
		if status.Leader == status.Header.MemberId {
			leader = endpoint
		} else {
			to = status.Header.MemberId
		}
	}
	only := get(connect([]string{leader}, "", ""))
	defer only.Close()
	get(only.MoveLeader(soon(), to))
	until("the other leads", func() bool {
		status, err := s.Status(soon(), s.endpoints[0])
		return err == nil && status.Leader == to
	})
}

func snapshot(s *session) {
	get(s.Put(soon(), "snapshot/a", string(make([]byte, 1<<20))))
	reader := get(s.Snapshot(soon()))
	size := get(io.Copy(io.Discard, reader))
	must(reader.Close())
	check(size > 1<<20, "a snapshot of %d bytes", size)
}

// until looks until it holds.
func until(what string, holds func() bool) {
	deadline := time.Now().Add(patience)
	for !holds() {
		check(time.Now().Before(deadline), "not in time: %s", what)
		// Nobody tells when.
		time.Sleep(20 * time.Millisecond)
	}
}
