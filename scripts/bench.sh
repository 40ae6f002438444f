#!/usr/bin/env bash
# Client CPU per request against wrk, h2load and oha (those that are installed), on one nginx in one run.
#
#   scripts/bench.sh                 HTTP/1.1, 256 in flight, one shard, 300 000 lines, three runs, medians
#   scripts/bench.sh --tls           the same over TLS
#   scripts/bench.sh --lines N --in-flight N --runs N --runtime uring|tokio
#   scripts/bench.sh --ratios        what docs/BENCHMARKS.md promises, from runs in turns: 9 rounds, 200 000 lines
#   scripts/bench.sh --profile       where the client's CPU goes, by part of the program (needs perf)
#   scripts/bench.sh --all           the whole comparison: both runtimes, wrk, h2load, oha and an aiohttp script over
#                                    HTTP/1.1, TLS and HTTP/2; writes docs/BENCHMARKS.md, docs/benchmarks.svg, README.md
#
# --all and --ratios take about five minutes once everything is there. The first time it installs nginx, wrk and h2load by apt-get,
# aiohttp and matplotlib by pip and oha by cargo into a cache outside the tree (BLAZE_TOOLS, default
# ~/.cache/blaze-uring); --no-write only prints; --lines, --in-flight and --runs count there too.
#
# The server is pinned to core 1, every client to core 0. CPU is user + system time of the client's
# process, the merge of the records included. Needs nginx, bash, awk, openssl (for --tls).
set -euo pipefail
cd "$(dirname "$0")/.."

lines='' in_flight=256 runs='' scheme=http runtime=auto all='' ratios='' write=1 profile=''
while [ $# -gt 0 ]; do
  case $1 in
    --lines) lines=$2; shift 2 ;;
    --in-flight) in_flight=$2; shift 2 ;;
    --runs) runs=$2; shift 2 ;;
    --runtime) runtime=$2; shift 2 ;;
    --tls) scheme=https; shift ;;
    --all) all=1; shift ;;
    --ratios) ratios=1; shift ;;
    --profile) profile=1; shift ;;
    --no-write) write=''; shift ;;
    *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
  esac
done

if [ -n "$all$ratios" ]; then
  tools=${BLAZE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/blaze-uring}
  mkdir -p "$tools"
  missing=()
  for package in nginx-light wrk nghttp2-client openssl python3-venv; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
  if [ "${#missing[@]}" -gt 0 ]; then
    as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
  [ -x "$tools/venv/bin/python" ] || python3 -m venv "$tools/venv"
  "$tools/venv/bin/python" -c 'import aiohttp, matplotlib' 2>/dev/null || "$tools/venv/bin/pip" install -q aiohttp matplotlib
  [ -x "$tools/oha/bin/oha" ] || cargo install --locked --quiet --root "$tools/oha" oha
  cargo build --release --quiet
  blaze=${CARGO_TARGET_DIR:-$PWD/target}/release/blaze-uring
  if [ -n "$ratios" ]; then
    exec "$tools/venv/bin/python" scripts/peers/ratios.py --blaze "$blaze" --runs "${runs:-9}" --requests "${lines:-200000}"
  fi
  exec "$tools/venv/bin/python" scripts/peers/compare.py --blaze "$blaze" \
    --oha "$tools/oha/bin/oha" --in-flight "$in_flight" --runs "${runs:-3}" --requests "${lines:-200000}" ${write:+--docs docs}
fi
lines=${lines:-300000} runs=${runs:-3}

for tool in nginx awk taskset; do
  command -v "$tool" >/dev/null || { echo "$tool is not installed" >&2; exit 1; }
done
[ -n "${BLAZE_BINARY:-}" ] || cargo build --release --quiet
blaze=${BLAZE_BINARY:-$PWD/${CARGO_TARGET_DIR:-target}/release/blaze-uring}
unset BLAZE_BINARY BLAZE_TOOLS # the program knows no such variables, and says so
[ -x "$blaze" ] || blaze=${CARGO_TARGET_DIR:-target}/release/blaze-uring

work=$(mktemp -d)
trap 'kill "${nginx_pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
port=$((20000 + RANDOM % 10000))
base=$scheme://localhost:$port
listen="127.0.0.1:$port" certificate=""
if [ "$scheme" = https ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
  listen="$listen ssl"
  certificate="ssl_certificate $work/cert.pem; ssl_certificate_key $work/key.pem;"
fi

# A chat completion of 700 bytes.
answer='{"id":"chatcmpl-0001","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"@"},"finish_reason":"stop"}],"usage":{"prompt_tokens":42,"completion_tokens":96,"total_tokens":138}}'
padding=$((700 - ${#answer} + 1))
answer=${answer/@/$(printf 'x%.0s' $(seq "$padding"))}
cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/nginx.pid; error_log stderr error;
worker_rlimit_nofile 60000;
events { worker_connections 20000; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path $work/body; proxy_temp_path $work/proxy; fastcgi_temp_path $work/fastcgi;
  uwsgi_temp_path $work/uwsgi; scgi_temp_path $work/scgi;
  server { listen $listen; $certificate location / { default_type application/json; return 200 '$answer'; } }
}
CONF
taskset -c 1 nginx -c "$work/nginx.conf" -p "$work" 2>"$work/nginx.log" &
nginx_pid=$!
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
  kill -0 "$nginx_pid" 2>/dev/null || { cat "$work/nginx.log" >&2; exit 1; }
done

body='{"model":"bench","messages":[{"role":"user","content":"Summarise the following paragraph in one sentence: the quick brown fox jumps over the lazy dog and then goes home to write about it at some length."}],"max_tokens":128}'
awk -v n="$lines" -v body="$body" 'BEGIN { for (i = 1; i <= n; i++) print body }' >"$work/in.jsonl"
cat >"$work/post.lua" <<LUA
wrk.method = "POST"
wrk.body = [[$body]]
wrk.headers["Content-Type"] = "application/json"
LUA

# Runs a command on core 0; prints "user+system seconds" of it.
# A client that fails shows its own words.
cpu() {
  local TIMEFORMAT="%U %S" times
  if ! times=$( { time taskset -c 0 "$@" >"$work/out.txt" 2>"$work/err.txt"; } 2>&1 ); then
    echo "$1 failed:" >&2; tail -5 "$work/err.txt" >&2; return 1
  fi
  awk "{print \$1 + \$2}" <<<"$times"
}
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR + 1) / 2)]}'; }

