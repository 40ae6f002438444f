#!/usr/bin/env bash
# Lives through seeds of the simulation that no test run has seen, for so many minutes (60 if not told),
# and stops at the first that fails, with its number. SOAK_FIRST=n begins at that seed.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-60}
# Where two soaks begin differs, and test runs begin at 0.
first=${SOAK_FIRST:-$(( $(date +%s) * 1000 ))}
batch=2000
end=$(( $(date +%s) + minutes * 60 ))
echo "seeds from $first on, until $(date -d "@$end" +%H:%M 2>/dev/null || date -r "$end" +%H:%M)"
while [ "$(date +%s)" -lt "$end" ]; do
  BLAZE_SIM_FIRST=$first BLAZE_SIM_SEEDS=$batch \
    cargo test --locked --quiet --lib every_seed_ends_with_balanced_books -- --nocapture
  first=$(( first + batch ))
done
echo "the next seed is $first"
