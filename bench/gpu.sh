#!/usr/bin/env bash
# bench/gpu.sh: what a card does with the 1.3B model, and PyTorch beside it, in one call of at most
# ten minutes. Builds with nvcc alone, as tests/gpu.sh does. PyTorch runs where python3 has it and
# sees the card (PYTHON names another). Prints one JSON object a line, the card, date, commit and
# command first; to keep them: bench/gpu.sh | tee bench/results/gpu-CARD.jsonl
set -u
cd "$(dirname "$0")/.." || exit 1
PATH=$PATH:/usr/local/cuda/bin
: "${CTRAIN_CARD:=native}" "${PYTHON:=python3}"
mkdir -p build/gpu

command -v nvcc >/dev/null || { echo "error: no nvcc on PATH. Install CUDA 13, or add its bin folder" >&2; exit 1; }
cublas=$(dirname "$(find -L /usr/local/cuda/lib64 /usr/lib/x86_64-linux-gnu -name 'libcublasLt.so' 2>/dev/null | head -1)")
nvcc -std=c++20 -O2 -arch="$CTRAIN_CARD" -Iinclude bench/gpu_cuda.cu -o build/gpu/bench_gpu_cuda \
  -L"$cublas" -Xlinker -rpath="$cublas" -lcublasLt >build/gpu/bench.log 2>&1 ||
  { cat build/gpu/bench.log >&2; exit 1; }
[[ ${1:-} == --build-only ]] && exit 0

card=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader) ||
  { echo "error: no card answers nvidia-smi" >&2; exit 3; }
echo "{\"card\": \"$card\", \"date\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"," \
  "\"commit\": \"$(git rev-parse --short HEAD 2>/dev/null)\", \"command\": \"bench/gpu.sh\"}"
status=0
timeout 200 build/gpu/bench_gpu_cuda || { echo "error: bench_gpu_cuda ended with $?" >&2; status=1; }
if "$PYTHON" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  timeout 240 "$PYTHON" bench/pytorch_gpu.py ||
    { echo "error: PyTorch ended with $?" >&2; status=1; }
else
  echo "notice: $PYTHON has no PyTorch that sees the card: nothing to compare with" >&2
fi
exit $status
