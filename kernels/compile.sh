#!/bin/sh
# Compiles kernels by hand, as build.rs does: compile.sh FOLDER TARGET... makes FOLDER/NAME.TARGET.hsaco
# of the kernels here, or of those in $KERNELS. $ROCMFORGE_CLANG or clang++-19; only what is older than
# its sources is compiled again.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
clang=${ROCMFORGE_CLANG:-$(command -v clang++-19 || command -v clang++)}
flags=$(tr '\n' ' ' <"$here/flags")
for target in "$@"; do
  for source in "${KERNELS:-$here}"/*.hip; do
    object=$out/$(basename "$source" .hip).$target.hsaco
    if [ ! -e "$object" ] || [ -n "$(find "$source" "$here" -name '*.h' -newer "$object" -o -path "$source" -newer "$object")" ]; then
      echo "$target $source $object"
    fi
  done
done | (cd "$here" && xargs -r -L 1 -P "${JOBS:-2}" sh -c "$clang $flags -I . --offload-arch=\"\$0\" \"\$1\" -o \"\$2\"")
