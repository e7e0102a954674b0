/// \file  Known models and known devices.   floor 1: policy
#pragma once

#include <ctrain/policy/policy.hpp>

namespace ctrain {

// models -----------------------------------------------------------------------------------------

/// IDEA-CCNL/Erlangshen-MegatronBert-1.3B: 1,257,371,650 parameters with a head of two labels.
inline constexpr ModelShape erlangshen_1b3{};

/// IDEA-CCNL/Erlangshen-MegatronBert-3.9B-Chinese: 3,838,748,162 parameters with a head of two
/// labels.
inline constexpr ModelShape erlangshen_3b9{.activation = Activation::gelu_erf,
                                           .layers = 48,
                                           .hidden = 2560,
                                           .heads = 40,
                                           .feed_forward = 10240};

/// bert-base-chinese (post-LN).
inline constexpr ModelShape bert_base_chinese{.norm = NormPlacement::post_layer_norm,
                                              .activation = Activation::gelu_erf,
                                              .vocabulary = 21128,
                                              .layers = 12,
                                              .hidden = 768,
                                              .heads = 12,
                                              .feed_forward = 3072};

/// A MegatronBERT that trains from scratch on two cores in minutes: same vocabulary,
/// 8,698,626 parameters with a head of two labels.
inline constexpr ModelShape megatron_bert_mini{
    .positions = 128, .layers = 4, .hidden = 256, .heads = 4, .feed_forward = 1024};

// loss scales ------------------------------------------------------------------------------------

/// torch.amp.GradScaler.
inline constexpr LossScale grad_scaler{.rule = LossScaleRule::grad_scaler};

/// DeepSpeed's "fp16": {"enabled": true, "loss_scale": 0} with ZeRO, as of v0.6.1 and of later
/// versions, whose first scale is 2^32 and 2^16.
inline constexpr LossScale deepspeed_zero_0_6_scale{.rule = LossScaleRule::zero_0_6,
                                                    .initial = 4294967296.0f,
                                                    .minimum = 1,
                                                    .window = 1000,
                                                    .hysteresis = 2};
inline constexpr LossScale deepspeed_zero_scale{
    .rule = LossScaleRule::zero, .minimum = 1, .window = 1000, .hysteresis = 2};

/// The same without ZeRO, which 1-bit optimizers need.
inline constexpr LossScale deepspeed_stage_0_scale{
    .rule = LossScaleRule::stage_0, .minimum = 1, .window = 1000};

/// A scale that stays.
constexpr LossScale fixed_scale(float scale) {
  return {.rule = LossScaleRule::fixed, .initial = scale};
}

// devices ----------------------------------------------------------------------------------------
// `memory` is a little below what such cards are seen to report (a 24 GB card 23.5 to 23.7 GiB, 40
// GB 39.4 to 39.6, 80 GB 79.1 to 79.3), so that a plan which fits on paper fits in the card.
// `reserved`: CUDA context and modules, 0.5 GiB by common reports, to be replaced by measurements;
// the scratch of libraries and kernels is a region of the plan.

inline constexpr Device gpu_24gb{DeviceKind::cuda, 24064 * MiB, 512 * MiB};
inline constexpr Device a100_40gb{DeviceKind::cuda, 40192 * MiB, 512 * MiB};
inline constexpr Device a100_80gb{DeviceKind::cuda, 79 * GiB, 512 * MiB};
inline constexpr Device h100_80gb{DeviceKind::cuda, 79 * GiB, 512 * MiB};
inline constexpr Device h200_141gb{DeviceKind::cuda, 139 * GiB, 512 * MiB};

}  // namespace ctrain
