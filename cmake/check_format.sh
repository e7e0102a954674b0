#!/usr/bin/env bash
# check_format.sh [CLANG_FORMAT]: every source is formatted as .clang-format says.
set -u
cd "$(dirname "$0")/.." || exit 1
clang_format=${1:-clang-format}
command -v "$clang_format" >/dev/null || { echo "no clang-format"; exit 77; }

output=$(find include tests examples bench -name '*.[hc]pp' -o -name '*.cu' -o -name '*.cuh' | sort |
  xargs -r "$clang_format" --dry-run -Werror 2>&1) && exit 0
echo "$output" | head -20
echo "To mend all of it: clang-format -i $(grep -oE '^[^ :]+:[0-9]+:' <<<"$output" | cut -d: -f1 | uniq | xargs)"
exit 1
