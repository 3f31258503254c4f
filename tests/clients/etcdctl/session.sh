#!/usr/bin/env bash
# A session of etcd's own etcdctl against a cluster of three, whose leader is killed and comes back meanwhile: every command that is not
# offline, each answer compared with what etcd itself made of the same commands (expected/, in which ids, addresses, times and sizes have
# names). RECORD=1 writes these files; do that against etcd only.
#
# ENDPOINTS names the members, CONTROL whom to ask to kill one, ETCD_BIN the directory of etcdctl. Each scenario that holds prints
# `ok NAME SECONDS`.
set -uo pipefail
here=$(dirname "$(readlink -f "$0")")
export ENDPOINTS ETCD_BIN
IFS=, read -ra endpoints <<< "$ENDPOINTS"
work=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null; rm -rf "$work"' EXIT
# etcdctl with the endpoints, unless others are named.
mkdir "$work/bin"
cat > "$work/bin/etcdctl" << 'WRAPPER'
#!/bin/sh
case " $* " in
  *" --endpoints="*) exec "$ETCD_BIN/etcdctl" "$@" ;;
  *) exec "$ETCD_BIN/etcdctl" "--endpoints=$ENDPOINTS" "$@" ;;
esac
WRAPPER
chmod +x "$work/bin/etcdctl"
export PATH=$work/bin:$PATH

# Asks the harness for something, and prints its answer.
control() {
  local address
  exec 3<> "/dev/tcp/${CONTROL%:*}/${CONTROL##*:}"
  echo "$1" >&3
  read -r address <&3
  exec 3>&-
  echo "$address"
}

# Runs etcdctl and shows what was run and what came of it.
e() {
  echo "\$ etcdctl $*"
  local code=0
  timeout 30 etcdctl "$@" 2>&1 || code=$?
  [ "$code" = 0 ] || echo "exit $code"
}

# Begins etcdctl in the background, with its output in a file; `stop` ends it.
declare -A running
begin() {
  local name=$1
  shift
  etcdctl "$@" > "$work/$name" 2>&1 &
  running[$name]=$!
}
stop() {
  local name
  for name in "$@"; do
    kill "${running[$name]}" 2> /dev/null
    wait "${running[$name]}" 2> /dev/null
  done
}

# Waits until a file has so many lines, and shows it.
lines() {
  local tries=0
  until [ "$(wc -l < "$1")" -ge "$2" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 400 ] || break
    sleep 0.05 # Another process writes it, and tells nobody.
  done
  cat "$1"
}

# Waits until a command succeeds.
soon() {
  local tries=0
  until "$@" > /dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || return 1
    sleep 0.2 # Nobody tells when.
  done
}

