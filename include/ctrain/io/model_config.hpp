/// \file  A policy's model as Hugging Face's config.json has it.   floor 7: io
#pragma once

#include <ctrain/core/decimal.hpp>
#include <ctrain/io/config_json.hpp>
#include <ctrain/policy/model_shape.hpp>

#include <string>
#include <utility>
#include <vector>

namespace ctrain {

/// The config.json of a model; `labels` are the names of its classes, in order.
inline HfConfig hugging_face_config(const ModelShape& m, std::vector<std::string> labels) {
  HfConfig config = m.norm == NormPlacement::pre_layer_norm ? HfConfig{} : bert_config();
  config.vocab_size = m.vocabulary;
  config.hidden_size = m.hidden;
  config.num_hidden_layers = m.layers;
  config.num_attention_heads = m.heads;
  config.intermediate_size = m.feed_forward;
  config.hidden_act = m.activation == Activation::gelu_tanh ? "gelu_new" : "gelu";
  config.hidden_dropout_prob = as_written(m.hidden_dropout);
  config.attention_probs_dropout_prob = as_written(m.attention_dropout);
  config.max_position_embeddings = m.positions;
  config.type_vocab_size = m.token_types;
  config.initializer_range = as_written(m.initializer_range);
  config.layer_norm_eps = as_written(m.layer_norm_epsilon);
  config.labels = std::move(labels);
  return config;
}

}  // namespace ctrain
