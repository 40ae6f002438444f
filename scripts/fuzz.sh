#!/usr/bin/env bash
# Runs every fuzz target for a while: scripts/fuzz.sh [SECONDS per target, default 30] [TARGET…]
#
# Needs a nightly toolchain, a C++ compiler (Debian: g++) and cargo-fuzz, which is installed below
# `target/tools` where it is missing. Without nightly or compiler it says so and does nothing;
# `cargo test --test corpus` still replays the seeds, cut and flipped.
#
# SANITIZER=address looks into the dependencies' unsafe code as well, at half the speed; what is
# fuzzed here has none of ours. What it finds stays out of the seeds: scripts/fuzz_corpus.sh takes it over.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

seconds=${1:-30}
shift || true
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(line response http2 stream verdict journal config)

missing() { echo "not fuzzing: $1" >&2; exit 0; }
# Asking for a toolchain must not install it.
export RUSTUP_AUTO_INSTALL=0
cargo +nightly --version >/dev/null 2>&1 || missing "there is no nightly toolchain (rustup toolchain install nightly)"
command -v c++ >/dev/null || missing "there is no C++ compiler (apt-get install g++)"
export PATH="$root/target/tools/bin:$PATH"
if ! command -v cargo-fuzz >/dev/null; then
  cargo install --locked --quiet --root "$root/target/tools" cargo-fuzz ||
    missing "cargo-fuzz cannot be installed"
fi

cd tests/fuzz
sanitizer=${SANITIZER:-none}
cargo +nightly fuzz build --fuzz-dir . --sanitizer "$sanitizer" 2>&1 | tail -n 3
for target in "${targets[@]}"; do
  printf '\n== %s, %s s\n' "$target" "$seconds"
  mkdir -p "target/corpus/$target"
  dictionary=()
  [ -f "dictionaries/$target" ] && dictionary=(-dict="dictionaries/$target")
  cargo +nightly fuzz run --fuzz-dir . --sanitizer "$sanitizer" "$target" \
    "target/corpus/$target" "corpus/$target" -- "${dictionary[@]}" \
    -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1
done
