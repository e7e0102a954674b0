/// \file  One run laid out on one rank and on two: four micro-batches a step, sums in one tree.
#pragma once

#include <ctrain/ctrain.hpp>

#include "tiny.hpp"

template <int Ranks> struct TinyRanks {
  static constexpr ctrain::Policy policy{
      .model = tiny_model,
      .batch = {.packed_tokens = 256, .length = 64, .accumulation = 4 / Ranks},
      .optimizer = {.learning_rate = 1e-3f},
      .parallel = {.data = Ranks, .deadline = 10},
      .zero = {.stage = Ranks > 1 ? 1 : 0, .bucket = 64 * ctrain::KiB},
      .deterministic = ctrain::Deterministic::layout_invariant,
      .device = ctrain::host_memory(64 * ctrain::MiB, 2)};
};
