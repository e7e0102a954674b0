/// \file  The plainly right backend: one thread, one loop per formula, Eigen's products.   floor 5: backend
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/math/activation.hpp>
#include <ctrain/backend/math/adamw.hpp>
#include <ctrain/backend/math/dropout.hpp>
#include <ctrain/backend/math/layer_norm.hpp>
#include <ctrain/backend/math/sign_compression.hpp>
#include <ctrain/backend/math/softmax.hpp>
#include <ctrain/backend/math/sum_of_squares.hpp>
#include <ctrain/backend/row_calls.hpp>

// g++ 12 sees uninitialised values in Eigen's use of g++'s own AVX-512 headers.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <algorithm>
#include <cstring>
#include <vector>

namespace ctrain::reference {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A copy in float of a matrix of T.
template <class T> Matrix widened(const T* data, int rows, int columns, std::int64_t row_step) {
  Matrix result(rows, columns);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) result(r, c) = float(data[r * row_step + c]);
  return result;
}

/// Writes, or adds, a float matrix; T rounds once.
template <class T>
void write(T* to, const Matrix& from, std::int64_t row_step, bool accumulate = false) {
  for (int r = 0; r < from.rows(); ++r)
    for (int c = 0; c < from.cols(); ++c) {
      T& at = to[r * row_step + c];
      at = T(accumulate ? float(at) + from(r, c) : from(r, c));
    }
}

/// The copy if there is one, else the fp32 master.
template <class T> Matrix weight_of(const Weight<T>& weight) {
  if (weight.forward) return widened(weight.forward, weight.out, weight.in, weight.in);
  Matrix rounded = widened(weight.master, weight.out, weight.in, weight.in);
  for (float& w : rounded.reshaped()) w = float(T(w));
  return rounded;
}

/// Attention of one head in one sentence, in float.
struct Head {
  Matrix q, k, v;  // (queries, head_size), (keys, head_size) twice
  Matrix p;        // (queries, keys) scaled scores, then probabilities
  int first_row = 0, head = 0;
  std::uint32_t first_element = 0;  // in dropout
};

/// Gathers q, k and v; p holds the scores.
template <class Call> Head head_of(const Call& call, int sentence, int head) {
  const int first = call.batch.first_row[sentence], size = call.head_size;
  const int queries = call.batch.first_row[sentence + 1] - first,
            keys = call.batch.lengths[sentence];
  const std::int64_t hidden = std::int64_t(call.heads) * size;
  const auto* start = call.qkv + first * 3 * hidden + std::int64_t(head) * size;
  Head result;
  result.first_row = first;
  result.head = head;
  result.first_element = std::uint32_t(call.first_head + head) * 4096u;
  result.q = widened(start, queries, size, 3 * hidden);
  result.k = widened(start + hidden, keys, size, 3 * hidden);
  result.v = widened(start + 2 * hidden, keys, size, 3 * hidden);
  result.p = result.q * result.k.transpose() / std::sqrt(float(size));
  return result;
}

/// x with the dropout of a head's probabilities applied.
inline Matrix dropped(const Matrix& x, const Dropout& dropout, const Head& at) {
  Matrix result = x;
  for (int i = 0; i < x.rows(); ++i) {
    const DropoutRow drop = dropout_row(dropout, at.first_row + i);
    for (int k = 0; k < x.cols(); ++k)
      result(i, k) = drop(x(i, k), at.first_element + std::uint32_t(k));
  }
  return result;
}

}  // namespace ctrain::reference

namespace ctrain {

/// Models Backend; for tests, and where speed does not matter. It allocates. A weight's `forward`
/// copy is row-major, `backward` stays untouched.
struct CpuReference {
  int workers() const { return 1; }

  // embedding ------------------------------------------------------------------------------------

  void run(const EmbedForward& call) {
    for (std::int64_t r = 0; r < call.batch.rows; ++r)
      for (int c = 0; c < call.hidden; ++c) {
        const auto at = [&](const float* table, std::int32_t id) {
          return table[std::int64_t(id) * call.hidden + c];
        };
        const std::int32_t id = call.batch.token_ids[r];
        float& x = call.x[r * call.hidden + c];
        x = call.words.has(id) ? at(call.word, id - call.words.first) : 0.0f;
        if (call.position == nullptr) continue;
        x += at(call.token_type, call.batch.token_types[r]);
        x += at(call.position, call.batch.positions[r]);
      }
  }

