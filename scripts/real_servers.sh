#!/bin/sh
# Records against what OpenAI's own SDK makes of the same answers, from servers that nobody here wrote: LiteLLM's
# proxy, guidellm's mock server, llmock, and aiohttp behind nginx (which compresses). Installs them below target/
# (Python with venv, nginx), runs them on loopback and prints a table; fails where a record differs.
# Usage: scripts/real_servers.sh [--runtime uring|tokio] [--only NAME]
set -eu
cd "$(dirname "$0")/.."

venvs=target/real-servers
venv() { # name, packages
    name=$1
    shift
    [ -e "$venvs/$name/ready" ] && return
    python3 -m venv "$venvs/$name"
    "$venvs/$name/bin/pip" install --quiet --disable-pip-version-check "$@"
    touch "$venvs/$name/ready"
}
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || {
    echo "nginx is missing (Debian: apt-get install nginx-light)" >&2
    exit 1
}
venv sdk openai aiohttp
venv litellm 'litellm[proxy]'
venv guidellm guidellm
venv llmock llmock

cargo build --release --locked --quiet
exec "$venvs/sdk/bin/python" scripts/peers/real_servers.py --venvs "$venvs" --binary target/release/blaze-uring "$@"
