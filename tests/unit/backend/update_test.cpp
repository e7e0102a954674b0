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
