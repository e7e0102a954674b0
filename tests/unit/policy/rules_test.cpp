// Compiling this is the test: each rule broken once, and just kept. That each is one error with a
// sentence is tested by tests/fail/policy.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

#include <catch2/catch.hpp>

#include <limits>

namespace {

using namespace ctrain;

/// A valid policy after a change, which is the type of a lambda.
template <class Change> struct With {
  static constexpr Policy changed() {
    Policy p{.batch = {.packed_tokens = 2048}, .device = host_memory(64 * GiB)};
    Change{}(p);
    return p;
  }
  static constexpr Policy policy = changed();
};
template <class Change> inline constexpr bool valid = ValidPolicy<With<Change>>;
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

static_assert(valid<decltype([](Policy&) {})>);

// the model
static_assert(!valid<decltype([](Policy& p) { p.model.vocabulary = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.layers = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.hidden = -16; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.heads = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.feed_forward = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.vocabulary = 2147483647; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.layers = 4097; })>);
static_assert(valid<decltype([](Policy& p) { p.model.layers = 4096; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.hidden = 131072; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.feed_forward = 524288; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.labels = 65537; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.heads = 7; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.heads = 256; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.feed_forward = 8200; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.hidden = 2056; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.labels = 1; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.token_types = 1; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.positions = 513; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.positions = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.hidden_dropout = 1; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.attention_dropout = -0.1f; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.attention_dropout = not_a_number; })>);
static_assert(valid<decltype([](Policy& p) { p.model.hidden_dropout = 0.999f; })>);
static_assert(valid<decltype([](Policy& p) { p.model.hidden_dropout = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.layer_norm_epsilon = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.layer_norm_epsilon = not_a_number; })>);
static_assert(!valid<decltype([](Policy& p) { p.model.initializer_range = -0.02f; })>);

// the batch
static_assert(!valid<decltype([](Policy& p) { p.batch = {.length = 128}; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch.length = 513; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch.length = 4; })>);
static_assert(valid<decltype([](Policy& p) { p.batch.length = 5; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch.packed_tokens = 112; })>);
static_assert(valid<decltype([](Policy& p) { p.batch.packed_tokens = 128; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch.packed_tokens = 2047; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch.packed_tokens = -2048; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch.sentences = 1025; })>);
static_assert(valid<decltype([](Policy& p) { p.batch.sentences = 1024; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch.sentences = -1; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch = {.sentences = 2147483647}; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch.packed_tokens = 1 << 23; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch.accumulation = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.batch.accumulation = 65537; })>);
static_assert(valid<decltype([](Policy& p) { p.batch.accumulation = 65536; })>);

// precision
constexpr Precision scaled{.compute = Compute::bf16, .loss_scale = grad_scaler};
static_assert(!valid<decltype([](Policy& p) { p.precision = scaled; })>);
static_assert(fp16_and_a_loss_scale_go_together<true, true>);
static_assert(!fp16_and_a_loss_scale_go_together<true, false>);
static_assert(!valid<decltype([](Policy& p) { p.precision.gradients = Compute::bf16; })>);
static_assert(!valid<decltype([](Policy& p) { p.precision.loss_scale.initial = 1000; })>);
static_assert(!valid<decltype([](Policy& p) { p.precision.loss_scale.initial = infinity; })>);
static_assert(!valid<decltype([](Policy& p) { p.precision.loss_scale.minimum = -1; })>);
static_assert(!valid<decltype([](Policy& p) { p.precision.loss_scale.minimum = 131072; })>);
static_assert(!valid<decltype([](Policy& p) { p.precision.loss_scale.factor = 1; })>);
static_assert(!valid<decltype([](Policy& p) { p.precision.loss_scale.window = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.precision.loss_scale.hysteresis = 0; })>);
static_assert(valid<decltype([](Policy& p) { p.precision.loss_scale.factor = 4; })>);

// optimizer and schedule
static_assert(!valid<decltype([](Policy& p) { p.optimizer.beta1 = 1; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.beta2 = -0.1f; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.learning_rate = -1e-5f; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.learning_rate = infinity; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.epsilon = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.weight_decay = not_a_number; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.clip = -1; })>);
static_assert(valid<decltype([](Policy& p) { p.optimizer.clip = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.schedule.warmup = 1.5f; })>);
static_assert(valid<decltype([](Policy& p) { p.schedule.warmup = 1; })>);
static_assert(
    !valid<decltype([](Policy& p) { p.schedule = {.decay = Decay::polynomial, .end = 1e-5f}; })>);
static_assert(
    !valid<decltype([](Policy& p) { p.schedule = {.decay = Decay::polynomial, .power = 0}; })>);
static_assert(valid<decltype([](Policy& p) { p.schedule = {.decay = Decay::polynomial}; })>);
static_assert(valid<decltype([](Policy& p) { p.schedule.power = 0; })>);  // linear: not used

// optimizers: what each asks for
static_assert(valid<decltype([](Policy& p) { p.optimizer.kind = OptimizerKind::lamb; })>);
static_assert(valid<decltype([](Policy& p) { p.optimizer.kind = OptimizerKind::one_bit_adam; })>);
static_assert(valid<decltype([](Policy& p) { p.optimizer.kind = OptimizerKind::zero_one_adam; })>);
static_assert(!signs_depend_on_the_layout<true, true> && signs_depend_on_the_layout<true, false>);
static_assert(!trust_ratios_are_of_whole_tensors<true, 1, 1> &&
              !trust_ratios_are_of_whole_tensors<true, 0, 2> &&
              trust_ratios_are_of_whole_tensors<true, 0, 1>);
static_assert(valid<decltype([](Policy& p) { p.optimizer.kind = OptimizerKind::adam_l2; })>);
/// Which splits each optimizer takes.
template <OptimizerKind Kind, int Stage, int Data, int Tensor, int Pipeline> struct Split4 {
  static constexpr Policy policy{.batch = {.packed_tokens = 2048},
                                 .optimizer = {.kind = Kind},
                                 .parallel = {.data = Data, .tensor = Tensor, .pipeline = Pipeline},
                                 .zero = {.stage = Stage},
                                 .device = host_memory(256 * GiB)};
};
template <OptimizerKind Kind> constexpr bool takes_whole_tensors_only() {
  return ValidPolicy<Split4<Kind, 0, 2, 1, 1>> && !ValidPolicy<Split4<Kind, 1, 2, 1, 1>> &&
         !ValidPolicy<Split4<Kind, 2, 2, 1, 1>> && !ValidPolicy<Split4<Kind, 3, 2, 1, 1>> &&
         !ValidPolicy<Split4<Kind, 0, 1, 2, 1>> && !ValidPolicy<Split4<Kind, 0, 2, 2, 1>>;
}
static_assert(takes_whole_tensors_only<OptimizerKind::lamb>());
static_assert(takes_whole_tensors_only<OptimizerKind::one_bit_adam>());
static_assert(takes_whole_tensors_only<OptimizerKind::one_bit_lamb>());
static_assert(ValidPolicy<Split4<OptimizerKind::lamb, 0, 2, 1, 2>>);  // a stage has whole tensors
static_assert(!ValidPolicy<Split4<OptimizerKind::one_bit_adam, 0, 2, 1, 2>>);
static_assert(!ValidPolicy<Split4<OptimizerKind::one_bit_lamb, 0, 2, 1, 2>>);
static_assert(ValidPolicy<Split4<OptimizerKind::adamw_torch, 1, 2, 2, 1>>);

static_assert(!sums_of_signs_are_of_whole_states<true, 1> &&
              sums_of_signs_are_of_whole_states<true, 0> &&
              sums_of_signs_are_of_whole_states<false, 3>);
static_assert(!sums_of_signs_are_among_data_ranks<true, 2, 1> &&
              !sums_of_signs_are_among_data_ranks<true, 1, 2> &&
              sums_of_signs_are_among_data_ranks<true, 1, 1> &&
              sums_of_signs_are_among_data_ranks<false, 2, 2>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.trust_ratio = {2, 1}; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.trust_ratio.least = not_a_number; })>);
