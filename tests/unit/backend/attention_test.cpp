// Attention inside sentences: packed and padded batches, tail rows, dropout; backward against
// central differences of a forward in double.
#include "oracle.hpp"

using namespace ctrain;
using oracle::Doubles;
using oracle::Floats;
using oracle::share;

namespace {

struct Attention {
  oracle::OwnedBatch batch;
  Dropout dropout;
  int heads = 0, size = 0;
  Doubles qkv;

  int hidden() const { return heads * size; }
  double score(int query, int key, int head) const {
    double sum = 0;
    for (int c = 0; c < size; ++c)
      sum += qkv[query * 3 * hidden() + head * size + c] *
             qkv[key * 3 * hidden() + hidden() + head * size + c];
    return sum / std::sqrt(double(size));
  }
  /// Context (rows, hidden), then lse (rows, heads).
  std::pair<Doubles, Doubles> forward() const {
    Doubles context(std::size_t(batch.rows * hidden())), lse(std::size_t(batch.rows * heads));
    for (int s = 0; s < batch.sentences(); ++s)
      for (int h = 0; h < heads; ++h)
        for (int q = batch.first_row[s]; q < batch.first_row[s + 1]; ++q) {
          Doubles p(std::size_t(batch.lengths[s]));
          double whole = 0;
          for (int k = 0; k < batch.lengths[s]; ++k)
            whole += p[k] = std::exp(score(q, batch.first_row[s] + k, h));
          lse[q * heads + h] = std::log(whole);
          for (int k = 0; k < batch.lengths[s]; ++k) {
            const double weight = p[k] / whole * oracle::kept(dropout, q, h * 4096 + k);
            for (int c = 0; c < size; ++c)
              context[q * hidden() + h * size + c] +=
                  weight *
                  qkv[(batch.first_row[s] + k) * 3 * hidden() + 2 * hidden() + h * size + c];
          }
        }
    return {context, lse};
  }
};

template <class T, class B>
std::vector<Floats> attend(B& backend, Attention& at, const std::vector<T>& qkv,
                           const std::vector<T>& d_context) {
  const int length = at.batch.longest, workers = backend.workers();
  auto workspace = oracle::poisoned<float>(std::size_t(2 * length * length * workers));
  auto context = oracle::poisoned<T>(d_context.size()), d_qkv = oracle::poisoned<T>(qkv.size());
  auto lse = oracle::poisoned<float>(std::size_t(at.batch.rows * at.heads));
  backend.run(AttentionForward<T>{context.data(), lse.data(), qkv.data(), at.batch.view(),
                                  at.dropout, workspace.data(), at.heads, at.size, length,
                                  workers});
  backend.run(AttentionBackward<T>{d_qkv.data(), d_context.data(), context.data(), qkv.data(),
                                   lse.data(), at.batch.view(), at.dropout, workspace.data(),
                                   at.heads, at.size, length, workers});
  return {oracle::floats(context), lse, oracle::floats(d_qkv)};
}

template <class T>
void check(bool padded, int heads, int size, float probability, int sentences, int longest) {
  oracle::Random random(31);
  Attention at;
  at.batch = oracle::random_batch(random, sentences, longest, 3, padded);
  at.dropout = oracle::dropout(at.batch, probability);
  at.heads = heads, at.size = size;
  const auto rows = std::size_t(at.batch.rows);
  const auto qkv = random.values<T>(rows * 3 * std::size_t(at.hidden()));
  const auto d_context = random.values<T>(rows * std::size_t(at.hidden()));
  at.qkv = oracle::doubles(qkv);
  const auto [context, lse] = at.forward();
  const Doubles weights = oracle::doubles(d_context);
  const Doubles d_qkv =
      oracle::slopes(at.qkv, [&] { return oracle::dot(at.forward().first, weights); });
  oracle::on_every_backend([&](auto& backend) { return attend(backend, at, qkv, d_context); },
                           {context, lse, d_qkv}, {share<T>, 4e-6, share<T>});
}

}  // namespace

TEMPLATE_TEST_CASE("backend.attention.forward_and_gradients_are_right", "", float, bf16, fp16) {
  check<TestType>(false, 2, 5, 0.0f, 4, 6);
  check<TestType>(false, 2, 5, 0.3f, 4, 6);
  check<TestType>(true, 3, 4, 0.0f, 3, 5);
  check<TestType>(true, 1, 19, 0.3f, 3, 5);
  check<TestType>(false, 1, 16, 0.2f, 2, 19);
}

TEMPLATE_TEST_CASE("backend.attention.large_heads_agree_with_the_reference", "", float, bf16,
                   fp16) {
  for (auto [size, longest] : {std::pair{256, 40}, {64, 200}, {100, 33}}) {
    oracle::Random random(32);
    Attention at;
    at.batch = oracle::random_batch(random, 3, longest, 5, false);
    at.dropout = oracle::dropout(at.batch, 0.1f);
    at.heads = 2, at.size = size;
    const auto count = std::size_t(at.batch.rows * at.hidden());
    const auto qkv = random.values<TestType>(3 * count), d_context = random.values<TestType>(count);
    CpuReference reference;
    const std::vector<Floats> expected = attend(reference, at, qkv, d_context);
    std::vector<Doubles> wide;
    for (const Floats& output : expected) wide.push_back(oracle::doubles(output));
    oracle::on_every_backend([&](auto& backend) { return attend(backend, at, qkv, d_context); },
                             wide, {share<TestType>, 4e-6, share<TestType>});
  }
}

TEST_CASE("backend.attention.fewer_workspaces_than_workers_are_enough") {
  oracle::Random random(33);
  Attention at;
  at.batch = oracle::random_batch(random, 6, 20, 0, false);
  at.dropout = oracle::dropout(at.batch, 0.1f);
  at.heads = 2, at.size = 32;
  const auto count = std::size_t(at.batch.rows * at.hidden());
  const auto qkv = random.values<float>(3 * count);
  Floats one_plane(2 * 20 * 20), planes(2 * 2 * 20 * 20), few(count), many(count),
      lse(std::size_t(at.batch.rows * 2));
  Cpu cpu(2);
  AttentionForward<float> call{
      few.data(), lse.data(), qkv.data(), at.batch.view(), at.dropout, one_plane.data(), 2,
      32,         20,         1};
  cpu.run(call);
  call.context = many.data(), call.workspace = planes.data(), call.workspace_workers = 2;
  cpu.run(call);
  CHECK(oracle::same_bits(few, many));
}
