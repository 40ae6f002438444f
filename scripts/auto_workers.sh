#!/bin/sh
# Does `--workers auto` find how many requests in flight an endpoint sustains? Runs 40 s against the trial
# endpoint at each limit: from second 20 on at least 90 % of what it could serve must be served, and less
# than 2 % of all answers be refusals. Usage: [LIMITS="4 50"] [LATENCY_MS=100] [WAIT=1] scripts/auto_workers.sh [BINARY]
# WAIT: seconds that a refusal asks to wait; 0: it does not say.
set -eu

binary=${1:-target/release/blaze-uring}
folder=$(mktemp -d)
port=18570
latency=${LATENCY_MS:-100}
trap 'kill "$mock" 2>/dev/null || true; rm -rf "$folder"' EXIT INT TERM
failed=0

hint='--wait-hint none'
[ "${WAIT:-1}" = 0 ] || hint="--retry-after ${WAIT:-1}"
for limit in ${LIMITS:-4 50 500}; do
    port=$((port + 1))
    : >"$folder/mock.log"
    "$binary" mock --listen 127.0.0.1:$port --max-concurrent $limit --latency ${latency}ms \
        $hint 2>"$folder/mock.log" &
    mock=$!
    until grep -q listening "$folder/mock.log"; do sleep 0.05; done
    awk -v lines=$((limit * 50 * 1000 / latency)) 'BEGIN { for (n = 0; n < lines; n++) printf "{\"input\":\"%d\"}\n", n }' \
        >"$folder/in.jsonl"
    printf '{"endpoints": [{"url": "http://127.0.0.1:%d/v1/chat/completions", "max_concurrent": 10000}]}' \
        $port >"$folder/config.json"
    timeout -s INT 40 "$binary" -i "$folder/in.jsonl" -e "$folder/errors.jsonl" --rate 0 --workers auto \
        --max-attempts 20 --grace 1 --config "$folder/config.json" \
        2>"$folder/run.log" || true
    kill -INT "$mock"
    wait "$mock" || true
    python3 - "$limit" "$latency" "$folder/mock.log" <<'PYTHON' || failed=1
import json
import sys

limit, latency_ms = int(sys.argv[1]), int(sys.argv[2])
stats = json.loads(open(sys.argv[3]).read().splitlines()[-1])
seconds = stats["arrivals_per_second"]
begin = next(index for index, count in enumerate(seconds) if count)
late = seconds[begin + 20 : begin + 38]
refused = stats["statuses"].get("429", 0)
share = refused / stats["requests"]
# Refusals are few: the arrivals stand for what is served.
reached = sum(late) / len(late) / (limit * 1000 / latency_ms) * (1 - share)
print(f"limit {limit} at once: {reached:.1%} reached from second 20 on, {share:.2%} refused")
sys.exit(reached < 0.9 or share >= 0.02)
PYTHON
    rm -rf "$folder"/errors.jsonl.blaze
done
exit $failed
