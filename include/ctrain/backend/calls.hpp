/// \file  One aggregate per kernel: every pointer, shape and constant that a backend needs.   floor 5: backend
#pragma once

#include <ctrain/backend/batch.hpp>
#include <ctrain/backend/math/sum_of_squares.hpp>
#include <ctrain/core/config.hpp>
#include <ctrain/core/philox.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>
#include <limits>

namespace ctrain {

// Conventions. Matrices are row-major and dense. `rows` is what this micro-batch computes, at most
// the planned bound. T is the compute type (float, bf16 or fp16), float everything that is summed,
// normalised or carried along the residual stream. Arithmetic and accumulation are in float
// whatever T is; narrowing rounds to nearest even. Outputs are written whole unless `accumulate` is
// set, which adds to what stands there. Pointers to outputs and inputs are distinct except where a
// comment allows it. The result of a call does not depend on the number of threads.

// What one of several tensor ranks has of something is said by its first head, word or row; all of
// it by default.

/// Rows [first, first + count) of a table or of a micro-batch.
struct RowRange {
  std::int32_t first = 0;
  std::int32_t count = std::numeric_limits<std::int32_t>::max();

  CTRAIN_HOST_DEVICE constexpr bool has(std::int32_t row) const {
    return std::uint32_t(row - first) < std::uint32_t(count);
  }
};

/// What a run decides anew for each step; everything else is in the policy. Calls point to it: what
/// changes from step to step is in memory, so that calls are the same in every step.
struct StepNumbers {
  std::uint64_t seed = 0;
  std::int64_t step = 0;  // optimizer steps done before this one
  double learning_rate = 0;
  float weight_decay = 0;
  float clip = 0;  // bound of the gradient's norm; 0: none
};

/// Zeroes `size` bytes.
struct Clear {
  void* at = nullptr;
  std::int64_t size = 0;
};

/// Copies `size` bytes.
struct Copy {
  void* to = nullptr;
  const void* from = nullptr;
  std::int64_t size = 0;
};

// embedding --------------------------------------------------------------------------------------

/// x[r] = word[id[r]] + token_type[type[r]] + position[position[r]]  (Hugging Face, section
/// "embeddings"). `word` holds the rows `words` of the table: other ids add nothing. Positions and
/// types add nothing where both tables are null.
struct EmbedForward {
  float* x = nullptr;                 // (rows, hidden)
  const float* word = nullptr;        // (words.count, hidden)
  const float* position = nullptr;    // (positions, hidden)
  const float* token_type = nullptr;  // (token_types, hidden)
  BatchView batch;
  int hidden = 0;
  RowRange words{};
};

/// Scatter-adds dx into the three tables' gradients; rows of one id are added in row order. Row 0
/// of the word table (padding_idx) gets no gradient. Rows beyond the last sentence are left out.
/// Without `accumulate` every table gradient is set to zero first. `d_word` begins with row
/// `first_word` of the table and has `vocabulary` rows: other ids leave it alone.
struct EmbedBackward {
  float* d_word = nullptr;        // (vocabulary, hidden)
  float* d_position = nullptr;    // (positions, hidden)
  float* d_token_type = nullptr;  // (token_types, hidden)
  const float* dx = nullptr;      // (rows, hidden)
  BatchView batch;
  int vocabulary = 0, positions = 0, token_types = 0, hidden = 0;
  bool accumulate = false;
  int first_word = 0;