  void run(const EmbedBackward& call) {
    const auto clear = [&](float* table, int rows) {
      if (!call.accumulate) std::fill_n(table, std::int64_t(rows) * call.hidden, 0.0f);
    };
    clear(call.d_word, call.vocabulary);
    clear(call.d_position, call.positions);
    clear(call.d_token_type, call.token_types);
    for (std::int64_t r = 0; r < call.batch.first_row[call.batch.sentences]; ++r)
      for (int c = 0; c < call.hidden; ++c) {
        const float dx = call.dx[r * call.hidden + c];
        const auto add = [&](float* table, std::int32_t id) {
          table[std::int64_t(id) * call.hidden + c] += dx;
        };
        const std::int32_t id = call.batch.token_ids[r];
        if (id != 0 && call.words().has(id)) add(call.d_word, id - call.first_word);
        add(call.d_position, call.batch.positions[r]);
        add(call.d_token_type, call.batch.token_types[r]);
      }
  }

  // rows -----------------------------------------------------------------------------------------

  template <class T> void run(const LayerNormForward<T>& call) {
    for (std::int64_t r = 0; r < call.rows; ++r) {
      const float* x = call.x + r * call.hidden;
      double sum = 0, squares = 0;
      for (int c = 0; c < call.hidden; ++c) sum += x[c];
      const double mean = sum / call.hidden;
      for (int c = 0; c < call.hidden; ++c) squares += (x[c] - mean) * (x[c] - mean);
      call.mean[r] = float(mean);
      call.rstd[r] = inverse_deviation(float(squares), call.hidden, call.epsilon);
      for (int c = 0; c < call.hidden; ++c)
        call.y[r * call.hidden + c] =
            T(call.gain[c] * normalised(x[c], call.mean[r], call.rstd[r]) + call.bias[c]);
    }
  }

  template <class T> void run(const LayerNormBackward<T>& call) {
    layer_norm_parameters(call);  // first: dx may overwrite dy
    for (std::int64_t r = 0; r < call.rows; ++r) {
      const std::int64_t at = r * call.hidden;
      const auto g = [&](int c) { return call.gain[c] * float(call.dy[at + c]); };
      const auto xhat = [&](int c) {
        return normalised(call.x[at + c], call.mean[r], call.rstd[r]);
      };
      double sum_g = 0, sum_g_xhat = 0;
      for (int c = 0; c < call.hidden; ++c) sum_g += g(c), sum_g_xhat += double(g(c)) * xhat(c);
      for (int c = 0; c < call.hidden; ++c) {
        const float slope = layer_norm_slope(g(c), xhat(c), float(sum_g / call.hidden),
                                             float(sum_g_xhat / call.hidden), call.rstd[r]);
        put(call.dx[at + c], slope, call.accumulate_input);
      }
    }
  }

  void run(const DropoutForward& call) {
    for (std::int64_t r = 0; r < call.rows; ++r) {
      const DropoutRow drop = dropout_row(call.dropout, int(r));
      for (int c = 0; c < call.cols; ++c)
        call.y[r * call.cols + c] = drop(call.x[r * call.cols + c], std::uint32_t(c));
    }
  }

  template <class T> void run(const DropoutAddForward<T>& call) {
    for (std::int64_t r = 0; r < call.rows; ++r) {
      const DropoutRow drop = dropout_row(call.dropout, int(r));
      for (int c = 0; c < call.hidden; ++c) {
        const std::int64_t at = r * call.hidden + c;
        call.sum[at] = call.residual[at] + drop(float(call.branch[at]), std::uint32_t(c));
      }
    }
  }

  template <class T> void run(const DropoutAddBackward<T>& call) {
    for (std::int64_t r = 0; r < call.rows; ++r) {
      const DropoutRow drop = dropout_row(call.dropout, int(r));
      for (int c = 0; c < call.hidden; ++c)
        call.d_branch[r * call.hidden + c] =
            T(drop(call.d_sum[r * call.hidden + c], std::uint32_t(c)));
    }
  }

