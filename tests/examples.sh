#!/usr/bin/env bash
# tests/examples.sh MPIRUN PROGRAM: an example that fine-tunes, from flags to predictions: three steps
# on some of the bundled pairs. One whose name ends with _mpi is started as two processes.
set -eu
mpirun=$1 program=$2
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT

mkdir "$run/data"
cp examples/data/vocab.txt "$run/data"
for set in train:120 dev:20 test:20; do
  head -n "${set#*:}" "examples/data/${set%:*}.json" >"$run/data/${set%:*}.json"
done
launch=()
if [[ $program == *_mpi ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  launch=("$mpirun" --oversubscribe --bind-to none -n 2)
fi
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
cd "$run"
${launch[@]+"${launch[@]}"} "$program" --data_dir data --texta_name sentence1 --textb_name sentence2 \
  --train_batchsize 8 --max_steps 3 --log_every_n_steps 1 --every_n_train_steps 3 \
  --save_weights_only False --monitor train_loss --dirpath checkpoints --filename '{step}' \
  --output_save_path predict.json
[[ -s checkpoints/step=3.ckpt ]] || { echo "no checkpoint"; exit 1; }
[[ $(wc -l <predict.json) == 20 ]] || { echo "predictions: $(wc -l <predict.json) of 20"; exit 1; }
python3 - lightning_logs/version_0/metrics.csv <<'PYTHON'
import csv, math, sys
losses = [float(row["train_loss"]) for row in csv.DictReader(open(sys.argv[1])) if row.get("train_loss")]
assert len(losses) == 3 and all(math.isfinite(x) and x < 2 for x in losses), losses
PYTHON
