// Optimizers as row programs: worked examples, equations in double, and when 0/1 Adam does what.
#include <ctrain/backend/math/compressed_programs.hpp>

#include "oracle.hpp"

using namespace ctrain;
using oracle::Doubles;
using oracle::Floats;

namespace {

/// Weight 1, gradients 0.5 and -0.25, learning rate and decay 0.1: the weight after each.
template <class Step> std::array<double, 2> weights_after_two(Step&& step) {
  float w = 1, m = 0, v = 0;
  std::array<double, 2> result{};
  for (int t = 1; t <= 2; ++t) {
    const float gradient = t == 1 ? 0.5f : -0.25f;
    step(w, m, v, gradient, std::int64_t{t});
    result[std::size_t(t - 1)] = w;
  }
  return result;
}

std::array<double, 2> adam(OptimizerKind kind, bool correct_bias = true) {
  return weights_after_two([&](float& w, float& m, float& v, float gradient, std::int64_t t) {
    CpuReference{}.run(AdamWUpdate{&w, &m, &v, &gradient, 1, kind, 0.1f, 0.9f, 0.999f, 1e-8f, 0.1f,
                                   1, t, correct_bias});
  });
}

/// One LAMB step of one tensor.
template <class B>
void lamb_step(B& backend, Floats& w, Floats& m, Floats& v, const Floats& gradient,
               const OptimizerNumbers& n, Compat compat, TrustRatio bounds = {}) {
  const auto count = std::int64_t(w.size());
  LambNorms norms;
  const LambStep step = ctrain::lamb_step(n, compat);
  backend.run(RunRows<FollowMomentsOf>{{&step}, {m.data(), v.data()}, count, gradient.data()});
  backend.run(SumOfSquares{&norms.weight, w.data(), count});
  backend.run(
      SumSquaresOfRows<DirectionOf>{&norms.update, {&step}, {w.data(), m.data(), v.data()}, count});
  backend.run(
      RunRows<DescendByTrustOf>{{&step, bounds, &norms}, {w.data(), m.data(), v.data()}, count});
}

std::array<double, 2> lamb_example(Compat compat, float epsilon, TrustRatio bounds) {
  return weights_after_two([&](float& w, float& m, float& v, float gradient, std::int64_t t) {
    Floats weight{w}, first{m}, second{v};
    CpuReference reference;
    const OptimizerNumbers n{0.1f, 0.9f, 0.999f, epsilon, 0.1f, 1, t};
    lamb_step(reference, weight, first, second, {gradient}, n, compat, bounds);
    w = weight[0], m = first[0], v = second[0];
  });
}

void check(const std::array<double, 2>& got, double first, double second) {
  CHECK(got[0] == Approx(first).epsilon(1e-6));  // float arithmetic
  CHECK(got[1] == Approx(second).epsilon(1e-6));
}

}  // namespace

TEST_CASE("backend.row_programs.worked_examples_of_adam_come_out") {
  check(adam(OptimizerKind::adamw_torch), 0.890000002, 0.854466299);
  check(adam(OptimizerKind::adamw_hugging_face), 0.891000063, 0.855722710);
  check(adam(OptimizerKind::adamw_torch, false), 0.673772434, 0.553852407);
  // L2: g = 0.6, then -0.25 + 0.1 * 0.9: m = 0.038, v = 3.8524e-4, both corrected.
  const double m = 0.9 * 0.06 - 0.1 * 0.16, v = 0.999 * 0.00036 + 0.001 * 0.0256;
  check(adam(OptimizerKind::adam_l2), 0.9,
        0.9 - 0.1 * (m / 0.19) / std::sqrt(v / (1 - 0.999 * 0.999)));
}

TEST_CASE("backend.row_programs.worked_examples_of_lamb_come_out") {
  check(lamb_example(Compat::paper, 1e-6f, {}), 0.9, 0.81);
  check(lamb_example(Compat::deepspeed, 1e-8f, {0.01f, 10}), 0.968377223, 0.945589688);
}

TEST_CASE("backend.row_programs.lamb_follows_both_equations_on_every_backend") {
  for (const Compat compat : {Compat::paper, Compat::deepspeed}) {
    oracle::Random random(31);
    const std::size_t count = 70003;
    const Floats weight = random.values<float>(count), gradient = random.values<float>(count),
                 first = random.values<float>(count, 0.1f);
    Floats second = random.values<float>(count, 0.1f);
    for (float& x : second) x *= x;
    const OptimizerNumbers n{1e-2f, 0.9f, 0.999f, 1e-6f, 0.1f, 0.25f, 5};
    const double c1 = 1 - std::pow(0.9, 5), c2 = 1 - std::pow(0.999, 5);
    Doubles w(count), m(count), v(count), u(count);
    double weights = 0, updates = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const double g = gradient[i] * 0.25;
      m[i] = 0.9 * first[i] + 0.1 * g;
      v[i] = 0.999 * second[i] + 0.001 * g * g;
      u[i] = compat == Compat::paper ? m[i] / c1 / (std::sqrt(v[i] / c2) + 1e-6)
                                     : m[i] / (std::sqrt(v[i]) + 1e-6);
      u[i] += 0.1 * weight[i];
      weights += double(weight[i]) * weight[i], updates += u[i] * u[i];
    }
    const double rate = compat == Compat::paper ? 1e-2 : 1e-2 * std::sqrt(c2) / c1;
    const double ratio = std::sqrt(weights / updates);
    for (std::size_t i = 0; i < count; ++i) w[i] = weight[i] - rate * ratio * u[i];
    oracle::on_every_backend(
        [&](auto& backend) {
          Floats w_out = weight, m_out = first, v_out = second;
          lamb_step(backend, w_out, m_out, v_out, gradient, n, compat);
          return std::vector<Floats>{w_out, m_out, v_out};
        },
        {w, m, v}, {5e-7, 2e-7, 2e-7});  // a few roundings of 2^-24
  }
}

