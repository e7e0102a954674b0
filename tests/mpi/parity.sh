#!/usr/bin/env bash
# parity.sh MPIRUN PROGRAM REAL_DATA: every case of a program, on as many processes as it has ranks.
set -u
mpirun=$1 program=$2 real=$3
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
pairs=(examples/data examples/data/vocab.txt)
[[ ! -d $real/afqmc ]] || pairs=("$real/afqmc" "$real/vocab/bert-base-chinese-vocab.txt")

failed=0
while read -r name ranks; do
  echo "$name, on pairs of ${pairs[0]}:"
  timeout 120 "$mpirun" --oversubscribe -n "$ranks" "$program" "$name" "${pairs[@]}" </dev/null ||
    { echo "$name: failed"; failed=1; }
done < <("$program")
exit $failed
