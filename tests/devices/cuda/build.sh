#!/bin/sh
# Builds device "cuda": build.sh FOLDER [ARCH] makes FOLDER/libamdhip64.so and FOLDER/NAME.ARCH.ptx
# (sm_90) of every kernel file. clang alone is needed; the card's machine needs its driver only:
#   python3 tests/devices/kernels/run.py --library FOLDER/libamdhip64.so --objects FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
kernels=$(cd "$here/../../../kernels" && pwd)
out=$1
arch=${2:-sm_90}
cxx=${ROCMFORGE_CLANG:-$(command -v clang++-19 || command -v clang++)}
flags="-x cuda --cuda-device-only -nocudainc -nocudalib --cuda-gpu-arch=$arch -S -DRF_CUDA -std=c++17 -O3 -ffast-math -fhonor-infinities -fhonor-nans -I $kernels -I $here -Wall -Wextra -Wno-unused-function -Wno-unknown-cuda-version"
mkdir -p "$out"
for source in "$kernels"/*.hip; do
  echo "$source $out/$(basename "$source" .hip).$arch.ptx"
done | xargs -L 1 -P "${JOBS:-2}" sh -c "$cxx $flags \"\$0\" -o \"\$1\""
"$cxx" -std=c++17 -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Wl,-soname,libamdhip64.so.7 "$here/device.cpp" -o "$out/libamdhip64.so" -ldl
