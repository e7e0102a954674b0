// The update: squares summed exactly, AdamW with the clip.
#include "oracle.hpp"

using namespace ctrain;

TEST_CASE("backend.update.sums_of_squares_have_one_value_everywhere") {
  oracle::Random random(1);
  for (std::int64_t count : {1, 15, 16, 70001, 65536 * 3, 65536 * 5 + 77}) {
    const auto values = random.values<float>(std::size_t(count), 0.1f);
    double exact = 0;
    for (float x : values) exact += double(x) * x;
    ExactSum plain, alone, together, parts;
    CpuReference reference;
    Cpu one(1), two(2);
    reference.run(SumOfSquares{&plain, values.data(), count});
    one.run(SumOfSquares{&alone, values.data(), count});
    two.run(SumOfSquares{&together, values.data(), count});
    CHECK(plain.value() == Approx(exact).epsilon(1e-12));
    CHECK(plain == alone);
    CHECK(plain == together);
    for (std::int64_t first = (count - 1) / 48 * 48; first >= 0; first -= 48)  // shards, backwards
      two.run(
          SumOfSquares{&parts, values.data() + first, std::min<std::int64_t>(48, count - first)});
    CHECK(plain == parts);
  }
}

TEST_CASE("backend.update.sums_of_squares_hold_small_and_large_and_tell_what_is_not_finite") {
  Cpu cpu(1);
  const auto sum = [&](std::vector<float> values) {
    ExactSum s;
    cpu.run(SumOfSquares{&s, values.data(), std::int64_t(values.size())});
    return s;
  };
  CHECK(sum({3, 4}).value() == 25);
  CHECK(sum({0x1p-42f}).value() == 0x1p-84);
  CHECK(sum({0x1p-44f}).value() == 0);
  CHECK(sum({16777215.0f}).value() == 16777215.0 * 16777215.0);
  for (const float bad : {0x1p25f, float(INFINITY), -float(INFINITY), std::nanf("")})
    for (const std::size_t at : {0u, 7u, 8u, 20u}) {
      std::vector<float> values(21, 1.0f);
      values[at] = bad;
      CHECK(std::isinf(sum(values).value()));
    }
  // pairs whose lower parts all have one sign and nearly the largest size there is
  CHECK(sum(std::vector<float>(3 * 65536, 127.9f)).value() ==
        Approx(3 * 65536 * double(127.9f) * double(127.9f)).epsilon(1e-14));
  static_assert([] {
    ExactSum a, b;
    for (int i = 0; i < 1000; ++i) a.add(0.1 * i), b.add(0.1 * (999 - i));
    a.carry(), b.carry();
    return a == b && a.value() > 49949.9 && a.value() < 49950.1;
  }());
}

TEST_CASE("backend.update.adam_follows_its_three_equations_in_double") {
  for (OptimizerKind kind :
       {OptimizerKind::adamw_torch, OptimizerKind::adamw_hugging_face, OptimizerKind::adam_l2}) {
    oracle::Random random(2);
    const std::size_t count = 40007;
    const auto weight = random.values<float>(count), gradient = random.values<float>(count);
    const auto first = random.values<float>(count, 0.1f);
    auto second = random.values<float>(count, 0.1f);
    for (float& x : second) x = x * x;
    const double lr = 1e-3, decay = 0.1, b1 = 0.9, b2 = 0.999, epsilon = 1e-6, clip = 0.25;
    const double c1 = 1 - std::pow(b1, 5), c2 = 1 - std::pow(b2, 5);
    oracle::Doubles w(count), m(count), v(count);
    for (std::size_t i = 0; i < count; ++i) {
      const double l2 = kind == OptimizerKind::adam_l2 ? decay * weight[i] : 0;
      const double g = gradient[i] * clip + l2;
      m[i] = b1 * first[i] + (1 - b1) * g;
      v[i] = b2 * second[i] + (1 - b2) * g * g;
      if (kind == OptimizerKind::adam_l2) {
        w[i] = weight[i] - lr / c1 * m[i] / (std::sqrt(v[i]) / std::sqrt(c2) + epsilon);
      } else if (kind == OptimizerKind::adamw_torch) {
        w[i] = weight[i] * (1 - lr * decay) -
               lr / c1 * m[i] / (std::sqrt(v[i]) / std::sqrt(c2) + epsilon);
      } else {
        w[i] = weight[i] - lr * std::sqrt(c2) / c1 * m[i] / (std::sqrt(v[i]) + epsilon);
        w[i] -= lr * decay * w[i];
      }
    }
    oracle::on_every_backend(
        [&](auto& backend) {
          auto w_out = weight, m_out = first, v_out = second;
          backend.run(AdamWUpdate{w_out.data(), m_out.data(), v_out.data(), gradient.data(),
                                  std::int64_t(count), kind, 1e-3f, 0.9f, 0.999f, 1e-6f, 0.1f,
                                  0.25f, 5});
          return std::vector<oracle::Floats>{w_out, m_out, v_out};
        },
        {w, m, v}, {2e-7, 2e-7, 2e-7});  // a few roundings of 2^-24
  }
}

