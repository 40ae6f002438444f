#!/usr/bin/env bash
# Runs every fuzz target for a while: scripts/fuzz.sh [SECONDS per target, default 30] [TARGET…]
# Needs a nightly toolchain, a C++ compiler and cargo-fuzz (cargo install cargo-fuzz). Without them
# `cargo test --test corpus` still replays the seeds, cut and flipped.
set -euo pipefail
cd "$(dirname "$0")/../tests/fuzz"

seconds=${1:-30}
shift || true
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(line response stream journal config)

missing() { echo "not fuzzing: $1" >&2; exit 0; }
command -v cargo-fuzz >/dev/null || missing "cargo-fuzz is not installed (cargo install cargo-fuzz)"
cargo +nightly --version >/dev/null 2>&1 || missing "there is no nightly toolchain (rustup toolchain install nightly)"

for target in "${targets[@]}"; do
  printf '\n== %s, %s s\n' "$target" "$seconds"
  # What it finds stays out of the seeds.
  mkdir -p "target/corpus/$target"
  cargo +nightly fuzz run --fuzz-dir . "$target" "target/corpus/$target" "corpus/$target" -- \
    -max_total_time="$seconds" -max_len=8192 -timeout=10 -print_final_stats=1
done
