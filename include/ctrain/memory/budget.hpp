/// \file  Does the plan fit the device? If not: the plan as a table, and the cheapest change that fits.   floor 3: memory
#pragma once

#include <ctrain/core/say.hpp>
#include <ctrain/memory/plan.hpp>
#include <ctrain/memory/proof.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>
#include <type_traits>
#include <utility>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// A change of a policy, under the name of the field it sets. Whoever makes the batch smaller and
/// batch.accumulation larger by the same factor keeps the optimizer step as it was.
enum class Change : std::uint8_t {
  nothing_needed,
  set_zero_stage_to,
  set_batch_packed_tokens_to,
  set_batch_sentences_to,
  set_weights_to_plain,
  set_recompute_to_full,
  set_recompute_to_full_and_batch_packed_tokens_to,
  set_recompute_to_full_and_batch_sentences_to,
  set_recompute_to_full_weights_to_plain_and_batch_packed_tokens_to,
  set_recompute_to_full_weights_to_plain_and_batch_sentences_to,
  get_a_device_of_GiB
};

struct Suggestion {
  Change what = Change::nothing_needed;
  int value = 0;  // of the last field named, or GiB
  bytes total = 0;
};

/// A change and the policy after it.
struct Proposal {
  Change what = Change::nothing_needed;
  int value = 0;
  Policy policy{};
};

// functions --------------------------------------------------------------------------------------

constexpr bool fits(const Policy& p) {
  return plan_memory(p).total() <= p.device.memory;
}

namespace budget {

/// Halves the micro-batch; false, and the batch as it was, where that would break a rule.
constexpr bool halve(Batch& batch) {
  Batch half = batch;
  int& size = batch.packed() ? half.packed_tokens : half.sentences;
  size /= 2;
  const bool valid = batch.packed() ? batch.packed_tokens % 32 == 0 && size >= batch.length &&
                                          batch.sentences <= size / 2
                                    : batch.sentences % 2 == 0;
  if (valid) batch = half;
  return valid;
}

using Proposals = Table<Proposal, 48>;

/// Adds `p` with the higher stages of ZeRO that the rules allow it.
constexpr void add_zero_stages(Proposals& all, Policy p) {
  if (p.parallel.data == 1) return;
  const int most = p.parallel.pipeline == 1 ? 3 : 1;
  while (++p.zero.stage <= most) {
    if (p.zero.stage == 3 && p.device.kind == DeviceKind::host) p.weights = WeightLayout::plain;
    all.add({Change::set_zero_stage_to, p.zero.stage, p});
  }
}

/// Adds `p` with its micro-batch halved `least` to `most` times, as far as that goes.
constexpr void add_smaller_batches(Proposals& all, Policy p, Change packed, Change padded,
                                   int least, int most) {
  for (int n = 0; n <= most; ++n) {
    if (n >= least)
      all.add({p.batch.packed() ? packed : padded,
               p.batch.packed() ? p.batch.packed_tokens : p.batch.sentences, p});
    if (!halve(p.batch)) return;
  }
}

}  // namespace budget

/// Changes of `p` in order of what they cost in speed: a share of the states for each data rank
/// (stage 1 sends as many bytes; 2 and 3 send some once a micro-batch), a micro-batch of down to a
/// quarter (products get a little smaller, a few per cent), plain weights (a host's products lose a
/// fifth), full recompute (a third more arithmetic), then a smaller and smaller micro-batch on top,
/// all of it together, and at last a larger device, which always fits.
constexpr budget::Proposals proposals(const Policy& p) {
  const bool recomputes = p.recompute == Recompute::full;
  const bool has_copies = p.device.kind == DeviceKind::host && p.weights == WeightLayout::packed;
  Policy plain = p, again = p, both = p, larger = p;
  plain.weights = both.weights = WeightLayout::plain;
  again.recompute = both.recompute = Recompute::full;
  larger.device.memory = round_up(plan_memory(p).total(), GiB);

  budget::Proposals all;
  all.add({Change::nothing_needed, 0, p});
  budget::add_zero_stages(all, p);
  budget::add_smaller_batches(all, p, Change::set_batch_packed_tokens_to,
                              Change::set_batch_sentences_to, 1, 2);
  if (has_copies) all.add({Change::set_weights_to_plain, 0, plain});
  if (recomputes)
    budget::add_smaller_batches(all, p, Change::set_batch_packed_tokens_to,
                                Change::set_batch_sentences_to, 3, 16);
  else
    all.add({Change::set_recompute_to_full, 0, again});
  if (!recomputes)
    budget::add_smaller_batches(all, again,
                                Change::set_recompute_to_full_and_batch_packed_tokens_to,
                                Change::set_recompute_to_full_and_batch_sentences_to, 1, 16);
  if (has_copies)
    budget::add_smaller_batches(
        all, both, Change::set_recompute_to_full_weights_to_plain_and_batch_packed_tokens_to,
        Change::set_recompute_to_full_weights_to_plain_and_batch_sentences_to, recomputes ? 1 : 0,
        16);
  all.add({Change::get_a_device_of_GiB, int(larger.device.memory / GiB), larger});
  return all;
}

/// The first proposal that fits.
constexpr Suggestion cheapest_fix(const Policy& p) {
  const budget::Proposals all = proposals(p);
  int i = 0;
  while (!fits(all.rows[i].policy)) ++i;
  return {all.rows[i].what, all.rows[i].value, plan_memory(all.rows[i].policy).total()};
}