TEST_CASE("backend.update.gradients_in_bf16_count_as_the_floats_they_stand_for") {
  oracle::Random random(5);
  const std::int64_t count = 70003;
  const auto narrow = random.values<bf16>(std::size_t(count));
  const auto wide = oracle::floats(narrow), weight = random.values<float>(std::size_t(count));
  const auto update = [&](auto& backend, const auto& gradient) {
    auto w = weight, m = weight, v = oracle::Floats(weight.size(), 0.5f);
    using G = std::remove_cvref_t<decltype(gradient[0])>;
    ExactSum sum;
    backend.run(SumOfSquaresOf<G>{&sum, gradient.data(), count});
    backend.run(AdamWUpdateOf<G>{w.data(), m.data(), v.data(), gradient.data(), count,
                                 OptimizerKind::adamw_torch, 1e-3f, 0.9f, 0.999f, 1e-6f, 0.1f,
                                 0.25f, 5});
    w.push_back(float(sum.value()));
    return w;
  };
  CpuReference reference;
  oracle::Panels panels(2);
  CHECK(oracle::same_bits(update(reference, narrow), update(reference, wide)));
  CHECK(oracle::same_bits(update(panels, narrow), update(panels, wide)));
}

namespace {

/// Rows of a matrix that are one parameter, as query, key and value are of theirs.
struct Part {
  int rows = 0;
  float decay = 0;
};

/// A matrix, its moments and its copies after an update of its parts, with the copies refreshed on
/// the way or afterwards.
template <class T, class G, class B>
std::vector<oracle::Floats> updated(B& backend, const std::vector<Part>& parts, int in, int copies,
                                    bool on_the_way) {
  int out = 0;
  for (const Part& part : parts) out += part.rows;
  oracle::Random random(6);
  const std::size_t count = std::size_t(out) * std::size_t(in);
  auto w = random.values<float>(count), m = random.values<float>(count, 0.1f);
  auto v = oracle::Floats(count, 0.25f);
  const auto gradient = random.values<G>(count);
  auto forward = oracle::poisoned<T>(count), backward = forward;
  const PrepareWeight<T> prepare{copies > 0 ? forward.data() : nullptr,
                                 copies > 1 ? backward.data() : nullptr, w.data(), out, in};
  int row = 0;
  for (const Part& part : parts) {
    const std::int64_t first = std::int64_t(row) * in, size = std::int64_t(part.rows) * in;
    const AdamWUpdateOf<G> update{w.data() + first,
                                  m.data() + first,
                                  v.data() + first,
                                  gradient.data() + first,
                                  size,
                                  OptimizerKind::adamw_torch,
                                  1e-3f,
                                  0.9f,
                                  0.999f,
                                  1e-6f,
                                  part.decay,
                                  0.25f,
                                  5};
    if (on_the_way)
      backend.run(AdamWUpdateAndPrepare<T, G>{update, prepare, {row, part.rows}});
    else
      backend.run(update);
    row += part.rows;
  }
  if (!on_the_way) backend.run(prepare);
  return {w, m, v, oracle::floats(forward), oracle::floats(backward)};
}

}  // namespace

TEMPLATE_TEST_CASE(
    "backend.update.copies_refreshed_on_the_way_have_the_bits_of_a_pass_of_their_own", "", float,
    bf16, fp16) {
  CpuReference reference;
  oracle::Panels one(1), two(2);
  oracle::Library library(2);
  const auto check = [](auto& backend, const std::vector<Part>& parts, int in, int copies) {
    const auto apart = updated<TestType, float>(backend, parts, in, copies, false);
    const auto fused = updated<TestType, float>(backend, parts, in, copies, true);
    const auto narrow_apart = updated<TestType, bf16>(backend, parts, in, copies, false);
    const auto narrow_fused = updated<TestType, bf16>(backend, parts, in, copies, true);
    for (std::size_t i = 0; i < apart.size(); ++i) {
      INFO("output " << i << ", " << copies << " copies of " << in << " columns");
      CHECK(oracle::same_bits(apart[i], fused[i]));
      CHECK(oracle::same_bits(narrow_apart[i], narrow_fused[i]));
    }
  };
  const std::vector<Part> three{{64, 0.1f}, {48, 0}, {80, 0.2f}}, odd{{20, 0.1f}, {30, 0}};
  for (const int copies : {0, 1, 2})
    for (const auto& [parts, in] :
         {std::pair{three, 112}, {three, 33}, {odd, 64}, {{{16, 0.1f}}, 2064}}) {
      check(reference, parts, in, copies);
      check(one, parts, in, copies);
      check(two, parts, in, copies);
      check(library, parts, in, copies);
    }
}
