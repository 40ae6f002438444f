#!/usr/bin/env bash
# Anonymous memory of a run of 300 000 and of 3 000 000 lines: what it needs must not grow with the input.
#
#   scripts/memory.sh [IN_FLIGHT]        default: 256, one shard, --rate 0, against the trial endpoint
#
# Reads RssAnon from /proc (Linux) five times a second and prints the largest.
set -euo pipefail
cd "$(dirname "$0")/.."
in_flight=${1:-256}
cargo build --release --quiet
blaze=${CARGO_TARGET_DIR:-target}/release/blaze-uring
work=$(mktemp -d)
trap 'kill "${mock:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
"$blaze" mock --listen 127.0.0.1:0 >/dev/null 2>"$work/mock.log" &
mock=$!
until grep -q listening "$work/mock.log"; do kill -0 "$mock"; done
base=$(grep -o 'http://[0-9.:]*' "$work/mock.log" | head -1)
printf '{"endpoints":[{"url":"%s/v1","model":"m","max_concurrent":%d}]}' "$base" "$in_flight" >"$work/config.json"
for lines in 300000 3000000; do
  awk -v n="$lines" 'BEGIN { for (i = 1; i <= n; i++) printf "{\"input\": \"line %d of a file whose lines are about two hundred bytes long, as the questions of a usual batch are: who, what, when, where, why, and in how many words should the answer be given?\"}\n", i }' >"$work/in.jsonl"
  rm -rf "$work"/out.jsonl*
  "$blaze" -i "$work/in.jsonl" -o "$work/out.jsonl" -e "$work/errors.jsonl" -c "$work/config.json" \
    --cores 1 --workers "$in_flight" --rate 0 --no-progress 2>"$work/run.log" &
  run=$!
  largest=0
  while kill -0 "$run" 2>/dev/null; do
    now=$(awk '/RssAnon/ {print $2}' "/proc/$run/status" 2>/dev/null || true)
    [ "${now:-0}" -gt "$largest" ] && largest=$now
    read -rt 0.2 <> <(:) || true
  done
  wait "$run" || { cat "$work/run.log" >&2; exit 1; }
  echo "$lines lines, $in_flight in flight: at most $largest kB anonymous"
done
