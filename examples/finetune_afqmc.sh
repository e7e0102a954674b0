#!/usr/bin/env bash
# examples/finetune_afqmc.sh [FLAG VALUE]...: the main job on this machine's processor.
#
# Installs what is missing, builds examples/finetune_afqmc.cpp, and fine-tunes on the bundled pairs;
# ends with runs/afqmc/predict.json and a model folder that transformers loads. Flags are those of the
# program (--help) and override the ones below. With another --data_dir, such as AFQMC's own, it
# trains one epoch on that; a vocabulary that is not in that folder is named with --vocab_path.
set -eu
cd "$(dirname "$0")/.."

bash cmake/install_packages.sh
cmake -S . -B build/examples -G Ninja -DCMAKE_BUILD_TYPE=Release -DCTRAIN_HOST=ON >build-examples.log 2>&1 ||
  { cat build-examples.log >&2; exit 1; }
rm -f build-examples.log
cmake --build build/examples --target finetune_afqmc

data=examples/data epochs=4 batch=24
for ((i = 1; i < $#; ++i)); do
  if [[ ${!i} == --data_dir ]]; then data= epochs=1 batch=64; fi
done

run=runs/afqmc
mkdir -p "$run"
exec build/examples/examples/finetune_afqmc \
  ${data:+--data_dir "$data"} --texta_name sentence1 --textb_name sentence2 \
  --train_batchsize "$batch" --max_epochs "$epochs" --learning_rate 3e-4 --warmup 0.1 \
  --val_check_interval 1.0 --monitor val_acc --mode max --save_top_k 1 --every_n_train_steps 0 \
  --filename 'model-{epoch:02d}-{val_acc:.4f}' --dirpath "$run/checkpoints" \
  --default_root_dir "$run" --output_save_path "$run/predict.json" --export_path "$run/model" "$@"
