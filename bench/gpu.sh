#!/usr/bin/env bash
# bench/gpu.sh [--build-only]: what a card does with the 1.3B model, and PyTorch beside it, in one
# call of at most ten minutes. Builds with nvcc alone, as tests/gpu.sh does. PyTorch runs where
# python3 has it and sees the card (PYTHON names another). Prints one JSON object a line, the card,
# date, commit and command first, and writes the same to bench/results/gpu-CARD-DATE.jsonl.
set -u
cd "$(dirname "$0")/.." || exit 1
PATH=$PATH:/usr/local/cuda/bin
: "${CTRAIN_CARD:=native}" "${PYTHON:=python3}"
mkdir -p build/gpu bench/results

command -v nvcc >/dev/null || { echo "error: no nvcc on PATH. Install CUDA 13, or add its bin folder" >&2; exit 1; }
cublas=$(dirname "$(find -L /usr/local/cuda/lib64 /usr/lib/x86_64-linux-gnu -name 'libcublasLt.so' 2>/dev/null | head -1)")
SECONDS=0
nvcc -std=c++20 -O2 -arch="$CTRAIN_CARD" -Iinclude bench/gpu_cuda.cu -o build/gpu/bench_gpu_cuda \
  -L"$cublas" -Xlinker -rpath="$cublas" -lcublasLt >build/gpu/bench.log 2>&1 ||
  { cat build/gpu/bench.log >&2; exit 1; }
echo "built in $SECONDS s for $CTRAIN_CARD" >&2
[[ ${1:-} == --build-only ]] && exit 0

card=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader) ||
  { echo "error: no card answers nvidia-smi" >&2; exit 3; }
card=$(head -1 <<<"$card")
json=bench/results/gpu-$(tr -cs 'A-Za-z0-9\n' - <<<"${card%%,*}")-$(date -u +%Y-%m-%dT%H%M%SZ).jsonl
status=0
measure() {
  echo "{\"card\": \"$card\", \"date\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"," \
    "\"commit\": \"$(git rev-parse --short HEAD 2>/dev/null)\", \"command\": \"bench/gpu.sh\"}"
  timeout 150 build/gpu/bench_gpu_cuda || { echo "error: bench_gpu_cuda ended with $?" >&2; status=1; }
  if "$PYTHON" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    timeout 240 "$PYTHON" bench/pytorch_gpu.py --ours "$json" ||
      { echo "error: PyTorch ended with $?" >&2; status=1; }
  else
    echo "notice: $PYTHON has no PyTorch that sees the card: nothing to compare with" >&2
  fi
  return $status
}
set -o pipefail
measure | tee "$json" || status=1
echo "wrote $json" >&2
exit $status
