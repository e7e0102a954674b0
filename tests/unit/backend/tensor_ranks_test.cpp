// What tensor ranks compute of one call, put together, is what one rank computes of it.
#include "oracle.hpp"

using namespace ctrain;
using oracle::Floats;
using oracle::share;

namespace {

constexpr int ranks = 2;

/// Columns [first, first + count) of each run of `cols` columns.
template <class T>
std::vector<T> columns(const std::vector<T>& whole, int cols, int first, int count) {
  std::vector<T> result;
  for (std::size_t run = 0; run < whole.size(); run += std::size_t(cols))
    for (int c = first; c < first + count; ++c) result.push_back(whole[run + std::size_t(c)]);
  return result;
}

/// All ranks' columns side by side again.
template <class T> Floats side_by_side(const std::vector<std::vector<T>>& parts, int cols) {
  Floats result;
  for (std::size_t run = 0; run < parts[0].size(); run += std::size_t(cols))
    for (const std::vector<T>& part : parts)
      for (int c = 0; c < cols; ++c) result.push_back(float(part[run + std::size_t(c)]));
  return result;
}

template <class T> Floats sum(const std::vector<T>& a, const std::vector<T>& b) {
  Floats result;
  for (std::size_t i = 0; i < a.size(); ++i) result.push_back(float(a[i]) + float(b[i]));
  return result;
}

std::vector<oracle::Doubles> wide(const std::vector<Floats>& outputs) {
  std::vector<oracle::Doubles> result;
  for (const Floats& output : outputs) result.push_back(oracle::doubles(output));
  return result;
}

}  // namespace

TEST_CASE("backend.tensor_ranks.share_the_word_table") {
  oracle::Random random(41);
  oracle::OwnedBatch batch = oracle::random_batch(random, 9, 12, 6, false, 40);
  constexpr int hidden = 37, vocabulary = 40, positions = 12, part = vocabulary / ranks;
  const auto size = std::size_t(batch.rows * hidden);
  const auto word = random.values<float>(vocabulary * hidden),
             position = random.values<float>(positions * hidden),
             type = random.values<float>(2 * hidden), dx = random.values<float>(size);
  const auto embed = [&](auto& backend, int first, int count, bool places, bool accumulate) {
    Floats x = oracle::poisoned<float>(size), d_word(std::size_t(count * hidden), 0.5f),
           d_position = position, d_type = type;
    backend.run(EmbedForward{x.data(),
                             word.data() + first * hidden,
                             places ? position.data() : nullptr,
                             places ? type.data() : nullptr,
                             batch.view(),
                             hidden,
                             {first, count}});
    backend.run(EmbedBackward{d_word.data(), d_position.data(), d_type.data(), dx.data(),
                              batch.view(), count, positions, 2, hidden, accumulate, first});
    return std::vector<Floats>{x, d_word, d_position, d_type};
  };
  for (const bool accumulate : {false, true}) {
    CpuReference reference;
    const std::vector<Floats> expected = embed(reference, 0, vocabulary, true, accumulate);
    oracle::on_every_backend(
        [&](auto& backend) {
          const auto one = embed(backend, 0, part, true, accumulate),
                     two = embed(backend, part, part, false, accumulate);
          Floats d_word = one[1];
          d_word.insert(d_word.end(), two[1].begin(), two[1].end());
          // Tables that all have get the same gradient everywhere.
          CHECK(oracle::same_bits(one[2], two[2]));
          CHECK(oracle::same_bits(one[3], two[3]));
          return std::vector<Floats>{sum(one[0], two[0]), d_word, two[2], two[3]};
        },
        // The sum of word, type and position goes in another order; the gradients do not.
        wide(expected), {2e-7, 0, 0, 0});
  }
}

