/// \file  One run with all states in memory, and with all of them in a file.
#pragma once

#include <ctrain/ctrain.hpp>

#include "tiny.hpp"

template <bool Offloads> struct TinyPlain {
  static constexpr ctrain::Policy policy{
      .model = tiny_model,
      .batch = {.packed_tokens = 256, .length = 64},
      .weights = ctrain::WeightLayout::plain,
      .optimizer = {.learning_rate = 1e-3f},
      .offload = Offloads ? ctrain::Offload{.optimizer = ctrain::OffloadTo::disk,
                                            .parameters = ctrain::OffloadTo::disk,
                                            .activations = ctrain::OffloadTo::host,
                                            .clipping = ctrain::OffloadClipping::deferred,
                                            .piece = 64 * ctrain::KiB}
                          : ctrain::Offload{},
      .device = ctrain::host_memory(64 * ctrain::MiB, 2)};
};
