/// \file  Everything a training run is made of, as one aggregate of constants.   floor 1: policy
#pragma once

#include <ctrain/core/floating.hpp>
#include <ctrain/core/units.hpp>
#include <ctrain/policy/model_shape.hpp>

#include <cstdint>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// The static shape of one micro-batch. Packed (the default): `packed_tokens` rows, sentences laid
/// end to end, at most `sentences` of them. Padded (packed_tokens = 0): `sentences` x `length`
/// rows.
struct Batch {
  int packed_tokens = 0;  // rows of a packed micro-batch; 0: padded
  int sentences = 0;  // padded: sequences in a micro-batch; packed: bound, 0 = packed_tokens / 16
  int length = 128;   // longest sentence, in tokens; what --max_length may not exceed
  int accumulation = 1;  // micro-batches in one optimizer step, of each data rank

  constexpr bool packed() const { return packed_tokens > 0; }
  /// (The product wraps where a rule forbids the batch anyway, so that the rule can say so.)
  constexpr int rows() const {
    return packed() ? packed_tokens : int(std::int64_t{sentences} * length);
  }
  /// Computed rows are a multiple of this, or all: at most 64 shapes, which a backend can prepare.
  constexpr int row_step() const {
    return packed() ? 16 * int((packed_tokens + 1023) / 1024) : rows();
  }
  /// The head's products take one row a sentence, in steps of 16.
  constexpr int filled_sentences(int count) const {
    const int filled = int(round_up(count, 16));
    return filled < sentence_bound() ? filled : sentence_bound();
  }
  constexpr int sentence_bound() const {
    return sentences > 0 || !packed() ? sentences : (packed_tokens + 15) / 16;
  }
};

/// fp32: everything in binary32. bf16: matrix operands and activations between them in bfloat16,
/// sums, residual stream, norms, loss, master weights and optimizer state in binary32. fp16: the
/// same in IEEE binary16, whose small gradients vanish unless the loss is scaled. tf32: fp32, but
/// products on a card's tensor cores read 10 bits of its operands' mantissas.
enum class Compute : std::uint8_t { fp32, bf16, fp16, tf32 };

/// How the scale of the loss moves from step to step (Micikevicius et al., arXiv 1710.03740). Every
/// rule but `fixed` skips a step whose gradient is not finite. `grad_scaler`: torch's GradScaler:
/// lower at once, higher after `window` good steps in a row. `zero_0_6` and `zero`: DeepSpeed's
/// with ZeRO, as of v0.6.1 and later: the first `hysteresis` - 1 overflows are let pass; higher
/// where the steps since the last overflow are a multiple of `window`, counted from 1 later.
/// `stage_0`: DeepSpeed's without ZeRO, which has no hysteresis. backend/math/loss_scale.hpp does
/// it.
enum class LossScaleRule : std::uint8_t { none, fixed, grad_scaler, zero_0_6, zero, stage_0 };

/// Powers of two, so that scaling changes exponents only.
struct LossScale {
  LossScaleRule rule = LossScaleRule::none;
  float initial = 65536;
  float factor = 2;   // up and down
  float minimum = 0;  // 0: none
  int window = 2000;
  int hysteresis = 1;
};

/// `gradients`: how gradients of the blocks' matrices wait for the update. 16 bits halve them; each
/// is rounded once, so there must be one micro-batch in a step.
struct Precision {
  Compute compute = Compute::fp32;
  Compute gradients = Compute::fp32;
  LossScale loss_scale{};  // fp16 only: see presets.hpp for the usual ones
};

/// The type in which a product reads its operands.
constexpr DType storage_of(Compute compute) {
  return compute == Compute::bf16   ? DType::bf16
         : compute == Compute::fp16 ? DType::fp16
                                    : DType::fp32;
}

/// Where matrix operands come from on a host. `packed`: two copies of every weight matrix in the
/// layout the product likes (forward, backward), refreshed once an update; fastest. `plain`: the
/// row-major master weights, narrowed on the way into a product; smallest.
enum class WeightLayout : std::uint8_t { packed, plain };

/// `adamw_torch`: torch.optim.AdamW. `adamw_hugging_face`: transformers' former AdamW, whose
/// epsilon is not rescaled and whose decay acts on the updated weight. `adam_l2`: torch.optim.Adam,
/// whose decay is a part of the gradient. `lamb`: arXiv 1904.00962. Data ranks of the others send
/// one bit an element: `one_bit_adam` (arXiv 2102.02888), `one_bit_lamb` (arXiv 2104.06069) and
/// `zero_one_adam` (arXiv 2202.06009).
enum class OptimizerKind : std::uint8_t {
  adamw_torch,
  adamw_hugging_face,
  adam_l2,
  lamb,
  one_bit_adam,
  one_bit_lamb,
  zero_one_adam
};

