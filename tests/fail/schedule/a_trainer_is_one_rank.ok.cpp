// The twin of a_trainer_is_one_rank.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/trainer.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.model = ctrain::megatron_bert_mini,
                                         .batch = {.packed_tokens = 512},
                                         .device = ctrain::host_memory(2 * ctrain::GiB)};
};

static_assert(sizeof(ctrain::Verified<Split>));