  template <class T, class Y> void run(const DropoutAddLayerNormForward<T, Y>& call) {
    run(call.add), run(call.norm);
  }
  template <class T, class Y> void run(const LayerNormDropoutAddBackward<T, Y>& call) {
    run(call.norm), run(call.add);
  }

  template <class T> void run(const CastForward<T>& call) {
    for (std::int64_t i = 0; i < std::int64_t(call.rows) * call.cols; ++i) call.y[i] = T(call.x[i]);
  }

  template <class T> void run(const CastBackward<T>& call) {
    for (std::int64_t i = 0; i < std::int64_t(call.rows) * call.cols; ++i)
      put(call.dx[i], float(call.dy[i]), call.accumulate_input);
  }

  template <class T> void run(const GeluForward<T>& call) {
    for (std::int64_t i = 0; i < std::int64_t(call.rows) * call.cols; ++i) {
      const float x = call.x[i];
      call.y[i] = T(call.activation == Activation::gelu_erf ? gelu_erf(x) : gelu_tanh(x));
    }
  }

  template <class T> void run(const GeluBackward<T>& call) {
    for (std::int64_t i = 0; i < std::int64_t(call.rows) * call.cols; ++i) {
      const float x = call.x[i];
      const float slope =
          call.activation == Activation::gelu_erf ? gelu_erf_slope(x) : gelu_tanh_slope(x);
      call.dx[i] = T(float(call.dy[i]) * slope);
    }
  }

  // matrices -------------------------------------------------------------------------------------

  template <class T> void run(const PrepareWeight<T>& call) {
    if (call.forward) run(CastForward<T>{call.forward, call.master, call.out, call.in});
  }

  template <class T> void run(const LinearForward<T>& call) {
    const Weight<T>& w = call.weight;
    const Matrix x = reference::widened(call.x, call.rows, w.in, w.in);
    Matrix z = x * reference::weight_of(w).transpose();
    if (call.bias != nullptr) z.rowwise() += Eigen::Map<const Eigen::RowVectorXf>(call.bias, w.out);
    reference::write(call.z, z, w.out);
  }

  template <class T, class DX> void run(const LinearBackwardInput<T, DX>& call) {
    const Weight<T>& w = call.weight;
    const Matrix dz = reference::widened(call.dz, call.rows, w.out, w.out);
    reference::write<DX>(call.dx, dz * reference::weight_of(w), w.in, call.accumulate_input);
  }

  template <class T, class G> void run(const LinearBackwardWeight<T, G>& call) {
    const Matrix dz = reference::widened(call.dz, call.rows, call.out, call.out);
    const Matrix x = reference::widened(call.x, call.rows, call.in, call.in);
    reference::write<G>(call.d_weight, dz.transpose() * x, call.in, call.accumulate);
    reference::write<float>(call.d_bias, dz.colwise().sum(), call.out, call.accumulate);
  }

  // attention ------------------------------------------------------------------------------------

  template <class T> void run(const AttentionForward<T>& call) {
    const std::int64_t hidden = std::int64_t(call.heads) * call.head_size;
    std::fill_n(call.context, call.batch.rows * hidden, T(0.0f));
    std::fill_n(call.lse, std::int64_t(call.batch.rows) * call.heads, 0.0f);
    for (int s = 0; s < call.batch.sentences; ++s)
      for (int h = 0; h < call.heads && call.batch.lengths[s] > 0; ++h) {
        reference::Head head = reference::head_of(call, s, h);
        for (int i = 0; i < head.p.rows(); ++i) {
          const float lse = log_sum_exp(head.p.row(i).data(), int(head.p.cols()));
          call.lse[std::int64_t(head.first_row + i) * call.heads + h] = lse;
          for (float& p : head.p.row(i)) p = probability(p, lse);
        }
        const Matrix context = reference::dropped(head.p, call.dropout, head) * head.v;
        reference::write(call.context + head.first_row * hidden + h * call.head_size, context,
                         hidden);
      }
  }

