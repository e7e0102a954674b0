#!/usr/bin/env bash
# examples/finetune_afqmc.sh [--ranks 2] [FLAG VALUE]...: the main job on this machine's processor.
#
# Installs what is missing, builds examples/finetune_afqmc.cpp, and fine-tunes on the bundled pairs;
# ends with runs/afqmc/predict.json and a model folder that transformers loads. Flags are those of the
# program (--help) and override the ones below. With another --data_dir, such as AFQMC's own, it
# trains one epoch on that; a vocabulary that is not in that folder is named with --vocab_path.
# --ranks 2 runs the same job as two processes over MPI (examples/finetune_afqmc_mpi.cpp).
set -eu
cd "$(dirname "$0")/.."

ranks=1 flags=()
while (($#)); do
  if [[ $1 == --ranks ]]; then
    ranks=${2-}
    [[ $ranks =~ ^[12]$ ]] || {
      echo "error: flag --ranks: '$ranks' is not 1 or 2. For more, set parallel in" \
        "examples/finetune_afqmc_mpi.cpp and start it with mpirun" >&2
      exit 1
    }
    shift $(($# > 1 ? 2 : 1))
  else
    flags+=("$1")
    shift
  fi
done
set -- ${flags[@]+"${flags[@]}"}

program=finetune_afqmc launch=()
if ((ranks > 1)); then
  program=finetune_afqmc_mpi
  threads=$(($(nproc) / ranks))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  launch=(mpirun --oversubscribe --bind-to none -n "$ranks")
fi

bash cmake/install_packages.sh
cmake -S . -B build/examples -G Ninja -DCMAKE_BUILD_TYPE=Release -DCTRAIN_HOST=ON >build-examples.log 2>&1 ||
  { cat build-examples.log >&2; exit 1; }
rm -f build-examples.log
cmake --build build/examples --target "$program"

data=examples/data epochs=4 batch=24
for ((i = 1; i < $#; ++i)); do
  if [[ ${!i} == --data_dir ]]; then data= epochs=1 batch=64; fi
done

if ((ranks > 1)); then batch=$((batch / ranks)); fi  # pairs of one rank: the step stays as it is

run=runs/afqmc
mkdir -p "$run"
exec ${launch[@]+"${launch[@]}"} "build/examples/examples/$program" \
  ${data:+--data_dir "$data"} --texta_name sentence1 --textb_name sentence2 \
  --train_batchsize "$batch" --max_epochs "$epochs" --learning_rate 3e-4 --warmup 0.1 \
  --val_check_interval 1.0 --monitor val_acc --mode max --save_top_k 1 --every_n_train_steps 0 \
  --filename 'model-{epoch:02d}-{val_acc:.4f}' --dirpath "$run/checkpoints" \
  --default_root_dir "$run" --output_save_path "$run/predict.json" --export_path "$run/model" "$@"
