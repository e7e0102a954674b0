// What a card is given in one optimizer step, without a card: every kernel with its grid, every
// product with its shape and what it does on the way, every copy, transfer and event, in order;
// then what a roofline says of it. The list is made by the executor and the launching code of a
// real run.
#include <ctrain/backend/cuda/dry_run.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/dry_ranks.hpp>
#include <ctrain/trainer/step.hpp>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace {

using namespace ctrain;
using Kind = DeviceWork::Kind;
using List = std::vector<DeviceWork>;

// policies ----------------------------------------------------------------------------------------

struct mini {
  static constexpr Policy policy{.model = megatron_bert_mini,
                                 .batch = {.packed_tokens = 2048},
                                 .precision = {.compute = Compute::bf16},
                                 .device = gpu_24gb};
};
struct padded_4 {
  static constexpr Policy policy{.batch = {.sentences = 4, .length = 512},
                                 .precision = {.compute = Compute::bf16},
                                 .device = a100_40gb};
};
struct packed_16k {
  static constexpr Policy policy{.batch = {.packed_tokens = 16384},
                                 .precision = {.compute = Compute::bf16},
                                 .device = h100_80gb};
};
struct zero_1 {
  static constexpr Policy policy{.batch = {.packed_tokens = 4096, .accumulation = 2},
                                 .precision = {.compute = Compute::bf16},
                                 .parallel = {.data = 4},
                                 .zero = {.stage = 1},
                                 .device = a100_40gb};
};
struct pipeline_2 {
  static constexpr Policy policy{.batch = {.packed_tokens = 4096, .accumulation = 4},
                                 .precision = {.compute = Compute::bf16},
                                 .parallel = {.pipeline = 2},
                                 .device = a100_40gb};
};

// cards -------------------------------------------------------------------------------------------

/// Peaks of NVIDIA's data sheets, dense, at boost clocks: a bound, never reached.
struct Card {
  const char* name;
  double half, tf32, single;  // operations a second: tensor cores in 16 bits and TF32, plain fp32
  double memory, link;        // bytes a second; link: what one card sends
};
constexpr Card cards[] = {{"A100 80GB SXM", 312e12, 156e12, 19.5e12, 2039e9, 300e9},
                          {"H100 SXM", 989e12, 494e12, 67e12, 3350e9, 450e9},
                          {"H200 SXM", 989e12, 494e12, 67e12, 4800e9, 450e9}};

/// Arithmetic and memory overlap. Attention's products run on plain cores.
double seconds(const DeviceWork& w, const Card& on) {
  const double rate = w.kind != Kind::product || w.operand == DType::fp32 ? on.single : on.half;
  return std::max(w.flops / rate, w.bytes_moved / on.memory);
}

// the list ----------------------------------------------------------------------------------------

/// Sentences that fill the batch, as `batch.length` allows.
template <class P> struct FullBatch {
  static constexpr Batch batch = P::policy.batch;
  int open(int count) const { return count; }
  int sentences(int) const {
    return batch.packed() ? batch.rows() / batch.length : batch.sentences;
  }
  void fill(int i, BatchView& b, std::uint32_t) const {
    b.rows = batch.rows();
    b.sentences = sentences(i);
    for (int s = 0; s <= b.sentences; ++s) b.first_row[s] = s * batch.length;
    for (int s = 0; s < b.sentences; ++s) b.lengths[s] = batch.length, b.labels[s] = 0;
  }
};

template <class P> List one_step(int rank) {
  DryRun backend;
  DryRanks ranks(backend, rank, P::policy);
  MemoryMap<P, DryRun::Arena> map(ranks.grid().at(rank));
  Step<P, DryRun, DryRanks> step(backend, map, ranks);
  FullBatch<P> feed;
  const auto launch = [&](int i) {
    step.launch(feed, {.step = i, .learning_rate = 1e-5, .weight_decay = 0.1f, .clip = 1.0f});
  };
  launch(0);  // the first step is given call by call, those after it as one graph
  backend.take();
  launch(1);
  return backend.take();
}

struct Choice {
  const char* name;
  List (*list)(int rank);
  int ranks;
};
constexpr Choice choices[] = {{"mini", one_step<mini>, 1},
                              {"padded_4", one_step<padded_4>, 1},
                              {"packed_16k", one_step<packed_16k>, 1},
                              {"zero_1", one_step<zero_1>, 4},
                              {"pipeline_2", one_step<pipeline_2>, 2}};

// printing ----------------------------------------------------------------------------------------

