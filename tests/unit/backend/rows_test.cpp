// Kernels that work row by row, forward against double and backward against central differences of
// a forward in double. hidden is never a multiple of 16 alone: 16, 37 and 200 columns.
#include "oracle.hpp"

using namespace ctrain;
using oracle::Doubles;
using oracle::Floats;
using oracle::share;

namespace {

struct Norm {
  Doubles x, gain, bias;
  int rows = 0, hidden = 0;

  Doubles forward() const {
    Doubles y(x.size());
    for (int r = 0; r < rows; ++r) {
      double mean = 0, variance = 0;
      for (int c = 0; c < hidden; ++c) mean += x[r * hidden + c] / hidden;
      for (int c = 0; c < hidden; ++c) variance += std::pow(x[r * hidden + c] - mean, 2) / hidden;
      for (int c = 0; c < hidden; ++c)
        y[r * hidden + c] =
            gain[c] * (x[r * hidden + c] - mean) / std::sqrt(variance + 1e-5) + bias[c];
    }
    return y;
  }
};

Doubles add(Doubles a, const Doubles& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

}  // namespace

TEMPLATE_TEST_CASE("backend.rows.layer_norm_and_its_gradients_are_right", "", float, bf16, fp16) {
  for (auto shape : {std::pair{5, 37}, {3, 16}, {67, 40}}) {
    const int rows = shape.first, hidden = shape.second;
    oracle::Random random(11);
    const auto size = std::size_t(rows * hidden);
    const auto x = random.values<float>(size, 2), gain = random.values<float>(hidden),
               bias = random.values<float>(hidden), before = random.values<float>(size),
               before_gain = random.values<float>(hidden),
               before_bias = random.values<float>(hidden);
    const auto dy = random.values<TestType>(size);
    Norm norm{oracle::doubles(x), oracle::doubles(gain), oracle::doubles(bias), rows, hidden};
    const Doubles weights = oracle::doubles(dy);
    const auto loss = [&] { return oracle::dot(norm.forward(), weights); };
    const Doubles y = norm.forward(), dx = oracle::slopes(norm.x, loss),
                  d_gain = oracle::slopes(norm.gain, loss),
                  d_bias = oracle::slopes(norm.bias, loss);
    for (bool accumulate : {false, true}) {
      const auto start = [&](const Floats& given) {
        return accumulate ? given : oracle::poisoned<float>(given.size());
      };
      const auto expect = [&](const Doubles& slope, const Floats& given) {
        return accumulate ? add(slope, oracle::doubles(given)) : slope;
      };
      oracle::on_every_backend(
          [&](auto& backend) {
            auto y_out = oracle::poisoned<TestType>(size);
            auto mean = oracle::poisoned<float>(rows), rstd = oracle::poisoned<float>(rows);
            backend.run(LayerNormForward<TestType>{y_out.data(), mean.data(), rstd.data(), x.data(),
                                                   gain.data(), bias.data(), rows, hidden, 1e-5f});
            auto dx_out = start(before), gain_out = start(before_gain),
                 bias_out = start(before_bias);
            backend.run(LayerNormBackward<TestType>{
                dx_out.data(), gain_out.data(), bias_out.data(), dy.data(), x.data(), mean.data(),
                rstd.data(), gain.data(), rows, hidden, accumulate, accumulate});
            return std::vector<Floats>{oracle::floats(y_out), dx_out, gain_out, bias_out};
          },
          {y, expect(dx, before), expect(d_gain, before_gain), expect(d_bias, before_bias)},
          {share<TestType>, 4e-6, 4e-6, 4e-6});
    }
  }
}

TEST_CASE("backend.rows.layer_norm_gradient_may_overwrite_its_input") {
  oracle::Random random(12);
  const int rows = 70, hidden = 300;
  const auto x = random.values<float>(rows * hidden), dy = random.values<float>(rows * hidden),
             gain = random.values<float>(hidden), bias = random.values<float>(hidden);
  const auto run = [&](auto& backend, bool in_place) {
    Floats y(rows * hidden), mean(rows), rstd(rows), slopes = dy, apart(rows * hidden);
    Floats d_gain(hidden), d_bias(hidden);
    backend.run(LayerNormForward<float>{y.data(), mean.data(), rstd.data(), x.data(), gain.data(),
                                        bias.data(), rows, hidden, 1e-12f});
    Floats& dx = in_place ? slopes : apart;
    backend.run(LayerNormBackward<float>{dx.data(), d_gain.data(), d_bias.data(), slopes.data(),
                                         x.data(), mean.data(), rstd.data(), gain.data(), rows,
                                         hidden, false, false});
    dx.insert(dx.end(), d_gain.begin(), d_gain.end());
    return dx;
  };
  Cpu cpu(2);
  CpuReference reference;
  CHECK(oracle::same_bits(run(cpu, true), run(cpu, false)));
  CHECK(oracle::same_bits(run(reference, true), run(reference, false)));
}

TEST_CASE("backend.rows.embedding_sums_three_tables_and_scatters_back") {
  for (auto shape : {std::pair{37, 4}, {200, 20}}) {
    const int hidden = shape.first, sentences = shape.second;
    oracle::Random random(13);
    oracle::OwnedBatch batch = oracle::random_batch(random, sentences, 9, 3, false);
    const int vocabulary = 40, positions = 9, types = 2;
    const auto word = random.values<float>(vocabulary * hidden),
               position = random.values<float>(positions * hidden),
               type = random.values<float>(types * hidden),
               dx = random.values<float>(batch.rows * hidden);
    Doubles x(dx.size()), d_word(word.size()), d_position(position.size()), d_type(type.size());
    for (int r = 0; r < batch.rows; ++r)
      for (int c = 0; c < hidden; ++c) {
        const int w = batch.token_ids[r] * hidden + c, p = batch.positions[r] * hidden + c,
                  t = batch.token_types[r] * hidden + c;
        x[r * hidden + c] = double(word[w]) + position[p] + type[t];
        if (r >= batch.first_row.back()) continue;
        if (batch.token_ids[r] != 0) d_word[w] += dx[r * hidden + c];
        d_position[p] += dx[r * hidden + c];
        d_type[t] += dx[r * hidden + c];
      }
    for (bool accumulate : {false, true}) {
      const double times = accumulate ? 2 : 1;  // the same gradient twice
      const auto scaled = [&](Doubles from) {
        for (double& value : from) value *= times;
        return from;
      };
      oracle::on_every_backend(
          [&](auto& backend) {
            auto x_out = oracle::poisoned<float>(x.size()),
                 word_out = oracle::poisoned<float>(word.size()),
                 position_out = oracle::poisoned<float>(position.size()),
                 type_out = oracle::poisoned<float>(type.size());
            backend.run(EmbedForward{x_out.data(), word.data(), position.data(), type.data(),
                                     batch.view(), hidden});
            EmbedBackward backward{
                word_out.data(), position_out.data(), type_out.data(), dx.data(), batch.view(),
                vocabulary,      positions,           types,           hidden,    false};
            backend.run(backward);
            backward.accumulate = true;
            if (accumulate) backend.run(backward);
            return std::vector<Floats>{x_out, word_out, position_out, type_out};
          },
          {x, scaled(d_word), scaled(d_position), scaled(d_type)}, {2e-7, 2e-6, 2e-6, 4e-6});
    }
  }
}

TEMPLATE_TEST_CASE("backend.rows.dropout_keeps_and_drops_by_token_and_column", "", float, bf16,
                   fp16) {
  for (auto shape : {std::pair{37, 0.1f}, {300, 0.5f}, {144, 0.0f}}) {
    const int hidden = shape.first;
    const float probability = shape.second;
    oracle::Random random(14);
    oracle::OwnedBatch batch = oracle::random_batch(random, 9, 12, 2, false);
    const Dropout dropout = oracle::dropout(batch, probability);
    const int rows = batch.rows;
    const auto size = std::size_t(rows * hidden);
    const auto residual = random.values<float>(size), d_sum = random.values<float>(size);
    const auto branch = random.values<TestType>(size);
    Doubles dropped(size), sum(size), d_branch(size);
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < hidden; ++c) {
        const std::size_t i = std::size_t(r * hidden + c);
        const double factor = oracle::kept(dropout, r, c);
        dropped[i] = residual[i] * factor;
        sum[i] = residual[i] + branch[i] * factor;
        d_branch[i] = d_sum[i] * factor;
      }
    oracle::on_every_backend(
        [&](auto& backend) {
          auto dropped_out = oracle::poisoned<float>(size), sum_out = oracle::poisoned<float>(size);
          auto d_branch_out = oracle::poisoned<TestType>(size);
          backend.run(DropoutForward{dropped_out.data(), residual.data(), dropout, rows, hidden});
          backend.run(DropoutAddForward<TestType>{sum_out.data(), branch.data(), residual.data(),
                                                  dropout, rows, hidden});
          backend.run(DropoutAddBackward<TestType>{d_branch_out.data(), d_sum.data(), dropout, rows,
                                                   hidden});
          return std::vector<Floats>{dropped_out, sum_out, oracle::floats(d_branch_out)};
        },
        {dropped, sum, d_branch}, {2e-7, 2e-7, share<TestType>});  // a product and a sum
  }
}

