#!/usr/bin/env bash
# check.sh BUILD COMPILER: installs BUILD into a scratch folder, and builds this folder's project
# against what lies there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cmake --install "$1" --prefix "$scratch/prefix" >"$scratch/log"
! grep -rlF "$(dirname "$(dirname "$here")")" "$scratch/prefix" ||
  { echo "these installed files name the source folder"; exit 1; }
cmake -S "$here" -B "$scratch/build" -G Ninja -DCMAKE_CXX_COMPILER="$2" -DCMAKE_PREFIX_PATH="$scratch/prefix"
cmake --build "$scratch/build"
"$scratch/build/planner"
"$scratch/build/trainer"