wrk_once() {
  local seconds; seconds=$(cpu wrk -t1 -c"$in_flight" -d5s -s "$work/post.lua" "$base/v1/chat/completions")
  awk -v s="$seconds" '/requests in/ {printf "%.2f\n", s / $1 * 1e6}' "$work/out.txt"
}
h2load_once() {
  printf '%s' "$body" >"$work/body.json"
  local seconds; seconds=$(cpu h2load --h1 -t1 -c"$in_flight" -n"$lines" -d "$work/body.json" -H 'content-type: application/json' "$base/v1/chat/completions")
  awk -v s="$seconds" -v n="$lines" 'BEGIN {printf "%.2f\n", s / n * 1e6}'
}
oha_once() {
  local seconds; seconds=$(cpu oha --no-tui --insecure -c "$in_flight" -n "$lines" -m POST -d "$body" -T application/json "$base/v1/chat/completions")
  awk -v s="$seconds" -v n="$lines" 'BEGIN {printf "%.2f\n", s / n * 1e6}'
}
blaze_once() {
  rm -rf "$work/records.jsonl" "$work/errors.jsonl"
  local trust=(); [ "$scheme" = https ] && trust=(--ca-file "$work/cert.pem")
  local seconds; seconds=$(cpu "$@" "$blaze" -i "$work/in.jsonl" -o "$work/records.jsonl" -e "$work/errors.jsonl" \
    --cores 1 --workers "$in_flight" --rate 0 \
    --runtime "$runtime" --no-progress "${trust[@]}" --config "$work/caps.json")
  [ "$(wc -l <"$work/records.jsonl")" = "$lines" ] || { echo "records are missing" >&2; exit 1; }
  awk -v s="$seconds" -v n="$lines" 'BEGIN {printf "%.2f\n", s / n * 1e6}'
}
printf '{"endpoints":[{"url":"%s/v1/chat/completions","model":"bench","max_concurrent":%d}]}' "$base" "$in_flight" >"$work/caps.json"

# Samples of the client's threads, added up by the part of the program that a symbol belongs to. The JSON scanner
# serves lines and answers alike, and small functions are part of those that they are inlined into.
if [ -n "$profile" ]; then
  blaze_once perf record -q -e cpu-clock -F 4000 -o "$work/perf.data" >"$work/us"
  perf report -i "$work/perf.data" --no-children --stdio --sort comm,dso,symbol 2>/dev/null | awk -v us="$(cat "$work/us")" '
    function part(comm, symbol) {
      if (symbol ~ /\[k\]/) return comm ~ /^shard/ ? "kernel, for the shard" : "kernel, for the merge and start"
      if (comm !~ /^shard/) return "merge and start"
      if (symbol ~ /clock_gettime/) return "clock"
      if (symbol ~ /memmove|memcpy|memset/) return "copying"
      if (symbol ~ / mi_|malloc|free/) return "memory"
      if (symbol ~ /crc32|journal|segment/) return "journal: checksums, entries, buffers"
      if (symbol ~ /hdrhistogram|ShardMetrics/) return "metrics"
      if (symbol ~ /admission|policy|input::/) return "admit: next line, permits, endpoint"
      if (symbol ~ /json::|simdutf8|batch::line|from_usage/) return "JSON: spans of the line, check and copy of the answer"
      if (symbol ~ /encode|HeadTemplate/) return "encode: head and body"
      if (symbol ~ /http::|httparse|memchr/) return "decode: head and framing"
      if (symbol ~ /record|judge|settle|itoa/) return "record: judge and write"
      if (symbol ~ /monoio|io_uring|runtime::uring|runtime::tokio|tokio::|mio::|libc|Abort|waker/) return "runtime: operations, tasks, wake-ups"
      if (symbol ~ /client::|panic::|shard::|buffers/) return "exchange: tasks, pool, connection"
      return "rest"
    }
    /^ +[0-9.]+%/ {share[part($2, $0)] += $1; total += $1}
    END {for (name in share) printf "%5.1f %%  %5.2f us  %s\n", share[name] / total * 100, share[name] / total * us, name}' | sort -rn
  exit
fi

echo "client CPU, microseconds per request: $scheme, $in_flight in flight, median of $runs runs"
declare -A results
for run in $(seq "$runs"); do
  for client in wrk h2load oha blaze; do
    [ "$client" = blaze ] || command -v "$client" >/dev/null || continue
    "${client}_once" >>"$work/$client.us"
  done
done
for client in wrk h2load oha blaze; do
  [ -s "$work/$client.us" ] || continue
  results[$client]=$(median <"$work/$client.us")
  awk -v c="$client" -v v="${results[$client]}" -v w="${results[wrk]:-}" \
    'BEGIN {printf "%-8s %8.2f", c, v; if (w != "") printf "   %.2f x wrk", v / w; print ""}'
done
