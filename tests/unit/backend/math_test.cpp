// The mathematics of the kernels: known answers, slopes by central differences, and the vector
// functions against double.
#include "oracle.hpp"

using namespace ctrain;

namespace {

/// f on 16 floats from a scalar argument.
template <class F> float lane(F&& f, float x) {
  float out[simd::width];
  simd::store(out, f(simd::Lanes(x)), simd::All{});
  return out[5];
}

/// The largest of |f(x) - exact(x)| over a fine grid, divided by max(|exact(x)|, floor).
template <class F, class Exact>
double worst_error(float from, float to, F&& f, Exact&& exact, double floor) {
  double worst = 0;
  for (int i = 0; i <= 400000; ++i) {
    const float x = from + (to - from) * float(i) / 400000;
    const double truth = exact(double(x));
    const double error = std::fabs(lane(f, x) - truth) / std::max(std::fabs(truth), floor);
    worst = error <= worst ? worst : error;
  }
  return worst;
}

template <class F> double central_difference(F&& f, double x) {
  return (f(x + 1e-6) - f(x - 1e-6)) / 2e-6;
}

double exact_gelu_erf(double x) {
  return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
}

double exact_gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

}  // namespace

TEST_CASE("backend.math.gelu_matches_published_values") {
  const float x[] = {-3, -1, 0.5f, 1, 3};
  const float erf_form[] = {-0.0040497f, -0.1586553f, 0.3457312f, 0.8413447f, 2.9959503f};
  const float tanh_form[] = {-0.0036374f, -0.1588080f, 0.3457140f, 0.8411920f, 2.9963626f};
  for (int i = 0; i < 5; ++i) {
    CHECK(gelu_erf(x[i]) == Approx(erf_form[i]).margin(6e-8));
    CHECK(gelu_tanh(x[i]) == Approx(tanh_form[i]).margin(6e-8));
    CHECK(lane([](simd::Lanes v) { return gelu_erf(v); }, x[i]) ==
          Approx(erf_form[i]).margin(6e-8));
  }
}

TEST_CASE("backend.math.gelu_slopes_are_those_of_gelu") {
  for (float x = -6; x < 6; x += 0.037f) {
    CHECK(gelu_erf_slope(x) == Approx(central_difference(exact_gelu_erf, x)).margin(4e-7));
    CHECK(gelu_tanh_slope(x) == Approx(central_difference(exact_gelu_tanh, x)).margin(4e-7));
  }
}

TEST_CASE("backend.math.vector_functions_keep_to_their_stated_errors") {
  const auto vector_exp = [](simd::Lanes x) { return exponential(x); };
  const auto vector_tanh = [](simd::Lanes x) { return hyperbolic_tangent(x); };
  const auto vector_erf = [](simd::Lanes x) { return error_function(x); };
  CHECK(worst_error(
            -87, 88.7f, vector_exp, [](double x) { return std::exp(x); }, 1e-37) < 1.2e-7);
  CHECK(worst_error(
            -10, 10, vector_tanh, [](double x) { return std::tanh(x); }, 1) < 1.2e-7);
  CHECK(worst_error(
            -0.7f, 0.7f, vector_tanh, [](double x) { return std::tanh(x); }, 1e-30) < 2e-7);
  CHECK(worst_error(
            -5, 5, vector_erf, [](double x) { return std::erf(x); }, 1) < 1.2e-7);
  CHECK(worst_error(
            -1, 1, vector_erf, [](double x) { return std::erf(x); }, 1e-30) < 2e-7);
}

TEST_CASE("backend.math.vector_functions_hold_at_the_ends") {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto vector_exp = [](simd::Lanes x) { return exponential(x); };
  const auto vector_tanh = [](simd::Lanes x) { return hyperbolic_tangent(x); };
  const auto vector_erf = [](simd::Lanes x) { return error_function(x); };
  CHECK(lane(vector_exp, -infinity) == 0.0f);
  CHECK(lane(vector_exp, infinity) == infinity);
  CHECK(lane(vector_exp, 0) == 1.0f);
  CHECK(lane(vector_tanh, infinity) == 1.0f);
  CHECK(lane(vector_tanh, -infinity) == -1.0f);
  CHECK(lane(vector_erf, -infinity) == -1.0f);
  CHECK(std::isnan(lane(vector_exp, nan)));
  CHECK(std::isnan(lane(vector_tanh, nan)));
  CHECK(std::isnan(lane(vector_erf, nan)));
}