TEST_CASE("backend.rows.dropout_of_first_tokens_uses_their_keys") {
  oracle::Random random(15);
  oracle::OwnedBatch batch = oracle::random_batch(random, 6, 5, 0, false);
  Dropout dropout = oracle::dropout(batch, 0.3f);
  dropout.first_row = batch.first_row.data();
  const auto x = random.values<float>(6 * 50);
  Doubles y(x.size());
  for (int s = 0; s < 6; ++s)
    for (int c = 0; c < 50; ++c) y[s * 50 + c] = x[s * 50 + c] * oracle::kept(dropout, s, c);
  oracle::on_every_backend(
      [&](auto& backend) {
        Floats in_place = x;
        backend.run(DropoutForward{in_place.data(), in_place.data(), dropout, 6, 50});
        return std::vector<Floats>{in_place};
      },
      {y}, {1e-7});
}

TEMPLATE_TEST_CASE("backend.rows.gelu_and_casts_are_right", "", float, bf16, fp16) {
  for (Activation activation : {Activation::gelu_erf, Activation::gelu_tanh}) {
    oracle::Random random(16);
    const int rows = 61, cols = 301;
    const auto size = std::size_t(rows * cols);
    const auto x = random.values<TestType>(size, 2), dy = random.values<TestType>(size);
    const auto wide = random.values<float>(size);
    const auto gelu = [&](double at) {
      const double inner = std::sqrt(2 / M_PI) * (at + 0.044715 * at * at * at);
      return activation == Activation::gelu_erf ? 0.5 * at * std::erfc(-at / std::sqrt(2.0))
                                                : 0.5 * at * (1 + std::tanh(inner));
    };
    Doubles y(size), dx(size), cast(size), added(size);
    for (std::size_t i = 0; i < size; ++i) {
      const double at = x[i], step = 1e-6;
      y[i] = gelu(at);
      dx[i] = double(dy[i]) * (gelu(at + step) - gelu(at - step)) / (2 * step);
      cast[i] = TestType(wide[i]);
      added[i] = double(wide[i]) + double(dy[i]);
    }
    oracle::on_every_backend(
        [&](auto& backend) {
          auto y_out = oracle::poisoned<TestType>(size),
               cast_out = oracle::poisoned<TestType>(size);
          auto dx_out = dy;  // may be dy
          Floats added_out = wide, set_out = oracle::poisoned<float>(size);
          backend.run(GeluForward<TestType>{y_out.data(), x.data(), rows, cols, activation});
          backend.run(GeluBackward<TestType>{dx_out.data(), dx_out.data(), x.data(), rows, cols,
                                             activation});
          backend.run(CastForward<TestType>{cast_out.data(), wide.data(), rows, cols});
          backend.run(CastBackward<TestType>{set_out.data(), dy.data(), rows, cols, false});
          backend.run(CastBackward<TestType>{added_out.data(), dy.data(), rows, cols, true});
          return std::vector<Floats>{oracle::floats(y_out), oracle::floats(dx_out),
                                     oracle::floats(cast_out), set_out, added_out};
        },
        {y, dx, cast, oracle::doubles(dy), added}, {share<TestType>, share<TestType>, 0, 0, 1e-7});
  }
}

