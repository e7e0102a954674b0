// The main job with 0/1 Adam on two processes: 40 of the first 80 steps sum gradients, the others
// signs; then every step does, every second, and every fourth one, and the steps between send
// nothing. What would be validated or saved there is done at the next sync. Start it with:
// mpirun -n 2 finetune_zero_one_adam_mpi FLAGS
#include <ctrain/backend/comm/mpi.hpp>
#include <ctrain/ctrain.hpp>

struct AfqmcZeroOneAdam {
  static constexpr ctrain::Policy policy{
      .model = ctrain::megatron_bert_mini,
      .batch = {.packed_tokens = 1024},
      .optimizer = {.kind = ctrain::OptimizerKind::zero_one_adam,
                    .learning_rate = 2.5e-4f,
                    .beta2 = 0.99f,     // nothing corrects the bias of a variance of few updates
                    .epsilon = 1e-12f,  // within the root
                    .weight_decay = 0.1f,
                    .compression = {.freeze_step = 80,
                                    .variance_scaler = 16,
                                    .local_step_scaler = 40,
                                    .local_step_limit = 4}},
      .schedule = {.warmup = 0.1f},
      .parallel = {.data = 2},
      .device = ctrain::host_memory(2 * ctrain::GiB)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<AfqmcZeroOneAdam, ctrain::Cpu, ctrain::Mpi>(argc, argv);
}
