#!/bin/sh
# How fast a wait that one core was told is obeyed by the other: two cores send at full speed to two
# endpoints of one quota group, one request gets a 429 with `retry-after: 1`, and the trial endpoint
# looks for the last arrival before the pause. Usage: scripts/cooldown.sh
set -eu
cd "$(dirname "$0")/.."
exec cargo test --release --locked --test traffic -- --ignored --nocapture --test-threads 1 \
    a_wait_told_to_one_core_reaches_the_other_in_time
