// Policies that differ in everything a plan depends on.
#pragma once

#include <ctrain/memory/plan.hpp>

#include <string>

/// Small enough to expand every block. Columns of different widths, so that sizes do not coincide.
constexpr ctrain::ModelShape small_model(ctrain::NormPlacement norm, int layers) {
  return {.norm = norm,
          .vocabulary = 64,
          .positions = 32,
          .layers = layers,
          .hidden = 48,
          .heads = 3,
          .feed_forward = 176,
          .labels = 3};
}

/// Calls visit(policy, what it is) for two and four tensor ranks, with and without split rows.
template <class Visit> void for_each_tensor_policy(Visit&& visit) {
  using namespace ctrain;
  for (const NormPlacement norm : {NormPlacement::pre_layer_norm, NormPlacement::post_layer_norm})
    for (const Compute compute : {Compute::fp32, Compute::bf16})
      for (const Recompute recompute : {Recompute::none, Recompute::full})
        for (const DeviceKind kind : {DeviceKind::host, DeviceKind::cuda})
          for (const Batch& batch :
               {Batch{.packed_tokens = 64, .length = 32}, Batch{.sentences = 3, .length = 24}})
            for (const int layers : {1, 3})
              for (const int tensor : {2, 4})
                for (const bool sequence : {false, true}) {
                  ModelShape m = small_model(norm, layers);
                  m.heads = 4;
                  m.feed_forward = 192;
                  visit(Policy{.model = m,
                               .batch = batch,
                               .precision = {compute},
                               .recompute = recompute,
                               .parallel = {.tensor = tensor, .sequence = sequence},
                               .device = {kind, GiB, 0, 2}},
                        std::string(norm == NormPlacement::pre_layer_norm ? "pre" : "post") +
                            (compute == Compute::fp32 ? " fp32" : " bf16") +
                            (recompute == Recompute::none ? "" : " recompute") +
                            (kind == DeviceKind::host ? " host " : " cuda ") +
                            std::to_string(batch.packed_tokens) + " " + std::to_string(layers) +
                            " layers, tensor " + std::to_string(tensor) +
                            (sequence ? " rows split" : ""));
                }
}

/// Calls visit(policy, what it is) for every combination.
template <class Visit> void for_each_small_policy(Visit&& visit) {
  using namespace ctrain;
  for (const NormPlacement norm : {NormPlacement::pre_layer_norm, NormPlacement::post_layer_norm})
    for (const Compute compute : {Compute::fp32, Compute::bf16})
      for (const Recompute recompute : {Recompute::none, Recompute::full})
        for (const DeviceKind kind : {DeviceKind::host, DeviceKind::cuda})
          for (const Batch& batch :
               {Batch{.packed_tokens = 64, .length = 32}, Batch{.sentences = 3, .length = 24},
                Batch{.packed_tokens = 32, .sentences = 16, .length = 32}})
            for (const int layers : {1, 2, 3, 6}) {
              const Policy p{.model = small_model(norm, layers),
                             .batch = batch,
                             .precision = {compute},
                             .recompute = recompute,
                             .device = {kind, GiB, 0, 2}};
              visit(p, std::string(norm == NormPlacement::pre_layer_norm ? "pre" : "post") +
                           (compute == Compute::fp32 ? " fp32" : " bf16") +
                           (recompute == Recompute::none ? "" : " recompute") +
                           (kind == DeviceKind::host ? " host " : " cuda ") +
                           std::to_string(batch.packed_tokens) + " " + std::to_string(layers) +
                           " layers");
            }
}
