#!/usr/bin/env bash
# bench/run.sh NAME [ARGUMENT...]: runs one benchmark. Its table goes to stdout, its figures as JSON
# to bench/results/NAME-DATE.json, which git ignores: add by force what a document quotes.
#
#   NAME = compile    seconds and memory of the compilers on bench/compile/*.cpp
#   NAME = proofs     seconds of the compilers on every split of the 1.3B model within 8 ranks
#   NAME = kernels    registers, spills and 16-byte accesses of the hot CUDA kernels; needs nvcc
#   NAME = scaling    bench/scaling_mpi.cpp on two processes
#   NAME = compressed bench/compressed_mpi.cpp on two processes; --ranks 4: compressed_four_mpi.cpp
#   NAME = pytorch    whole steps of ours and of PyTorch in turn; needs --python with torch
#   any other         builds bench/NAME.cpp (or .cu) and runs it with --json FILE ARGUMENT...
set -eu
cd "$(dirname "$0")/.."

if (($# == 0)); then
  echo "usage: bench/run.sh NAME [ARGUMENT...], where NAME is one of:"
  { echo compile; echo kernels; echo proofs; echo pytorch; find bench -maxdepth 1 -name '*.cpp' -o -maxdepth 1 -name '*.cu'; } |
    sed 's@.*/@@; s@\.[a-z]*$@@; s@_mpi$@@; s@_four$@@; s@^@  @' | sort -u
  exit 2
fi
name=$1
shift
PATH=$PATH:/usr/local/cuda/bin
json=bench/results/$name-$(date -u +%Y-%m-%dT%H%M%SZ).json
mkdir -p bench/results

if [[ $name == compile || $name == proofs ]]; then
  python3 "bench/$name.py" --json "$json" "$@"
elif [[ $name == kernels ]]; then
  python3 bench/kernels.py "$@"
elif [[ $name == scaling || $name == compressed ]]; then
  ranks=2
  for ((i = 1; i < $#; ++i)); do [[ ${!i} != --ranks ]] || { j=$((i + 1)) && ranks=${!j}; }; done
  program=bench_${name}_mpi
  [[ $name != compressed || $ranks != 4 ]] || program=bench_${name}_four_mpi
  cmake --preset cuda >/dev/null
  cmake --build --preset cuda --target "$program" >&2
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  threads=$(($(nproc) / ranks))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
  mpirun --oversubscribe --bind-to none -n "$ranks" "build/cuda/bench/$program" \
    --json "$json" "$@"
elif [[ $name == pytorch ]]; then
  cmake --preset cuda >/dev/null
  cmake --build --preset cuda --target bench_step >&2
  python3 bench/pytorch.py --json "$json" "$@"
else
  cmake --preset cuda >/dev/null  # without a toolkit it is the same as gcc
  cmake --build --preset cuda --target "bench_$name" >&2
  "build/cuda/bench/bench_$name" --json "$json" "$@"
fi
[[ ! -f $json ]] || echo "wrote $json" >&2