# Gives names to what differs between runs.
names=$work/names.sed
name_members() {
  etcdctl member list > "$work/members"
  : > "$names"
  local number=0 id peer client
  while IFS=' ,' read -r id _ _ peer client _; do
    peer=${peer#http://} client=${client#http://}
    # An id may be a short number: only where one stands.
    printf 's/%s/PEER%s/g\n' "${peer//./\\.}" "$number" >> "$names"
    printf 's/%s/CLIENT%s/g\n' "${client//./\\.}" "$number" >> "$names"
    printf 's/^%s, started,/MEMBER%s, started,/\n' "$id" "$number" >> "$names"
    printf 's/^CLIENT%s, %s,/CLIENT%s, MEMBER%s,/\n' "$number" "$id" "$number" "$number" >> "$names"
    number=$((number + 1))
  done < <(sort -t, -k3 "$work/members")
  cat >> "$names" << 'NAMES'
s/Member [ 0-9a-f]+ (added|updated|removed|promoted)/Member ID \1/
s/cluster [ 0-9a-f]+$/cluster ID/
s/^(\$ etcdctl member (promote|update|remove)) [0-9a-f]+/\1 ID/
s/^[0-9a-f]+, (unstarted|started), /ID, \1, /
s/│ +[0-9a-f]+ │ started/│ ID │ started/
s/\b[0-9a-f]{14,16}\b/ID/g
s/\b[0-9]{15,20}\b/ID/g
s/\b[0-9.]+(ns|µs|ms|s)\b/TIME/g
s/127\.[0-9.]+:2379/ADDRESS/g
s/127\.[0-9.]+:2380/PEER/g
s/\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.+Z-]+/WHEN/g
s/^\{"level":"warn".*"error":"(.*)"\}$/warning: \1/
/^\{"level":"info"/d
s#/tmp/tmp\.[A-Za-z0-9]+#WORK#g
NAMES
}

kv() {
  e put kv/a 1
  e put kv/a 2 --prev-kv
  echo from-stdin | e put kv/b
  e put kv/a --ignore-value
  e put kv/none --ignore-value
  e put kv/a x --lease=77
  e put "" x
  e put kv/bin -- -1
  for n in 1 2 3; do e put "kv/c$n" "$((9 - n))"; done
  e get kv/a
  e get kv/none
  e get kv/c --prefix
  e get kv/c --prefix --keys-only
  e get kv/c --prefix --count-only
  e get kv/c --prefix --count-only --write-out=fields | sed -E 's/("(ClusterID|MemberID|Revision|RaftTerm)" :) .*/\1 N/'
  e get kv/c --prefix --limit=2
  e get kv/c --prefix --sort-by=VALUE --order=ASCEND
  e get kv/c --prefix --sort-by=MODIFY --order=DESCEND --print-value-only
  e get kv/c1 kv/c3
  e get kv/c2 --from-key --limit=1
  e get kv/a --hex
  e get kv/a --consistency=s
  e get kv/a --rev=100000000
  e get kv/a --write-out=json | sed -E 's/"(cluster_id|member_id|revision|raft_term|create_revision|mod_revision)":[0-9]+/"\1":N/g'
  e get kv/a --write-out=fields | sed -E 's/("(ClusterID|MemberID|Revision|RaftTerm|CreateRevision|ModRevision)" :) .*/\1 N/'
  e get kv/a --write-out=simple
  e get
  e del kv/c1 --prev-kv
  e del kv/c --prefix
  e del kv/none
  e del kv/a kv/b --range
  e del kv/b --from-key --prefix
}

transactions() {
  printf 'mod("txn/a") = "0"\n\nput txn/a mine\n\nget txn/a\n\n' | e txn
  printf 'create("txn/a") = "0"\n\nput txn/a other\n\nget txn/a\n\n' | e txn
  printf 'value("txn/a") = "mine"\nversion("txn/a") < "2"\n\nput txn/b "quoted text"\ndel txn/a\n\nget txn/a\n\n' | e txn
  printf '\nput txn/c 1\nput txn/c 2\n\n\n' | e txn
  printf 'nonsense\n' | e txn
  printf '\nget txn/b\n\n\n' | e txn --write-out=json | sed -E 's/"(cluster_id|member_id|revision|raft_term|create_revision|mod_revision)":[0-9]+/"\1":N/g'
}

compaction() {
  local revision
  e put compaction/a 1 > /dev/null
  revision=$(etcdctl put compaction/a 2 --write-out=json | sed -E 's/.*"revision":([0-9]+).*/\1/')
  e put compaction/a 3
  e compaction "$revision" | sed "s/$revision/REVISION/g"
  e get compaction/a --rev="$revision" | sed "s/$revision/REVISION/g"
  e get compaction/a --rev="$((revision - 1))" | sed "s/$((revision - 1))/BEFORE/g"
  e compaction "$revision" --physical | sed "s/$revision/REVISION/g"
  e compaction "$((revision + 1))" --physical | sed "s/$((revision + 1))/AFTER/g"
  e compaction 100000000
  timeout 5 etcdctl watch compaction/a --rev="$((revision - 1))" 2>&1 | sed -E 's/[0-9]{2,}/N/g'
}

watches() {
  local first
  first=$(etcdctl put watch/a 0 --write-out=json | sed -E 's/.*"revision":([0-9]+).*/\1/')
  begin all watch watch/ --prefix --rev="$first" --prev-kv
  begin exec watch watch/b -- sh -c 'echo "$ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"'
  lines "$work/all" 3
  # The others tell nobody that they watch: what is put until they do is seen by the first alone.
  soon sh -c "etcdctl put watch/b x && grep -q watch/b '$work/exec'"
  e put watch/a 1
  e del watch/a
  soon grep -q DELETE "$work/all"
  grep -A6 -B3 DELETE "$work/all"
  head -4 "$work/exec"
  stop all exec
}

leases() {
  local lease
  e lease grant 60 | sed -E 's/lease [0-9a-f]+/lease ID/'
  lease=$(etcdctl lease grant 60 | cut -d' ' -f2)
  e put lease/a x "--lease=$lease"
  e put lease/b y "--lease=$lease"
  e lease timetolive "$lease" | sed -E 's/remaining\([0-9]+s\)/remaining(N)/'
  e lease timetolive "$lease" --keys | sed -E 's/remaining\([0-9]+s\)/remaining(N)/'
  e lease keep-alive --once "$lease"
  e lease list
  e lease revoke "$lease"
  e lease revoke "$lease"
  e lease timetolive "$lease"
  e lease keep-alive --once "$lease"
  e lease timetolive nonsense
  e get lease/ --prefix
  lease=$(etcdctl lease grant 2 | cut -d' ' -f2)
  begin kept lease keep-alive "$lease"
  lines "$work/kept" 3 | head -3
  stop kept
  # Nobody keeps it any more.
  soon sh -c "etcdctl lease timetolive '$lease' | grep -q expired"
  e lease timetolive "$lease"
  etcdctl lease list | tail -n +2 | while read -r lease; do etcdctl lease revoke "$lease" > /dev/null; done
}

locks() {
  e lock lock/a echo held
  e lock lock/a -- sh -c 'exit 3'
  begin held lock lock/b
  lines "$work/held" 1 | sed -E 's#lock/b/[0-9a-f]+#lock/b/ID#'
  begin second lock lock/b echo second
  sleep 0.5 # It must not come in between.
  echo "$(wc -c < "$work/second") bytes of the second"
  stop held
  lines "$work/second" 1
  stop second
}

elections() {
  begin one elect elect one
  lines "$work/one" 2 | sed -E 's#elect/[0-9a-f]+#elect/ID#'
  begin observed elect -l elect
  lines "$work/observed" 2 | sed -E 's#elect/[0-9a-f]+#elect/ID#'
  begin two elect elect two
  soon sh -c 'test "$(etcdctl get elect/ --prefix --keys-only | grep -c elect)" = 2'
  echo "$(wc -c < "$work/two") bytes of the second"
  stop one
  lines "$work/two" 2 | sed -E 's#elect/[0-9a-f]+#elect/ID#'
  lines "$work/observed" 4 | tail -2 | sed -E 's#elect/[0-9a-f]+#elect/ID#'
  stop two observed
  e elect
}

# Of a status: which member, version, whether it learns, and its errors; and how many lead.
status() {
  e endpoint status "$@" > "$work/status"
  sed -E 's/, [0-9]+, [0-9]+, [0-9]+, /, TERM, INDEX, APPLIED, /; s/[0-9.]+ (kB|MB|B)/SIZE/g; s/, -?[0-9]+%,/, SHARE,/; s/(true|false), (true|false), TERM/LEADS, \2, TERM/' "$work/status"
  echo "$(grep -c 'true, false, ' "$work/status") lead"
}

# The first line, and the others in order.
sorted() {
  local first
  read -r first
  echo "$first"
  sort "$@"
}

endpoints() {
  e endpoint health | sorted
  e endpoint health --cluster --write-out=json | sed -E 's/"took":"[^"]*"/"took":"TIME"/g' | tr -d '[]' | sed 's/},{/}\n{/g' | sort
  status
  e endpoint status --cluster --write-out=table | grep -c 'CLIENT\|127\.'
  etcdctl endpoint hashkv --write-out=json 2>&1 | grep -o '"hash":[0-9]*' | sort -u | wc -l
  e endpoint hashkv | sed -E 's/, [0-9]+(, [0-9]+)?$/, HASH/'
  e endpoint health --endpoints=127.0.0.1:1 --command-timeout=1s
}

members() {
  local id url
  e member list | sorted -t, -k3
  e member list --write-out=table | sed -E 's/[─┌┐└┘├┤┬┴┼]+//g; s/ +/ /g; s/^│ [0-9a-f]+ │ started/│ ID │ started/' | LC_ALL=C sort -u
  url=$(control another)
  # The initial cluster has the order of the ids.
  e member add m3 --peer-urls="http://$url" --learner | sed "s/$url/ADDED/g" | grep -v ETCD_INITIAL_CLUSTER=
  sleep 1.1 # etcd makes the id of the URL and the second; the same one again is refused for its id.
  e member add m3 --peer-urls="http://$url" --learner | sed "s/$url/ADDED/g"
  id=$(etcdctl member list | grep unstarted | cut -d, -f1)
  e member promote "$id"
  [ "$(control start-added)" = ok ] || echo "it did not start"
  soon sh -c "etcdctl member list | grep '^$id,' | grep -q ', started'"
  soon etcdctl member promote "$id"
  etcdctl member list | grep "^$id," | sed "s/$url/ADDED/g; s/127[0-9.]*:2379/ITS-CLIENT/"
  e member promote "$id"
  e member update "$id" --peer-urls="http://$url" | sed "s/$url/ADDED/g"
  e member remove "$id"
  e member remove "$id"
  e member remove nonsense
  control forget > /dev/null
  soon etcdctl endpoint health
  e member list | sorted -t, -k3
}

maintenance() {
  local leader follower
  e alarm list
  e alarm disarm
  e defrag
  e defrag --cluster | wc -l
  e snapshot save "$work/snapshot"
  e snapshot save "$work/snapshot" --endpoints="${endpoints[0]}"
  [ -s "$work/snapshot" ] && echo "there is a snapshot"
  leader=$(control leader)
  follower=$(etcdctl endpoint status --cluster | grep false, | head -1 | cut -d' ' -f2 | tr -d ,)
  e move-leader "$follower" --endpoints="$(printf '%s\n' "${endpoints[@]}" | grep -v "$leader" | head -1)" 2>&1 | sed -E "s/(move-leader) $follower/\1 FOLLOWER/; s/CLIENT[0-9]|[0-9.]+:2379/ENDPOINT/g"
  soon etcdctl move-leader "$follower"
  soon sh -c "etcdctl endpoint status --endpoints='$leader' | grep -q false,"
  status --endpoints="$leader" | tail -1
  # To 3.6 etcd would go, and Setstone does not, as its documentation says: there is nothing to go to.
  e downgrade validate 3.5
  e downgrade validate nonsense
  e downgrade cancel
}

mirror() {
  etcdctl put mirror/a 1 > /dev/null
  begin mirror make-mirror --prefix=mirror/ --dest-prefix=mirrored/ "${endpoints[0]}"
  soon sh -c 'etcdctl get mirrored/a | grep -q 1'
  e put mirror/b 2
  soon sh -c 'etcdctl get mirrored/b | grep -q 2'
  e del mirror/a
  soon sh -c 'test -z "$(etcdctl get mirrored/a)"'
  e get mirrored/ --prefix
  stop mirror
}

killed() {
  local leader n
  begin killed watch killed/n
  soon sh -c "etcdctl put killed/n begin && grep -q begin '$work/killed'"
  for n in 1 2 3 4 5; do etcdctl put killed/n "$n" > /dev/null; done
  leader=$(control kill-leader)
  for n in 6 7 8 9 10; do soon etcdctl put killed/n "$n"; done
  e get killed/n
  e endpoint health --command-timeout=2s 2>&1 | grep -c 'is healthy'
  e endpoint status --endpoints="$leader" --command-timeout=1s > "$work/down" 2>&1
  grep -q 'exit 1' "$work/down" && echo "the one that is down says nothing"
  control restart
  for n in 11 12 13 14 15; do soon etcdctl put killed/n "$n"; done
  soon grep -qx 15 "$work/killed"
  grep -xE '[0-9]+' "$work/killed" | uniq
  soon etcdctl endpoint health
  status --endpoints="$leader" | sed -n 2p | cut -d, -f3
  stop killed
}

users() {
  e role add root
  e role add reader
  e role add reader
  e role grant-permission reader read auth/ --prefix
  e role grant-permission reader readwrite auth/own
  e role grant-permission reader nonsense auth/own
  e role grant-permission nobody read x
  e role get reader
  e role list
  e user add root:secret
  e user add alice:wonder
  e user add alice:wonder
  e user add carol --no-password
  e user grant-role root root
  e user grant-role alice reader
  e user grant-role alice nobody
  e user get alice
  e user get alice --detail
  e user get nobody
  e user list
  printf 'land\n' | e user passwd alice --interactive=false
  e auth status | sed -E 's/[0-9]+$/REVISION/'
  e put auth/a 1
  e auth enable
  e get auth/a
  e get auth/a --user=alice:wonder
  e get auth/a --user=alice:land
  e put auth/a 2 --user=alice:land
  e put auth/own 2 --user=alice:land
  # Of one member: another may not know the token yet, and etcd takes it for none then.
  e watch other --user=alice:land --endpoints="${endpoints[0]}" | sed 's/127[0-9.]*:2379/CLIENT0/'
  e user list --user=alice:land
  e member list --user=alice:land | wc -l
  e user revoke-role alice reader --user=root:secret
  e get auth/a --user=alice:land
  e role revoke-permission reader auth/own --user=root:secret
  e role revoke-permission reader auth/own --user=root:secret
  e role get reader --user=root:secret --write-out=json | sed -E 's/"(cluster_id|member_id|revision|raft_term)":[0-9]+/"\1":N/g'
  e user delete root --user=root:secret
  e role delete reader --user=root:secret
  e auth status --user=root:secret | sed -E 's/[0-9]+$/REVISION/'
  e auth disable --user=root:secret
  for user in alice carol root; do e user delete "$user"; done
  e role delete root
  e role delete root
}

# What runs without a server, but belongs to etcdctl.
offline() {
  e version
  e completion bash | head -1
  e options | head -1
  e nonsense
}

scenarios="offline kv transactions compaction watches leases locks elections endpoints members maintenance mirror killed users"
count=0
for scenario in $scenarios; do
  begin=$(date +%s%N)
  name_members
  "$scenario" > "$work/raw" 2>&1
  sed -E -f "$names" "$work/raw" > "$work/$scenario.txt"
  if [ -n "${RECORD:-}" ]; then
    cp "$work/$scenario.txt" "$here/expected/$scenario.txt"
  elif ! diff -u "$here/expected/$scenario.txt" "$work/$scenario.txt"; then
    echo "$scenario differs from what etcd said"
    exit 1
  fi
  count=$((count + 1))
  printf 'ok %s %s\n' "$scenario" "$(awk "BEGIN { printf \"%.1f\", ($(date +%s%N) - $begin) / 1e9 }")"
done
echo "done $count"
