#!/usr/bin/env bash
# What more shards cost: CPU per line, lines per second, messages between threads and system calls by which threads wake
# each other, for 1, 2, 4, … shards up to the cores there are, against the trial endpoint on the same machine.
#
#   scripts/scaling.sh [LINES]       default 200 000; the median of three runs a row
#
# The endpoint shares the cores, so lines per second stay below what the client could do; CPU per line is the figure.
# Needs awk; strace for the last column.
set -euo pipefail
cd "$(dirname "$0")/.."

lines=${1:-200000} runs=3
cargo build --release --quiet
blaze=${CARGO_TARGET_DIR:-$PWD/target}/release/blaze-uring
work=$(mktemp -d)
trap 'kill "${mock_pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
"$blaze" mock --listen 127.0.0.1:0 >"$work/mock.txt" 2>&1 &
mock_pid=$!
until port=$(grep -ohE '127\.0\.0\.1:[0-9]+' "$work/mock.txt" | head -1) && [ -n "$port" ]; do
  kill -0 "$mock_pid" 2>/dev/null || { cat "$work/mock.txt" >&2; exit 1; }
  sleep 0.05
done
awk -v n="$lines" 'BEGIN { for (i = 1; i <= n; i++) print "{\"input\": \"line " i "\"}" }' >"$work/in.jsonl"
printf '{"endpoints":[{"url":"http://%s/v1/chat/completions","model":"m","max_concurrent":256}]}' "$port" >"$work/config.json"
batch=("$blaze" -c "$work/config.json" -i "$work/in.jsonl" -o "$work/out.jsonl" -e "$work/errors.jsonl" --workers 256 --rate 0 --no-progress -v)

median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR + 1) / 2)]}'; }
TIMEFORMAT="%U %S %R"
echo "| runtime | shards | CPU µs/line | lines/s | messages for 1000 lines | futex calls for 1000 lines |"
echo "|---|---|---|---|---|---|"
for runtime in uring tokio; do
  for ((shards = 1; shards <= $(nproc); shards *= 2)); do
    rm -f "$work"/{cpu,rate,messages}
    for _ in $(seq "$runs"); do
      rm -f "$work/out.jsonl" "$work/errors.jsonl"
      times=$( { time "${batch[@]}" --runtime "$runtime" --cores "$shards" >"$work/out.txt" 2>"$work/err.txt"; } 2>&1 )
      awk -v n="$lines" '{print ($1 + $2) / n * 1e6}' <<<"$times" >>"$work/cpu"
      awk -v n="$lines" '{print n / $3}' <<<"$times" >>"$work/rate"
      sed -n 's/.* \([0-9]*\) messages from shards, \([0-9]*\) to them.*/\1 \2/p' "$work/err.txt" |
        awk -v n="$lines" '{print ($1 + $2) / n * 1000}' >>"$work/messages"
    done
    futex=–
    if command -v strace >/dev/null; then
      rm -f "$work/out.jsonl" "$work/errors.jsonl"
      strace -f --seccomp-bpf -e trace=futex -o "$work/trace" "${batch[@]}" --runtime "$runtime" --cores "$shards" >/dev/null 2>&1
      futex=$(awk -v n="$lines" '/futex\(/ {calls++} END {printf "%.1f", calls / n * 1000}' "$work/trace")
    fi
    printf '| %s | %d | %.1f | %.0f | %.2f | %s |\n' "$runtime" "$shards" "$(median <"$work/cpu")" "$(median <"$work/rate")" \
      "$(median <"$work/messages")" "$futex"
  done
done