TEST_CASE("backend.row_programs.a_trust_ratio_is_bounded_and_1_without_norms") {
  const auto norms = [](double weight, double update) {
    LambNorms n;
    n.weight.add(weight * weight), n.update.add(update * update);
    return n;
  };
  CHECK(trust_ratio(norms(3, 2), {}) == 1.5f);
  CHECK(trust_ratio(norms(100, 1), {0.01f, 10}) == 10.0f);
  CHECK(trust_ratio(norms(1, 1024), {0.01f, 10}) == 0.01f);
  CHECK(trust_ratio(norms(0, 5), {}) == 1.0f);
  CHECK(trust_ratio(norms(5, 0), {}) == 1.0f);
}

TEST_CASE("backend.row_programs.an_update_may_be_cut_into_ranges") {
  oracle::Random random(32);
  const std::int64_t count = 5000, cut = 3008;  // shards start at multiples of 16
  const Floats weight = random.values<float>(count), m = random.values<float>(count);
  Floats v = random.values<float>(count);
  for (float& x : v) x *= x;
  const Direction by{.mean_factor = 2, .root_correction = 0.5f, .epsilon = 1e-6f, .decay = 0.1f};
  Cpu cpu(2);
  const auto squares = [&](std::int64_t from, std::int64_t to, ExactSum sum = {}) {
    cpu.run(SumSquaresOfRows<Direction>{
        &sum, by, {weight.data() + from, m.data() + from, v.data() + from}, to - from});
    return sum;
  };
  CHECK(squares(0, count) == squares(cut, count, squares(0, cut)));
}

TEST_CASE("backend.row_programs.variance_ratios_have_one_maximum_on_every_backend") {
  oracle::Random random(33);
  const std::size_t count = 200001;
  Floats frozen = random.values<float>(count), moving = random.values<float>(count);
  double most = 0;
  for (std::size_t i = 0; i < count; ++i) {
    frozen[i] *= frozen[i], moving[i] *= moving[i];
    most = std::max(most, (std::sqrt(frozen[i]) + 1e-3) / (std::sqrt(moving[i]) + 1e-3));
  }
  oracle::on_every_backend(
      [&](auto& backend) {
        Floats largest{0};
        backend.run(LargestOfRows<VarianceRatio>{
            largest.data(), {1e-3f}, {frozen.data(), moving.data()}, std::int64_t(count)});
        return std::vector<Floats>{largest};
      },
      {{most}}, {1e-6});
}

TEST_CASE("backend.row_programs.a_sum_of_signs_stays_within_what_adam_could_step") {
  Floats m{1, -1, 1, -1, 0.5f, 1}, v{4, 4, 0.01f, 0.01f, 0, 1e-20f};
  CpuReference reference;
  OptimizerNumbers n;
  CHECK(adam_bound(n, 1000) == Approx(0.1 / std::sqrt(0.001)));
  CHECK(adam_bound(n, 60) == Approx(1 / std::sqrt(1 - std::pow(0.999, 60))));
  // What is cut off stays with the server.
  Floats kept{0, 0, 0.25f, 0, 0, 0};
  reference.run(RunRows<KeepWhatIsCutOff>{{2}, {kept.data(), m.data(), v.data()}, 6});
  CHECK(kept == Floats{0, 0, 0.25f + 0.8f, -0.8f, 0.5f, 1 - 2e-10f});
  OneBitLambTensor halved{.root = 2, .mean_root = 1};
  kept = Floats(6);
  reference.run(RunRows<KeepWhatIsCutOff>{{2, &halved}, {kept.data(), m.data(), v.data()}, 6});
  CHECK(kept == Floats{0, 0, 0.4f, -0.4f, 0.25f, 0.5f - 1e-10f});
  reference.run(RunRows<KeepWithinVariance>{{2}, {m.data(), v.data()}, 6});
  CHECK(m == Floats{1, -1, 0.2f, -0.2f, 0, 2e-10f});
}

TEST_CASE("backend.row_programs.one_bit_lamb_reads_the_gradient_out_of_the_momentum") {
  OptimizerNumbers n;
  const float gradient = 0.375f, before = 0.25f, after = 0.9f * before + 0.1f * gradient;
  float fresh = 0.5f, m = after, m_before = before;
  CpuReference reference;
  reference.run(RunRows<FollowMomentum>{FollowMomentum(n), {&fresh, &m, &m_before}, 1});
  CHECK(fresh == Approx(0.999 * 0.5 + 0.001 * 0.375 * 0.375).epsilon(1e-5));
}

