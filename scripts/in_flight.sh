#!/usr/bin/env bash
# Anonymous memory per request in flight: many requests that wait for an endpoint which answers after a second.
#
#   scripts/in_flight.sh [--http2] [--in-flight N] [--runtime uring|tokio]     default: 15 000 over HTTP/1.1
#
# The trial endpoint answers on four loopback addresses; for HTTP/2 nginx stands in front of it. Bodies have
# 700 bytes, one shard, every record is written and merged in order. Reads RssAnon from /proc (Linux) twenty
# times a second; prints the largest, that of a run with one in flight, and the difference for each request.
set -euo pipefail
cd "$(dirname "$0")/.."
in_flight=15000 http2=false runtime=auto
while [ $# -gt 0 ]; do
  case $1 in
    --http2) http2=true; shift ;;
    --in-flight) in_flight=$2; shift 2 ;;
    --runtime) runtime=$2; shift 2 ;;
    *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
  esac
done
# Client, nginx and the trial endpoint each hold a socket or two for every request.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
[ -n "${BLAZE_BINARY:-}" ] || cargo build --release --quiet
blaze=${BLAZE_BINARY:-${CARGO_TARGET_DIR:-target}/release/blaze-uring}
unset BLAZE_BINARY # the program knows no such variable, and says so
work=$(mktemp -d)
trap 'kill ${mock:-} ${proxy:-} 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
"$blaze" mock --listen 0.0.0.0:0 --latency 1s --response-bytes 300 >/dev/null 2>"$work/mock.log" &
mock=$!
until grep -q listening "$work/mock.log"; do kill -0 "$mock"; done
port=$(grep -o 'http://[0-9.:]*' "$work/mock.log" | head -1 | grep -o '[0-9]*$')
if [ "$http2" = true ]; then
  front=$((20000 + RANDOM % 10000))
  cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/nginx.pid; error_log stderr error;
worker_rlimit_nofile 60000;
events { worker_connections 50000; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; http2_max_concurrent_streams 128;
  client_body_temp_path $work/body; proxy_temp_path $work/proxy; fastcgi_temp_path $work/fastcgi;
  uwsgi_temp_path $work/uwsgi; scgi_temp_path $work/scgi;
  upstream trial { server 127.0.0.1:$port; server 127.0.0.2:$port; server 127.0.0.3:$port; server 127.0.0.4:$port; keepalive 20000; }
  server {
    listen $front http2;
    location / { proxy_pass http://trial; proxy_http_version 1.1; proxy_set_header connection ""; }
  }
}
CONF
  nginx -c "$work/nginx.conf" -p "$work" 2>"$work/nginx.log" &
  proxy=$!
  port=$front
  until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 "$proxy" 2>/dev/null || { cat "$work/nginx.log" >&2; exit 1; }
  done
fi

# Runs LINES lines with WORKERS in flight; prints the largest RssAnon in kB.
largest() {
  local lines=$1 workers=$2 address endpoints="" run now top=0
  for address in 127.0.0.1 127.0.0.2 127.0.0.3 127.0.0.4; do
    endpoints+="${endpoints:+,}{\"url\":\"http://$address:$port/v1/chat/completions\",\"model\":\"m\",\"http2\":$http2,\"max_concurrent\":$(((workers + 3) / 4))}"
  done
  echo "{\"endpoints\":[$endpoints]}" >"$work/config.json"
  # 700 bytes each.
  awk -v n="$lines" 'BEGIN { x = sprintf("%626s", ""); gsub(" ", "x", x)
    for (i = 1; i <= n; i++) printf "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"%07d %s\"}]}\n", i, x }' >"$work/in.jsonl"
  rm -rf "$work"/out.jsonl*
  "$blaze" -i "$work/in.jsonl" -o "$work/out.jsonl" -e "$work/errors.jsonl" -c "$work/config.json" --timeout 60 \
    --cores 1 --workers "$workers" --rate 0 --no-progress --runtime "$runtime" >/dev/null 2>"$work/run.log" &
  run=$!
  while kill -0 "$run" 2>/dev/null; do
    now=$(awk '/RssAnon/ {print $2}' "/proc/$run/status" 2>/dev/null || true)
    [ "${now:-0}" -gt "$top" ] && top=$now
    read -rt 0.05 <> <(:) || true
  done
  wait "$run" || { tail -5 "$work/run.log" >&2; exit 1; }
  [ "$(wc -l <"$work/out.jsonl")" = "$lines" ] || { echo "records are missing" >&2; exit 1; }
  echo "$top"
}
one=$(largest 3 1)
many=$(largest $((in_flight * 3)) "$in_flight")
awk -v one="$one" -v many="$many" -v n="$in_flight" -v http2="$http2" 'BEGIN {
  printf "%s, %d in flight: %d kB anonymous, 1 in flight: %d kB; %.2f KiB for each request\n",
    http2 == "true" ? "HTTP/2" : "HTTP/1.1", n, many, one, (many - one) / n }'