  constexpr RowRange words() const { return {first_word, vocabulary}; }
};

// rows -------------------------------------------------------------------------------------------

/// y = gain * (x - mean) * rstd + bias, biased variance, rstd = 1 / sqrt(variance + epsilon)
/// (Ba et al., arXiv 1607.06450).
template <class T> struct LayerNormForward {
  T* y = nullptr;            // (rows, hidden)
  float* mean = nullptr;     // (rows)
  float* rstd = nullptr;     // (rows)
  const float* x = nullptr;  // (rows, hidden)
  const float* gain = nullptr;
  const float* bias = nullptr;
  int rows = 0, hidden = 0;
  float epsilon = 0;
};

/// dx (+)= rstd * (g - mean(g) - xhat * mean(g * xhat)), g = gain * dy; d_gain (+)= sum(dy * xhat),
/// d_bias (+)= sum(dy). `accumulate_input` belongs to dx, `accumulate` to the two parameters.
/// dx may be dy itself where T is float and accumulate_input is false.
template <class T> struct LayerNormBackward {
  float* dx = nullptr;      // (rows, hidden)
  float* d_gain = nullptr;  // (hidden)
  float* d_bias = nullptr;  // (hidden)
  const T* dy = nullptr;    // (rows, hidden)
  const float* x = nullptr;
  const float* mean = nullptr;
  const float* rstd = nullptr;
  const float* gain = nullptr;
  int rows = 0, hidden = 0;
  bool accumulate_input = false, accumulate = false;
};

/// A dropout's identity: element (r, c) is dropped iff dropout_draw(key(), token, c) < threshold,
/// kept values are multiplied by dropout_scale(threshold). token = row_keys[r], or, where
/// `first_row` is set (one row per sentence), row_keys[first_row[r]]. threshold 0: no dropout, and
/// nothing here is read.
struct Dropout {
  const StepNumbers* numbers = nullptr;  // its seed and step
  std::uint32_t layer_site = 0;
  std::uint32_t threshold = 0;
  const std::uint32_t* row_keys = nullptr;
  const std::int32_t* first_row = nullptr;

