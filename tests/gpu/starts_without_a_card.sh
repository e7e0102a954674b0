#!/usr/bin/env bash
# starts_without_a_card.sh DIR/NAME_cuda: with every card hidden the program says which target to
# build instead, in one line, and exits with 3.
set -u
name=$(basename "$1" _cuda)
wanted="error: no CUDA device; build target ${name}_cpu or set .device = host"

output=$(CUDA_VISIBLE_DEVICES=-1 "$1" 2>&1)
code=$?
[[ $output == "$wanted" ]] || { echo "wanted '$wanted', got '$output'"; exit 1; }
((code == 3)) || { echo "wanted exit code 3, got $code"; exit 1; }
