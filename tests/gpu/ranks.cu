// Collectives and messages of ranks with a card each, native and in fixed trees, against sums that
// are exact in fp32. One process a rank, with torchrun's variables; alone it is one rank.
#include <ctrain/backend/comm/nccl.cuh>
#include <ctrain/backend/comm/rendezvous.hpp>

#include "pairs.cuh"

using namespace ctrain;
using namespace gpu;

namespace {

constexpr int count = 999;  // no multiple of any number of ranks but 3 and 9

/// What `rank` contributes to element i.
float term(int rank, int i) {
  return float((rank + 1) * (i % 64));
}

template <class Comm> void sum_and_gather(Comm& comm, Cuda& cuda, Report& report) {
  std::vector<float> mine(count), sum(count, 0);
  for (int i = 0; i < count; ++i) {
    mine[std::size_t(i)] = term(comm.rank(), i);
    for (int r = 0; r < comm.ranks(); ++r) sum[std::size_t(i)] += term(r, i);
  }
  for (const Collective kind : {Collective::all_reduce, Collective::reduce_scatter}) {
    Pair<float> data(mine);
    const bytes size = count * bytes(sizeof(float));
    Transfer t{.collective = kind, .group = Group::world, .data = data.device(), .size = size};
    comm.wait(comm.start(t));
    if (kind == Collective::reduce_scatter) {
      t.collective = Collective::all_gather;  // the two together are the first
      comm.wait(comm.start(t));
    }
    comm.settle();
    cuda.synchronize();
    report.say(kind == Collective::all_reduce ? "all_reduce" : "reduce_scatter and all_gather",
               data.download() == sum, 0, 0);
  }
}

/// Around a pipeline of all ranks: each hands its rank to the next.
template <class Comm> void hand_on(Comm& comm, Cuda& cuda, Report& report) {
  Pair<float> mine(std::vector<float>(count, float(comm.rank())));
  Pair<float> theirs = Pair<float>::output(count);
  Transfer t{.kind = EventKind::send, .data = mine.device(), .size = count * 4};
  t.peer = comm.rank() + 1;
  if (t.peer < comm.ranks()) comm.wait(comm.start(t));
  t.kind = EventKind::receive, t.peer = comm.rank() - 1, t.data = theirs.device();
  if (t.peer >= 0) comm.wait(comm.start(t));
  comm.settle();
  cuda.synchronize();
  if (t.peer >= 0)
    report.say("send and receive",
               theirs.download() == std::vector<float>(count, float(comm.rank() - 1)), 0, 0);
}

}  // namespace

int main() {
  cuda::require_device("gpu_ranks");
  try {
    const RankVariables variables = rank_variables();
    Rendezvous control(variables);
    Cuda cuda({.device = card_of(hosts_of_ranks(control), variables.rank)});
    Report report;
    for (const cuda::SumOrder order : {cuda::SumOrder::native, cuda::SumOrder::fixed_tree}) {
      Nccl<Rendezvous> comm(control, cuda, {.data = variables.ranks}, {.order = order});
      sum_and_gather(comm, cuda, report);
    }
    Nccl<Rendezvous> stages(control, cuda, {.pipeline = variables.ranks}, {});
    hand_on(stages, cuda, report);
    return report.end("gpu_ranks");
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
