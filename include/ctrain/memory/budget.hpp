/// \file  Does the plan fit the device? If not: the plan as a table, and the cheapest change that fits.   floor 3: memory
#pragma once

#include <ctrain/core/say.hpp>
#include <ctrain/memory/plan.hpp>
#include <ctrain/memory/proof.hpp>
#include <ctrain/policy/policy.hpp>

#include <type_traits>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// A change of a policy, under the name of the field it sets. A change of the batch multiplies
/// batch.accumulation, so that an optimizer step sees as much as before.
enum class Change : std::uint8_t {
  nothing_needed,
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

// functions --------------------------------------------------------------------------------------

constexpr bool fits(const Policy& p) {
  return plan_memory(p).total() <= p.device.memory;
}

namespace budget {

/// The policy with a micro-batch of 1 / 2^halvings, or a batch of 0 rows where that is not
/// possible.
constexpr Policy with_smaller_batch(Policy p, int halvings) {
  for (int i = 0; i < halvings; ++i) {
    if (p.batch.packed()) {
      const int tokens = p.batch.packed_tokens / 2;
      if (tokens % 16 != 0 || tokens < p.batch.length) return Policy{.batch = {.packed_tokens = 0}};
      p.batch.packed_tokens = tokens;
      if (p.batch.sentences > 1) p.batch.sentences = (p.batch.sentences + 1) / 2;
    } else {
      if (p.batch.sentences < 2 || p.batch.sentences % 2 != 0)
        return Policy{.batch = {.packed_tokens = 0}};
      p.batch.sentences /= 2;
    }
    p.batch.accumulation *= 2;
  }
  return p;
}

constexpr Policy with_plain_weights(Policy p) {
  p.weights = WeightLayout::plain;
  return p;
}
constexpr Policy with_recompute(Policy p) {
  p.recompute = Recompute::full;
  return p;
}

/// The fewest halvings (at least `least`, at most `most`) with which `p` fits; -1 if none.
constexpr int halvings_that_fit(const Policy& p, int least, int most) {
  for (int n = least; n <= most; ++n) {
    const Policy q = with_smaller_batch(p, n);
    if (q.batch.rows() == 0) return -1;
    if (fits(q)) return n;
  }
  return -1;
}

constexpr int batch_value(const Policy& p) {
  return p.batch.packed() ? p.batch.packed_tokens : p.batch.sentences;
}

}  // namespace budget

/// The policy after a suggested change.
constexpr Policy apply(const Policy& p, const Suggestion& s) {
  Policy q = p;
  const bool packed = p.batch.packed();
  switch (s.what) {
    case Change::nothing_needed:
      return p;
    case Change::get_a_device_of_GiB:
      q.device.memory = s.value * GiB;
      return q;
    case Change::set_weights_to_plain:
      return budget::with_plain_weights(p);
    case Change::set_recompute_to_full:
      return budget::with_recompute(p);
    case Change::set_recompute_to_full_and_batch_packed_tokens_to:
    case Change::set_recompute_to_full_and_batch_sentences_to:
      q = budget::with_recompute(p);
      break;
    case Change::set_recompute_to_full_weights_to_plain_and_batch_packed_tokens_to:
    case Change::set_recompute_to_full_weights_to_plain_and_batch_sentences_to:
      q = budget::with_recompute(budget::with_plain_weights(p));
      break;
    default:
      break;
  }
  while (q.batch.rows() > 0 && budget::batch_value(q) > s.value)
    q = budget::with_smaller_batch(q, 1);
  (packed ? q.batch.packed_tokens : q.batch.sentences) = s.value;
  return q;
}

/// The first change that fits, tried in order of what it costs in speed: a micro-batch of down to a
/// quarter (products get a little smaller, a few per cent), plain weights (a host's products lose a
/// fifth), full recompute (a third more arithmetic), then a smaller and smaller micro-batch on top,
/// both together, and at last a larger device.
constexpr Suggestion cheapest_fix(const Policy& p) {
  const bool packed = p.batch.packed();
  const bool has_copies = p.device.kind == DeviceKind::host && p.weights == WeightLayout::packed;
  const auto told = [](Change what, int value, const Policy& q) {
    return Suggestion{what, value, plan_memory(q).total()};
  };
  if (fits(p)) return told(Change::nothing_needed, 0, p);
  if (const int n = budget::halvings_that_fit(p, 1, 2); n > 0) {
    const Policy q = budget::with_smaller_batch(p, n);
    return told(packed ? Change::set_batch_packed_tokens_to : Change::set_batch_sentences_to,
                budget::batch_value(q), q);
  }
  if (const Policy q = budget::with_plain_weights(p); has_copies && fits(q))
    return told(Change::set_weights_to_plain, 0, q);
  const Policy again = budget::with_recompute(p);
  if (p.recompute == Recompute::none && fits(again))
    return told(Change::set_recompute_to_full, 0, again);
  if (const int n = budget::halvings_that_fit(again, 1, 16); n > 0) {
    const Policy q = budget::with_smaller_batch(again, n);
    return told(packed ? Change::set_recompute_to_full_and_batch_packed_tokens_to
                       : Change::set_recompute_to_full_and_batch_sentences_to,
                budget::batch_value(q), q);
  }
  const Policy plain = budget::with_plain_weights(again);
  if (const int n = has_copies ? budget::halvings_that_fit(plain, 0, 16) : -1; n >= 0) {
    const Policy q = budget::with_smaller_batch(plain, n);
    return told(packed ? Change::set_recompute_to_full_weights_to_plain_and_batch_packed_tokens_to
                       : Change::set_recompute_to_full_weights_to_plain_and_batch_sentences_to,
                budget::batch_value(q), q);
  }
  const bytes needed = plan_memory(p).total();
  return {Change::get_a_device_of_GiB, int((needed + GiB - 1) / GiB), needed};
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
      "line; cheapest_fix is the change of the policy that fits and costs the least speed.");
};
struct memory_budget_met {};

}  // namespace say

