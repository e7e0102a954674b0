#!/usr/bin/env bash
# tests/gpu.sh [--build-only]: the tests on a card, in one call of at most ten minutes.
#
# Needs nvcc 13, g++ 12 or later, cuBLASLt, and Eigen's headers; no CMake, no Catch2, no
# network. EIGEN (default /usr/include/eigen3) names the headers' folder.
# Builds the programs of tests/gpu for this card side by side, then runs them: every call
# against the reference, fifty steps, arena against cudaMemGetInfo; the kernels again under
# compute-sanitizer, for accesses and for races; with NCCL, and two cards, ranks with a card each.
# Fails where one fails; says what it could not run.
set -u
cd "$(dirname "$0")/.." || exit 1
PATH=$PATH:/usr/local/cuda/bin
: "${EIGEN:=/usr/include/eigen3}" "${CTRAIN_CARD:=native}"
build=build/gpu
mkdir -p "$build"
status=0

command -v nvcc >/dev/null || { echo "error: no nvcc on PATH. Install CUDA 13, or add its bin folder"; exit 1; }
[[ -f $EIGEN/Eigen/Core ]] || { echo "error: no Eigen in $EIGEN. Set EIGEN to the folder that holds Eigen/Core"; exit 1; }
library() { find -L /usr/local/cuda/lib64 /usr/lib/x86_64-linux-gnu -name "$1" 2>/dev/null | head -1; }
cublas=$(dirname "$(library libcublasLt.so)") nccl=$(library libnccl.so)

build_one() {
  local name=$1
  shift
  nvcc -std=c++20 -O2 -arch="$CTRAIN_CARD" -lineinfo -DEIGEN_NO_CUDA -DFMT_USE_CONSTEXPR=1 -Iinclude \
    -isystem "$EIGEN" "tests/gpu/$name.cu" -o "$build/gpu_${name}_cuda" \
    -L"$cublas" -Xlinker -rpath="$cublas" -lcublasLt "$@" >"$build/$name.log" 2>&1 ||
    { cat "$build/$name.log"; echo "FAILED: gpu_${name}_cuda does not build"; return 1; }
}

SECONDS=0
build_one kernels & builds=$!
build_one steps & builds+=" $!"
if [[ -n $nccl ]]; then
  build_one ranks -L"$(dirname "$nccl")" -Xlinker -rpath="$(dirname "$nccl")" -lnccl & builds+=" $!"
fi
for each in $builds; do wait "$each" || status=1; done
echo "built in $SECONDS s for $CTRAIN_CARD"
((status)) && exit 1
[[ ${1:-} == --build-only ]] && exit 0

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader ||
  { echo "error: no card answers nvidia-smi"; exit 3; }
date -u +"%Y-%m-%dT%H:%M:%SZ, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"

# run SECONDS NAME COMMAND...
run() {
  local limit=$1 name=$2
  shift 2
  local begin=$SECONDS
  if timeout "$limit" "$@" >"$build/$name.out" 2>&1; then
    echo "passed  $name ($((SECONDS - begin)) s)"
  else
    echo "FAILED  $name (exit code $?)"
    status=1
  fi
  tail -12 "$build/$name.out"
}

run 60 kernels "$build/gpu_kernels_cuda"
run 120 steps "$build/gpu_steps_cuda"
if command -v compute-sanitizer >/dev/null; then
  run 150 memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "$build/gpu_kernels_cuda"
  run 150 racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "$build/gpu_kernels_cuda"
else
  echo "not run: compute-sanitizer is not installed"
fi
cards=$(nvidia-smi --query-gpu=name --format=csv,noheader | wc -l)
ranks=$((cards < 2 ? 1 : 2))
# of_ranks N COMMAND: N processes with torchrun's variables; fails where one does
of_ranks() {
  local count=$1 rank failed=0 each
  local -a started=()
  shift
  for ((rank = 0; rank < count; ++rank)); do
    RANK=$rank WORLD_SIZE=$count MASTER_ADDR=127.0.0.1 MASTER_PORT=29511 "$@" & started+=($!)
  done
  for each in "${started[@]}"; do wait "$each" || failed=1; done
  return $failed
}
export -f of_ranks
if [[ -z $nccl ]]; then
  echo "not run: ranks (no libnccl)"
else
  ((ranks == 2)) || echo "not run: two ranks (one card)"
  run 60 "ranks, $ranks" bash -c "of_ranks $ranks $build/gpu_ranks_cuda"
fi
exit $status