/// Where a paper and DeepSpeed differ. LAMB: DeepSpeed corrects the bias of the whole update,
/// outside the trust ratio, which it bounds. 1-bit methods: DeepSpeed corrects no bias, and the
/// first gradient of a run is lost. 0/1 Adam, which neither corrects: trainer/zero_one_update.hpp.
enum class Compat : std::uint8_t { paper, deepspeed };

constexpr bool is_adam(OptimizerKind kind) {
  return kind <= OptimizerKind::adam_l2;
}
/// Whether data ranks send each other one bit an element.
constexpr bool sends_signs(OptimizerKind kind) {
  return kind >= OptimizerKind::one_bit_adam;
}

constexpr bool has_trust_ratio(OptimizerKind kind) {
  return kind == OptimizerKind::lamb || kind == OptimizerKind::one_bit_lamb;
}

/// Bounds of LAMB's ratio of a tensor's norm and its update's.
struct TrustRatio {
  float least = 0;
  float most = 3e38f;
};

/// What 1-bit methods are told beside the numbers of Adam or LAMB, by DeepSpeed's defaults.
struct Compression {
  int freeze_step = 100000;       // the variance is frozen after that many updates
  int variance_scaler = 16;       // zero_one_adam: variance steps until their interval doubles
  int local_step_scaler = 32678;  // zero_one_adam: steps until the interval of syncs doubles
  int local_step_limit = 16;      // zero_one_adam: the longest such interval
  float coefficient_beta = 0.9f;  // one_bit_lamb: of the moving average of trust ratios
  float factor_least = 0.5f, factor_most = 4.0f;  // one_bit_lamb: bounds of the variance's factor
  float factor_step = 0.1f;                       // one_bit_lamb: its relative change in a step
};

/// Which parameters decay. `fengshenbang_substring`: all but those whose Hugging Face name contains
/// "bias", "LayerNorm.bias" or "LayerNorm.weight", as the original script has it; MegatronBERT's
/// norms are called `ln`, so their gains do decay there. `norm_and_bias_exempt`: what was meant.
enum class DecayRule : std::uint8_t { norm_and_bias_exempt, fengshenbang_substring };

struct Optimizer {
  OptimizerKind kind = OptimizerKind::adamw_torch;
  float learning_rate = 1e-5f;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float epsilon = 1e-8f;
  float weight_decay = 0.01f;
  DecayRule decay = DecayRule::norm_and_bias_exempt;
  Compat compat = Compat::paper;
  TrustRatio trust_ratio{};   // lamb, one_bit_lamb
  Compression compression{};  // one_bit_adam, one_bit_lamb, zero_one_adam
  float clip = 1.0f;          // bound of the global gradient norm; 0: no clipping
};

/// Linear warm-up from 0, then decay. `linear` reaches 0 at the last step; `polynomial` reaches
/// `end` with the given power.
enum class Decay : std::uint8_t { linear, polynomial };

struct LearningRateSchedule {
  Decay decay = Decay::linear;
  float warmup = 0.01f;  // share of all steps
  float power = 1.0f;    // polynomial only
  float end = 1e-7f;     // polynomial only
};

/// What backward computes again instead of keeping. `full`: each block keeps its input only (in
/// BERT also two numbers a row, of the norm that ends it).
enum class Recompute : std::uint8_t { none, full };

enum class DeviceKind : std::uint8_t { host, cuda };

/// Where a step runs and how many bytes its plan may take. `reserved` is what a runtime takes for
/// itself there (a CUDA context), counted before the plan. `workers` bounds the
/// host threads that have a workspace of their own in the plan (a host only).
struct Device {
  DeviceKind kind = DeviceKind::host;
  bytes memory = 0;
  bytes reserved = 0;
  int workers = 8;
};

/// In which order a pipeline's stages take their micro-batches. `one_forward_one_backward`:
/// PipeDream flush (arXiv 2104.04473). `zero_bubble`: ZB-H1 (arXiv 2401.10241), which computes
/// gradients of weights apart from those of inputs, and late where a stage would wait; same memory
/// at its peak.
enum class PipelineOrder : std::uint8_t { one_forward_one_backward, zero_bubble };