TEST_CASE("backend.rows.tanh_and_first_tokens_are_right") {
  oracle::Random random(17);
  oracle::OwnedBatch batch = oracle::random_batch(random, 5, 6, 3, true);
  const int hidden = 43, sentences = 5;
  const auto x = random.values<float>(batch.rows * hidden),
             slope = random.values<float>(sentences * hidden);
  Doubles first(slope.size()), tanh(slope.size()), d_tanh(slope.size()), dx(x.size());
  for (int s = 0; s < sentences; ++s)
    for (int c = 0; c < hidden; ++c) {
      const std::size_t i = std::size_t(s * hidden + c),
                        at = std::size_t(batch.first_row[s] * hidden + c);
      first[i] = x[at];
      tanh[i] = std::tanh(first[i]);
      d_tanh[i] = slope[i] * (std::tanh(first[i] + 1e-6) - std::tanh(first[i] - 1e-6)) / 2e-6;
      dx[at] = slope[i];
    }
  oracle::on_every_backend(
      [&](auto& backend) {
        auto first_out = oracle::poisoned<float>(slope.size()),
             tanh_out = oracle::poisoned<float>(slope.size()),
             dx_out = oracle::poisoned<float>(x.size());
        Floats d_tanh_out = slope;
        backend.run(SelectFirstForward{first_out.data(), x.data(), batch.view(), hidden});
        backend.run(TanhForward{tanh_out.data(), first_out.data(), sentences, hidden});
        backend.run(
            TanhBackward{d_tanh_out.data(), d_tanh_out.data(), tanh_out.data(), sentences, hidden});
        backend.run(SelectFirstBackward{dx_out.data(), slope.data(), batch.view(), hidden});
        return std::vector<Floats>{first_out, tanh_out, d_tanh_out, dx_out};
      },
      {first, tanh, d_tanh, dx}, {0, 2e-7, 1e-6, 0});
}