  template <class T> void run(const AttentionBackward<T>& call) {
    const std::int64_t hidden = std::int64_t(call.heads) * call.head_size;
    std::fill_n(call.d_qkv, call.batch.rows * 3 * hidden, T(0.0f));
    for (int s = 0; s < call.batch.sentences; ++s)
      for (int h = 0; h < call.heads && call.batch.lengths[s] > 0; ++h)
        attention_backward(call, reference::head_of(call, s, h));
  }

  // head -----------------------------------------------------------------------------------------

  void run(const SelectFirstForward& call) {
    for (std::int64_t s = 0; s < call.batch.sentences; ++s)
      for (int c = 0; c < call.hidden; ++c) {
        const std::int32_t row = call.batch.first_token(int(s));
        call.first[s * call.hidden + c] =
            call.rows.has(row) ? call.x[std::int64_t(row - call.rows.first) * call.hidden + c]
                               : 0.0f;
      }
  }

  void run(const SelectFirstBackward& call) {
    std::fill_n(call.dx, std::int64_t(call.row_count()) * call.hidden, 0.0f);
    for (std::int64_t s = 0; s < call.batch.sentences; ++s)
      if (const std::int32_t row = call.batch.first_token(int(s)); call.rows.has(row))
        std::copy_n(call.d_first + s * call.hidden, call.hidden,
                    call.dx + std::int64_t(row - call.rows.first) * call.hidden);
  }

  void run(const Clear& call) { std::fill_n(static_cast<char*>(call.at), call.size, char(0)); }
  void run(const Copy& call) {
    std::copy_n(static_cast<const char*>(call.from), call.size, static_cast<char*>(call.to));
  }

  void run(const TanhForward& call) {
    for (std::int64_t i = 0; i < std::int64_t(call.rows) * call.cols; ++i)
      call.y[i] = hyperbolic_tangent(call.x[i]);
  }

  void run(const TanhBackward& call) {
    for (std::int64_t i = 0; i < std::int64_t(call.rows) * call.cols; ++i)
      call.dx[i] = call.dy[i] * tanh_slope(call.y[i]);
  }

  void run(const CrossEntropyForward& call) {
    for (std::int64_t s = 0; s < call.batch.sentences; ++s) {
      const float* logits = call.logits + s * call.labels;
      call.losses[s] = cross_entropy(logits, call.labels, call.batch.labels[s]);
      call.predictions[s] = index_of_largest(logits, call.labels);
    }
  }

  void run(const CrossEntropyBackward& call) {
    for (std::int64_t s = 0; s < call.batch.sentences; ++s)
      cross_entropy_slope(call.d_logits + s * call.labels, call.logits + s * call.labels,
                          call.labels, call.batch.labels[s], call.factor());
  }

  // update ---------------------------------------------------------------------------------------

  template <class G> void run(const SumOfSquaresOf<G>& call) {
    for (std::int64_t first = 0; first < call.count; first += squares_chunk)
      call.sum->add(
          sum_of_squares(call.values + first, std::min(squares_chunk, call.count - first)));
  }

  template <class G> void run(const AdamWUpdateOf<G>& call) {
    if (is_skipped(call)) return;
    const AdamWFactors factors = factors_of(call);
    with_adam_kind(call.kind, [&](auto kind) {
      for (std::int64_t i = 0; i < call.count; ++i) {
        const AdamWElement<float> before{call.weight[i], call.first_moment[i],
                                         call.second_moment[i]};
        const auto after = adamw<kind>(before, float(call.gradient[i]), factors);
        call.weight[i] = after.weight;
        call.first_moment[i] = after.first_moment;
        call.second_moment[i] = after.second_moment;
      }
    });
  }

  template <class T, class G> void run(const AdamWUpdateAndPrepare<T, G>& call) {
    run(call.update);
    if (call.is_last()) run(call.prepare);
  }

  template <class Program, class G> void run(const RunRows<Program, G>& call) {
    const auto program = call.program.ready();
    for (std::int64_t i = 0; i < call.count; ++i) {
      float x[Program::states], gradient = 0;
      for (int s = 0; s < Program::states; ++s) x[s] = call.state[s][i];
      if constexpr (Program::takes_gradient) gradient = float(call.gradient[i]);
      program.step(x, gradient);
      for (int s = 0; s < Program::written; ++s) call.state[s][i] = x[s];
    }
  }

