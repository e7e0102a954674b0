#!/usr/bin/env bash
# check.sh CTRAIN_PLAN [--write]: what the example ctrain-plan prints equals the files beside this
# script. With --write, makes the files anew; read their diff before you commit it.
set -u
. "$(dirname "$0")/../prints.sh"

prints erlangshen_1b3.txt --model erlangshen_1b3 --full
prints presets.txt
prints megatron_graph.txt --model megatron_bert_mini --graph
prints bert_graph.txt --model bert_base_chinese --graph
prints offload.txt --model erlangshen_1b3 --offload
exit $status
