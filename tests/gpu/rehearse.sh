#!/usr/bin/env bash
# rehearse.sh: tests/gpu.sh and bench/gpu.sh on stand-ins for nvcc, a card and its tools: what they
# run, what they say, and how they end. Their programs are not run.
set -u
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{tests/gpu,bench,bin,Eigen}
cp "$source/tests/gpu.sh" "$work/tests/" && cp "$source/bench/gpu.sh" "$work/bench/"
touch "$work/Eigen/Core"
stand_in() { cat >"$work/bin/$1" && chmod +x "$work/bin/$1"; }

# Makes a program that says its name and rank, and ends with what END_OF_name says.
stand_in nvcc <<'END'
#!/usr/bin/env bash
[[ -z ${NVCC_FAILS:-} ]] || { echo "error: no such thing"; exit 2; }
while (($#)); do [[ $1 == -o ]] && out=$2; shift; done
name=$(basename "$out" _cuda)
{ echo '#!/usr/bin/env bash'
  echo "echo '{\"step\": \"$name\", \"seconds\": 1}' rank \${RANK:-none} >&2"
  echo "echo '{\"step\": \"$name\", \"seconds\": 1}'; exit \${END_OF_$name:-0}"; } >"$out"
chmod +x "$out"
END
stand_in nvidia-smi <<'END'
#!/usr/bin/env bash
for ((card = 0; card < CARDS; ++card)); do echo "NVIDIA Stand-in, 1.0, 1 MiB"; done
((CARDS > 0))
END
stand_in compute-sanitizer <<'END'
#!/usr/bin/env bash
echo "========= $*"
shift 4  # --tool NAME --error-exitcode CODE
"$@"
END
stand_in python <<'END'
#!/usr/bin/env bash
[[ $1 == -c ]] && exit "${NO_TORCH:-0}"
echo '{"ratio": "of a stand-in", "times_as_fast": 1}'
END

# ends CODE SCRIPT [VARIABLE=VALUE...]: runs it and checks how it ends; its output is in $output.
ends() {
  local wanted=$1 script=$2 code
  shift 2
  output=$(cd "$work" && env PATH="$work/bin:$PATH" EIGEN="$work" PYTHON="$work/bin/python" CARDS=2 \
    CTRAIN_CARD=sm_90 "$@" bash "$script" 2>&1)
  code=$?
  ((code == wanted)) || { echo "$script $*: exit code $code, wanted $wanted"; echo "$output"; exit 1; }
}
says() { grep -qE -- "$1" <<<"$output" || { echo "it does not say: $1"; echo "$output"; exit 1; }; }

ends 0 tests/gpu.sh
for name in kernels steps memcheck racecheck; do says "^passed  $name \([0-9]+ s\)"; done
says '=== --tool memcheck --error-exitcode 9 build/gpu/gpu_kernels_cuda'
if ! grep -q 'no libnccl' <<<"$output"; then
  says '^passed  ranks, 2' && says 'rank 0' && says 'rank 1'
  ends 0 tests/gpu.sh CARDS=1
  says '^not run: two ranks \(one card\)' && says '^passed  ranks, 1'
  ends 1 tests/gpu.sh END_OF_gpu_ranks=7
  says '^FAILED  ranks, 2'
fi
ends 1 tests/gpu.sh END_OF_gpu_steps=5
says '^FAILED  steps \(exit code 5\)' && says '^passed  racecheck'
ends 3 tests/gpu.sh CARDS=0
says '^error: no card answers nvidia-smi'
ends 1 tests/gpu.sh NVCC_FAILS=1
says '^FAILED: gpu_kernels_cuda does not build'

ends 0 bench/gpu.sh
says '"card": "NVIDIA Stand-in, 1.0, 1 MiB", "date"' && says '"ratio": "of a stand-in"'
json=$(find "$work/bench/results" -name 'gpu-NVIDIA-Stand-in-*.jsonl')
[[ -n $json ]] || { echo "no JSON is written"; echo "$output"; exit 1; }
python3 -c 'import json, sys; [json.loads(line) for line in open(sys.argv[1])]' "$json" || exit 1
ends 0 bench/gpu.sh NO_TORCH=1
says '^notice: .* has no PyTorch that sees the card'
ends 1 bench/gpu.sh END_OF_bench_gpu=4
says '^error: bench_gpu_cuda ended with 4'
echo "both scripts do what they say"
