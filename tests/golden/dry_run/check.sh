#!/usr/bin/env bash
# check.sh CTRAIN_DRY_RUN [--write]: what the example ctrain-dry-run prints equals the files beside
# this script.
set -u
. "$(dirname "$0")/../prints.sh"

prints mini.txt --policy mini
prints zero_1.txt --policy zero_1 --rank 3
prints pipeline_2.txt --policy pipeline_2 --rank 1
exit $status
