#!/usr/bin/env bash
# tests/run.sh [--quick]: everything a change must pass, from a fresh clone on Debian 12.
#
# Installs missing packages, builds with warnings as errors, many sources a translation unit
# (cmake/Together.cmake: a quarter of the time), and runs every test: units, headers,
# floors, must-fail programs, format, install. Then, without --quick, the unit tests once more under
# the address and undefined-behaviour sanitizers, and those of the backend under the thread
# sanitizer. One ctest runs them all, so its last lines are the summary. Fails if a build did.
set -u
cd "$(dirname "$0")/.." || exit 1

quick=
case ${1-} in
  --quick) quick=1 ;;
  "") ;;
  *) echo "usage: tests/run.sh [--quick]" >&2; exit 2 ;;
esac

bash cmake/install_packages.sh || exit 1
PATH=$PATH:/usr/local/cuda/bin
jobs=$(nproc)
status=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The thread sanitizer needs a memory layout that some kernels do not give a process.
tsan_runs() {
  local scratch rc
  scratch=$(mktemp -d)
  echo 'int main() {}' >"$scratch/main.cpp"
  clang++ -fsanitize=thread "$scratch/main.cpp" -o "$scratch/main" && "$scratch/main"
  rc=$?
  rm -rf "$scratch"
  return $rc
}

presets=(cuda)  # without a toolkit it is the same as gcc
if [[ -z $quick ]]; then
  presets+=(asan)
  if tsan_runs 2>/dev/null; then presets+=(tsan); else echo "notice: no thread sanitizer on this kernel"; fi
fi

mkdir -p build
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1  # what another checkout compiled need not be again
# -k 0: a source that does not compile fails its own tests, not the run.
for preset in "${presets[@]}"; do
  echo "== $preset"
  cmake --preset "$preset" -DCTRAIN_TOGETHER=ON >"$log" 2>&1 || { cat "$log"; status=1; continue; }
  cmake --build --preset "$preset" --parallel "$jobs" -- -k 0 || status=1
done

# One ctest over all of them.
for preset in "${presets[@]}"; do echo "subdirs($preset)"; done >build/CTestTestfile.cmake
export OMP_WAIT_POLICY=passive  # tests run side by side: a thread that waits leaves its core
ctest --test-dir build --parallel "$jobs" --output-on-failure || status=1
exit $status
