#!/usr/bin/env bash
# How long a run that is nearly done takes to go on after `kill -9`: from the start of the process to the
# first request that reaches the server, and its largest anonymous memory until then.
#
#   scripts/resume.sh                     3 000 000 lines, killed at 90 %, one core, 7 resumes
#   scripts/resume.sh --lines N --percent N --cores N --runs N --cold
#
# The trial endpoint answers the first run at full speed; the resumes meet one that keeps them waiting, are
# measured and killed in turn. With --cold the page cache is dropped before each (needs root). Linux, bash, awk.
set -euo pipefail
cd "$(dirname "$0")/.."

lines=3000000 percent=90 cores=1 runs=7 cold=false
while [ $# -gt 0 ]; do
  case $1 in
    --lines) lines=$2; shift 2 ;;
    --percent) percent=$2; shift 2 ;;
    --cores) cores=$2; shift 2 ;;
    --runs) runs=$2; shift 2 ;;
    --cold) cold=true; shift ;;
    *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
  esac
done

cargo build --release --quiet
blaze=${CARGO_TARGET_DIR:-target}/release/blaze-uring
work=$(mktemp -d)
trap 'kill -9 ${run:-} ${mock:-} 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

# Starts a trial endpoint; sets mock, port.
start_mock() {
  "$blaze" mock --listen 127.0.0.1:0 "$@" >"$work/mock.out" 2>"$work/mock.log" &
  mock=$!
  until grep -qs listening "$work/mock.out" "$work/mock.log"; do kill -0 "$mock"; done
  port=$(cat "$work/mock.out" "$work/mock.log" | grep -o '127.0.0.1:[0-9]*' | head -1 | cut -d: -f2)
  printf '{"endpoints":[{"url":"http://127.0.0.1:%d/v1","model":"m","max_concurrent":256}]}' "$port" >"$work/config.json"
}
stop_mock() { kill "$mock"; wait "$mock" 2>/dev/null || true; }
# Requests the trial endpoint has seen.
seen() {
  local answer
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  printf 'GET /stats HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n\r\n' >&3
  answer=$(cat <&3)
  exec 3>&-
  answer=${answer#*\"requests\":}
  echo "${answer%%,*}"
}
start_run() {
  "$blaze" -i "$work/in.jsonl" -o "$work/out.jsonl" -e "$work/errors.jsonl" -c "$work/config.json" \
    --cores "$cores" --workers 256 --rate 0 --timeout 600 --no-progress 2>"$work/run.log" &
  run=$!
}
kill_run() { kill -9 "$run"; wait "$run" 2>/dev/null || true; }
pause() { read -rt "$1" <> <(:) || true; }

awk -v n="$lines" 'BEGIN { for (i = 1; i <= n; i++) printf "{\"input\": \"line %d of a file whose lines are about two hundred bytes long, as the questions of a usual batch are: who, what, when, where, why, and in how many words should the answer be given?\"}\n", i }' >"$work/in.jsonl"
start_mock --response-bytes 400
start_run
until [ "$(seen)" -ge $((lines / 100 * percent)) ]; do kill -0 "$run"; pause 0.1; done
kill_run
stop_mock
echo "input $(stat -c %s "$work/in.jsonl") bytes; run folder: $(find "$work/out.jsonl.blaze" -name '*.seg' -printf '%s\n' | awk '{s += $1} END {print s}') bytes of records, $(find "$work/out.jsonl.blaze" -name 'journal*' -printf '%s\n' | awk '{s += $1} END {print s}') of journal"

start_mock --latency 300s
before=0
for ((turn = 1; turn <= runs; turn++)); do
  if $cold; then sync; echo 3 >/proc/sys/vm/drop_caches; fi
  started=${EPOCHREALTIME/./}
  start_run
  largest=0
  while [ "$(seen)" -le "$before" ]; do
    kill -0 "$run" 2>/dev/null || { cat "$work/run.log" >&2; exit 1; }
    now=$(awk '/RssAnon/ {print $2}' "/proc/$run/status" 2>/dev/null || true)
    [ "${now:-0}" -le "$largest" ] || largest=$now
    pause 0.01
  done
  ended=${EPOCHREALTIME/./}
  now=$(awk '/RssAnon/ {print $2}' "/proc/$run/status")
  [ "${now:-0}" -le "$largest" ] || largest=$now
  cpu=$(awk -v tick="$(getconf CLK_TCK)" '{printf "%.2f", ($14 + $15) / tick}' "/proc/$run/stat")
  kill_run
  # What was sent before the kill may still arrive.
  while pause 0.2; count=$(seen); [ "$count" -ne "$before" ]; do before=$count; done
  echo "$((ended - started)) $largest $cpu"
done | tee "$work/figures" | awk '{printf "first request after %.2f s, %.2f s of CPU, at most %d kB anonymous\n", $1 / 1e6, $3, $2; fflush()}'
stop_mock
sort -n "$work/figures" | awk '{t[NR] = $1; if ($2 > m) m = $2} END {printf "median %.2f s, at most %d kB anonymous\n", t[int((NR + 1) / 2)] / 1e6, m}'
