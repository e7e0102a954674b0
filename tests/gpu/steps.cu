// Fifty optimizer steps on a card against the reference on the host; the same again to the bit, as
// graphs that nobody waits for and call by call; and the arena against what the card says it gave.
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/trainer.hpp>

#include "../../bench/feeds.hpp"
#include "pairs.cuh"

using namespace ctrain;
using namespace gpu;

namespace {

constexpr ModelShape small{.vocabulary = 512,
                           .positions = 128,
                           .layers = 2,
                           .hidden = 128,
                           .heads = 2,
                           .feed_forward = 512};

/// Rises after every fifth good step, until a gradient overflows and its step is skipped.
constexpr LossScale rising{.rule = LossScaleRule::grad_scaler, .initial = 0x1p17f, .window = 5};

constexpr Policy policy_of(Compute compute, Device device) {
  return {.model = small,
          .batch = {.packed_tokens = 128, .sentences = 4, .length = 32},
          .precision = {.compute = compute,
                        .loss_scale = compute == Compute::fp16 ? rising : LossScale{}},
          .weights = WeightLayout::plain,
          .device = device};
}
template <Compute C> struct OnCard { static constexpr Policy policy = policy_of(C, gpu_24gb); };
template <Compute C> struct OnHost50 {
  static constexpr Policy policy = policy_of(C, host_memory(GiB, 1));
};

constexpr int steps = 50;

struct Trained {
  std::vector<double> losses;
  std::vector<float> weights;
  int skipped = 0;
};

/// `at_once`: steps are launched one after the other, and read once at the end. `walked`: call by
/// call, since the times of their walks are asked for, and not as graphs.
template <class P, class B> Trained train(bool at_once = false, bool walked = false) {
  Trainer<P, B> trainer(7);
  EqualSentences feed{4, 32, small.vocabulary};
  Trained result;
  std::vector<Span> spans;
  if (walked) trainer.step().record(&spans);
  for (int step = 0; step < steps; ++step) {
    trainer.step().launch(feed, {.seed = 3,
                                 .step = step,
                                 .learning_rate = 1e-3 * (1 + step % 3),
                                 .weight_decay = 0.01f,
                                 .clip = 1.0f});
    if (at_once && step + 1 < steps) continue;
    for (const StepResult& r : trainer.step().read_out())
      result.losses.push_back(r.loss()), result.skipped += r.skipped;
  }
  trainer.fetch_state();
  for (const NamedTensor& t : trainer.tensors())
    result.weights.insert(result.weights.end(), t.weight, t.weight + t.count);
  return result;
}

/// Rounding differs in the last bit of a sum and grows with every step; dropout, order of data and
/// everything else is the same. The reference and the fast host backend, which sum in other orders,
/// part by 6e-7 (fp32) and 4e-4 (bf16) of the loss in these fifty steps; the bounds leave thirty
/// times as much for a card's own exponentials and epilogues.
/// In fp16 the same steps must be skipped.
template <Compute C> void compare_with_reference(Report& report, const char* name, double bound) {
  const Trained reference = train<OnHost50<C>, CpuReference>(), card = train<OnCard<C>, Cuda>(),
                at_once = train<OnCard<C>, Cuda>(true),
                walked = train<OnCard<C>, Cuda>(false, true);
  double worst = 0;
  for (int i = 0; i < steps; ++i) {
    const auto at = std::size_t(i);
    worst = std::fmax(worst, std::fabs(card.losses[at] - reference.losses[at]) /
                                 std::fmax(reference.losses[at], 0.1));
  }
  report.say(std::string(name) + ": losses of 50 steps", worst <= bound, worst, bound);
  const auto same = [&](const Trained& other) {
    return card.losses == other.losses && card.weights == other.weights;
  };
  report.say(std::string(name) + ": the same to the bit without waiting", same(at_once), 0, 0);
  report.say(std::string(name) + ": the same to the bit call by call", same(walked), 0, 0);
  report.say(std::string(name) + ": skipped steps",
             card.skipped == reference.skipped && (card.skipped > 0) == (C == Compute::fp16),
             card.skipped, reference.skipped);
  report.say(std::string(name) + ": it learns", card.losses.back() < 0.5 * card.losses.front(),
             card.losses.back(), 0.5 * card.losses.front());
  std::printf("%s: loss %.4f to %.4f, worst difference to the reference %.2g\n", name,
              card.losses.front(), card.losses.back(), worst);
}

double free_bytes() {
  std::size_t free = 0, total = 0;
  cuda::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return double(free);
}

/// One allocation of the plan's size, which a card rounds up to pages of 2 MiB; fifty steps take
/// nothing more but what the runtime loads, for which Device::reserved stands.
void arena_is_what_is_taken(Report& report) {
  constexpr auto& plan = PlanOf<OnCard<Compute::bf16>>::plan;
  const double before = free_bytes();
  const cuda::DeviceArena arena(plan.arena());
  const double taken = before - free_bytes();
  report.say("the arena is one allocation of its size",
             taken >= double(plan.arena()) && taken < double(plan.arena() + 2 * MiB), taken,
             double(plan.arena()));
  const double idle = free_bytes();
  Trainer<OnCard<Compute::bf16>, Cuda> trainer(7);
  EqualSentences feed{4, 32, small.vocabulary};
  const std::size_t prepared = trainer.backend().prepared_products();
  trainer.step().train(feed, {.learning_rate = 1e-3});
  report.say("a step chooses no algorithms", trainer.backend().prepared_products() == prepared,
             double(trainer.backend().prepared_products()), double(prepared));
  const double after_one = free_bytes();
  for (int i = 1; i < steps; ++i) trainer.step().train(feed, {.step = i, .learning_rate = 1e-3});
  report.say("steps after the first take no memory", free_bytes() == after_one,
             after_one - free_bytes(), 0);
  const double extra = idle - after_one - double(plan.arena());
  report.say("the runtime takes no more than what is reserved", extra <= double(plan.runtime),
             extra, double(plan.runtime));
  report.say("high-water of the arena", trainer.arena().high_water() == plan.arena(),
             double(trainer.arena().high_water()), double(plan.arena()));
}

}  // namespace

int main() {
  cuda::require_device("gpu_steps");
  Report report;
  arena_is_what_is_taken(report);
  compare_with_reference<Compute::fp32>(report, "fp32", 2e-5);
  compare_with_reference<Compute::bf16>(report, "bf16", 1.2e-2);
  compare_with_reference<Compute::fp16>(report, "fp16", 3e-3);
  return report.end("gpu_steps");
}
