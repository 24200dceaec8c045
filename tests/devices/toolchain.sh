#!/bin/sh
# Makes sure that the test devices can be built: clang 19 or later with HIP and lld, and llvm-objdump of the same
# version. Installs them where apt and root are at hand; otherwise says what to install, and fails.
set -eu
have() {
  for v in "" -22 -21 -20 -19; do
    if command -v "clang++$v" >/dev/null && command -v "llvm-objdump$v" >/dev/null && command -v "ld.lld$v" >/dev/null; then
      [ "$("clang++$v" -dumpversion | cut -d. -f1)" -ge 19 ] && return 0
    fi
  done
  return 1
}
have && exit 0
packages="clang-19 lld-19 llvm-19 zstd"
root=
[ "$(id -u)" = 0 ] || root="sudo -n"
if command -v apt-get >/dev/null && $root true 2>/dev/null; then
  $root apt-get update -qq && $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
  have && exit 0
fi
echo "The GPU tests need clang 19 or later: apt-get install --no-install-recommends $packages" >&2
exit 1
