#!/bin/sh
# Builds device "host": build.sh FOLDER [WAVE] makes FOLDER/libamdhip64.so from the kernel sources,
# or from those in $KERNELS. WAVE 64 runs the code of wave64 targets. $CXX must be clang (its vector
# types are used).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prelude=$(cd "$here/../../../kernels" && pwd)
kernels=${KERNELS:-$prelude}
out=$1
wave=${2:-32}
cxx=${CXX:-$(command -v clang++-19 || command -v clang++)}
flags="-std=c++17 -O2 -g1 -fPIC -fvisibility=hidden -DRF_HOST -DRF_WAVE=$wave -I $prelude -I $here -Wall -Wextra -Werror -Wno-psabi -Wno-unused-function"
[ "$(uname -m)" = x86_64 ] && flags="$flags -mf16c -mfma"
mkdir -p "$out/obj"
# Objects are kept: only what is older than its source or any header is compiled again.
newest=$(find "$prelude" "$here" "$here/../hip.h" -name '*.h' -newer "$out/libamdhip64.so" 2>/dev/null || echo all)
objects=
for source in "$kernels"/*.hip "$here"/*.cpp; do
  objects="$objects $out/obj/$(basename "$source").o"
done
for source in "$kernels"/*.hip "$here"/*.cpp; do
  object=$out/obj/$(basename "$source").o
  if [ -n "$newest" ] || [ ! -e "$object" ] || [ "$source" -nt "$object" ]; then
    echo "$source $object"
  fi
done | xargs -r -L 1 -P "${JOBS:-2}" sh -c "$cxx $flags -x c++ -c \"\$0\" -o \"\$1\""
"$cxx" -shared -Wl,-z,defs -Wl,-soname,libamdhip64.so.7 -o "$out/libamdhip64.so" $objects -lpthread
