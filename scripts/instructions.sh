#!/usr/bin/env bash
# Instructions that the pure steps of one request take, against benches/instructions.txt.
#
#   scripts/instructions.sh              fails if a step differs by more than 3 %
#   scripts/instructions.sh --renew      writes what it counted into the file: do so with the change that is meant
#
# callgrind counts, so a loaded machine changes nothing. Each step runs 1000 and 3000 times; a 2000th of the
# difference is its price, and whatever happens once is no part of it. Another compiler counts otherwise:
# the file names the one it was made with, and another one is told so and checked no further.
set -euo pipefail
cd "$(dirname "$0")/.."
expected=benches/instructions.txt
command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 1; }
compiler="$(rustc --version) $(rustc -vV | sed -n 's/^host: //p')"
binary=$(cargo bench --locked --profile instructions --bench instructions --no-run --message-format=json 2>/dev/null |
  grep '"name":"instructions"' | grep -o '"executable":"[^"]*"' | cut -d'"' -f4)
[ -x "$binary" ] || { echo "the bench was not built" >&2; exit 1; }

count() {
  # Without an environment: what lies on the stack before the program starts moves everything after it.
  env -i "$(command -v valgrind)" --tool=callgrind --callgrind-out-file=/dev/null "$binary" "$1" "$2" 2>&1 |
    awk '/Collected/ {print $NF}'
}
counted="# Instructions for each step of one request; made by scripts/instructions.sh --renew with
# $compiler"
for step in parse admit encode decode record journal; do
  few=$(count "$step" 1000)
  many=$(count "$step" 3000)
  counted+=$'\n'"$step $(((many - few) / 2000))"
done
if [ "${1:-}" = --renew ]; then
  echo "$counted" >"$expected"
  cat "$expected"
  exit
fi
echo "$counted"
if ! grep -qxF "# $compiler" "$expected"; then
  echo "$expected was made with another compiler: nothing to compare with"
  exit
fi
# Checksums, UTF-8 and searches take other ways without them.
for feature in avx2 pclmulqdq; do
  if ! grep -qm1 -w "$feature" /proc/cpuinfo; then
    echo "$expected was made on a processor with $feature, which this one lacks: nothing to compare with"
    exit
  fi
done
awk '/^#/ {next} NR == FNR {expected[$1] = $2; next}
  {
    change = ($2 - expected[$1]) / expected[$1] * 100
    printf "%-8s %6d, was %6d: %+.1f %%\n", $1, $2, expected[$1], change
    if (change > 3 || change < -3) bad = 1
  }
  END {if (bad) {print "more than 3 % off: if it is meant, run scripts/instructions.sh --renew"; exit 1}}' "$expected" <(echo "$counted")
