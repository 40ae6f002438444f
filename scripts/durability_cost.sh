#!/usr/bin/env bash
# What `--durability power` costs: throughput at a rate of 10 000 requests per second, against `process`,
# in alternating pairs.
#
#   scripts/durability_cost.sh            10 000 a second, 100 000 lines, 5 pairs
#   scripts/durability_cost.sh --rate N --lines N --pairs N --workers N --folder DIR
#
# The trial endpoint runs on core 1, the client with one shard on core 0. The run folder is made in DIR (default:
# the temporary folder), which should be on a disk: on tmpfs nothing is ever synced. Linux, bash, awk, taskset.
set -euo pipefail
cd "$(dirname "$0")/.."

rate=10000 lines=100000 pairs=5 workers=1000 folder=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
  case $1 in
    --rate) rate=$2; shift 2 ;;
    --lines) lines=$2; shift 2 ;;
    --pairs) pairs=$2; shift 2 ;;
    --workers) workers=$2; shift 2 ;;
    --folder) folder=$2; shift 2 ;;
    *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
  esac
done

cargo build --release --quiet
blaze=${CARGO_TARGET_DIR:-target}/release/blaze-uring
work=$(mktemp -d -p "$folder")
trap 'kill ${mock:-} 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
taskset -c 1 "$blaze" mock --listen 127.0.0.1:0 --response-bytes 400 >"$work/mock.out" 2>"$work/mock.log" &
mock=$!
until grep -qs listening "$work/mock.out" "$work/mock.log"; do kill -0 "$mock"; done
port=$(cat "$work/mock.out" "$work/mock.log" | grep -o '127.0.0.1:[0-9]*' | head -1 | cut -d: -f2)
printf '{"endpoints":[{"url":"http://127.0.0.1:%d/v1","model":"m","max_concurrent":%d}]}' "$port" "$workers" >"$work/config.json"
awk -v n="$lines" 'BEGIN { for (i = 1; i <= n; i++) printf "{\"input\": \"line %d of a file whose lines are about two hundred bytes long, as the questions of a usual batch are: who, what, when, where, why, and in how many words should the answer be given?\"}\n", i }' >"$work/in.jsonl"

# Prints lines/s while sending (the merge excluded), and user + system microseconds per line.
once() {
  local TIMEFORMAT="%U %S" times
  rm -rf "$work"/out.jsonl*
  times=$( { time taskset -c 0 "$blaze" -i "$work/in.jsonl" -o "$work/out.jsonl" -e "$work/errors.jsonl" -c "$work/config.json" \
    --cores 1 --workers "$workers" --rate "$rate" --durability "$1" --no-progress --json-logs >"$work/summary" 2>"$work/run.log"; } 2>&1 ) ||
    { tail -5 "$work/run.log" >&2; return 1; }
  [ "$(wc -l <"$work/out.jsonl")" = "$lines" ] || { echo "records are missing" >&2; return 1; }
  local throughput; throughput=$(tail -qn1 "$work/summary" "$work/run.log" | grep -o '"throughput_rps":[0-9.]*' | tail -1 | cut -d: -f2)
  awk -v t="$throughput" -v n="$lines" '{printf "%.0f %.2f\n", t, ($1 + $2) / n * 1e6}' <<<"$times"
}
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

for ((pair = 1; pair <= pairs; pair++)); do
  read -r process process_us <<<"$(once process)"
  read -r power power_us <<<"$(once power)"
  echo "process $process lines/s, $process_us us of CPU a line   power $power lines/s, $power_us us"
  awk -v a="$power" -v b="$process" 'BEGIN {print a / b}' >>"$work/ratios"
done
echo "power / process, median of $pairs pairs: $(median <"$work/ratios")"
