#!/usr/bin/env bash
# Licences, banned crates and sources of the dependency tree, by .config/deny.toml.
# ADVISORIES=1 adds known vulnerabilities; that needs the advisory database from GitHub.
# Needs cargo-deny (cargo install --locked cargo-deny, which takes some minutes); DENY=1 installs it.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo-deny >/dev/null; then
  if [ "${DENY:-0}" != 1 ]; then
    echo "not checked: cargo-deny is not installed (DENY=1 installs it)" >&2
    exit 0
  fi
  cargo install --locked --quiet cargo-deny
fi

checks=(licenses bans sources)
[ "${ADVISORIES:-0}" = 1 ] && checks+=(advisories)
cargo deny --locked check --config .config/deny.toml "${checks[@]}"
