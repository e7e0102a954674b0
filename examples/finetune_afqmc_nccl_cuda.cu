// Fine-tunes Erlangshen-1.3B on pairs of sentences with a card for each of 2, 4 or 8 processes, as
// many as torchrun or mpirun starts. The more there are, the more of the model's states they share:
//   torchrun --no-python --nproc-per-node 4 finetune_afqmc_nccl_cuda FLAGS
//   mpirun -n 4 finetune_afqmc_nccl_cuda FLAGS
#include <ctrain/backend/comm/nccl.cuh>
#include <ctrain/ctrain.hpp>

/// A step is 64 micro-batches' sentences whatever the number of cards.
template <int Cards, int ZeroStage> struct Afqmc {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048, .sentences = 64, .accumulation = 8 / Cards},
      .precision = {.compute = ctrain::Compute::bf16},
      .optimizer = {.learning_rate = 1e-5f, .weight_decay = 0.1f},
      .schedule = {.warmup = 0.1f},
      .parallel = {.data = Cards},
      .zero = {.stage = ZeroStage},
      .device = ctrain::a100_40gb};
};

template <int Cards, int ZeroStage> int fine_tune(int argc, char** argv) {
  return ctrain::finetune_classification<Afqmc<Cards, ZeroStage>, ctrain::Cuda, ctrain::Nccl>(argc,
                                                                                              argv);
}

int main(int argc, char** argv) {
  ctrain::cuda::require_device("finetune_afqmc_nccl");
  try {
    switch (ctrain::rank_variables().ranks) {
      case 8:
        return fine_tune<8, 3>(argc, argv);
      case 4:
        return fine_tune<4, 2>(argc, argv);
      default:  // where it is another number, this one says so
        return fine_tune<2, 1>(argc, argv);
    }
  } catch (const ctrain::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
