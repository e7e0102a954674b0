#!/usr/bin/env bash
# check.sh CTRAIN_PLAN [--write]: what the example ctrain-plan prints equals the files beside this
# script. With --write, makes the files anew; read their diff before you commit it.
set -u
here=$(cd "$(dirname "$0")" && pwd)
program=$1
write=${2:-}
status=0

# prints FILE ARGUMENT...
prints() {
  local file=$here/$1 found
  shift
  if [[ $write == --write ]]; then
    "$program" "$@" >"$file"
  elif ! found=$("$program" "$@" | diff "$file" -); then
    echo "ctrain-plan $* does not print $file:"
    echo "$found" | head -40
    status=1
  fi
}

prints erlangshen_1b3.txt --model erlangshen_1b3 --full
prints presets.txt
prints megatron_graph.txt --model megatron_bert_mini --graph
prints bert_graph.txt --model bert_base_chinese --graph
exit $status
