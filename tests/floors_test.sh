#!/usr/bin/env bash
# Does check_floors.py notice? A check that cannot fail checks nothing.
set -u
cd "$(dirname "$0")/.." || exit 1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
status=0

# says FAULT FILE LINE...: a tree with only this header is refused with these words
# says "" FILE LINE...:    ... is accepted
says() {
  local wanted=$1 file=$scratch/ctrain/$2 output
  shift 2
  rm -rf "$scratch/ctrain"
  mkdir -p "$(dirname "$file")"
  printf '%s\n' "$@" >"$file"
  output=$(python3 cmake/check_floors.py "$scratch/ctrain" 2>&1)
  local refused=$?
  if [[ -n $wanted ]]; then
    ((refused)) && grep -qF -- "$wanted" <<<"$output" && return
  else
    ((refused)) || return
  fi
  echo "$file: wanted '$wanted', got '$output'"
  status=1
}

memory='/// \file  What fits.   floor 3: memory'
says "" memory/plan.hpp "$memory" '#include <ctrain/model/op.hpp>' '#include <cstdint>' '#include <boost/hana/map.hpp>'
says "includes 'trainer', which is above it" memory/plan.hpp "$memory" '#include <ctrain/trainer/step.hpp>'
says "no header of a floor" memory/plan.hpp "$memory" '#include <ctrain/check.hpp>'
for heavy in iostream Eigen/Dense oneapi/dnnl/dnnl.hpp cuda_runtime.h nccl.h mpi.h catch2/catch.hpp nlohmann/json.hpp; do
  says "plain C++, but includes <$heavy>" memory/plan.hpp "$memory" "#include <$heavy>"
done
says 'instead of "op.hpp"' memory/plan.hpp "$memory" '#include "op.hpp"'
says "line 1 should read" memory/plan.hpp '#pragma once'
says "line 1 should read" memory/plan.hpp '/// \file  What fits.   floor 2: model'
says "line 1 should read" memory/plan.hpp '/// \file  What fits   floor 3: memory'
says "'misc' is no floor" misc/plan.hpp '/// \file  What fits.   floor 3: misc'
says "" check.hpp '/// \file  Everything a policy is checked with.' '#include <ctrain/io/json.hpp>'
says "line 1 should read" check.hpp '#pragma once'
says "" backend/cpu/gemm.hpp '/// \file  Products.   floor 5: backend' '#include <Eigen/Core>'
exit $status
