/// \file  Every rule a policy can break, as a concept and as a sentence.   floor 1: policy
#pragma once

#include <ctrain/policy/policy.hpp>

#include <cstdint>

namespace ctrain {

// A rule is a concept over the numbers it is about (for code: static_assert(!ValidPolicy<Bad>)) and
// a class of the same name and arguments that holds the sentence (for people). Real numbers are
// told in millionths, because clang 14 takes no floating template arguments.

/// A real number as a template argument: parts per million, rounded; not-a-number is INT_MIN.
constexpr int millionths(double value) {
  if (!(value > -2000.0 && value < 2000.0)) return value > 0 ? 2000000000 : -2147483647 - 1;
  return int(value * 1e6 + (value < 0 ? -0.5 : 0.5));
}

/// True for 2^n of every float's exponent.
constexpr bool is_power_of_two(float value) {
  if (!(value >= 1.1754944e-38f && value <= 3e38f)) return false;
  return (bits_as<std::uint32_t>(value) & 0x7fffffu) == 0;
}
/// True for zero and every positive number; false for infinity and not-a-number.
constexpr bool is_zero_or_more(float value) {
  return value >= 0 && value <= 3e38f;
}
/// True where every scale that a step can meet is a power of two.
constexpr bool are_powers_of_two(const LossScale& s) {
  return is_power_of_two(s.initial) && is_power_of_two(s.factor) &&
         (s.minimum == 0 || (is_power_of_two(s.minimum) && s.minimum <= s.initial));
}
constexpr bool is_ordered(const TrustRatio& ratio) {
  return ratio.least >= 0 && ratio.least <= ratio.most;
}
constexpr bool has_intervals(const Compression& c) {
  return c.freeze_step >= 1 && c.variance_scaler >= 1 && c.local_step_scaler >= 1 &&
         c.local_step_limit >= 1;
}
constexpr bool has_bounds(const Compression& c) {
  return c.coefficient_beta >= 0 && c.coefficient_beta < 1 && c.factor_step >= 0 &&
         c.factor_step < 1 && c.factor_least > 0 && c.factor_least <= 1 && c.factor_most >= 1 &&
         c.factor_most < 3e38f;
}

/// Micro-batches in one optimizer step of all ranks, as far as they can be counted.
constexpr int micro_batches_of_step(const Policy& p) {
  const std::int64_t all = std::int64_t{p.batch.accumulation} * p.parallel.data;
  return all < 8388609 ? int(all) : 8388609;
}

/// True for every positive number; false for infinity and not-a-number.
constexpr bool is_positive(float value) {
  return value > 0 && value <= 3e38f;
}

// concepts ---------------------------------------------------------------------------------------
// Each is one expression in parentheses, so that a compiler prints it once, with its values.

template <int Vocabulary, int Layers, int Hidden, int Heads, int FeedForward>
concept model_sizes_are_positive = (Vocabulary > 0 && Layers > 0 && Hidden > 0 && Heads > 0 &&
                                    FeedForward > 0);
template <int Vocabulary, int Layers, int Hidden, int FeedForward, int Labels>
concept model_sizes_are_countable = (Vocabulary <= 4194304 && Layers <= 4096 && Hidden <= 65536 &&
                                     FeedForward <= 262144 && Labels <= 65536);
template <int Hidden, int Heads>
concept heads_divide_hidden = (Hidden % (Heads < 1 ? 1 : Heads) == 0);
template <int Hidden, int HeadSize, int FeedForward>
concept rows_are_whole_vectors = (Hidden % 16 == 0 && HeadSize % 16 == 0 && FeedForward % 16 == 0);
template <int Labels>
concept a_head_tells_two_labels_apart = (Labels >= 2);
template <int TokenTypes>
concept a_pair_has_two_token_types = (TokenTypes >= 2 && TokenTypes <= 65536);
template <int Positions>
concept positions_fit_the_dropout_key = (Positions >= 1 && Positions <= 512);
template <int Length, int Positions>
concept length_is_within_positions = (Length <= Positions);
template <int Length>
concept a_pair_fits_the_length = (Length >= 5);
template <int PackedTokens, int Sentences>
concept a_padded_batch_has_sentences = !(PackedTokens == 0 && Sentences < 1);
template <int PackedTokens, int Length>
concept the_longest_sentence_fits_a_packed_batch = !(PackedTokens > 0 && PackedTokens < Length);
template <int PackedTokens>
concept packed_tokens_are_a_multiple_of_16 = (PackedTokens >= 0 && PackedTokens % 16 == 0);
template <int PackedTokens, int Sentences>
concept packed_sentences_fit_their_tokens =
    !(PackedTokens > 0 && !(Sentences >= 0 && Sentences <= PackedTokens / 2));
template <int PackedTokens, int Sentences>
concept a_micro_batch_is_countable = (PackedTokens <= 4194304 && Sentences <= 8192);
template <int Accumulation>
concept accumulation_is_at_least_one = (Accumulation >= 1);
template <bool GradientsAreNarrow, bool ComputeIsTheSame, int Accumulation>
concept narrow_gradients_are_rounded_once =
    !(GradientsAreNarrow && !(ComputeIsTheSame && Accumulation == 1));
template <bool ComputeIsFp16, bool LossIsScaled>
concept fp16_and_a_loss_scale_go_together = (ComputeIsFp16 == LossIsScaled);
template <bool ComputeIsTf32, bool DeviceIsACard>
concept tf32_needs_tensor_cores = !(ComputeIsTf32 && !DeviceIsACard);
template <bool PowersOfTwo, int FactorMillionths, int Window, int Hysteresis>
concept a_loss_scale_moves_by_powers_of_two = (PowersOfTwo && FactorMillionths >= 2000000 &&
                                               Window >= 1 && Hysteresis >= 1);
template <bool SendsSigns, int ZeroStage>
concept sums_of_signs_are_of_whole_states = !(SendsSigns && ZeroStage > 0);
template <bool SendsSigns, int Tensor, int Pipeline>
concept sums_of_signs_are_among_data_ranks = !(SendsSigns && (Tensor > 1 || Pipeline > 1));
template <bool SendsSigns, bool LayoutInvariant>
concept signs_depend_on_the_layout = !(SendsSigns && LayoutInvariant);
template <bool IsLamb, int ZeroStage, int Tensor>
concept trust_ratios_are_of_whole_tensors = !(IsLamb && (ZeroStage > 0 || Tensor > 1));
template <bool BoundsAreOrdered>
concept a_trust_ratio_has_bounds = (BoundsAreOrdered);
template <bool IntervalsArePositive, bool FactorsAreOrdered>
concept compression_has_intervals_and_bounds = (IntervalsArePositive && FactorsAreOrdered);
template <int Sentences, int MicroBatches>
concept sentences_fit_the_dropout_key = !(std::int64_t{Sentences} * MicroBatches > 8388608);
template <int HiddenMillionths, int AttentionMillionths>
concept dropout_keeps_something = (HiddenMillionths >= 0 && HiddenMillionths <= 999000 &&
                                   AttentionMillionths >= 0 && AttentionMillionths <= 999000);
template <int Beta1Millionths, int Beta2Millionths>
concept betas_are_below_one = (Beta1Millionths >= 0 && Beta1Millionths < 1000000 &&
                               Beta2Millionths >= 0 && Beta2Millionths < 1000000);
template <bool LearningRate, bool Epsilon, bool WeightDecay, bool Clip>
concept optimizer_numbers_are_not_negative = (LearningRate && Epsilon && WeightDecay && Clip);
template <int WarmupMillionths>
concept warmup_is_a_share = (WarmupMillionths >= 0 && WarmupMillionths <= 1000000);
template <bool Polynomial, bool EndIsBelowBase, bool PowerIsPositive>
concept polynomial_decay_goes_down = !(Polynomial && !(EndIsBelowBase && PowerIsPositive));
template <bool LayerNormEpsilonIsPositive>
concept layer_norm_epsilon_is_positive = (LayerNormEpsilonIsPositive == true);
template <bool InitializerRangeIsZeroOrMore>
concept initializer_range_is_a_deviation = (InitializerRangeIsZeroOrMore == true);
template <bool HasMemory>
concept the_device_has_memory = (HasMemory == true);
template <bool Host, int Workers>
concept a_host_has_workers = !(Host && !(Workers >= 1 && Workers <= 1024));
template <int Data, int Tensor, int Pipeline>
concept ranks_are_1_to_64 = (Data >= 1 && Tensor >= 1 && Pipeline >= 1 && Data <= 64 &&
                             Tensor <= 64 && Pipeline <= 64 && Data * Tensor * Pipeline <= 64);
template <bool DeadlineIsPositive>
concept the_deadline_is_positive = (DeadlineIsPositive == true);
template <int Heads, int Tensor>
concept tensor_ranks_divide_heads = (Heads % (Tensor < 1 ? 1 : Tensor) == 0);
template <int FeedForward, int Tensor>
concept tensor_ranks_divide_feed_forward =
    !(Tensor > 1 && FeedForward % (16 * (Tensor < 1 ? 1 : Tensor)) != 0);
template <int Vocabulary, int Tensor>
concept tensor_ranks_divide_vocabulary = (Vocabulary % (Tensor < 1 ? 1 : Tensor) == 0);
template <bool Sequence, int Tensor>
concept sequence_parallel_needs_tensor_ranks = !(Sequence && Tensor < 2);
template <bool Sequence, int Rows, int Tensor>
concept tensor_ranks_divide_rows = !(Sequence && Rows % (Tensor < 1 ? 1 : Tensor) != 0);
template <int Layers, int Pipeline>
concept pipeline_stages_divide_layers = (Layers % (Pipeline < 1 ? 1 : Pipeline) == 0);
template <int Pipeline, int Accumulation>
concept a_pipeline_has_at_most_64_micro_batches = !(Pipeline > 1 && Accumulation > 64);
template <int ZeroStage>
concept zero_stage_is_0_to_3 = (ZeroStage >= 0 && ZeroStage <= 3);
template <int ZeroStage, int Pipeline>
concept zero_stages_2_and_3_have_no_pipeline = !(ZeroStage >= 2 && Pipeline > 1);
template <bool BucketIsPositive, int Prefetch>
concept zero_buffers_are_bounded = (BucketIsPositive && Prefetch >= 0 && Prefetch <= 8);
template <bool LayoutInvariant, int Data, int Accumulation>
concept layout_invariant_sums_are_balanced =
    !(LayoutInvariant && ((Data & (Data - 1)) != 0 || (Accumulation & (Accumulation - 1)) != 0));
template <bool LayoutInvariant, bool ZeroBubble, int Pipeline>
concept layout_invariant_bits_have_one_backward = !(LayoutInvariant && ZeroBubble && Pipeline > 1);
template <bool ZeroBubble, int Pipeline, bool RecomputesAll>
concept zero_bubble_keeps_its_activations = !(ZeroBubble && Pipeline > 1 && RecomputesAll);
template <bool GradientsAreNarrow, int Ranks>
concept narrow_gradients_stay_on_one_rank = !(GradientsAreNarrow && Ranks > 1);
template <int ZeroStage, int Data, bool Packed>
concept shared_parameters_have_no_copies = !(ZeroStage == 3 && Data > 1 && Packed);
template <OffloadTo Optimizer, OffloadTo Parameters, OffloadTo Gradients>
concept what_is_read_oftener_lies_nearer = (Parameters <= Optimizer && Gradients <= Optimizer);
template <OffloadTo Optimizer, OffloadTo Activations>
concept offload_begins_with_the_optimizer =
    !(Optimizer == OffloadTo::none && Activations != OffloadTo::none);
template <bool Offloads, int Ranks>
concept offload_is_for_one_rank = !(Offloads && Ranks > 1);
template <bool Offloads, bool Host, WeightLayout Weights>
concept streamed_weights_have_no_copies = !(Offloads && Host && Weights == WeightLayout::packed);
template <bool Offloads, int Accumulation>
concept offload_has_at_most_64_micro_batches = !(Offloads && Accumulation > 64);
template <StreamBy Unit, OffloadTo Parameters, int Accumulation>
concept matrices_stream_for_one_micro_batch =
    !(Unit == StreamBy::matrix && !(Parameters != OffloadTo::none && Accumulation == 1));
template <bool Offloads, int Layers>
concept a_streamed_model_has_at_most_64_layers = !(Offloads && Layers > 64);
template <bool Offloads, bool IsAdam>
concept streamed_updates_are_of_single_elements = !(Offloads && !IsAdam);
template <int Buffers, bool PieceIsWhole>
concept offload_buffers_are_bounded = (Buffers >= 1 && Buffers <= 4 && PieceIsWhole);

// sentences --------------------------------------------------------------------------------------

namespace rule {

template <int Vocabulary, int Layers, int Hidden, int Heads, int FeedForward>
struct model_sizes_are_positive {
  static_assert(
      ctrain::model_sizes_are_positive<Vocabulary, Layers, Hidden, Heads, FeedForward>,
      "invalid policy: a size of the model is zero or negative. Set every one of model.vocabulary, "
      "model.layers, model.hidden, model.heads and model.feed_forward to at least 1.");
};
template <int Vocabulary, int Layers, int Hidden, int FeedForward, int Labels>
struct model_sizes_are_countable {
  static_assert(
      ctrain::model_sizes_are_countable<Vocabulary, Layers, Hidden, FeedForward, Labels>,
      "invalid policy: a size of the model is beyond what plans count. Set model.vocabulary <= "
      "4194304, model.layers <= 4096, model.hidden <= 65536, model.feed_forward <= 262144 and "
      "model.labels <= 65536.");
};
template <int Hidden, int Heads> struct heads_divide_hidden {
  static_assert(ctrain::heads_divide_hidden<Hidden, Heads>,
                "invalid policy: the hidden size is split evenly over the attention heads. Make "
                "model.hidden a multiple of model.heads.");
};
template <int Hidden, int HeadSize, int FeedForward> struct rows_are_whole_vectors {
  static_assert(
      ctrain::rows_are_whole_vectors<Hidden, HeadSize, FeedForward>,
      "invalid policy: kernels work on 16 elements at a time. Make model.hidden, model.hidden / "
      "model.heads and model.feed_forward multiples of 16.");
};
template <int Labels> struct a_head_tells_two_labels_apart {
  static_assert(ctrain::a_head_tells_two_labels_apart<Labels>,
                "invalid policy: classification needs at least two labels. Set model.labels >= 2.");
};
template <int TokenTypes> struct a_pair_has_two_token_types {
  static_assert(ctrain::a_pair_has_two_token_types<TokenTypes>,
                "invalid policy: the second text of a pair has token type 1. Set "
                "model.token_types between 2 and 65536.");
};
template <int Positions> struct positions_fit_the_dropout_key {
  static_assert(
      ctrain::positions_fit_the_dropout_key<Positions>,
      "invalid policy: a token's dropout identity has 9 bits for its position. Set model.positions "
      "between 1 and 512.");
};
template <int Length, int Positions> struct length_is_within_positions {
  static_assert(ctrain::length_is_within_positions<Length, Positions>,
                "invalid policy: a sentence may not be longer than the position embedding. Set "
                "batch.length <= model.positions.");
};
template <int Length> struct a_pair_fits_the_length {
  static_assert(ctrain::a_pair_fits_the_length<Length>,
                "invalid policy: a pair of texts needs [CLS], two [SEP] and a token of each. Set "
                "batch.length >= 5.");
};
template <int PackedTokens, int Sentences> struct a_padded_batch_has_sentences {
  static_assert(
      ctrain::a_padded_batch_has_sentences<PackedTokens, Sentences>,
      "invalid policy: the batch is empty. Set batch.packed_tokens (packed, the faster) or "
      "batch.sentences (padded to batch.length) to at least 1.");
};
template <int PackedTokens, int Length> struct the_longest_sentence_fits_a_packed_batch {
  static_assert(
      ctrain::the_longest_sentence_fits_a_packed_batch<PackedTokens, Length>,
      "invalid policy: a sentence of batch.length tokens must fit into one packed micro-batch. Set "
      "batch.packed_tokens >= batch.length, or lower batch.length.");
};
template <int PackedTokens> struct packed_tokens_are_a_multiple_of_16 {
  static_assert(ctrain::packed_tokens_are_a_multiple_of_16<PackedTokens>,
                "invalid policy: packed rows are computed 16 at a time. Make batch.packed_tokens a "
                "multiple of 16.");
};
template <int PackedTokens, int Sentences> struct packed_sentences_fit_their_tokens {
  static_assert(ctrain::packed_sentences_fit_their_tokens<PackedTokens, Sentences>,
                "invalid policy: a packed micro-batch cannot hold that many sentences. Set "
                "batch.sentences between 1 and batch.packed_tokens / 2, or 0 for the default bound "
                "of one per 16 tokens.");
};
template <int PackedTokens, int Sentences> struct a_micro_batch_is_countable {
  static_assert(
      ctrain::a_micro_batch_is_countable<PackedTokens, Sentences>,
      "invalid policy: a micro-batch is beyond what plans count. Set batch.packed_tokens <= "
      "4194304 and batch.sentences <= 8192, and reach a larger step with batch.accumulation.");
};
template <int Accumulation> struct accumulation_is_at_least_one {
  static_assert(ctrain::accumulation_is_at_least_one<Accumulation>,
                "invalid policy: an optimizer step has at least one micro-batch. Set "
                "batch.accumulation >= 1.");
};
template <bool GradientsAreNarrow, bool ComputeIsTheSame, int Accumulation>
struct narrow_gradients_are_rounded_once {
  static_assert(
      ctrain::narrow_gradients_are_rounded_once<GradientsAreNarrow, ComputeIsTheSame, Accumulation>,
      "invalid policy: gradients kept in 16 bits are rounded once, by a product of that type. Set "
      "precision.compute = precision.gradients and batch.accumulation = 1, or precision.gradients "
      "= Compute::fp32.");
};
template <bool ComputeIsFp16, bool LossIsScaled> struct fp16_and_a_loss_scale_go_together {
  static_assert(
      ctrain::fp16_and_a_loss_scale_go_together<ComputeIsFp16, LossIsScaled>,
      "invalid policy: gradients in fp16 vanish unless the loss is scaled, and nothing else needs "
      "that. Set precision.loss_scale with Compute::fp16, for example .loss_scale = "
      "ctrain::grad_scaler, and leave it out elsewhere.");
};
template <bool ComputeIsTf32, bool DeviceIsACard> struct tf32_needs_tensor_cores {
  static_assert(ctrain::tf32_needs_tensor_cores<ComputeIsTf32, DeviceIsACard>,
                "invalid policy: TF32 is how a card's tensor cores read fp32. Set "
                "precision.compute = Compute::fp32 on a host, or .device to a card.");
};
template <bool PowersOfTwo, int FactorMillionths, int Window, int Hysteresis>
struct a_loss_scale_moves_by_powers_of_two {
  static_assert(ctrain::a_loss_scale_moves_by_powers_of_two<PowersOfTwo, FactorMillionths, Window,
                                                            Hysteresis>,
                "invalid policy: a loss scale moves exponents only, so that no bit is lost. Make "
                "precision.loss_scale's initial, factor and minimum (or 0) powers of two within "
                "float's range, factor, window and hysteresis at least 2, 1 and 1.");
};
template <bool SendsSigns, int ZeroStage> struct sums_of_signs_are_of_whole_states {
  static_assert(ctrain::sums_of_signs_are_of_whole_states<SendsSigns, ZeroStage>,
                "invalid policy: a 1-bit optimizer compresses momentum, which every data rank "
                "follows in whole, and ZeRO leaves each a share. Set zero.stage to 0.");
};
template <bool SendsSigns, int Tensor, int Pipeline> struct sums_of_signs_are_among_data_ranks {
  static_assert(ctrain::sums_of_signs_are_among_data_ranks<SendsSigns, Tensor, Pipeline>,
                "invalid policy: a 1-bit optimizer compresses whole tensors of whole models, so "
                "that all ranks have one scale. Set parallel.tensor and parallel.pipeline to 1.");
};
template <bool SendsSigns, bool LayoutInvariant> struct signs_depend_on_the_layout {
  static_assert(ctrain::signs_depend_on_the_layout<SendsSigns, LayoutInvariant>,
                "invalid policy: what a 1-bit optimizer loses and keeps depends on who compresses "
                "what. Set deterministic to fixed_layout.");
};
template <bool IsLamb, int ZeroStage, int Tensor> struct trust_ratios_are_of_whole_tensors {
  static_assert(ctrain::trust_ratios_are_of_whole_tensors<IsLamb, ZeroStage, Tensor>,
                "invalid policy: LAMB's trust ratio is of a whole tensor's norms, and ZeRO and "
                "tensor ranks cut tensors. Set zero.stage to 0 and parallel.tensor to 1.");
};
template <bool BoundsAreOrdered> struct a_trust_ratio_has_bounds {
  static_assert(ctrain::a_trust_ratio_has_bounds<BoundsAreOrdered>,
                "invalid policy: LAMB's trust ratio lies between two bounds. Set "
                "optimizer.trust_ratio with 0 <= least <= most.");
};
template <bool IntervalsArePositive, bool FactorsAreOrdered>
struct compression_has_intervals_and_bounds {
  static_assert(
      ctrain::compression_has_intervals_and_bounds<IntervalsArePositive, FactorsAreOrdered>,
      "invalid policy: a number of optimizer.compression is out of range. Set its steps and "
      "intervals to at least 1, coefficient_beta and factor_step within [0, 1), and 0 < "
      "factor_least <= 1 <= factor_most.");
};
template <int Sentences, int MicroBatches> struct sentences_fit_the_dropout_key {
  static_assert(
      ctrain::sentences_fit_the_dropout_key<Sentences, MicroBatches>,
      "invalid policy: a token's dropout identity has 23 bits for its sentence within an optimizer "
      "step. Make the sentences of a micro-batch times batch.accumulation times parallel.data at "
      "most 8388608.");
};
template <int HiddenMillionths, int AttentionMillionths> struct dropout_keeps_something {
  static_assert(ctrain::dropout_keeps_something<HiddenMillionths, AttentionMillionths>,
                "invalid policy: dropout is a probability and keeps something. Set "
                "model.hidden_dropout and model.attention_dropout between 0 and 0.999.");
};
template <int Beta1Millionths, int Beta2Millionths> struct betas_are_below_one {
  static_assert(ctrain::betas_are_below_one<Beta1Millionths, Beta2Millionths>,
                "invalid policy: the moments of Adam decay. Set optimizer.beta1 and "
                "optimizer.beta2 within [0, 1).");
};
template <bool LearningRate, bool Epsilon, bool WeightDecay, bool Clip>
struct optimizer_numbers_are_not_negative {
  static_assert(
      ctrain::optimizer_numbers_are_not_negative<LearningRate, Epsilon, WeightDecay, Clip>,
      "invalid policy: a number of the optimizer is negative, or epsilon is not positive. Set "
      "optimizer.learning_rate, optimizer.weight_decay and optimizer.clip >= 0 and "
      "optimizer.epsilon > 0.");
};
template <int WarmupMillionths> struct warmup_is_a_share {
  static_assert(
      ctrain::warmup_is_a_share<WarmupMillionths>,
      "invalid policy: warm-up is a share of all steps. Set schedule.warmup within [0, 1].");
};
template <bool Polynomial, bool EndIsBelowBase, bool PowerIsPositive>
struct polynomial_decay_goes_down {
  static_assert(
      ctrain::polynomial_decay_goes_down<Polynomial, EndIsBelowBase, PowerIsPositive>,
      "invalid policy: polynomial decay ends below where it starts. Set schedule.end within "
      "[0, optimizer.learning_rate) and schedule.power > 0.");
};
template <bool LayerNormEpsilonIsPositive> struct layer_norm_epsilon_is_positive {
  static_assert(ctrain::layer_norm_epsilon_is_positive<LayerNormEpsilonIsPositive>,
                "invalid policy: a norm divides by the root of a variance plus epsilon. Set "
                "model.layer_norm_epsilon > 0.");
};
template <bool InitializerRangeIsZeroOrMore> struct initializer_range_is_a_deviation {
  static_assert(ctrain::initializer_range_is_a_deviation<InitializerRangeIsZeroOrMore>,
                "invalid policy: new weights are drawn with a standard deviation that is negative. "
                "Set model.initializer_range >= 0.");
};
template <bool HasMemory> struct the_device_has_memory {
  static_assert(
      ctrain::the_device_has_memory<HasMemory>,
      "invalid policy: no memory is named for the plan to fit into. Set device, for example "
      ".device = ctrain::host_memory(8 * ctrain::GiB) or .device = ctrain::a100_40gb.");
};
template <bool Host, int Workers> struct a_host_has_workers {
  static_assert(
      ctrain::a_host_has_workers<Host, Workers>,
      "invalid policy: a host step needs threads to work. Set device.workers between 1 and 1024 "
      "(the second argument of host_memory).");
};
template <int Data, int Tensor, int Pipeline> struct ranks_are_1_to_64 {
  static_assert(ctrain::ranks_are_1_to_64<Data, Tensor, Pipeline>,
                "invalid policy: schedules are proved for 1 to 64 ranks. Set parallel.data, "
                "parallel.tensor and parallel.pipeline to at least 1 and their product to at most "
                "64.");
};
template <bool DeadlineIsPositive> struct the_deadline_is_positive {
  static_assert(ctrain::the_deadline_is_positive<DeadlineIsPositive>,
                "invalid policy: a rank waits some time for another before it gives up. Set "
                "parallel.deadline to a positive number of seconds.");
};
template <int Heads, int Tensor> struct tensor_ranks_divide_heads {
  static_assert(ctrain::tensor_ranks_divide_heads<Heads, Tensor>,
                "invalid policy: whole attention heads are split over tensor ranks. Set "
                "parallel.tensor to a divisor of model.heads.");
};
template <int FeedForward, int Tensor> struct tensor_ranks_divide_feed_forward {
  static_assert(ctrain::tensor_ranks_divide_feed_forward<FeedForward, Tensor>,
                "invalid policy: each tensor rank has whole groups of 16 feed-forward features. "
                "Make model.feed_forward a multiple of 16 * parallel.tensor.");
};
template <int Vocabulary, int Tensor> struct tensor_ranks_divide_vocabulary {
  static_assert(ctrain::tensor_ranks_divide_vocabulary<Vocabulary, Tensor>,
                "invalid policy: rows of the word table are split over tensor ranks. Make "
                "model.vocabulary a multiple of parallel.tensor (unused rows at the end do no "
                "harm).");
};
template <bool Sequence, int Tensor> struct sequence_parallel_needs_tensor_ranks {
  static_assert(ctrain::sequence_parallel_needs_tensor_ranks<Sequence, Tensor>,
                "invalid policy: the rows of the stream are split over tensor ranks, and there is "
                "one. Set parallel.tensor to at least 2, or parallel.sequence to false.");
};
template <bool Sequence, int Rows, int Tensor> struct tensor_ranks_divide_rows {
  static_assert(ctrain::tensor_ranks_divide_rows<Sequence, Rows, Tensor>,
                "invalid policy: with parallel.sequence the rows of a micro-batch are split evenly "
                "over tensor ranks. Make batch.packed_tokens, or batch.sentences * batch.length, a "
                "multiple of parallel.tensor (packed: with 16 or fewer tensor ranks).");
};
template <int Layers, int Pipeline> struct pipeline_stages_divide_layers {
  static_assert(ctrain::pipeline_stages_divide_layers<Layers, Pipeline>,
                "invalid policy: every pipeline stage has the same number of blocks. Set "
                "parallel.pipeline to a divisor of model.layers.");
};
template <int Pipeline, int Accumulation> struct a_pipeline_has_at_most_64_micro_batches {
  static_assert(ctrain::a_pipeline_has_at_most_64_micro_batches<Pipeline, Accumulation>,
                "invalid policy: a pipeline's schedule lists each micro-batch. Set "
                "batch.accumulation to at most 64 and make the micro-batch larger.");
};
template <int ZeroStage> struct zero_stage_is_0_to_3 {
  static_assert(ctrain::zero_stage_is_0_to_3<ZeroStage>,
                "invalid policy: ZeRO has stages 0 to 3. Set zero.stage to one of them.");
};
template <int ZeroStage, int Pipeline> struct zero_stages_2_and_3_have_no_pipeline {
  static_assert(
      ctrain::zero_stages_2_and_3_have_no_pipeline<ZeroStage, Pipeline>,
      "invalid policy: ZeRO stages 2 and 3 send gradients (and parameters) once a micro-batch, "
      "which a pipeline has many of. Set zero.stage to 0 or 1, or parallel.pipeline to 1.");
};
template <bool BucketIsPositive, int Prefetch> struct zero_buffers_are_bounded {
  static_assert(ctrain::zero_buffers_are_bounded<BucketIsPositive, Prefetch>,
                "invalid policy: buffers of collectives have a size and a number. Set zero.bucket "
                "to at least 1 byte and zero.prefetch between 0 and 8.");
};
template <bool LayoutInvariant, int Data, int Accumulation>
struct layout_invariant_sums_are_balanced {
  static_assert(ctrain::layout_invariant_sums_are_balanced<LayoutInvariant, Data, Accumulation>,
                "invalid policy: layout-invariant gradients are added in one balanced tree over "
                "all micro-batches of a step. Set parallel.data and batch.accumulation to powers "
                "of two, or deterministic to fixed_layout.");
};
template <bool LayoutInvariant, bool ZeroBubble, int Pipeline>
struct layout_invariant_bits_have_one_backward {
  static_assert(
      ctrain::layout_invariant_bits_have_one_backward<LayoutInvariant, ZeroBubble, Pipeline>,
      "invalid policy: zero_bubble takes gradients of norms and of weights at different times, and "
      "a layout-invariant sum needs them together. Set parallel.order to one_forward_one_backward, "
      "or deterministic to fixed_layout.");
};
template <bool ZeroBubble, int Pipeline, bool RecomputesAll>
struct zero_bubble_keeps_its_activations {
  static_assert(ctrain::zero_bubble_keeps_its_activations<ZeroBubble, Pipeline, RecomputesAll>,
                "invalid policy: zero_bubble takes gradients of weights later than those of "
                "inputs, from activations that full recompute does not keep. Set recompute to "
                "none, or parallel.order to one_forward_one_backward.");
};
template <bool GradientsAreNarrow, int Ranks> struct narrow_gradients_stay_on_one_rank {
  static_assert(ctrain::narrow_gradients_stay_on_one_rank<GradientsAreNarrow, Ranks>,
                "invalid policy: gradients are added over ranks in binary32. Set "
                "precision.gradients to Compute::fp32, or every number of parallel to 1.");
};
template <int ZeroStage, int Data, bool Packed> struct shared_parameters_have_no_copies {
  static_assert(
      ctrain::shared_parameters_have_no_copies<ZeroStage, Data, Packed>,
      "invalid policy: ZeRO stage 3 keeps a share of the weights, and packed copies would be all "
      "of them. Set weights to WeightLayout::plain, or zero.stage to at most 2.");
};
template <OffloadTo Optimizer, OffloadTo Parameters, OffloadTo Gradients>
struct what_is_read_oftener_lies_nearer {
  static_assert(
      ctrain::what_is_read_oftener_lies_nearer<Optimizer, Parameters, Gradients>,
      "invalid policy: weights and gradients are read at least as often as moments, so they lie no "
      "farther away. Set offload.optimizer to where offload.parameters or offload.gradients is, or "
      "farther.");
};
template <OffloadTo Optimizer, OffloadTo Activations> struct offload_begins_with_the_optimizer {
  static_assert(ctrain::offload_begins_with_the_optimizer<Optimizer, Activations>,
                "invalid policy: the optimizer's state is the largest and is read once a step, so "
                "it leaves the device first. Set offload.optimizer, or offload.activations to "
                "OffloadTo::none (recompute = full makes them small).");
};
template <bool Offloads, int Ranks> struct offload_is_for_one_rank {
  static_assert(
      ctrain::offload_is_for_one_rank<Offloads, Ranks>,
      "invalid policy: the table of a streamed step is that of one device and its link, and "
      "exchanges between ranks have no place in it. Leave offload out, or set "
      "parallel.data, parallel.tensor and parallel.pipeline to 1.");
};
template <bool Offloads, bool Host, WeightLayout Weights> struct streamed_weights_have_no_copies {
  static_assert(ctrain::streamed_weights_have_no_copies<Offloads, Host, Weights>,
                "invalid policy: weights that stream are read where they land. Set weights = "
                "WeightLayout::plain, or leave offload out.");
};
template <bool Offloads, int Accumulation> struct offload_has_at_most_64_micro_batches {
  static_assert(ctrain::offload_has_at_most_64_micro_batches<Offloads, Accumulation>,
                "invalid policy: the table of a streamed step lists each micro-batch. Set "
                "batch.accumulation to at most 64 and make the micro-batch larger.");
};
template <StreamBy Unit, OffloadTo Parameters, int Accumulation>
struct matrices_stream_for_one_micro_batch {
  static_assert(
      ctrain::matrices_stream_for_one_micro_batch<Unit, Parameters, Accumulation>,
      "invalid policy: matrices come to the device one by one for one micro-batch, whose workspace "
      "waits between them. Set offload.parameters and batch.accumulation = 1, or offload.unit = "
      "StreamBy::block.");
};
template <bool Offloads, int Layers> struct a_streamed_model_has_at_most_64_layers {
  static_assert(
      ctrain::a_streamed_model_has_at_most_64_layers<Offloads, Layers>,
      "invalid policy: the table of a streamed step lists each block. Set model.layers to "
      "at most 64, or leave offload out.");
};
template <bool Offloads, bool IsAdam> struct streamed_updates_are_of_single_elements {
  static_assert(ctrain::streamed_updates_are_of_single_elements<Offloads, IsAdam>,
                "invalid policy: states stream in pieces, and this optimizer needs a whole tensor, "
                "or other ranks. Set optimizer.kind to adamw_torch, adamw_hugging_face or adam_l2, "
                "or leave offload out.");
};
template <int Buffers, bool PieceIsWhole> struct offload_buffers_are_bounded {
  static_assert(ctrain::offload_buffers_are_bounded<Buffers, PieceIsWhole>,
                "invalid policy: buffers of a stream have a number and a size. Set offload.buffers "
                "between 1 and 4 and offload.piece to a positive multiple of 64 KiB.");
};

}  // namespace rule

// the two lists ----------------------------------------------------------------------------------

/// True iff a policy breaks no rule. (A variable, because clang 14 stumbles over the policy of a
/// misspelt field where a concept reads it.)
template <class P>
inline constexpr bool keeps_every_rule =
    (model_sizes_are_positive<P::policy.model.vocabulary, P::policy.model.layers,
                              P::policy.model.hidden, P::policy.model.heads,
                              P::policy.model.feed_forward> &&
     model_sizes_are_countable<P::policy.model.vocabulary, P::policy.model.layers,
                               P::policy.model.hidden, P::policy.model.feed_forward,
                               P::policy.model.labels> &&
     heads_divide_hidden<P::policy.model.hidden, P::policy.model.heads> &&
     rows_are_whole_vectors<P::policy.model.hidden, P::policy.model.head_size(),
                            P::policy.model.feed_forward> &&
     a_head_tells_two_labels_apart<P::policy.model.labels> &&
     a_pair_has_two_token_types<P::policy.model.token_types> &&
     positions_fit_the_dropout_key<P::policy.model.positions> &&
     length_is_within_positions<P::policy.batch.length, P::policy.model.positions> &&
     a_pair_fits_the_length<P::policy.batch.length> &&
     a_padded_batch_has_sentences<P::policy.batch.packed_tokens, P::policy.batch.sentences> &&
     the_longest_sentence_fits_a_packed_batch<P::policy.batch.packed_tokens,
                                              P::policy.batch.length> &&
     packed_tokens_are_a_multiple_of_16<P::policy.batch.packed_tokens> &&
     packed_sentences_fit_their_tokens<P::policy.batch.packed_tokens, P::policy.batch.sentences> &&
     a_micro_batch_is_countable<P::policy.batch.packed_tokens,
                                (P::policy.batch.packed() ? 0 : P::policy.batch.sentences)> &&
     accumulation_is_at_least_one<P::policy.batch.accumulation> &&
     narrow_gradients_are_rounded_once<P::policy.precision.gradients != Compute::fp32,
                                       P::policy.precision.compute == P::policy.precision.gradients,
                                       P::policy.batch.accumulation> &&
     fp16_and_a_loss_scale_go_together<P::policy.precision.compute == Compute::fp16,
                                       P::policy.precision.loss_scale.rule !=
                                           LossScaleRule::none> &&
     tf32_needs_tensor_cores<P::policy.precision.compute == Compute::tf32,
                             P::policy.device.kind == DeviceKind::cuda> &&
     a_loss_scale_moves_by_powers_of_two<are_powers_of_two(P::policy.precision.loss_scale),
                                         millionths(P::policy.precision.loss_scale.factor),
                                         P::policy.precision.loss_scale.window,
                                         P::policy.precision.loss_scale.hysteresis> &&
     sums_of_signs_are_of_whole_states<sends_signs(P::policy.optimizer.kind),
                                       P::policy.zero.stage> &&
     sums_of_signs_are_among_data_ranks<sends_signs(P::policy.optimizer.kind),
                                        P::policy.parallel.tensor, P::policy.parallel.pipeline> &&
     signs_depend_on_the_layout<sends_signs(P::policy.optimizer.kind),
                                P::policy.deterministic == Deterministic::layout_invariant> &&
     trust_ratios_are_of_whole_tensors<has_trust_ratio(P::policy.optimizer.kind),
                                       P::policy.zero.stage, P::policy.parallel.tensor> &&
     a_trust_ratio_has_bounds<is_ordered(P::policy.optimizer.trust_ratio)> &&
     compression_has_intervals_and_bounds<has_intervals(P::policy.optimizer.compression),
                                          has_bounds(P::policy.optimizer.compression)> &&
     sentences_fit_the_dropout_key<P::policy.batch.sentence_bound(),
                                   micro_batches_of_step(P::policy)> &&
     dropout_keeps_something<millionths(P::policy.model.hidden_dropout),
                             millionths(P::policy.model.attention_dropout)> &&
     betas_are_below_one<millionths(P::policy.optimizer.beta1),
                         millionths(P::policy.optimizer.beta2)> &&
     optimizer_numbers_are_not_negative<is_zero_or_more(P::policy.optimizer.learning_rate),
                                        is_positive(P::policy.optimizer.epsilon),
                                        is_zero_or_more(P::policy.optimizer.weight_decay),
                                        is_zero_or_more(P::policy.optimizer.clip)> &&
     warmup_is_a_share<millionths(P::policy.schedule.warmup)> &&
     polynomial_decay_goes_down<P::policy.schedule.decay == Decay::polynomial,
                                (P::policy.schedule.end >= 0 &&
                                 P::policy.schedule.end < P::policy.optimizer.learning_rate),
                                is_positive(P::policy.schedule.power)> &&
     layer_norm_epsilon_is_positive<is_positive(P::policy.model.layer_norm_epsilon)> &&
     initializer_range_is_a_deviation<is_zero_or_more(P::policy.model.initializer_range)> &&
     the_device_has_memory<(P::policy.device.memory > 0 && P::policy.device.reserved >= 0)> &&
     a_host_has_workers<P::policy.device.kind == DeviceKind::host, P::policy.device.workers> &&
     ranks_are_1_to_64<P::policy.parallel.data, P::policy.parallel.tensor,
                       P::policy.parallel.pipeline> &&
     the_deadline_is_positive<is_positive(P::policy.parallel.deadline)> &&
     tensor_ranks_divide_heads<P::policy.model.heads, P::policy.parallel.tensor> &&
     tensor_ranks_divide_feed_forward<P::policy.model.feed_forward, P::policy.parallel.tensor> &&
     tensor_ranks_divide_vocabulary<P::policy.model.vocabulary, P::policy.parallel.tensor> &&
     sequence_parallel_needs_tensor_ranks<P::policy.parallel.sequence, P::policy.parallel.tensor> &&
     tensor_ranks_divide_rows<P::policy.parallel.sequence, P::policy.batch.row_step(),
                              P::policy.parallel.tensor> &&
     pipeline_stages_divide_layers<P::policy.model.layers, P::policy.parallel.pipeline> &&
     a_pipeline_has_at_most_64_micro_batches<P::policy.parallel.pipeline,
                                             P::policy.batch.accumulation> &&
     zero_stage_is_0_to_3<P::policy.zero.stage> &&
     zero_stages_2_and_3_have_no_pipeline<P::policy.zero.stage, P::policy.parallel.pipeline> &&
     zero_buffers_are_bounded<(P::policy.zero.bucket > 0), P::policy.zero.prefetch> &&
     layout_invariant_sums_are_balanced<(P::policy.deterministic ==
                                         Deterministic::layout_invariant),
                                        P::policy.parallel.data, P::policy.batch.accumulation> &&
     layout_invariant_bits_have_one_backward<
         (P::policy.deterministic == Deterministic::layout_invariant),
         (P::policy.parallel.order == PipelineOrder::zero_bubble), P::policy.parallel.pipeline> &&
     zero_bubble_keeps_its_activations<(P::policy.parallel.order == PipelineOrder::zero_bubble),
                                       P::policy.parallel.pipeline,
                                       (P::policy.recompute == Recompute::full)> &&
     narrow_gradients_stay_on_one_rank<(P::policy.precision.gradients != Compute::fp32),
                                       P::policy.parallel.ranks()> &&
     shared_parameters_have_no_copies<P::policy.zero.stage, P::policy.parallel.data,
                                      (P::policy.device.kind == DeviceKind::host &&
                                       P::policy.weights == WeightLayout::packed)> &&
     what_is_read_oftener_lies_nearer<P::policy.offload.optimizer, P::policy.offload.parameters,
                                      P::policy.offload.gradients> &&
     offload_begins_with_the_optimizer<P::policy.offload.optimizer,
                                       P::policy.offload.activations> &&
     offload_is_for_one_rank<P::policy.offload.any(), P::policy.parallel.ranks()> &&
     streamed_weights_have_no_copies<
         P::policy.offload.any(), P::policy.device.kind == DeviceKind::host, P::policy.weights> &&
     offload_has_at_most_64_micro_batches<P::policy.offload.any(), P::policy.batch.accumulation> &&
     matrices_stream_for_one_micro_batch<P::policy.offload.unit, P::policy.offload.parameters,
                                         P::policy.batch.accumulation> &&
     a_streamed_model_has_at_most_64_layers<P::policy.offload.any(), P::policy.model.layers> &&
     streamed_updates_are_of_single_elements<P::policy.offload.any(),
                                             is_adam(P::policy.optimizer.kind)> &&
     offload_buffers_are_bounded<P::policy.offload.buffers,
                                 (P::policy.offload.piece > 0 &&
                                  P::policy.offload.piece % (64 * KiB) == 0)>);

/// A policy that breaks no rule.
template <class P>
concept ValidPolicy = HasPolicy<P> && keeps_every_rule<P>;

/// Instantiating it checks every rule; each broken one is an error of its own, in every compiler.
template <class P>
struct CheckPolicy
    : rule::model_sizes_are_positive<P::policy.model.vocabulary, P::policy.model.layers,
                                     P::policy.model.hidden, P::policy.model.heads,
                                     P::policy.model.feed_forward>,
      rule::model_sizes_are_countable<P::policy.model.vocabulary, P::policy.model.layers,
                                      P::policy.model.hidden, P::policy.model.feed_forward,
                                      P::policy.model.labels>,
      rule::heads_divide_hidden<P::policy.model.hidden, P::policy.model.heads>,
      rule::rows_are_whole_vectors<P::policy.model.hidden, P::policy.model.head_size(),
                                   P::policy.model.feed_forward>,
      rule::a_head_tells_two_labels_apart<P::policy.model.labels>,
      rule::a_pair_has_two_token_types<P::policy.model.token_types>,
      rule::positions_fit_the_dropout_key<P::policy.model.positions>,
      rule::length_is_within_positions<P::policy.batch.length, P::policy.model.positions>,
      rule::a_pair_fits_the_length<P::policy.batch.length>,
      rule::a_padded_batch_has_sentences<P::policy.batch.packed_tokens, P::policy.batch.sentences>,
      rule::the_longest_sentence_fits_a_packed_batch<P::policy.batch.packed_tokens,
                                                     P::policy.batch.length>,
      rule::packed_tokens_are_a_multiple_of_16<P::policy.batch.packed_tokens>,
      rule::packed_sentences_fit_their_tokens<P::policy.batch.packed_tokens,
                                              P::policy.batch.sentences>,
      rule::a_micro_batch_is_countable<P::policy.batch.packed_tokens,
                                       (P::policy.batch.packed() ? 0 : P::policy.batch.sentences)>,
      rule::accumulation_is_at_least_one<P::policy.batch.accumulation>,
      rule::narrow_gradients_are_rounded_once<P::policy.precision.gradients != Compute::fp32,
                                              P::policy.precision.compute ==
                                                  P::policy.precision.gradients,
                                              P::policy.batch.accumulation>,
      rule::fp16_and_a_loss_scale_go_together<P::policy.precision.compute == Compute::fp16,
                                              P::policy.precision.loss_scale.rule !=
                                                  LossScaleRule::none>,
      rule::tf32_needs_tensor_cores<P::policy.precision.compute == Compute::tf32,
                                    P::policy.device.kind == DeviceKind::cuda>,
      rule::a_loss_scale_moves_by_powers_of_two<are_powers_of_two(P::policy.precision.loss_scale),
                                                millionths(P::policy.precision.loss_scale.factor),
                                                P::policy.precision.loss_scale.window,
                                                P::policy.precision.loss_scale.hysteresis>,
      rule::sums_of_signs_are_of_whole_states<sends_signs(P::policy.optimizer.kind),
                                              P::policy.zero.stage>,
      rule::sums_of_signs_are_among_data_ranks<sends_signs(P::policy.optimizer.kind),
                                               P::policy.parallel.tensor,
                                               P::policy.parallel.pipeline>,
      rule::signs_depend_on_the_layout<sends_signs(P::policy.optimizer.kind),
                                       P::policy.deterministic == Deterministic::layout_invariant>,
      rule::trust_ratios_are_of_whole_tensors<has_trust_ratio(P::policy.optimizer.kind),
                                              P::policy.zero.stage, P::policy.parallel.tensor>,
      rule::a_trust_ratio_has_bounds<is_ordered(P::policy.optimizer.trust_ratio)>,
      rule::compression_has_intervals_and_bounds<has_intervals(P::policy.optimizer.compression),
                                                 has_bounds(P::policy.optimizer.compression)>,
      rule::sentences_fit_the_dropout_key<P::policy.batch.sentence_bound(),
                                          micro_batches_of_step(P::policy)>,
      rule::dropout_keeps_something<millionths(P::policy.model.hidden_dropout),
                                    millionths(P::policy.model.attention_dropout)>,
      rule::betas_are_below_one<millionths(P::policy.optimizer.beta1),
                                millionths(P::policy.optimizer.beta2)>,
      rule::optimizer_numbers_are_not_negative<is_zero_or_more(P::policy.optimizer.learning_rate),
                                               is_positive(P::policy.optimizer.epsilon),
                                               is_zero_or_more(P::policy.optimizer.weight_decay),
                                               is_zero_or_more(P::policy.optimizer.clip)>,
      rule::warmup_is_a_share<millionths(P::policy.schedule.warmup)>,
      rule::polynomial_decay_goes_down<P::policy.schedule.decay == Decay::polynomial,
                                       (P::policy.schedule.end >= 0 &&
                                        P::policy.schedule.end < P::policy.optimizer.learning_rate),
                                       is_positive(P::policy.schedule.power)>,
      rule::layer_norm_epsilon_is_positive<is_positive(P::policy.model.layer_norm_epsilon)>,
      rule::initializer_range_is_a_deviation<is_zero_or_more(P::policy.model.initializer_range)>,
      rule::the_device_has_memory<(P::policy.device.memory > 0 && P::policy.device.reserved >= 0)>,
      rule::a_host_has_workers<P::policy.device.kind == DeviceKind::host, P::policy.device.workers>,
      rule::ranks_are_1_to_64<P::policy.parallel.data, P::policy.parallel.tensor,
                              P::policy.parallel.pipeline>,
      rule::the_deadline_is_positive<is_positive(P::policy.parallel.deadline)>,
      rule::tensor_ranks_divide_heads<P::policy.model.heads, P::policy.parallel.tensor>,
      rule::tensor_ranks_divide_feed_forward<P::policy.model.feed_forward,
                                             P::policy.parallel.tensor>,
      rule::tensor_ranks_divide_vocabulary<P::policy.model.vocabulary, P::policy.parallel.tensor>,
      rule::sequence_parallel_needs_tensor_ranks<P::policy.parallel.sequence,
                                                 P::policy.parallel.tensor>,
      rule::tensor_ranks_divide_rows<P::policy.parallel.sequence, P::policy.batch.row_step(),
                                     P::policy.parallel.tensor>,
      rule::pipeline_stages_divide_layers<P::policy.model.layers, P::policy.parallel.pipeline>,
      rule::a_pipeline_has_at_most_64_micro_batches<P::policy.parallel.pipeline,
                                                    P::policy.batch.accumulation>,
      rule::zero_stage_is_0_to_3<P::policy.zero.stage>,
      rule::zero_stages_2_and_3_have_no_pipeline<P::policy.zero.stage, P::policy.parallel.pipeline>,
      rule::zero_buffers_are_bounded<(P::policy.zero.bucket > 0), P::policy.zero.prefetch>,
      rule::layout_invariant_sums_are_balanced<
          (P::policy.deterministic == Deterministic::layout_invariant), P::policy.parallel.data,
          P::policy.batch.accumulation>,
      rule::layout_invariant_bits_have_one_backward<
          (P::policy.deterministic == Deterministic::layout_invariant),
          (P::policy.parallel.order == PipelineOrder::zero_bubble), P::policy.parallel.pipeline>,
      rule::zero_bubble_keeps_its_activations<
          (P::policy.parallel.order == PipelineOrder::zero_bubble), P::policy.parallel.pipeline,
          (P::policy.recompute == Recompute::full)>,
      rule::narrow_gradients_stay_on_one_rank<(P::policy.precision.gradients != Compute::fp32),
                                              P::policy.parallel.ranks()>,
      rule::shared_parameters_have_no_copies<P::policy.zero.stage, P::policy.parallel.data,
                                             (P::policy.device.kind == DeviceKind::host &&
                                              P::policy.weights == WeightLayout::packed)>,
      rule::what_is_read_oftener_lies_nearer<
          P::policy.offload.optimizer, P::policy.offload.parameters, P::policy.offload.gradients>,
      rule::offload_begins_with_the_optimizer<P::policy.offload.optimizer,
                                              P::policy.offload.activations>,
      rule::offload_is_for_one_rank<P::policy.offload.any(), P::policy.parallel.ranks()>,
      rule::streamed_weights_have_no_copies<
          P::policy.offload.any(), P::policy.device.kind == DeviceKind::host, P::policy.weights>,
      rule::offload_has_at_most_64_micro_batches<P::policy.offload.any(),
                                                 P::policy.batch.accumulation>,
      rule::matrices_stream_for_one_micro_batch<
          P::policy.offload.unit, P::policy.offload.parameters, P::policy.batch.accumulation>,
      rule::a_streamed_model_has_at_most_64_layers<P::policy.offload.any(), P::policy.model.layers>,
      rule::streamed_updates_are_of_single_elements<P::policy.offload.any(),
                                                    is_adam(P::policy.optimizer.kind)>,
      rule::offload_buffers_are_bounded<P::policy.offload.buffers,
                                        (P::policy.offload.piece > 0 &&
                                         P::policy.offload.piece % (64 * KiB) == 0)> {};

}  // namespace ctrain