TEMPLATE_TEST_CASE("backend.tensor_ranks.share_attention_heads", "", float, bf16, fp16) {
  oracle::Random random(42);
  oracle::OwnedBatch batch = oracle::random_batch(random, 4, 21, 5, false);
  const Dropout dropout = oracle::dropout(batch, 0.3f);
  constexpr int heads = 4, head = 16, hidden = heads * head, part = heads / ranks;
  const auto rows = std::size_t(batch.rows);
  const auto qkv = random.values<TestType>(rows * 3 * hidden),
             d_context = random.values<TestType>(rows * hidden);
  struct Part {
    std::vector<TestType> context, d_qkv;
    Floats lse;
  };
  const auto attend = [&](auto& backend, int first, int count) {
    const auto width = std::size_t(count * head);
    const auto mine = columns(qkv, hidden, first * head, count * head),
               d_mine = columns(d_context, hidden, first * head, count * head);
    Part p{oracle::poisoned<TestType>(rows * width), oracle::poisoned<TestType>(rows * 3 * width),
           oracle::poisoned<float>(rows * std::size_t(count))};
    Floats workspace(2 * 2 * 21 * 21);
    backend.run(AttentionForward<TestType>{p.context.data(), p.lse.data(), mine.data(),
                                           batch.view(), dropout, workspace.data(), count, head, 21,
                                           2, first});
    backend.run(AttentionBackward<TestType>{p.d_qkv.data(), d_mine.data(), p.context.data(),
                                            mine.data(), p.lse.data(), batch.view(), dropout,
                                            workspace.data(), count, head, 21, 2, first});
    return p;
  };
  CpuReference reference;
  const Part whole = attend(reference, 0, heads);
  oracle::on_every_backend(
      [&](auto& backend) {
        const Part one = attend(backend, 0, part), two = attend(backend, part, part);
        return std::vector<Floats>{side_by_side<TestType>({one.context, two.context}, part * head),
                                   side_by_side<float>({one.lse, two.lse}, part),
                                   side_by_side<TestType>({one.d_qkv, two.d_qkv}, part * head)};
      },
      wide({oracle::floats(whole.context), whole.lse, oracle::floats(whole.d_qkv)}),
      {share<TestType>, 4e-6, share<TestType>});
}

TEMPLATE_TEST_CASE("backend.tensor_ranks.share_a_product_by_its_input_features", "", float, bf16,
                   fp16) {
  for (const auto& [rows, in, out] : {std::tuple{33, 48, 40}, {16, 32, 65}, {160, 384, 200}}) {
    oracle::Random random(43);
    const int part = in / ranks;
    const auto x = random.values<TestType>(std::size_t(rows * in));
    const auto weight = random.values<float>(std::size_t(out * in), 0.3f),
               bias = random.values<float>(std::size_t(out));
    const auto multiply = [&, rows = rows, in = in, out = out](auto& backend, int first, int count,
                                                               const float* bias_or_null) {
      const auto mine = columns(x, in, first, count);
      const auto w = columns(weight, in, first, count);
      auto z = oracle::poisoned<TestType>(std::size_t(rows * out));
      backend.run(LinearForward<TestType>{
          z.data(), mine.data(), {w.data(), nullptr, nullptr, out, count}, bias_or_null, rows});
      return z;
    };
    CpuReference reference;
    const auto whole = multiply(reference, 0, in, bias.data());
    oracle::on_every_backend(
        [&](auto& backend) {
          return std::vector<Floats>{
              sum(multiply(backend, 0, part, bias.data()), multiply(backend, part, part, nullptr))};
        },
        // Each summand is rounded once.
        wide({oracle::floats(whole)}), {2 * share<TestType>});
  }
}

TEST_CASE("backend.tensor_ranks.share_rows_of_the_stream") {
  oracle::Random random(44);
  oracle::OwnedBatch batch = oracle::random_batch(random, 7, 9, 6, false);
  if (batch.rows % ranks != 0) {
    --batch.rows;  // a row of no sentence
    batch.token_ids.pop_back();
  }
  constexpr int hidden = 37;
  const int part = batch.rows / ranks;
  const auto rows = std::size_t(batch.rows), sentences = std::size_t(batch.sentences());
  const auto x = random.values<float>(rows * hidden),
             d_first = random.values<float>(sentences * hidden);
  const auto move = [&](auto& backend, RowRange range) {
    Floats first = oracle::poisoned<float>(sentences * hidden),
           dx = oracle::poisoned<float>(std::size_t(range.count * hidden));
    backend.run(SelectFirstForward{first.data(), x.data() + range.first * hidden, batch.view(),
                                   hidden, range});
    backend.run(SelectFirstBackward{dx.data(), d_first.data(), batch.view(), hidden, range});
    return std::vector<Floats>{first, dx};
  };
  const auto drop = [&](auto& backend, RowRange range) {
    Dropout dropout = oracle::dropout(batch, 0.3f);
    dropout.row_keys += range.first;
    Floats y = oracle::poisoned<float>(std::size_t(range.count * hidden));
    backend.run(
        DropoutForward{y.data(), x.data() + range.first * hidden, dropout, range.count, hidden});
    return y;
  };
  CpuReference reference;
  const std::vector<Floats> moved = move(reference, {0, batch.rows});
  const Floats dropped = drop(reference, {0, batch.rows});
  oracle::on_every_backend(
      [&](auto& backend) {
        const auto one = move(backend, {0, part}), two = move(backend, {part, part});
        Floats dx = one[1], y = drop(backend, {0, part});
        dx.insert(dx.end(), two[1].begin(), two[1].end());
        const Floats rest = drop(backend, {part, part});
        y.insert(y.end(), rest.begin(), rest.end());
        return std::vector<Floats>{sum(one[0], two[0]), dx, y};
      },
      wide({moved[0], moved[1], dropped}), {0, 0, 0});
}
