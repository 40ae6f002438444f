#!/bin/sh
# Does `--rate auto` find what endpoints sustain? Five cases against the trial endpoint: limits of 20,
# 500 and 8000 requests per second, one that halves midway, and two endpoints with a limit each. After
# the first 20 s, and 20 s after a change, at least 90 % of what is allowed must be served, and less
# than 2 % of all answers be refusals. Takes four minutes.
# Usage: [CASES="20 500 8000 halving two"] scripts/auto_rate.sh [BINARY]
set -eu

binary=${1:-target/release/blaze-uring}
folder=$(mktemp -d)
mocks=
trap 'kill $mocks 2>/dev/null || true; rm -rf "$folder"' EXIT INT TERM
failed=0

# mock NAME FLAGS...: a trial endpoint on a free port; its address goes to NAME.url
mock() {
    name=$1
    shift
    "$binary" mock --listen 127.0.0.1:0 --latency 5ms "$@" 2>"$folder/$name.log" &
    mocks="$mocks $!"
    until grep -q listening "$folder/$name.log"; do sleep 0.05; done
    grep -o 'http://[0-9.:]*' "$folder/$name.log" | head -1 >"$folder/$name.url"
}

# search SECONDS LINES NAME...: a run over these endpoints, and the end of them
search() {
    seconds=$1
    lines=$2
    shift 2
    awk -v lines="$lines" 'BEGIN { for (n = 0; n < lines; n++) printf "{\"input\":\"%d\"}\n", n }' \
        >"$folder/in.jsonl"
    for name in "$@"; do
        printf '{"name":"%s","url":"%s/v1","model":"m","max_concurrent":400}\n' "$name" "$(cat "$folder/$name.url")"
    done | paste -sd, - | sed 's/.*/{"endpoints":[&]}/' >"$folder/config.json"
    timeout -s INT "$seconds" "$binary" -i "$folder/in.jsonl" -e "$folder/errors.jsonl" -c "$folder/config.json" \
        --rate auto --workers 400 --max-attempts 20 --grace 1 2>"$folder/run.log" || true
    grep -o 'auto rate [0-9.]*' "$folder/run.log" | tail -1 || true
    kill -INT $mocks
    wait $mocks || true
    mocks=
    rm -rf "$folder"/errors.jsonl.blaze
}

# judge NAME FROM TO LIMIT...: what was served in these seconds since the first request
judge() {
    python3 - "$folder" "$@" <<'PYTHON' || failed=1
import json
import sys

folder, name, begin, end, limit = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
stats = json.loads(open(f"{folder}/{name}.log").read().splitlines()[-1])
seconds = stats["arrivals_per_second"]
first = next(index for index, count in enumerate(seconds) if count)
late = seconds[first + begin : first + end]
refused = stats["statuses"].get("429", 0) / stats["requests"]
# Refusals are few: the arrivals stand for what is served.
reached = sum(late) / len(late) / limit * (1 - refused)
print(f"{name}: {limit}/s, seconds {begin} to {end}: {reached:.1%} reached; {refused:.2%} of all refused")
sys.exit(reached < 0.9 or refused >= 0.02)
PYTHON
}

for case in ${CASES:-20 500 8000 halving two}; do
    case $case in
    halving)
        mock halving --rate-limit 500 --rate-limit-at 41s=250
        search 80 60000 halving
        judge halving 20 39 500
        judge halving 62 78 250
        ;;
    two)
        mock slow --rate-limit 20
        mock fast --rate-limit 500
        search 40 40000 slow fast
        judge slow 20 38 20
        judge fast 20 38 500
        ;;
    *)
        mock "limit-$case" --rate-limit "$case"
        search 40 $((case * 60)) "limit-$case"
        judge "limit-$case" 20 38 "$case"
        ;;
    esac
done
exit $failed