TEST_CASE("backend.math.lanes_sum_what_they_hold") {
  simd::Lanes rows[simd::width];
  float whole[simd::width], row[simd::width];
  for (int r = 0; r < simd::width; ++r) {
    for (int c = 0; c < simd::width; ++c) row[c] = float(r * 100 + c);
    rows[r] = simd::load(row, simd::All{});
  }
  simd::store(whole, simd::sums(rows), simd::All{});
  for (int r = 0; r < simd::width; ++r) {
    CHECK(whole[r] == float(r * 1600 + 120));
    CHECK(simd::sum(rows[r]) == float(r * 1600 + 120));
  }
}

TEST_CASE("backend.math.narrowing_16_at_once_equals_narrowing_one_by_one") {
  oracle::Random random(3);
  for (int turn = 0; turn < 2000; ++turn) {
    float in[simd::width];
    bf16 out[simd::width];
    for (float& x : in) x = std::ldexp(random.normal(), random.below(200) - 100);
    in[0] = 1.00390625f, in[1] = 1.01171875f;  // ties
    in[2] = std::numeric_limits<float>::infinity(), in[3] = 3.4e38f;
    simd::store(out, simd::load(in, simd::All{}), simd::All{});
    for (int i = 0; i < simd::width; ++i) REQUIRE(out[i].bits == bf16(in[i]).bits);
    bf16 part[simd::width] = {};
    simd::store(part, simd::load(out, simd::Some{5}), simd::Some{7});
    for (int i = 0; i < simd::width; ++i) REQUIRE(part[i].bits == (i < 5 ? out[i].bits : 0));
  }
}

TEST_CASE("backend.math.dropout_of_16_lanes_draws_the_same_bits") {
  oracle::Random random(4);
  for (int turn = 0; turn < 50; ++turn) {
    const DropoutRow row{{.seed = std::uint64_t(random.uniform() * 1e19),
                          .step = std::uint32_t(random.below(100000)),
                          .layer_site = std::uint32_t(random.below(200))},
                         std::uint32_t(random.below(1 << 30)),
                         dropout_threshold(turn % 2 ? 0.1f : 0.5f),
                         1.0f};
    cpu::DropoutLanes lanes(row);
    for (std::uint32_t e = 0; e < 1024; e += simd::width) {
      float at_once[simd::width];
      simd::store(at_once, lanes(simd::Lanes(1.0f), e), simd::All{});
      for (std::uint32_t i = 0; i < simd::width; ++i) REQUIRE(at_once[i] == row(1.0f, e + i));
    }
  }
}

TEST_CASE("backend.math.adamw_takes_the_published_steps") {
  const auto two_steps = [](OptimizerKind kind, float* weights) {
    CpuReference backend;
    float w = 1, m = 0, v = 0;
    const float gradients[] = {0.5f, -0.25f};
    for (int t = 1; t <= 2; ++t) {
      backend.run(AdamWUpdate{&w, &m, &v, &gradients[t - 1], 1, kind, 0.1f, 0.9f, 0.999f, 1e-8f,
                              0.1f, 1, t});
      weights[t - 1] = w;
    }
  };
  float torch[2], hugging_face[2];
  two_steps(OptimizerKind::adamw_torch, torch);
  two_steps(OptimizerKind::adamw_hugging_face, hugging_face);
  CHECK(torch[0] == Approx(0.890000002).margin(1e-7));
  CHECK(torch[1] == Approx(0.854466299).margin(1e-7));
  CHECK(hugging_face[0] == Approx(0.891000063).margin(1e-7));
  CHECK(hugging_face[1] == Approx(0.855722710).margin(1e-7));
}
