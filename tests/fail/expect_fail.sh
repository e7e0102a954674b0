#!/usr/bin/env bash
# expect_fail.sh FILE.cpp: FILE.cpp must not compile, and must say why; FILE.ok.cpp must compile.
#
# The lines that state what is expected, at the head of FILE.cpp:
#   // ERRORS: 1                      exactly this many errors, in every compiler
#   // EXPECT: extended regex         one per line; each matches a line of every compiler's output
#   // COMPILERS: g++ clang++ nvcc    optional: only these
#   // INCLUDE_HOST                   optional: the packages of ctrain::host may be included
# A compiler that is not installed is skipped, with a notice. nvcc is not asked for the twin, which takes
# it longest: that the policy is right, g++ and clang say; what nvcc takes, the .cu programs show.
set -u
export LC_ALL=C  # plain quotes in messages
: "${GXX:=g++}" "${CLANGXX:=clang++}" "${NVCC:=nvcc}" "${HOST_FLAGS:=-isystem /usr/include/eigen3 -fopenmp}"

bad=$1
good=${bad%.cpp}.ok.cpp
root=$(cd "$(dirname "$0")/../.." && pwd)
status=0
fault() {
  echo "$*"
  status=1
}

stated() { sed -n "s@^// $1: @@p" "$bad"; }
errors=$(stated ERRORS)
mapfile -t expected < <(stated EXPECT)
compilers=$(stated COMPILERS)
[[ $errors =~ ^[1-9][0-9]*$ ]] || fault "$bad: state '// ERRORS: n', the number of errors"
((${#expected[@]})) || fault "$bad: state at least one '// EXPECT: regex'"
[[ -f $good ]] || fault "$bad: its twin that compiles is missing: $good"
((status)) && exit 1

flags=(-std=c++20 "-I$root/include")
host_flags=()
grep -q '^// INCLUDE_HOST' "$bad" && read -ra host_flags <<<"$HOST_FLAGS"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# check NAME COMMAND...: both files with one compiler
check() {
  local name=$1 output found regex
  shift
  [[ " ${compilers:-$name} " == *" $name "* ]] || return
  command -v "$1" >/dev/null || { echo "$name: not installed, skipped"; return; }

  if [[ $name != nvcc ]]; then
    output=$("$@" "$good" 2>&1) || fault "$name: $good must compile, but:"$'\n'"$output"
  fi
  if output=$("$@" "$bad" 2>&1); then
    fault "$name: $bad compiled, but must not"
    return
  fi
  local before=$status
  for regex in "${expected[@]}"; do
    grep -Eq -- "$regex" <<<"$output" || fault "$name: nothing matches /$regex/"
  done
  found=$(grep -cE '(^|[^a-z])error: ' <<<"$output")
  ((found == errors)) || fault "$name: $found errors, wanted $errors"
  ((status == before)) && echo "$name: ok" || echo "$output"
}

check g++ "$GXX" "${flags[@]}" "${host_flags[@]}" \
  -fsyntax-only -fdiagnostics-color=never -ftemplate-backtrace-limit=0
check clang++ "$CLANGXX" "${flags[@]}" "${host_flags[@]}" \
  -fsyntax-only -fno-color-diagnostics -ftemplate-backtrace-limit=0
# -cuda stops before the host compiler; the errors come from the front end, which has then run.
check nvcc "$NVCC" "${flags[@]}" "${host_flags[@]/-fopenmp/-DEIGEN_NO_CUDA}" \
  -DFMT_USE_CONSTEXPR=1 -arch=sm_90 -Xcudafe=--context_limit=0 -x cu -cuda -o "$scratch/out"
exit $status