constexpr const char* word(Kind kind) {
  constexpr const char* words[] = {"kernel", "product", "copy", "transfer", "event"};
  return words[int(kind)];
}

void print(const DeviceWork& w, const char* indent) {
  char grid[64] = "";
  if (w.kind == Kind::kernel)
    std::snprintf(grid, sizeof grid, "%lld x %d%s", static_cast<long long>(w.blocks), w.threads,
                  w.shared > 0 ? (" + " + std::to_string(w.shared) + " B").c_str() : "");
  std::printf("%s%-8s %-24s %10.3f MB %10.3f GFLOP  %s\n", indent, word(w.kind), grid,
              w.bytes_moved / 1e6, w.flops / 1e9, w.what.c_str());
}

/// How often the `length` entries at `at` follow each other.
std::size_t repeats(const List& list, std::size_t at, std::size_t length) {
  std::size_t times = 1;
  while (at + (times + 1) * length <= list.size() &&
         std::equal(list.begin() + long(at), list.begin() + long(at + length),
                    list.begin() + long(at + times * length)))
    ++times;
  return times;
}

/// Equal stretches, such as the blocks of a model, stand once with their number.
void print(const List& list) {
  constexpr std::size_t longest = 128;
  for (std::size_t at = 0; at < list.size();) {
    std::size_t length = 1, times = 1;
    for (std::size_t l = 1; l <= longest && at + 2 * l <= list.size(); ++l)
      if (const std::size_t n = repeats(list, at, l);
          n * l > times * length || (times == 1 && n > 1))
        if (n > 1) length = l, times = n;
    if (times > 1) std::printf("%zu times:\n", times);
    for (std::size_t i = 0; i < length; ++i) print(list[at + i], times > 1 ? "  " : "");
    at += length * times;
  }
}

void print_totals(const List& list) {
  std::printf("\n%-9s %7s %12s %12s\n", "in all", "number", "GB", "TFLOP");
  for (const Kind kind : {Kind::kernel, Kind::product, Kind::copy, Kind::transfer, Kind::event}) {
    double bytes_moved = 0, flops = 0;
    int number = 0;
    for (const DeviceWork& w : list)
      if (w.kind == kind) ++number, bytes_moved += w.bytes_moved, flops += w.flops;
    std::printf("%-9s %7d %12.3f %12.3f\n", word(kind), number, bytes_moved / 1e9, flops / 1e12);
  }
}

void print_roofline(const List& list) {
  std::printf(
      "\nRoofline: no step is shorter. A kernel or product takes the longer of its arithmetic "
      "and its memory;\ntransfers overlap; launches are free, as in a replayed graph.\n"
      "%-14s %8s %8s %8s %9s %9s  %9s %9s %9s\n",
      "card", "16 bit", "fp32", "GB/s", "send GB/s", "step ms", "products", "kernels", "transfers");
  for (const Card& card : cards) {
    double products = 0, kernels = 0, transfers = 0;
    for (const DeviceWork& w : list) {
      if (w.kind == Kind::product) products += seconds(w, card);
      if (w.kind == Kind::kernel) kernels += seconds(w, card);
      if (w.kind == Kind::transfer) transfers += w.bytes_moved / card.link;
    }
    std::printf("%-14s %8.0f %8.1f %8.0f %9.0f %9.3f  %9.3f %9.3f %9.3f\n", card.name,
                card.half / 1e12, card.single / 1e12, card.memory / 1e9, card.link / 1e9,
                1e3 * std::max(products + kernels, transfers), 1e3 * products, 1e3 * kernels,
                1e3 * transfers);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Prints what a card is given in one optimizer step, without a card."};
  app.option_defaults()->always_capture_default();
  std::string name = "mini";
  int rank = 0;
  std::vector<std::string> names;
  for (const Choice& c : choices) names.push_back(c.name);
  app.add_option("--policy", name, "whose step")->check(CLI::IsMember(names));
  app.add_option("--rank", rank, "of a policy of several ranks")->check(CLI::NonNegativeNumber);
  CLI11_PARSE(app, argc, argv);
  for (const Choice& c : choices) {
    if (name != c.name) continue;
    if (rank >= c.ranks) {
      std::fprintf(stderr, "error: flag --rank: policy %s has %d ranks. Give one below that\n",
                   c.name, c.ranks);
      return 1;
    }
    const List list = c.list(rank);
    print(list);
    print_totals(list);
    print_roofline(list);
  }
  return 0;
}
