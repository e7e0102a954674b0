#!/usr/bin/env bash
# check_format.sh [CLANG_FORMAT]: every source is formatted as .clang-format says.
set -u
cd "$(dirname "$0")/.." || exit 1
clang_format=${1:-clang-format}
command -v "$clang_format" >/dev/null || { echo "no clang-format"; exit 77; }
find include tests examples bench -name '*.[hc]pp' -o -name '*.cu' -o -name '*.cuh' | sort |
  xargs -r -n 50 "$clang_format" --dry-run -Werror