/// The graph of a policy.
template <class P> struct GraphOf {
  static constexpr Graph graph = derive_graph(P::policy);
  static_assert(every_parameter_has_one_gradient(graph),
                "internal: a parameter has no gradient, or two");
};

/// The plan of a policy, its proofs, and its verdict. Each category is the base of the next, so the
/// compiler's own backtrace prints them as a table, the most tunable ones next to the message.
template <class P> struct PlanOf {
  static constexpr MemoryPlan plan = plan_memory(GraphOf<P>::graph, P::policy);
  static constexpr bool fits = plan.total() <= P::policy.device.memory;

  static_assert(no_live_tensors_overlap(GraphOf<P>::graph, P::policy, plan),
                "internal: two live tensors overlap");
  static_assert(blocks_chain(GraphOf<P>::graph, plan, P::policy), "internal: blocks do not chain");
  static_assert(regions_tile_the_arena(plan),
                "internal: regions of the arena overlap or leave a gap");

 private:
  template <bool Fits, class Q> struct verdict_of { using type = say::memory_budget_met; };
  template <class Q>  // only a policy that does not fit pays for the search
  struct verdict_of<false, Q> {
    static constexpr Suggestion fix = ctrain::cheapest_fix(Q::policy);
    using type = say::memory_budget_exceeded<
        say::plan_needs<say::gib<plan.total()>>, say::device_has<say::gib<Q::policy.device.memory>>,
        say::cheapest_fix<fix.what, fix.value, say::plan_needs<say::gib<fix.total>>>>;
  };

 public:
  template <class Size> struct activations : verdict_of<fits, P>::type {};
  template <class Size> struct workspace : activations<say::gib<plan.activations()>> {};
  template <class Size> struct weight_copies : workspace<say::gib<plan.workspace()>> {};
  template <class Size>
  struct optimizer_state : weight_copies<say::gib<plan.weight_copies.size>> {};
  template <class Size> struct gradients : optimizer_state<say::gib<plan.optimizer_state()>> {};
  template <class Size> struct parameters : gradients<say::gib<plan.gradients.size>> {};
  template <class Size> struct batch_and_runtime : parameters<say::gib<plan.parameters.size>> {};
  using check = batch_and_runtime<say::gib<plan.batch.size + plan.runtime>>;
};

}  // namespace ctrain
