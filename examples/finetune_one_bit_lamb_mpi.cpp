// The main job with 1-bit LAMB on two processes: after 80 steps of LAMB they send each other one
// bit an element, and trust ratios follow a variance that is read out of the momentum. Start it
// with: mpirun -n 2 finetune_one_bit_lamb_mpi FLAGS
#include <ctrain/backend/comm/mpi.hpp>
#include <ctrain/ctrain.hpp>

struct AfqmcOneBitLamb {
  static constexpr ctrain::Policy policy{.model = ctrain::megatron_bert_mini,
                                         .batch = {.packed_tokens = 1024},
                                         .optimizer = {.kind = ctrain::OptimizerKind::one_bit_lamb,
                                                       .learning_rate = 5e-3f,
                                                       .epsilon = 1e-6f,
                                                       .weight_decay = 0.01f,
                                                       .compression = {.freeze_step = 80}},
                                         .schedule = {.warmup = 0.1f},
                                         .parallel = {.data = 2},
                                         .device = ctrain::host_memory(2 * ctrain::GiB)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<AfqmcOneBitLamb, ctrain::Cpu, ctrain::Mpi>(argc, argv);
}
