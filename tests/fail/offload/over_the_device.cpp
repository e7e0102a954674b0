// The 1.3B model streams through 128 MiB matrix by matrix, not block by block.
// ERRORS: 1
// EXPECT: error: .*memory budget exceeded. The plan of this stream
// EXPECT: streamed_memory_exceeded<.*GiB<0, .\.., 3>.*GiB<16, .\.., 7>.*GiB<0, .\.., [12]>
#include <ctrain/check.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.sentences = 1, .length = 512},
      .precision = {ctrain::Compute::bf16, ctrain::Compute::bf16},
      .recompute = ctrain::Recompute::full,
      .offload = {.optimizer = ctrain::OffloadTo::host,
                  .parameters = ctrain::OffloadTo::host,
                  .activations = ctrain::OffloadTo::host,
                  .unit = ctrain::StreamBy::block,
                  .buffers = 1},
      .device = {ctrain::DeviceKind::cuda, 128 * ctrain::MiB}};
};

static_assert(ctrain::check<Streams>());
