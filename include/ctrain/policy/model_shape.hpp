/// \file  The shape of an encoder with a classification head, in the field's terms.   floor 1: policy
#pragma once

#include <cstdint>

namespace ctrain {

/// Where a block's norms stand. MegatronBERT normalises before each sublayer and once after the
/// last block; BERT normalises after each residual sum and after the embedding.
enum class NormPlacement : std::uint8_t { pre_layer_norm, post_layer_norm };

/// `gelu_erf` is Hugging Face's "gelu", x * Phi(x); `gelu_tanh` its "gelu_new".
enum class Activation : std::uint8_t { gelu_erf, gelu_tanh };

/// Numbers of a Hugging Face config.json, under the names of the literature.
struct ModelShape {
  NormPlacement norm = NormPlacement::pre_layer_norm;
  Activation activation = Activation::gelu_tanh;
  int vocabulary = 21248;  // rows of the word embedding
  int positions = 512;     // longest sentence, in tokens
  int token_types = 2;     // first and second text of a pair
  int layers = 24;
  int hidden = 2048;
  int heads = 8;
  int feed_forward = 8192;
  int labels = 2;  // classes of the head
  float layer_norm_epsilon = 1e-12f;
  float hidden_dropout = 0.1f;      // embedding sum, both outputs of a block, pooled output
  float attention_dropout = 0.1f;   // attention probabilities
  float initializer_range = 0.02f;  // standard deviation of new weights

  /// 0 where heads do not divide hidden, which is a rule of its own.
  constexpr int head_size() const { return heads < 1 || hidden % heads != 0 ? 0 : hidden / heads; }
  friend constexpr bool operator==(const ModelShape&, const ModelShape&) = default;
};

}  // namespace ctrain