  CTRAIN_HOST_DEVICE DropoutKey key() const {
    return {numbers->seed, std::uint32_t(numbers->step), layer_site};
  }
};

/// y = dropout(x). y may be x. Backward of itself: apply it to the gradient.
struct DropoutForward {
  float* y = nullptr;        // (rows, cols)
  const float* x = nullptr;  // (rows, cols)
  Dropout dropout;
  int rows = 0, cols = 0;
};

/// sum = residual + dropout(branch).
template <class T> struct DropoutAddForward {
  float* sum = nullptr;             // (rows, hidden)
  const T* branch = nullptr;        // (rows, hidden)
  const float* residual = nullptr;  // (rows, hidden)
  Dropout dropout;
  int rows = 0, hidden = 0;
};

/// d_branch = dropout(d_sum); the residual's gradient is d_sum itself.
template <class T> struct DropoutAddBackward {
  T* d_branch = nullptr;         // (rows, hidden)
  const float* d_sum = nullptr;  // (rows, hidden)
  Dropout dropout;
  int rows = 0, hidden = 0;
};

/// `add`, then `norm` of its sum, row by row: norm.x is add.sum.
template <class T, class Y> struct DropoutAddLayerNormForward {
  DropoutAddForward<T> add;
  LayerNormForward<Y> norm;
};

/// `norm`, then `add` of the gradient that it leaves, row by row: add.d_sum is norm.dx.
template <class T, class Y> struct LayerNormDropoutAddBackward {
  LayerNormBackward<Y> norm;
  DropoutAddBackward<T> add;
};

/// y = T(x).
template <class T> struct CastForward {
  T* y = nullptr;
  const float* x = nullptr;
  int rows = 0, cols = 0;
};

/// dx (+)= float(dy).
template <class T> struct CastBackward {
  float* dx = nullptr;
  const T* dy = nullptr;
  int rows = 0, cols = 0;
  bool accumulate_input = false;
};

/// y = gelu(x), erf or tanh form (Hendrycks & Gimpel, arXiv 1606.08415).
template <class T> struct GeluForward {
  T* y = nullptr;        // (rows, cols)
  const T* x = nullptr;  // (rows, cols)
  int rows = 0, cols = 0;
  Activation activation = Activation::gelu_tanh;
};

/// dx = dy * gelu'(x). dx may be dy.
template <class T> struct GeluBackward {
  T* dx = nullptr;
  const T* dy = nullptr;
  const T* x = nullptr;
  int rows = 0, cols = 0;
  Activation activation = Activation::gelu_tanh;
};

// matrices ---------------------------------------------------------------------------------------

/// The weight of y = x W^T + b as a backend keeps it. `master` is always valid. `forward` and
/// `backward` point to prepared copies of out * in elements each (Backend::prepare fills them), or
/// are null: then products read `master`, rounded to T on the way; with `forward` alone set they
/// read the row-major copy there in both directions.
template <class T> struct Weight {
  const float* master = nullptr;  // (out, in)
  const T* forward = nullptr;
  const T* backward = nullptr;
  int out = 0, in = 0;
};

/// Fills a weight's prepared copies from its master; called after every update.
template <class T> struct PrepareWeight {
  T* forward = nullptr;
  T* backward = nullptr;
  const float* master = nullptr;
  int out = 0, in = 0;
};

/// z = x W^T + bias; a null bias is none.
template <class T> struct LinearForward {
  T* z = nullptr;        // (rows, out)
  const T* x = nullptr;  // (rows, in)
  Weight<T> weight;
  const float* bias = nullptr;  // (out)
  int rows = 0;
};

/// dx (+)= dz W. DX is T, or float where the gradient joins the residual stream.
template <class T, class DX> struct LinearBackwardInput {
  DX* dx = nullptr;       // (rows, in)
  const T* dz = nullptr;  // (rows, out)
  Weight<T> weight;
  int rows = 0;
  bool accumulate_input = false;
};

/// d_weight (+)= dz^T x, d_bias (+)= column sums of dz. G is float, or T where gradients wait
/// for the update in T: rounded once, never accumulated.
template <class T, class G = float> struct LinearBackwardWeight {
  G* d_weight = nullptr;    // (out, in)
  float* d_bias = nullptr;  // (out)
  const T* dz = nullptr;    // (rows, out)
  const T* x = nullptr;     // (rows, in)
  int rows = 0, out = 0, in = 0;
  bool accumulate = false;
};

// attention --------------------------------------------------------------------------------------

/// Softmax attention inside each sentence (Vaswani et al., arXiv 1706.03762; log-sum-exp kept as in
/// Dao et al., arXiv 2205.14135). A row of qkv is [q | k | v], heads consecutive inside each.
/// Queries: all rows of a sentence; keys: its first `lengths[s]` rows. Scores are scaled by
/// 1 / sqrt(head_size). Probabilities are dropped after the softmax; the element of a draw is
/// head * 4096 + key position, the token the query's. Rows of no sentence get 0 (lse 0). Of a
/// model's heads these are `heads`, from `first_head` on; hidden is what they have of it.
/// workspace: 2 * length * length floats per worker, workspace_workers of them.
template <class T> struct AttentionForward {
  T* context = nullptr;    // (rows, hidden)
  float* lse = nullptr;    // (rows, heads)
  const T* qkv = nullptr;  // (rows, 3 * hidden)
  BatchView batch;
  Dropout dropout;
  float* workspace = nullptr;
  int heads = 0, head_size = 0, length = 0, workspace_workers = 0;
  int first_head = 0;
};

/// d_qkv from d_context; probabilities are computed again from qkv and lse. Rows of no sentence get
/// 0.
template <class T> struct AttentionBackward {
  T* d_qkv = nullptr;            // (rows, 3 * hidden)
  const T* d_context = nullptr;  // (rows, hidden)
  const T* context = nullptr;    // (rows, hidden)
  const T* qkv = nullptr;        // (rows, 3 * hidden)
  const float* lse = nullptr;    // (rows, heads)
  BatchView batch;
  Dropout dropout;
  float* workspace = nullptr;
  int heads = 0, head_size = 0, length = 0, workspace_workers = 0;
  int first_head = 0;
};

// head -------------------------------------------------------------------------------------------

/// first[s] = x[batch.first_token(s)], where x holds the rows `rows` of the micro-batch; 0 where it
/// does not have that one.
struct SelectFirstForward {
  float* first = nullptr;    // (sentences, hidden)
  const float* x = nullptr;  // (rows, hidden)
  BatchView batch;
  int hidden = 0;
  RowRange rows{};
};

/// dx = 0 everywhere but dx[batch.first_token(s)] = d_first[s]; dx holds the rows `rows`.
struct SelectFirstBackward {
  float* dx = nullptr;             // (rows, hidden)
  const float* d_first = nullptr;  // (sentences, hidden)
  BatchView batch;
  int hidden = 0;
  RowRange rows{};