/// The policy after a suggested change.
constexpr Policy apply(const Policy& p, const Suggestion& s) {
  const budget::Proposals all = proposals(p);
  int i = 0;
  while (all.rows[i].what != s.what || all.rows[i].value != s.value) ++i;
  return all.rows[i].policy;
}

// templates --------------------------------------------------------------------------------------

namespace say {

template <class Size> struct plan_needs {};
template <class Size> struct device_has {};
template <Change What, int Value, class Result> struct cheapest_fix {};
template <class Needs, class Has> inline constexpr bool budget_is_met = false;

template <class Needs, class Has, class Fix> struct memory_budget_exceeded {
  static_assert(
      budget_is_met<Needs, Has>,
      "memory budget exceeded. The plan is listed around this message, one category per "
      "line; cheapest_fix is the change of the policy that fits and costs the least speed. Where "
      "it makes the batch smaller, raise batch.accumulation by the same factor.");
};
struct memory_budget_met {};

}  // namespace say

/// cheapest_fix(P::policy), one proposal and one constant at a time: clang bounds the steps of
/// each, and a long search in one would end in that complaint instead of the table.
template <class P> inline constexpr budget::Proposals proposals_for = proposals(P::policy);
template <class P, int I>
inline constexpr bytes total_of_proposal = plan_memory(proposals_for<P>.rows[I].policy).total();
template <class P, int I = 0> constexpr Suggestion cheapest_fix_for() {
  constexpr const Proposal& now = proposals_for<P>.rows[I];
  if constexpr (total_of_proposal<P, I> <= now.policy.device.memory)
    return {now.what, now.value, total_of_proposal<P, I>};
  else
    return cheapest_fix_for<P, I + 1>();
}

/// The graph of a policy.
template <class P> struct GraphOf {
  static constexpr Graph graph = derive_graph(P::policy);
  static_assert(every_parameter_has_one_gradient(graph),
                "internal: a parameter has no gradient, or two");
  static_assert(P::policy.parallel.tensor == 1 ||
                    tensor_rank_does_what_the_model_does(derive_whole_graph(P::policy), graph,
                                                         P::policy.parallel.sequence),
                "internal: a tensor rank's programs are not the model's");
};

/// The plan of one rank of a pipeline stage, and its proofs.
template <class P, int Stage> struct PlanOfStage {
  static constexpr MemoryPlan plan = plan_memory(GraphOf<P>::graph, P::policy, Stage);

  static_assert(no_live_tensors_overlap(GraphOf<P>::graph, P::policy, plan, Stage),
                "internal: two live tensors overlap");
  static_assert(blocks_chain(GraphOf<P>::graph, plan, P::policy), "internal: blocks do not chain");
  static_assert(regions_tile_the_arena(plan),
                "internal: regions of the arena overlap or leave a gap");
};

/// The plans of a policy's pipeline stages, and the verdict on `plan`, that of the rank that needs
/// most. Each category is the base of the next, so the compiler's own backtrace prints them as a
/// table, the most tunable ones next to the message.
template <class P> struct PlanOf {
  static constexpr int stages = P::policy.parallel.pipeline;

 private:
  template <int... Stage>
  static constexpr Table<MemoryPlan, stages> plan_all(std::integer_sequence<int, Stage...>) {
    Table<MemoryPlan, stages> all;
    (all.add(PlanOfStage<P, Stage>::plan), ...);
    return all;
  }
  static constexpr int largest(const Table<MemoryPlan, stages>& all) {
    int most = 0;
    for (int i = 1; i < stages; ++i)
      if (all.rows[i].total() > all.rows[most].total()) most = i;
    return most;
  }

 public:
  static constexpr Table<MemoryPlan, stages> of_stage =
      plan_all(std::make_integer_sequence<int, stages>{});
  static constexpr MemoryPlan plan = of_stage.rows[largest(of_stage)];
  static constexpr bool fits = plan.total() <= P::policy.device.memory;

 private:
  template <bool Fits, class Q> struct verdict_of { using type = say::memory_budget_met; };
  template <class Q>  // only a policy that does not fit pays for the search
  struct verdict_of<false, Q> {
    static constexpr Suggestion fix = cheapest_fix_for<Q>();
    using type = say::memory_budget_exceeded<
        say::plan_needs<say::gib<plan.total()>>, say::device_has<say::gib<Q::policy.device.memory>>,
        say::cheapest_fix<fix.what, fix.value, say::plan_needs<say::gib<fix.total>>>>;
  };

 public:
  template <class Size> struct activations : verdict_of<fits, P>::type {};
  template <class Size> struct workspace : activations<say::gib<plan.activations()>> {};
  template <class Size> struct weight_copies : workspace<say::gib<plan.workspace()>> {};
  template <class Size> struct communication : weight_copies<say::gib<plan.weight_copies.size>> {};
  template <class Size>
  struct optimizer_state : communication<say::gib<plan.communication.size>> {};
  template <class Size> struct gradients : optimizer_state<say::gib<plan.optimizer_state()>> {};
  template <class Size> struct parameters : gradients<say::gib<plan.gradients.size>> {};
  template <class Size> struct batch_and_runtime : parameters<say::gib<plan.parameters.size>> {};
  using check = batch_and_runtime<say::gib<plan.batch.size + plan.runtime>>;
};

}  // namespace ctrain
