#!/usr/bin/env bash
# stands_alone.sh HEADER (as in #include <HEADER>): compiles without any other header, twice in one
# unit. Floors 0 to 4 with clang, which is quick; the others with g++; .cuh with nvcc. Exits 77
# (skipped) when the compiler, or a GPU or network package that the header is about, is missing.
set -u
cd "$(dirname "$0")/../.." || exit 1
header=$1
: "${GXX:=g++}" "${CLANGXX:=clang++}" "${NVCC:=nvcc}" "${HOST_FLAGS:=-isystem /usr/include/eigen3 -fopenmp}"
: "${CUDA_INCLUDE:=/usr/local/cuda/include}"

unit=$(mktemp -d)
trap 'rm -rf "$unit"' EXIT
printf '#include <%s>\n#include <%s>\n' "$header" "$header" >"$unit/twice.cpp"
flags=(-std=c++20 -Iinclude)
warnings=(-Wall -Wextra -Werror -fsyntax-only)
read -ra host_flags <<<"$HOST_FLAGS"

case $header in
  *.cuh)
    command -v "$NVCC" >/dev/null || { echo "no nvcc"; exit 77; }
    command=("$NVCC" "${flags[@]}" -arch=sm_90 -x cu -cuda -o "$unit/out") ;;
  ctrain/core/* | ctrain/policy/* | ctrain/model/* | ctrain/memory/* | ctrain/schedule/*)
    compiler=$CLANGXX
    command -v "$compiler" >/dev/null || compiler=$GXX
    command=("$compiler" "${flags[@]}" "${warnings[@]}") ;;
  *)
    command=("$GXX" "${flags[@]}" "${warnings[@]}" "${host_flags[@]}" -isystem "$CUDA_INCLUDE") ;;
esac

output=$("${command[@]}" "$unit/twice.cpp" 2>&1)
status=$?
echo "$output"
package=$(grep -oE 'fatal error: (cuda|cublas|nccl|mpi)[^ :]*: No such file' <<<"$output") &&
  { echo "skipped: $package"; exit 77; }
exit $status
