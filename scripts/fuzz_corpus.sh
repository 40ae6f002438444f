#!/usr/bin/env bash
# Takes what scripts/fuzz.sh has found into the committed seeds: minimised, the smallest first, at
# most SEEDS (default 40) new ones of at most 512 bytes a target. `tests/corpus.rs` bounds the whole.
set -euo pipefail
cd "$(dirname "$0")/../tests/fuzz"
seeds=${SEEDS:-40}
for found in target/corpus/*/; do
  target=$(basename "$found")
  cargo +nightly fuzz cmin --fuzz-dir . --sanitizer none "$target" "$found" >/dev/null 2>&1
  find "$found" -type f -size -2 -printf '%s %p\n' | sort -n | awk '$1 <= 512 {print $2}' |
    awk -v every="$(find "$found" -type f -size -2 | wc -l)" -v keep="$seeds" \
      'int(NR * keep / every) > int((NR - 1) * keep / every)' |
    while read -r file; do cp "$file" "corpus/$target/$(basename "$file" | cut -c1-12)"; done
  echo "$target: $(find "corpus/$target" -type f | wc -l) seeds"
done
