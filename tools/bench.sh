#!/bin/bash
# bench.sh: measures a three-node cluster, its clients and a mount on this
# machine, beside a plain folder and go-fuse's loopback file system on it.
# Everything runs on loopback, is bounded, and is removed again.
# BENCH_SHORT=1 does a tenth of the work.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/bin
dir=$(mktemp -d /var/tmp/eggs-bench-XXXXXX)
count=5000 stream=1024
[ -z "${BENCH_SHORT:-}" ] || { count=500; stream=128; }
port=23447 web=25000
eggs() { "$bin/eggs" --cluster 127.0.0.1:$port,127.0.0.1:$((port+1)),127.0.0.1:$((port+2)) --key-file "$dir/c/cluster.key" "$@"; }
dev=""
cleanup() {
  [ -z "$dev" ] || { kill -TERM "$dev" 2>/dev/null || true; wait "$dev" 2>/dev/null || true; }
  umount -l "$dir/loop" 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT

start() { # start NODES FOLDER [FLAG...]; said then tells how long it took
  local nodes=$1 data=$2; shift 2
  "$bin/eggs" dev --nodes "$nodes" --data "$data" --port $port --http-port $web "$@" >"$dir/dev.log" 2>&1 &
  dev=$!
  for _ in $(seq 600); do
    if grep -q 'Ctrl-C stops' "$dir/dev.log"; then said=$(grep 'ready after' "$dir/dev.log"); return; fi
    kill -0 $dev 2>/dev/null || break
    sleep 0.1
  done
  cat "$dir/dev.log" >&2; exit 1
}
stop() { kill -TERM "$dev"; wait "$dev" || true; dev=""; }
pids() { pgrep -P "$dev" eggsnode | tr '\n' ' '; }
daemon() { pgrep -f "eggsfuse.*$dir/mnt" | tr '\n' ' '; }
jiffies() { local t=0 p; for p in $(pids); do t=$((t + $(awk '{print $14+$15}' "/proc/$p/stat"))); done; echo $t; }

echo "== machine: $(nproc) cores, $(uname -r), $(go version | cut -d' ' -f3), $(git describe --always --dirty)"
echo "== start"
start 1 "$dir/one"; echo "one node, first start:     $said"; stop
start 1 "$dir/one"; echo "one node, again:           $said"; stop
start 3 "$dir/c"; echo "three nodes, first start:  $said (257 groups grown from one to three voters)"; stop
start 3 "$dir/c" --mount "$dir/mnt"; echo "three nodes, again:        $said"

echo "== idle, all three nodes, after 15 s"
sleep 15
a=$(jiffies); sleep 20; b=$(jiffies)
echo "CPU $(( (b-a) * 100 / 20 / 100 )).$(( (b-a) * 100 / 20 % 100 )) % of a core; memory $(for p in $(pids); do awk '/VmRSS/{print $2}' "/proc/$p/status"; done | awk '{s+=$1} END {print int(s/1024)}') MiB"

echo "== client library, inline files of 1 KiB"
for callers in 1 16 256; do eggs bench --callers $callers --count $((callers == 1 ? count / 5 : count)) --size 1024 --pids "$(pids)"; done
echo "== client library, large file ($stream MiB; per MiB)"
eggs bench --callers 1 --count 10 --stream $stream --only write,read --pids "$(pids)"

through() { # through NAME FOLDER PIDS
  for size in 0 1024; do
    for callers in 1 16; do
      echo "-- $1, $size bytes"
      "$bin/eggs" bench --dir "$2" --callers $callers --count $((callers == 1 ? count / 5 : count)) --size $size --pids "$3"
    done
  done
  echo "-- $1, large file ($stream MiB; per MiB)"
  "$bin/eggs" bench --dir "$2" --callers 1 --count 10 --stream $stream --only write,read --pids "$3"
}
echo "== the mount"
through mount "$dir/mnt" "$(pids) $(daemon)"
echo "== go-fuse loopback over the same disk (nothing is synced)"
go build -o "$dir/loopback" github.com/hanwen/go-fuse/v2/example/loopback
mkdir "$dir/loop" "$dir/under"
"$dir/loopback" -q "$dir/loop" "$dir/under" >/dev/null 2>&1 &
loop=$!
sleep 1
through loopback "$dir/loop" "$loop"
umount "$dir/loop"
echo "== failover (milliseconds until every group takes a write again)"
go test ./jepsen -run xxx -bench Failover -benchtime 3x 2>/dev/null | grep -E 'Failover|ms/' || true
