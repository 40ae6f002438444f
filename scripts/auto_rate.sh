#!/bin/sh
# Does `--rate auto` find what an endpoint sustains? Runs 40 s against the trial endpoint at each
# limit: from second 20 on at least 90 % of the limit must be served, and less than 2 % of all answers
# be refusals. Takes two minutes. Usage: [LIMITS="20 500"] scripts/auto_rate.sh [BINARY]
set -eu

binary=${1:-target/release/blaze-uring}
folder=$(mktemp -d)
port=18470
trap 'kill "$mock" 2>/dev/null || true; rm -rf "$folder"' EXIT INT TERM
failed=0

for limit in ${LIMITS:-20 500 8000}; do
    port=$((port + 1))
    : >"$folder/mock.log"
    "$binary" mock --listen 127.0.0.1:$port --rate-limit $limit --latency 5ms 2>"$folder/mock.log" &
    mock=$!
    until grep -q listening "$folder/mock.log"; do sleep 0.05; done
    awk -v lines=$((limit * 60)) 'BEGIN { for (n = 0; n < lines; n++) printf "{\"input\":\"%d\"}\n", n }' \
        >"$folder/in.jsonl"
    timeout -s INT 40 "$binary" -i "$folder/in.jsonl" -e "$folder/errors.jsonl" --rate auto --workers 400 \
        --max-attempts 20 --grace 1 --endpoint-url "http://127.0.0.1:$port/v1/chat/completions" \
        2>"$folder/run.log" || true
    kill -INT "$mock"
    wait "$mock" || true
    python3 - "$limit" "$folder/mock.log" <<'PYTHON' || failed=1
import json
import sys

limit = int(sys.argv[1])
stats = json.loads(open(sys.argv[2]).read().splitlines()[-1])
seconds = stats["arrivals_per_second"]
begin = next(index for index, count in enumerate(seconds) if count)
late = seconds[begin + 20 : begin + 38]
refused = stats["statuses"].get("429", 0)
share = refused / stats["requests"]
# Refusals are few: the arrivals stand for what is served.
reached = sum(late) / len(late) / limit * (1 - share)
print(f"limit {limit}/s: {reached:.1%} reached from second 20 on, {share:.2%} refused")
sys.exit(reached < 0.9 or share >= 0.02)
PYTHON
    rm -rf "$folder"/errors.jsonl.blaze
done
exit $failed
