#!/usr/bin/env bash
# How much later does a run end for making its final files: merging, syncing and comparing them with what is on the
# disk? Prints for each binary, in turns, the seconds to the endpoint's last answer and those from there to the exit.
#
#   scripts/final_sync.sh [--lines N] [--rounds N] [BINARY...]     default: 3 000 000 lines, one round, target/release
#
# An older build beside the present one shows what a change of the last phase costs. Needs curl, and room for three
# times the output (about 600 bytes a line) where TMPDIR is: that must be a disk, not memory.
set -euo pipefail
cd "$(dirname "$0")/.."
lines=3000000 rounds=1
while [ $# -gt 0 ]; do
  case $1 in
    --lines) lines=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    -*) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || { cargo build --release --quiet; set -- "${CARGO_TARGET_DIR:-target}/release/blaze-uring"; }
work=$(mktemp -d)
trap 'kill "${mock:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
awk -v n="$lines" 'BEGIN { for (i = 1; i <= n; i++) printf "{\"input\": \"line %d of a file whose lines are about two hundred bytes long, as the questions of a usual batch are: who, what, when, where, why, and in how many words should the answer be given?\"}\n", i }' >"$work/in.jsonl"
seconds() { date +%s.%N; }
for ((round = 1; round <= rounds; round++)); do
  for blaze in "$@"; do
    "$1" mock --listen 127.0.0.1:0 >/dev/null 2>"$work/mock.log" &
    mock=$!
    until grep -q listening "$work/mock.log"; do kill -0 "$mock"; done
    base=$(grep -o 'http://[0-9.:]*' "$work/mock.log" | head -1)
    printf '{"endpoints":[{"url":"%s/v1","model":"m"}]}' "$base" >"$work/config.json"
    rm -rf "$work"/out.jsonl*
    sync
    begin=$(seconds)
    "$blaze" -i "$work/in.jsonl" -o "$work/out.jsonl" -e "$work/errors.jsonl" -c "$work/config.json" \
      --rate 0 --no-progress 2>"$work/run.log" &
    run=$!
    answered=0
    while [ "$answered" -lt "$lines" ] && kill -0 "$run" 2>/dev/null; do
      read -rt 0.05 <> <(:) || true
      answered=$(curl -s "$base/stats" | grep -o '"requests":[0-9]*' | head -1 | cut -d: -f2 || echo 0)
      answered=${answered:-0}
    done
    last=$(seconds)
    wait "$run" || { cat "$work/run.log" >&2; exit 1; }
    end=$(seconds)
    kill "$mock"
    wait "$mock" 2>/dev/null || true
    awk -v b="$begin" -v l="$last" -v e="$end" -v name="$blaze" -v size="$(stat -c %s "$work/out.jsonl")" 'BEGIN {
      printf "%s: %.2f s to the last answer, %.2f s to the exit (%.1f %%), output %.2f GB\n", name, l - b, e - l, 100 * (e - l) / (l - b), size / 1e9 }'
  done
done