  constexpr int row_count() const { return rows.count < batch.rows ? rows.count : batch.rows; }
};

struct TanhForward {
  float* y = nullptr;  // may be x
  const float* x = nullptr;
  int rows = 0, cols = 0;
};

/// dx = dy * (1 - y^2). dx may be dy.
struct TanhBackward {
  float* dx = nullptr;
  const float* dy = nullptr;
  const float* y = nullptr;
  int rows = 0, cols = 0;
};

/// Per sentence: loss = logsumexp(logits) - logits[label], prediction = argmax (first of equals).
/// A sentence with label -1 has loss 0.
struct CrossEntropyForward {
  float* losses = nullptr;              // (sentences)
  std::int32_t* predictions = nullptr;  // (sentences)
  const float* logits = nullptr;        // (sentences, labels)
  BatchView batch;
  int labels = 0;
};

/// d_logits = (softmax(logits) - onehot(label)) * factor(); 0 for a sentence with label -1.
struct CrossEntropyBackward {
  float* d_logits = nullptr;  // (sentences, labels)
  const float* logits = nullptr;
  BatchView batch;
  int labels = 0;
  const float* loss_scale = nullptr;  // null: 1

  CTRAIN_HOST_DEVICE float factor() const { return loss_scale == nullptr ? 1.0f : *loss_scale; }
};

// update -----------------------------------------------------------------------------------------

/// Adds the sum of squares of a gradient, or of a part of one that starts at a multiple of 16, to
/// *sum: exactly, see backend/math/sum_of_squares.hpp.
template <class G = float> struct SumOfSquaresOf {
  ExactSum* sum = nullptr;
  const G* values = nullptr;
  std::int64_t count = 0;
};
using SumOfSquares = SumOfSquaresOf<>;

struct AdamWFactors;

/// One step of Adam over a flat range (Loshchilov & Hutter, arXiv 1711.05101): gradient times
/// `gradient_scale` (the clip), then per `kind`, one of the first three. t counts from 1. Where a
/// step has decided its numbers in memory, `decided` are read in their stead.
template <class G = float> struct AdamWUpdateOf {
  float* weight = nullptr;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  const G* gradient = nullptr;
  std::int64_t count = 0;
  OptimizerKind kind = OptimizerKind::adamw_torch;
  float learning_rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0;
  float gradient_scale = 1;
  std::int64_t t = 1;
  bool correct_bias = true;  // false: as if t were infinite
  const AdamWFactors* decided = nullptr;
};
using AdamWUpdate = AdamWUpdateOf<>;

/// AdamWUpdateOf on the rows `rows` of a matrix, and PrepareWeight of what they have become: in one
/// pass over memory, or of all rows after the last. Calls for parts of a matrix come in the order
/// of their rows.
template <class T, class G = float> struct AdamWUpdateAndPrepare {
  AdamWUpdateOf<G> update;   // count = rows.count * prepare.in, from row rows.first on
  PrepareWeight<T> prepare;  // the whole matrix
  RowRange rows;

  constexpr bool is_last() const { return rows.first + rows.count == prepare.out; }
};

}  // namespace ctrain
