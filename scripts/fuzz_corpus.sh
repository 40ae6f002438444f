#!/usr/bin/env bash
# Takes a few of the inputs that scripts/fuzz.sh has found into the committed seeds: those that reach
# something the seeds do not, spread over all sizes up to 400 bytes, SEEDS (default 12) a target.
# `tests/corpus.rs` bounds the whole.
set -euo pipefail
cd "$(dirname "$0")/../tests/fuzz"
keep=${SEEDS:-12}
for found in target/corpus/*/; do
  target=$(basename "$found")
  binary=$(ls -t target/*/release/"$target" | head -n 1)
  # libFuzzer copies what adds to the coverage of the first folder.
  added=$(mktemp -d)
  cp "corpus/$target"/* "$added"
  ls "$added" | sort >"$added.before"
  "$binary" -merge=1 "$added" "$found" >/dev/null 2>&1
  ls "$added" | sort | comm -13 "$added.before" - |
    while read -r name; do stat -c '%s %n' "$added/$name"; done |
    awk '$1 <= 400' | sort -n >"$added.found"
  awk -v every="$(wc -l <"$added.found")" -v keep="$keep" \
    'int(NR * keep / every) > int((NR - 1) * keep / every) {print $2}' "$added.found" |
    while read -r file; do cp "$file" "corpus/$target/$(basename "$file" | cut -c1-12)"; done
  echo "$target: $(find "corpus/$target" -type f | wc -l) seeds"
  rm -r "$added" "$added.before" "$added.found"
done
