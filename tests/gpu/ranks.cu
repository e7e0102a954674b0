// Ranks with a card each: collectives and messages, native and in fixed trees, against sums that
// are exact in fp32; then trainers of ZeRO 1 and 3 against one card that takes all micro-batches.
// One process a rank, with torchrun's or mpirun's variables; alone it is one rank.
#include <ctrain/backend/comm/nccl.cuh>
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/trainer.hpp>

#include "../../bench/feeds.hpp"
#include "pairs.cuh"

using namespace ctrain;
using namespace gpu;

namespace {

constexpr int count = 999;  // no multiple of any number of ranks but 3 and 9

/// What `rank` contributes to element i.
float term(int rank, int i) {
  return float((rank + 1) * (i % 64));
}

void sum_and_gather(Nccl& comm, Cuda& cuda, Report& report) {
  std::vector<float> mine(count), sum(count, 0);
  for (int i = 0; i < count; ++i) {
    mine[std::size_t(i)] = term(comm.rank(), i);
    for (int r = 0; r < comm.ranks(); ++r) sum[std::size_t(i)] += term(r, i);
  }
  for (const Collective kind : {Collective::all_reduce, Collective::reduce_scatter}) {
    Pair<float> data(mine), summand = Pair<float>::output(count);
    const bytes size = count * bytes(sizeof(float));
    comm.lend(Group::data, summand.device(), size);
    Transfer t{.collective = kind, .group = Group::data, .data = data.device(), .size = size};
    comm.wait(comm.start(t));
    if (kind == Collective::reduce_scatter) {
      t.collective = Collective::all_gather;  // the two together are the first
      comm.wait(comm.start(t));
    }
    cuda.synchronize();
    report.say(kind == Collective::all_reduce ? "all_reduce" : "reduce_scatter and all_gather",
               data.download() == sum, 0, 0);
  }
}

/// Along a pipeline of all ranks: each hands its rank to the next.
void hand_on(Nccl& comm, Cuda& cuda, Report& report) {
  Pair<float> mine(std::vector<float>(count, float(comm.rank())));
  Pair<float> theirs = Pair<float>::output(count);
  Transfer t{.kind = EventKind::send, .data = mine.device(), .size = count * 4};
  t.peer = comm.rank() + 1;
  if (t.peer < comm.ranks()) comm.wait(comm.start(t));
  t.kind = EventKind::receive, t.peer = comm.rank() - 1, t.data = theirs.device();
  if (t.peer >= 0) comm.wait(comm.start(t));
  cuda.synchronize();
  if (t.peer >= 0)
    report.say("send and receive",
               theirs.download() == std::vector<float>(count, float(comm.rank() - 1)), 0, 0);
}

void transfers(int ranks, Report& report) {
  for (const SumOrder order : {SumOrder::native, SumOrder::fixed_tree}) {
    const Grid grid{.data = ranks};
    Nccl comm(grid, {.order = order}, cuda::NcclLibrary(), grid, 60.0, ranks);
    Cuda cuda;
    comm.serve(cuda);
    sum_and_gather(comm, cuda, report);
  }
  const Grid stages{.pipeline = ranks};
  Nccl comm(stages, {}, cuda::NcclLibrary(), stages, 60.0, ranks);
  Cuda cuda;
  comm.serve(cuda);
  hand_on(comm, cuda, report);
}

// trainers ----------------------------------------------------------------------------------------

constexpr ModelShape small{.vocabulary = 512,
                           .positions = 128,
                           .layers = 2,
                           .hidden = 128,
                           .heads = 2,
                           .feed_forward = 512};

template <int Data, int Stage> struct On {
  static constexpr Policy policy{
      .model = small,
      .batch = {.packed_tokens = 128, .sentences = 4, .length = 32, .accumulation = 2 / Data},
      .parallel = {.data = Data},
      .zero = {.stage = Stage, .bucket = 256 * KiB},
      .deterministic = Deterministic::layout_invariant,
      .device = gpu_24gb};
};

/// Norms of all gradients: exact sums, the same bits on any number of ranks.
template <class T> std::vector<double> norms_of(T& trainer) {
  EqualSentences feed{4, 32, small.vocabulary};
  std::vector<double> norms;
  for (int step = 0; step < 20; ++step)
    norms.push_back(trainer.step()
                        .train(feed, {.seed = 3,
                                      .step = step,
                                      .learning_rate = 1e-3,
                                      .weight_decay = 0.01f,
                                      .clip = 1.0f})
                        .gradient_norm);
  return norms;
}

/// Twenty steps on two cards have the bits of one.
template <int Stage> void train_on_two(const std::vector<double>& one, Report& report) {
  Nccl comm(On<2, Stage>::policy);
  Trainer<On<2, Stage>, Cuda, Nccl> trainer(comm, 7);
  report.say("norms of ZeRO stage " + std::to_string(Stage), norms_of(trainer) == one, 0, 0);
}

}  // namespace

int main() {
  cuda::require_device("gpu_ranks");
  try {
    const int ranks = rank_variables().ranks;
    Report report;
    transfers(ranks, report);
    if (ranks == 2) {
      std::vector<double> one;
      {
        Trainer<On<1, 0>, Cuda> alone(7);
        one = norms_of(alone);
      }
      train_on_two<1>(one, report);
      train_on_two<3>(one, report);
    }
    return report.end("gpu_ranks");
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
