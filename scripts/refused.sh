#!/bin/sh
# How well is a server used that refuses for load, with no flag given? nginx that allows 200 a second (limit_req,
# 503 without Retry-After; with and without a burst) or 8 connections' worth at once (limit_conn), the trial
# endpoint's own limits (429, with a wait), and its eight places. Beside each the OpenAI SDK with 64 at once, where
# target/sdk has it (python3 -m venv target/sdk && target/sdk/bin/pip install openai). Prints the part of what the
# server allows that was served, and the lines that were lost. What places allow is measured, where wrk is installed:
# what a plain loop gets on as many connections. Usage: [LINES=2000] scripts/refused.sh [BINARY]
set -eu

binary=${1:-target/release/blaze-uring}
lines=${LINES:-2000}
folder=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; rm -rf "$folder"' EXIT INT TERM

# mock NAME FLAGS...: a trial endpoint on a free port; its address goes to NAME.url
mock() {
    name=$1
    shift
    "$binary" mock --listen 127.0.0.1:0 "$@" 2>"$folder/$name.log" &
    pids="$pids $!"
    until grep -q listening "$folder/$name.log"; do sleep 0.05; done
    grep -o 'http://[0-9.:]*' "$folder/$name.log" | head -1 >"$folder/$name.url"
}

mock plain --latency 20ms
mock bucket --latency 20ms --rate-limit 200
mock places --latency 150ms --max-concurrent 8
upstream=$(sed 's|http://||' "$folder/plain.url")
cat >"$folder/nginx.conf" <<CONF
daemon off;
pid $folder/nginx.pid;
error_log $folder/nginx.log crit;
events { worker_connections 8192; }
http {
    access_log off;
    limit_req_zone \$server_port zone=rate:1m rate=200r/s;
    limit_req_zone \$server_port zone=burst:1m rate=200r/s;
    limit_req_zone \$server_port zone=queue:1m rate=200r/s;
    limit_conn_zone \$server_port zone=places:1m;
    upstream mock { server $upstream; keepalive 64; }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server { listen 127.0.0.1:18401; location / { limit_req zone=rate; proxy_pass http://mock; } }
    server { listen 127.0.0.1:18402; location / { limit_req zone=burst burst=20 nodelay; proxy_pass http://mock; } }
    server { listen 127.0.0.1:18403; location / { limit_req zone=queue burst=20; proxy_pass http://mock; } }
    server { listen 127.0.0.1:18404; location / { limit_conn places 8; proxy_pass http://mock; } }
}
CONF
nginx -p "$folder" -c "$folder/nginx.conf" &
pids="$pids $!"
sleep 1

awk -v lines="$lines" 'BEGIN { for (n = 0; n < lines; n++)
    printf "{\"body\":{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"%d\"}]}}\n", n }' >"$folder/in.jsonl"

sdk() {
    target/sdk/bin/python - "$1" "$lines" <<'PYTHON'
import asyncio, sys, time
from openai import AsyncOpenAI

client = AsyncOpenAI(base_url=sys.argv[1], api_key="x")
gate = asyncio.Semaphore(64)

async def one(n):
    async with gate:
        try:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": str(n)}])
            return 0
        except Exception:
            return 1

async def main():
    begin = time.time()
    lost = sum(await asyncio.gather(*(one(n) for n in range(int(sys.argv[2])))))
    print(f"{(int(sys.argv[2]) - lost) / (time.time() - begin):.0f} {lost}")

asyncio.run(main())
PYTHON
}

# case NAME URL PER_SECOND
case_of() {
    rm -rf "$folder"/out.jsonl* "$folder"/errors.jsonl*
    begin=$(date +%s.%N)
    "$binary" -i "$folder/in.jsonl" -o "$folder/out.jsonl" -e "$folder/errors.jsonl" --endpoint-url "$2/v1" \
        2>"$folder/run.log" || true
    end=$(date +%s.%N)
    served=$(wc -l <"$folder/out.jsonl" 2>/dev/null || echo 0)
    peer=
    if [ -x target/sdk/bin/python ]; then
        peer=$(sdk "$2/v1")
        peer="; the SDK ${peer% *}/s, ${peer#* } lost"
    fi
    awk -v name="$1" -v served="$served" -v lines="$lines" -v most="$3" -v begin="$begin" -v end="$end" -v peer="$peer" \
        'BEGIN { rate = served / (end - begin); printf "%s: %.0f/s, %.1f %% of %d/s, %d lost%s\n", name, rate, 100 * rate / most, most, lines - served, peer }'
}

# reachable URL CONNECTIONS NOMINAL: requests per second of so many connections that are never idle
reachable() {
    measured=
    if command -v wrk >/dev/null; then
        cat >"$folder/post.lua" <<'LUA'
wrk.method = "POST"
wrk.body = '{"model":"m","messages":[{"role":"user","content":"1"}]}'
wrk.headers["content-type"] = "application/json"
LUA
        measured=$(wrk -t 1 -c "$2" -d 5 -s "$folder/post.lua" "$1/v1/chat/completions" | sed -n 's/^Requests.sec: *\([0-9]*\).*/\1/p')
    fi
    echo "${measured:-$3}"
}

case_of "nginx limit_req, no burst" http://127.0.0.1:18401 200
case_of "nginx limit_req, burst of 20" http://127.0.0.1:18402 200
case_of "nginx limit_req, queue of 20" http://127.0.0.1:18403 200
case_of "nginx limit_conn 8" http://127.0.0.1:18404 "$(reachable http://127.0.0.1:18404 8 400)"
case_of "trial endpoint, 200/s" "$(cat "$folder/bucket.url")" 200
case_of "trial endpoint, 8 places" "$(cat "$folder/places.url")" "$(reachable "$(cat "$folder/places.url")" 8 53)"