namespace {
constexpr Compression defaults{};
// No decay: the largest ratio, within bounds and near the last factor.
static_assert(factor_after(1, 1.05f, 1, 1, false, defaults) == 1.05f);
static_assert(factor_after(1, 3, 1, 1, false, defaults) == 1.1f);
static_assert(factor_after(1, 0.1f, 1, 1, false, defaults) == 0.9f);
static_assert(factor_after(3.9f, 100, 1, 1, false, defaults) == 4);
static_assert(factor_after(0.52f, 0, 1, 1, false, defaults) == 0.5f);
// An update that is half decay: half of the way to 1.
static_assert(factor_after(1, 1.1f, 1, 2, true, defaults) == 1.1f * 0.5f + 0.5f);
static_assert(coefficient_after(0.5f, 1, 0.9f) == 0.5f);
static_assert(coefficient_after(0.5f, 2, 0.75f) == 0.875f);

}  // namespace

TEST_CASE("backend.row_programs.variance_steps_of_0_1_adam_are_adams_without_correction") {
  check(weights_after_two([](float& w, float& m, float& v, float gradient, std::int64_t t) {
          CpuReference reference;
          const OptimizerNumbers n{0.1f, 0.9f, 0.999f, 1e-8f, 0.1f, 1, t};
          reference.run(RunRows<FollowMoments>{FollowMoments(n), {&m, &v}, 1, &gradient});
          reference.run(RunRows<DescendByRoot>{{{n, Compat::deepspeed}}, {&w, &m, &v}, 1});
        }),
        0.673772434, 0.553852407);
}

namespace {

/// Three local steps of two ranks, then a sync in which nothing is lost to signs.
template <class B> std::vector<Floats> local_steps_and_a_sync(B& backend, Compat compat) {
  oracle::Random random(34);
  const std::size_t count = 5003;
  const auto size = std::int64_t(count);
  Floats start = random.values<float>(count), v = random.values<float>(count, 0.1f);
  for (float& x : v) x *= x;
  v[7] = 0;  // never had a gradient
  OptimizerNumbers n{0.01f, 0.9f, 0.999f, 1e-3f, 0.1f, 0.5f, 30};
  const ZeroOneRoot root(n.epsilon, compat);
  const float bound = compat == Compat::paper ? adam_bound(n, 10) : KeepWithinVariance{}.bound;
  Floats weight[2] = {start, start}, gathered[2] = {Floats(count), Floats(count)}, mean(count);
  double rates = 0, kept = 1;
  for (Floats& w : weight) {
    Floats m(count), &u = gathered[&w - weight];
    rates = 0, kept = 1;
    for (int step = 0; step < 3; ++step) {
      n.learning_rate = 0.01f * float(step + 1);
      rates += n.learning_rate;
      if (compat == Compat::paper) kept *= 1 - n.learning_rate * n.weight_decay;
      const Floats g = random.values<float>(count);
      backend.run(
          RunRows<FollowWithin>{{FollowGradient(n), bound}, {m.data(), v.data()}, size, g.data()});
      backend.run(
          RunRows<LocalStep>{{{n, compat}}, {u.data(), w.data(), m.data(), v.data()}, size});
    }
  }
  for (std::size_t i = 0; i < count; ++i) mean[i] = (gathered[0][i] + gathered[1][i]) / 2;
  mean[7] = 0.5f;  // what signs make of a zero
  Floats synced = start;
  backend.run(RunRows<TakeSync>{
      {root, bound, kept, rates}, {synced.data(), mean.data(), v.data(), start.data()}, size});
  return {weight[0], weight[1], synced, mean};
}

}  // namespace

TEST_CASE("backend.row_programs.ranks_that_stay_local_meet_at_the_mean_of_where_they_are") {
  for (const Compat compat : {Compat::paper, Compat::deepspeed}) {
    CpuReference reference;
    const std::vector<Floats> by_reference = local_steps_and_a_sync(reference, compat);
    Doubles means(by_reference[0].size());
    for (std::size_t i = 0; i < means.size(); ++i)
      means[i] = (double(by_reference[0][i]) + by_reference[1][i]) / 2;
    // Where there was never a gradient, what signs make of a zero is cut off, and with it what
    // DeepSpeed's form has put in there: the decay.
    if (compat == Compat::deepspeed) means[7] = oracle::Random(34).values<float>(8)[7];
    // 3 steps of rate 0.02 on weights of 1 with decay 0.1: what a rank alone decays of its own
    // movement, all that the paper's form leaves out, is 2e-3 of it.
    const double near = compat == Compat::paper ? 2e-3 : 1e-6;
    oracle::on_every_backend([&](auto& backend) { return local_steps_and_a_sync(backend, compat); },
                             {oracle::doubles(by_reference[0]), oracle::doubles(by_reference[1]),
                              means, oracle::doubles(by_reference[3])},
                             {1e-6, 1e-6, near, 1e-6});
    CHECK(by_reference[3][7] == 0);
  }
}
