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
# The object of a source that is gone would still be found.
for object in "$out"/*.hsaco; do
  name=$(basename "$object" .hsaco)
  [ -e "${KERNELS:-$here}/${name%.*}.hip" ] || rm -f "$object"
done
for target in "$@"; do
  for source in "${KERNELS:-$here}"/*.hip; do
    object=$out/$(basename "$source" .hip).$target.hsaco
    if [ ! -e "$object" ] || [ -n "$(find "$source" "$here" \( -name '*.h' -o -name flags -o -path "$source" \) -newer "$object")" ]; then
      echo "$target $source $object"
    fi
  done
done | (cd "$here" && xargs -r -L 1 -P "${JOBS:-2}" sh -c "$clang $flags -I . --offload-arch=\"\$0\" \"\$1\" -o \"\$2\"")
