#!/bin/sh
# Builds device "cuda": build.sh FOLDER [ARCH] makes FOLDER/libamdhip64.so with all kernels in it, from
# the sources in kernels/ or in $KERNELS. clang alone is needed: it emits PTX, which the card's driver
# compiles when it is loaded. With NVIDIA's ptxas at hand ($PTXAS, or on the PATH) that is done here,
# for ARCH (sm_90), and workers start in a moment instead of a minute.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prelude=$(cd "$here/../../../kernels" && pwd)
kernels=${KERNELS:-$prelude}
out=$1
arch=${2:-sm_90}
cxx=${ROCMFORGE_CLANG:-$(command -v clang++-19 || command -v clang++)}
ptxas=${PTXAS:-$(command -v ptxas || true)}
flags="-x cuda --cuda-device-only -nocudainc -nocudalib --cuda-gpu-arch=$arch -S -DRF_CUDA -std=c++17 -O3 -ffast-math -fhonor-infinities -fhonor-nans -I $prelude -I $here -Wall -Wextra -Wno-unused-function -Wno-unknown-cuda-version -Wno-pass-failed"
mkdir -p "$out/obj"
newest=$(find "$prelude" "$here" "$here/../hip.h" -name '*.h' -newer "$out/libamdhip64.so" 2>/dev/null || echo all)
for source in "$kernels"/*.hip; do
  ptx=$out/obj/$(basename "$source" .hip).ptx
  if [ -n "$newest" ] || [ ! -e "$ptx" ] || [ "$source" -nt "$ptx" ]; then echo "$source $ptx"; fi
done | xargs -r -L 1 -P "${JOBS:-2}" sh -c "$cxx $flags \"\$0\" -o \"\$1\" && { [ -z '$ptxas' ] || '$ptxas' -arch=$arch -O3 -v \"\$1\" -o \"\${1%.ptx}.cubin\" 2>\"\${1%.ptx}.txt\" || { cat \"\${1%.ptx}.txt\"; exit 255; }; }"

# The images as data, and the kernels in them: NAME, image, bytes of arguments (each aligned to its size).
list=$out/obj/images.inc
data=$out/obj/images.s
: >"$data"
i=0
for source in "$kernels"/*.hip; do
  name=$(basename "$source" .hip)
  image=$out/obj/$name.ptx
  [ -z "$ptxas" ] || image=$out/obj/$name.cubin
  printf '.section .rodata\n.balign 64\nimage_%s:\n.incbin "%s"\n.byte 0\n' "$i" "$image" >>"$data"
  printf '.globl image_%s\n.hidden image_%s\n' "$i" "$i" >>"$data"
  i=$((i + 1))
done
printf '.section .note.GNU-stack,"",@progbits\n' >>"$data"
{
  i=0
  for source in "$kernels"/*.hip; do
    echo "extern \"C\" const char image_$i[];"
    i=$((i + 1))
  done
  echo 'static const Image IMAGES[] = {'
  i=0
  for source in "$kernels"/*.hip; do
    echo "  {\"$(basename "$source" .hip)\", image_$i},"
    i=$((i + 1))
  done
  echo '};'
  echo 'static const Entry ENTRIES[] = {'
  i=0
  for source in "$kernels"/*.hip; do
    awk -v image="$i" '
      /\.visible \.entry/ { name = $3; sub(/\(.*/, "", name); bytes = 0; open = 1 }
      open && /\.param/ {
        match($0, /\.[usbf](8|16|32|64)/)
        size = substr($0, RSTART + 2, RLENGTH - 2) / 8
        bytes = int((bytes + size - 1) / size) * size + size
      }
      open && /^\)/ { printf "  {\"%s\", %d, %d},\n", name, image, bytes; open = 0 }
    ' "$out/obj/$(basename "$source" .hip).ptx"
    i=$((i + 1))
  done
  echo '};'
} >"$list"
"$cxx" -std=c++17 -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Werror -Wno-gnu-zero-variadic-macro-arguments \
  -I "$out/obj" -I "$here" -Wl,-soname,libamdhip64.so.7 -Wl,-z,defs -o "$out/libamdhip64.so" "$here"/*.cpp "$data" -ldl
