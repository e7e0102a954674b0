/// \file  A model so small that a run of the whole program takes a fraction of a second.
#pragma once

#include <ctrain/policy/model_shape.hpp>

inline constexpr ctrain::ModelShape tiny_model{.vocabulary = 1024,
                                               .positions = 64,
                                               .layers = 2,
                                               .hidden = 64,
                                               .heads = 2,
                                               .feed_forward = 128};