/// How one optimizer step is split over ranks, data x tensor x pipeline of them. `data`: each has
/// micro-batches of its own. `tensor`: each has some heads, some of the feed-forward features and
/// some rows of the word table (arXiv 1909.08053). `sequence`: tensor ranks also split the rows of
/// the stream between their matrices (arXiv 2205.05198). `pipeline`: each has some blocks.
/// `deadline`: a rank that waited so many seconds for another, and got nothing, names it and ends.
/// Of steps that a card replays, it is the end of a step that it waits for.
struct Parallel {
  int data = 1;
  int tensor = 1;
  int pipeline = 1;
  bool sequence = false;
  PipelineOrder order = PipelineOrder::one_forward_one_backward;
  float deadline = 60;

  constexpr int ranks() const { return data * tensor * pipeline; }
};

/// What data ranks hold once instead of each for itself (arXiv 1910.02054): from stage 1 the
/// optimizer state, from 2 the gradients, from 3 the parameters. `bucket`: gradients are reduced,
/// and parameters gathered, in runs of whole segments (embedding, blocks, head) of at least so many
/// bytes. `prefetch`: buckets that stage 3 gathers ahead of the one in use.
struct Zero {
  int stage = 0;
  bytes bucket = 64 * MiB;
  int prefetch = 1;
};

/// What leaves every bit of weights and optimizer state as it was. `fixed_layout`: reruns, threads,
/// stop and resume. `layout_invariant`: also the number of data ranks and pipeline stages, the
/// stage of ZeRO, and resuming on others, for equal data x accumulation: the gradients of a step's
/// micro-batches are added in one balanced tree, which takes log2(accumulation) more buffers.
enum class Deterministic : std::uint8_t { fixed_layout, layout_invariant };

/// Where something waits while a step does not need it, from near to far.
enum class OffloadTo : std::uint8_t { none, host, disk };

/// When weights are updated that stream, since the clip needs the norm of all gradients.
/// `deferred`: each unit just before its forward in the next step, or before anybody reads weights.
/// `second_pass`: at the end of the step, which reads weights once more.
enum class OffloadClipping : std::uint8_t { second_pass, deferred };

/// What passes through the device at once: a block, or one matrix of it with its neighbours.
enum class StreamBy : std::uint8_t { block, matrix };

/// What leaves the device. `optimizer`: moments, gradients and the weights that the update works
/// on, which then happens on the host. `gradients`: where they wait for it (none: with the
/// moments). `parameters`: weights come to the device for the time of their use. `activations`:
/// what a block keeps from forward to backward. The micro-batches of a step share each pass over
/// the weights.
struct Offload {
  OffloadTo optimizer = OffloadTo::none;
  OffloadTo gradients = OffloadTo::none;
  OffloadTo parameters = OffloadTo::none;
  OffloadTo activations = OffloadTo::none;
  OffloadClipping clipping = OffloadClipping::second_pass;
  StreamBy unit = StreamBy::block;
  int buffers = 2;         // on the device, of weights and of gradients; 1: nothing overlaps
  bytes piece = 32 * MiB;  // of weights: what the host works on at once

  constexpr bool any() const {
    return optimizer != OffloadTo::none || gradients != OffloadTo::none ||
           parameters != OffloadTo::none || activations != OffloadTo::none;
  }
  constexpr bool to_disk() const {
    return optimizer == OffloadTo::disk || gradients == OffloadTo::disk ||
           parameters == OffloadTo::disk || activations == OffloadTo::disk;
  }
};

/// One policy is one training run. Name the options you care about; every other has its default
/// here.
struct Policy {
  ModelShape model{};
  Batch batch{};
  Precision precision{};
  WeightLayout weights = WeightLayout::packed;
  Optimizer optimizer{};
  LearningRateSchedule schedule{};
  Recompute recompute = Recompute::none;
  Parallel parallel{};
  Zero zero{};
  Deterministic deterministic = Deterministic::fixed_layout;
  Offload offload{};
  Device device{};
  std::uint64_t seed = 42;  // what --seed replaces

  constexpr DType compute_type() const { return storage_of(precision.compute); }
};

// concepts ---------------------------------------------------------------------------------------

/// A struct that names a policy: `struct Mine { static constexpr ctrain::Policy policy{...}; };`.
template <class P>
concept HasPolicy = requires {
  Policy{P::policy};
};

// functions --------------------------------------------------------------------------------------

/// Main memory of the machine, as a device of that many bytes, worked on by at most `workers`
/// threads.
constexpr Device host_memory(bytes memory, int workers = Device{}.workers) {
  return {.kind = DeviceKind::host, .memory = memory, .reserved = 0, .workers = workers};
}

}  // namespace ctrain