TEST_CASE("backend.rows.cross_entropy_counts_only_labelled_sentences") {
  oracle::Random random(18);
  const int sentences = 8, labels = 3;
  oracle::OwnedBatch batch = oracle::random_batch(random, sentences, 4, 0, false);
  auto logits = random.values<float>(sentences * labels, 4);
  logits[1] = logits[0] = 9;  // equal: the first is the prediction
  const auto lse = [&](const Doubles& row, int s) {
    double sum = 0;
    for (int c = 0; c < labels; ++c) sum += std::exp(row[s * labels + c]);
    return std::log(sum);
  };
  Doubles at = oracle::doubles(logits), losses(sentences), predictions(sentences);
  const auto total = [&] {
    double sum = 0;
    for (int s = 0; s < sentences; ++s) {
      losses[s] = batch.labels[s] < 0 ? 0 : lse(at, s) - at[s * labels + batch.labels[s]];
      sum += losses[s] * 0.2;
    }
    return sum;
  };
  const Doubles d_logits = oracle::slopes(at, total);
  total();
  for (int s = 0; s < sentences; ++s)
    predictions[s] = index_of_largest(&logits[s * labels], labels);
  CHECK(predictions[0] == 0);
  oracle::on_every_backend(
      [&](auto& backend) {
        const float scale = 0.2f;
        auto losses_out = oracle::poisoned<float>(sentences),
             d_logits_out = oracle::poisoned<float>(logits.size());
        std::vector<std::int32_t> predictions_out(sentences, -7);
        backend.run(CrossEntropyForward{losses_out.data(), predictions_out.data(), logits.data(),
                                        batch.view(), labels});
        backend.run(
            CrossEntropyBackward{d_logits_out.data(), logits.data(), batch.view(), labels, &scale});
        return std::vector<Floats>{
            losses_out, Floats(predictions_out.begin(), predictions_out.end()), d_logits_out};
      },
      {losses, predictions, d_logits}, {1e-6, 0, 1e-6});
}

TEMPLATE_TEST_CASE("backend.rows.a_norm_joined_with_a_residual_sum_has_the_bits_of_both", "", float,
                   bf16, fp16) {
  using T = TestType;
  for (int hidden : {64, 200}) {
    oracle::Random random(31);
    oracle::OwnedBatch batch = oracle::random_batch(random, 4, 20, 0, true);
    const Dropout dropout = oracle::dropout(batch, 0.1f);
    const int rows = batch.rows;
    const std::size_t width = std::size_t(hidden), count = std::size_t(rows) * width;
    const auto branch = random.values<T>(count), d_y = random.values<T>(count);
    const auto residual = random.values<float>(count), d_stream = random.values<float>(count);
    const auto gain = random.values<float>(width), bias = random.values<float>(width);
    const auto outputs = [&](auto& backend, bool joined) {
      auto sum = oracle::poisoned<float>(count), mean = oracle::poisoned<float>(std::size_t(rows)),
           rstd = mean;
      auto y = oracle::poisoned<T>(count), d_branch = y;
      auto dx = d_stream, d_gain = oracle::poisoned<float>(width), d_bias = d_gain;
      const DropoutAddForward<T> add{sum.data(), branch.data(), residual.data(),
                                     dropout,    rows,          hidden};
      const LayerNormForward<T> norm{y.data(),    mean.data(), rstd.data(), sum.data(), gain.data(),
                                     bias.data(), rows,        hidden,      1e-5f};
      const LayerNormBackward<T> norm_back{dx.data(),  d_gain.data(), d_bias.data(), d_y.data(),
                                           sum.data(), mean.data(),   rstd.data(),   gain.data(),
                                           rows,       hidden,        true,          false};
      const DropoutAddBackward<T> add_back{d_branch.data(), dx.data(), dropout, rows, hidden};
      if (joined) {
        backend.run(DropoutAddLayerNormForward<T, T>{add, norm});
        backend.run(LayerNormDropoutAddBackward<T, T>{norm_back, add_back});
      } else {
        backend.run(add), backend.run(norm), backend.run(norm_back), backend.run(add_back);
      }
      return std::vector<oracle::Floats>{sum, mean,   rstd,   oracle::floats(y),
                                         dx,  d_gain, d_bias, oracle::floats(d_branch)};
    };
    oracle::Panels one(1), two(2);
    const auto apart = outputs(one, false), joined = outputs(one, true),
               together = outputs(two, true);
    for (std::size_t i = 0; i < apart.size(); ++i) {
      INFO("output " << i << ", " << hidden << " columns");
      CHECK(oracle::same_bits(apart[i], joined[i]));
      CHECK(oracle::same_bits(apart[i], together[i]));
    }
  }
}
