// The twin of over_the_device.cpp: it compiles.
#include <ctrain/check.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.sentences = 1, .length = 512},
      .precision = {ctrain::Compute::bf16, ctrain::Compute::bf16},
      .recompute = ctrain::Recompute::full,
      .offload = {.optimizer = ctrain::OffloadTo::host,
                  .parameters = ctrain::OffloadTo::host,
                  .activations = ctrain::OffloadTo::host,
                  .unit = ctrain::StreamBy::matrix,
                  .buffers = 1},
      .device = {ctrain::DeviceKind::cuda, 128 * ctrain::MiB}};
};

static_assert(ctrain::check<Streams>());