  template <class Function> void run(const SumSquaresOfRows<Function>& call) {
    const std::vector<float> values = values_of(call);
    run(SumOfSquares{call.sum, values.data(), call.count});
  }

  template <class Function> void run(const LargestOfRows<Function>& call) {
    for (const float value : values_of(call)) *call.largest = std::max(*call.largest, value);
  }

  template <class Function> void run(const RunOnce<Function>& call) { call.function(); }

  void run(const PackSigns& call) {
    *call.scale = sign_scale(*call.sum, call.whole);
    for (std::int64_t i = 0; i < call.count; i += 8)
      call.bits[i / 8] = pack_signs(call.error + i, *call.scale);
  }

  void run(const AddMeanOfSigns& call) {
    for (std::int64_t i = 0; i < call.count; ++i)
      call.to[i] +=
          mean_of_signs(call.bits + i / 8, call.scales, call.stride, call.ranks, int(i % 8));
  }

  void run(const UnpackSigns& call) {
    for (std::int64_t i = 0; i < call.count; ++i)
      call.to[i] = *call.scale * sign_of(call.bits[i / 8], int(i % 8));
  }

 private:
  using Matrix = reference::Matrix;

  /// function.of() of every element.
  template <class Call> static std::vector<float> values_of(const Call& call) {
    std::vector<float> values(std::size_t(call.count));
    for (std::int64_t i = 0; i < call.count; ++i) {
      float x[decltype(call.function)::states];
      for (int s = 0; s < call.function.states; ++s) x[s] = call.state[s][i];
      values[std::size_t(i)] = call.function.of(x);
    }
    return values;
  }

  static void put(float& to, float value, bool accumulate) { to = accumulate ? to + value : value; }

  template <class T> static void layer_norm_parameters(const LayerNormBackward<T>& call) {
    for (int c = 0; c < call.hidden; ++c) {
      double gain = 0, bias = 0;
      for (std::int64_t r = 0; r < call.rows; ++r) {
        const std::int64_t at = r * call.hidden + c;
        gain += double(call.dy[at]) * normalised(call.x[at], call.mean[r], call.rstd[r]);
        bias += call.dy[at];
      }
      put(call.d_gain[c], float(gain), call.accumulate);
      put(call.d_bias[c], float(bias), call.accumulate);
    }
  }

  template <class T>
  static void attention_backward(const AttentionBackward<T>& call, reference::Head head) {
    const int size = call.head_size;
    const std::int64_t hidden = std::int64_t(call.heads) * size;
    const std::int64_t column = std::int64_t(head.head) * size;
    const Matrix d_context = reference::widened(call.d_context + head.first_row * hidden + column,
                                                int(head.q.rows()), size, hidden);
    for (int i = 0; i < head.p.rows(); ++i) {
      const float lse = call.lse[std::int64_t(head.first_row + i) * call.heads + head.head];
      for (float& p : head.p.row(i)) p = probability(p, lse);
    }
    const Matrix slopes = reference::dropped(d_context * head.v.transpose(), call.dropout, head);
    const Eigen::VectorXf delta = head.p.cwiseProduct(slopes).rowwise().sum();
    Matrix d_scores(head.p.rows(), head.p.cols());
    for (int i = 0; i < d_scores.rows(); ++i)
      for (int k = 0; k < d_scores.cols(); ++k)
        d_scores(i, k) = softmax_slope(head.p(i, k), slopes(i, k), delta(i));
    d_scores /= std::sqrt(float(size));
    const Matrix probabilities = reference::dropped(head.p, call.dropout, head);
    T* to = call.d_qkv + head.first_row * 3 * hidden + column;
    reference::write<T>(to, d_scores * head.k, 3 * hidden);
    reference::write<T>(to + hidden, d_scores.transpose() * head.q, 3 * hidden);
    reference::write<T>(to + 2 * hidden, probabilities.transpose() * d_context, 3 * hidden);
  }
};

static_assert(Backend<CpuReference>);

}  // namespace ctrain
