#!/usr/bin/env bash
# What the server sees of --rate: the fullest and the emptiest window of 1 s, and the first one.
#
#   scripts/rate_window.sh [RATE [SECONDS]]      default: 1000 for 20 s, two shards
#
# The trial endpoint records arrivals; curl and awk read them.
set -euo pipefail
cd "$(dirname "$0")/.."
rate=${1:-1000} seconds=${2:-20}
cargo build --release --quiet
blaze=${CARGO_TARGET_DIR:-target}/release/blaze-uring
work=$(mktemp -d)
trap 'kill "${mock:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
"$blaze" mock --listen 127.0.0.1:0 --record-arrivals >"$work/stats.json" 2>"$work/mock.log" &
mock=$!
until grep -q listening "$work/mock.log"; do kill -0 "$mock"; done
base=$(grep -o 'http://[0-9.:]*' "$work/mock.log" | head -1)
awk -v n="$((rate * seconds + rate))" 'BEGIN { for (i = 1; i <= n; i++) printf "{\"input\": \"line %d\"}\n", i }' >"$work/in.jsonl"
"$blaze" -i "$work/in.jsonl" -o "$work/out.jsonl" -e "$work/errors.jsonl" --endpoint-url "$base/v1" --model m \
  --rate "$rate" --cores 2 --no-progress 2>"$work/run.log" || { cat "$work/run.log" >&2; exit 1; }
curl -s "$base/stats" | tr -d ' ' | grep -o '"arrivals_us":\[[0-9,]*' | cut -d'[' -f2 | tr ',' '\n' | sort -n |
  awk '{ at[NR] = $1 } END {
    low = 0; high = 0; first = 0; j = 1
    for (i = 1; i <= NR; i++) {
      while (j <= NR && at[j] < at[i] + 1000000) j++
      count = j - i
      if (i == 1) first = count
      if (count > high) high = count
      if (at[i] + 1000000 <= at[NR] && (low == 0 || count < low)) low = count
    }
    printf "%d requests in %.2f s; windows of 1 s: %d to %d, the first %d\n", NR, (at[NR] - at[1]) / 1e6, low, high, first
  }'
