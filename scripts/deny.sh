#!/usr/bin/env bash
# Licences, banned crates, sources and known vulnerabilities of the dependency tree, by
# .config/deny.toml. The vulnerabilities come from the RustSec database on GitHub; where that cannot
# be reached, the rest is checked and this says so. ADVISORY_DB=PATH uses a copy of it.
#
# Needs cargo-deny. `scripts/deny.sh install` builds it below `target/tools` (some minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/target/tools/bin:$PATH"

if [ "${1:-}" = install ]; then
  command -v cargo-deny >/dev/null || cargo install --locked --quiet --root target/tools cargo-deny
  exit 0
fi
if ! command -v cargo-deny >/dev/null; then
  echo "NOT CHECKED: licences, bans, sources, advisories (no cargo-deny: scripts/deny.sh install)" >&2
  exit 0
fi

deny() { cargo deny --locked --config "$@"; }
deny .config/deny.toml check licenses bans sources

if [ -n "${ADVISORY_DB:-}" ]; then
  # cargo-deny looks for a clone where it would have put it itself.
  home=$(mktemp -d)
  trap 'rm -rf "$home"' EXIT
  mkdir -p "$home/dbs"
  git clone --quiet "$ADVISORY_DB" "$home/dbs/advisory-db-3157b0e258782691"
  sed "s#^\[advisories\]#[advisories]\ndb-path = \"$home/dbs\"#" .config/deny.toml >"$home/deny.toml"
  deny "$home/deny.toml" --offline check advisories
elif GIT_TERMINAL_PROMPT=0 timeout 60 git ls-remote --quiet https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
  deny .config/deny.toml check advisories
else
  echo "NOT CHECKED: advisories (the RustSec database on GitHub cannot be reached)" >&2
fi
