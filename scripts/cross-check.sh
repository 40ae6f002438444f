#!/usr/bin/env bash
# Whether the portable build works for Windows and macOS, checked on a Debian machine.
#
#   scripts/cross-check.sh                 both
#   scripts/cross-check.sh windows         build for x86_64-pc-windows-gnu; under Wine: unit tests, `demo`
#   scripts/cross-check.sh macos           type-check for aarch64-apple-darwin (nothing here can run it)
#
# Installs what is missing: Debian's Rust with its library sources (`rustc-web`, `rust-web-src`), mingw-w64 and Wine
# by apt-get; Zig and cargo-zigbuild (the C compiler for macOS) by pip into a cache outside the tree
# (BLAZE_TOOLS, default ~/.cache/blaze-uring). Takes about ten minutes on two cores the first time.
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-all}
case $what in
  all | windows | macos) ;;
  *) echo "unknown target $what; see the head of $0" >&2; exit 2 ;;
esac
tools=${BLAZE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/blaze-uring}
mkdir -p "$tools"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
install() {
  local missing=()
  for package in "$@"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
  [ "${#missing[@]}" = 0 ] && return
  as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Debian's compiler, because it comes with the sources of the standard library, from which that of
# another target is built (-Zbuild-std). RUSTC_BOOTSTRAP lets a stable compiler do it.
install rustc-web cargo-web rust-web-src
export RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$PWD/target/cross
unset RUSTUP_TOOLCHAIN
portable=(--locked --no-default-features --features tokio)

windows() {
  local target=x86_64-pc-windows-gnu
  install gcc-mingw-w64-x86-64-win32 wine wine64
  export PATH=/usr/bin:/bin CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
  export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=/usr/lib/wine/wine64
  echo "== Windows: build"
  cargo build "${portable[@]}" -Zbuild-std=std,panic_unwind --target "$target"

  # A prefix of its own. Wine 8 has no bcryptprimitives.dll, from which Rust's library takes random
  # numbers; a library with that one function is enough.
  export WINEPREFIX=$tools/wine WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml="
  if [ ! -e "$WINEPREFIX/system.reg" ]; then
    wineboot=$(command -v wineboot || echo /usr/lib/wine/wineboot)
    "$wineboot" --init >/dev/null 2>&1 || /usr/lib/wine/wine64 wineboot --init >/dev/null 2>&1
  fi
  if [ ! -e "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" ]; then
    local source=$tools/bcryptprimitives.c
    cat >"$source" <<'C'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T length) { return SystemFunction036(bytes, (ULONG)length); }
C
    x86_64-w64-mingw32-gcc -shared -o "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" "$source" -ladvapi32
  fi

  # Sockets and timers cost milliseconds under Wine: tests that hold them against a clock say nothing there. Files
  # do, too: fewer seeds of the simulation. And Wine promises space that no disk has.
  echo "== Windows: unit tests under Wine"
  BLAZE_SIM_SEEDS=50 cargo test "${portable[@]}" -Zbuild-std=std,panic_unwind,test --target "$target" --lib -- --skip on_tokio --skip without_space_for_it

  echo "== Windows: demo under Wine"
  /usr/lib/wine/wine64 "$CARGO_TARGET_DIR/$target/debug/blaze-uring.exe" demo --lines 200
}

macos() {
  local zig=$tools/zig
  if [ ! -x "$zig/bin/cargo-zigbuild" ]; then
    python3 -m venv "$zig"
    "$zig/bin/pip" install -q ziglang cargo-zigbuild
  fi
  echo "== macOS: check"
  PATH=$zig/bin:/usr/bin:/bin cargo-zigbuild check "${portable[@]}" -Zbuild-std=std,panic_unwind --target aarch64-apple-darwin --all-targets
}

[ "$what" = macos ] || windows
[ "$what" = windows ] || macos