static_assert(valid<decltype([](Policy& p) { p.optimizer.trust_ratio = {0.01f, 10}; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.compression.freeze_step = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.compression.local_step_limit = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.compression.coefficient_beta = 1; })>);
static_assert(!valid<decltype([](Policy& p) { p.optimizer.compression.factor_least = 1.5f; })>);
static_assert(valid<decltype([](Policy& p) { p.optimizer.compression.freeze_step = 1; })>);

// the device
static_assert(!valid<decltype([](Policy& p) { p.device = {}; })>);
static_assert(!valid<decltype([](Policy& p) { p.device.reserved = -1; })>);
static_assert(!valid<decltype([](Policy& p) { p.device.workers = 0; })>);
static_assert(!valid<decltype([](Policy& p) { p.device.workers = 1025; })>);
static_assert(valid<decltype([](Policy& p) { p.device = a100_40gb; })>);

// what is not a policy
struct Nothing {};
struct Number {
  static constexpr int policy = 3;
};
static_assert(!ValidPolicy<Nothing> && !ValidPolicy<Number>);

static_assert(millionths(0.1f) == 100000 && millionths(-0.1f) == -100000);
static_assert(millionths(infinity) > 0 && millionths(-infinity) < 0 &&
              millionths(not_a_number) < 0);

}  // namespace

TEST_CASE("policy.batch.bounds_rows_and_sentences") {
  constexpr Batch packed{.packed_tokens = 2048}, padded{.sentences = 3, .length = 128};
  STATIC_REQUIRE(packed.rows() == 2048);
  STATIC_REQUIRE(packed.sentence_bound() == 128);
  STATIC_REQUIRE(padded.rows() == 384);
  STATIC_REQUIRE(padded.sentence_bound() == 3);
  STATIC_REQUIRE(padded.row_step() == 384);
  for (int tokens = 16; tokens <= 4096; tokens += 16) {
    const int step = Batch{.packed_tokens = tokens}.row_step();
    CHECK(step % 16 == 0);
    CHECK((tokens + step - 1) / step <= 64);  // shapes that a backend prepares
  }
}
