// Policies of up to eight ranks on a model small enough to be run thousands of times.
#pragma once

#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/schedule.hpp>

namespace small {

using ctrain::Parallel;

/// Four blocks in buckets of at least one block, so that there are three to five buckets.
template <ctrain::Parallel Ranks, int ZeroStage, int MicroBatches, int Prefetch = 1> struct Policy {
  static constexpr ctrain::Policy policy{
      .model = ctrain::megatron_bert_mini,
      .batch = {.packed_tokens = 512, .accumulation = MicroBatches},
      .parallel = Ranks,
      .zero = {.stage = ZeroStage, .bucket = 3 * ctrain::MiB, .prefetch = Prefetch},
      .device = ctrain::host_memory(4 * ctrain::GiB)};
};

inline constexpr auto zero_bubble = ctrain::PipelineOrder::zero_bubble;

template <class... Policies> struct List {};

using All =
    List<Policy<Parallel{.data = 2}, 0, 1>, Policy<Parallel{.data = 2}, 0, 3>,
         Policy<Parallel{.data = 3}, 0, 2>, Policy<Parallel{.data = 2}, 1, 2>,
         Policy<Parallel{.data = 4}, 1, 1>, Policy<Parallel{.data = 2}, 2, 2>,
         Policy<Parallel{.data = 3}, 2, 1>, Policy<Parallel{.data = 2}, 3, 2>,
         Policy<Parallel{.data = 2}, 3, 1, 0>, Policy<Parallel{.data = 4}, 3, 1, 2>,
         Policy<Parallel{.tensor = 2}, 0, 2>, Policy<Parallel{.data = 2, .tensor = 2}, 3, 1>,
         Policy<Parallel{.pipeline = 2}, 0, 3>, Policy<Parallel{.pipeline = 4}, 0, 4>,
         Policy<Parallel{.data = 2, .pipeline = 2}, 1, 3>,
         Policy<Parallel{.pipeline = 4, .order = zero_bubble}, 0, 5>,
         Policy<Parallel{.data = 2, .pipeline = 2, .order = zero_bubble}, 1, 3>,
         Policy<Parallel{.data = 2, .tensor = 2, .pipeline = 2}, 1, 2>,
         Policy<Parallel{.data = 2, .tensor = 2, .pipeline = 2, .order = zero_bubble}, 0, 2>,
         Policy<Parallel{.tensor = 2, .sequence = true}, 0, 2>,
         Policy<Parallel{.data = 2, .tensor = 2, .sequence = true}, 1, 1>,
         Policy<Parallel{.data = 2, .tensor = 2, .sequence = true}, 3, 2>,
         Policy<Parallel{.data = 1, .tensor = 2, .pipeline = 2, .sequence = true}, 0, 2>>;

/// Calls visit.template operator()<P>() for each.
template <class Visit, class... Policies> void each(List<Policies...>, Visit&& visit) {
  (visit.template operator()<Policies>(), ...);
}

}  // namespace small
