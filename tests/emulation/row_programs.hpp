// Kernels of row programs and of sign compression against the reference.
#pragma once

#include <ctrain/backend/math/compressed_programs.hpp>

#include "emulated.hpp"

namespace emulation {

/// What RunOnce is tested with.
struct Double {
  float* at;
  CTRAIN_HOST_DEVICE void operator()() const { *at *= 2; }
};

/// A LAMB step of one tensor, and the other programs on the same arrays.
template <class G> void row_programs_agree() {
  for (const int count : {1, 6, 1030, 65536 + 3})
    for (const int shift : {0, 1}) {
      oracle::Random random(51);
      const auto size = std::size_t(count);
      const Floats w = random.values<float>(size), m = random.values<float>(size);
      Floats v = random.values<float>(size);
      for (float& x : v) x *= x;
      Buffer<G> g(random.values<G>(size), shift);
      const OptimizerNumbers n{1e-2f, 0.9f, 0.999f, 1e-6f, 0.1f, 0.5f, 3};
      agrees(
          [&](auto& backend) {
            Buffer<float> weight(w, shift), first(m, shift), second(v, shift);
            Buffer<float> few(Floats{0, 3}, 0);
            LambNorms norms;
            const LambStep step = lamb_step(n, Compat::paper);
            LambStep skipped = step;
            skipped.follow.gradient_scale = 0;
            const Descend by = step.descend;
            backend.run(RunRows<FollowMoments, G>{
                FollowMoments(n), {first.data(), second.data()}, count, g.data()});
            backend.run(SumOfSquares{&norms.weight, weight.data(), count});
            backend.run(SumSquaresOfRows<Direction>{
                &norms.update, by.direction, {weight.data(), first.data(), second.data()}, count});
            backend.run(RunRows<DescendByTrust>{
                {by, {}, &norms}, {weight.data(), first.data(), second.data()}, count});
            for (const LambStep& of : {step, skipped}) {
              LambNorms then;
              float* const all[] = {weight.data(), first.data(), second.data()};
              backend.run(RunRows<FollowMomentsOf, G>{{&of}, {all[1], all[2]}, count, g.data()});
              backend.run(SumOfSquares{&then.weight, all[0], count});
              backend.run(SumSquaresOfRows<DirectionOf>{
                  &then.update, {&of}, {all[0], all[1], all[2]}, count});
              backend.run(
                  RunRows<DescendByTrustOf>{{&of, {}, &then}, {all[0], all[1], all[2]}, count});
            }
            backend.run(
                RunRows<FollowGradient, G>{FollowGradient(n), {first.data()}, count, g.data()});
            backend.run(RunRows<KeepWithinVariance>{{2.5f}, {first.data(), second.data()}, count});
            backend.run(LargestOfRows<VarianceRatio>{
                few.data(), {1e-3f}, {second.data(), second.data()}, count});
            backend.run(RunOnce<Double>{{few.data() + 1}});
            return std::vector<Floats>{weight.floats(), first.floats(), second.floats(),
                                       few.floats()};
          },
          {1e-6, 1e-6, 1e-6, 0});
    }
}

/// Steps of 0/1 Adam in both spellings.
template <class G> void zero_one_programs_agree() {
  for (const Compat compat : {Compat::paper, Compat::deepspeed})
    for (const int count : {6, 1030}) {
      oracle::Random random(53);
      const auto size = std::size_t(count);
      const Floats w = random.values<float>(size), m = random.values<float>(size),
                   u = random.values<float>(size);
      Floats v = random.values<float>(size);
      for (float& x : v) x *= x;
      v[1] = 0;
      Buffer<G> g(random.values<G>(size), 0);
      const OptimizerNumbers n{1e-2f, 0.9f, 0.999f, 1e-3f, 0.1f, 0.5f, 3};
      const ZeroOneNumbers by(n, compat);
      agrees(
          [&](auto& backend) {
            Buffer<float> weight(w, 0), first(m, 0), second(v, 0), gathered(u, 0), last(w, 0);
            float *const at = weight.data(), *const moment = first.data(),
                         *const square = second.data(), *const sum = gathered.data();
            backend.run(RunRows<FollowWithin, G>{
                {FollowGradient(n), 2.5f}, {moment, square}, count, g.data()});
            backend.run(RunRows<DescendByRoot>{{by}, {at, moment, square}, count});
            backend.run(RunRows<GatherMomentum>{{by}, {sum, at, moment, square}, count});
            backend.run(RunRows<LocalStep>{{by}, {sum, at, moment, square}, count});
            backend.run(RunRows<AddGradientToError, G>{{n.gradient_scale}, {sum}, count, g.data()});
            backend.run(RunRows<TakeSync>{
                {by.root, 3.0f, 0.99, 0.02}, {at, moment, square, last.data()}, count});
            backend.run(RunRows<TakeOwnMean>{{50.0f}, {last.data(), sum}, count});
            return std::vector<Floats>{weight.floats(), first.floats(), gathered.floats(),
                                       last.floats()};
          },
          {1e-6, 1e-6, 0, 1e-6});
    }
}

/// What 1-bit Adam and 1-bit LAMB run besides: on tensors' own numbers, and on errors.
inline void compressed_programs_agree() {
  for (const int count : {6, 1030}) {
    oracle::Random random(54);
    const auto size = std::size_t(count);
    const Floats w = random.values<float>(size), m = random.values<float>(size),
                 b = random.values<float>(size), e = random.values<float>(size);
    Floats v = random.values<float>(size), moves = random.values<float>(size);
    for (std::size_t i = 0; i < size; ++i) v[i] *= v[i], moves[i] *= moves[i];
    const OptimizerNumbers n{1e-2f, 0.9f, 0.999f, 1e-3f, 0.1f, 0.5f, 3};
    const Descend by{plain_direction(n), n.learning_rate};
    agrees(
        [&](auto& backend) {
          Buffer<float> weight(w, 0), first(m, 0), second(v, 0), moving(moves, 0), before(b, 0),
              error(e, 0), mean(Floats{0.25f}, 0);
          float *const at = weight.data(), *const moment = first.data(),
                       *const square = second.data(), *const lost = error.data();
          OneBitLambTensor tensor;
          LambNorms norms;
          ExactSum squares;
          backend.run(SumOfSquares{&squares, moment, count});
          backend.run(RunOnce<TakeRoot>{{&tensor, &squares, count, 2, mean.data()}});
          backend.run(RunOnce<TakeMeanRoot>{{&tensor, mean.data()}});
          backend.run(RunRows<AddToError>{{}, {lost, moment}, count});
          backend.run(RunRows<AddScaledToError>{{&tensor}, {lost, moment}, count});
          backend.run(RunRows<ScaleBack>{{&tensor}, {moment}, count});
          backend.run(RunRows<KeepWhatIsCutOff>{{0.5f, &tensor}, {lost, moment, square}, count});
          backend.run(RunRows<FollowMomentum>{
              FollowMomentum(n), {moving.data(), moment, before.data()}, count});
          backend.run(SumOfSquares{&norms.weight, at, count});
          backend.run(SumSquaresOfRows<Direction>{
              &norms.update, by.direction, {at, moment, square}, count});
          backend.run(RunOnce<AverageTrust>{{&tensor, &norms, {}, 0.9f}});
          backend.run(LargestOfRows<VarianceRatio>{
              &tensor.largest_ratio, {n.epsilon}, {square, moving.data()}, count});
          backend.run(RunOnce<TakeFactor>{{&tensor, &norms, true, {}}});
          backend.run(RunRows<Descend>{by, {at, moment, square}, count});
          backend.run(RunRows<DescendByCoefficient>{{by, &tensor}, {at, moment, square}, count});
          return std::vector<Floats>{weight.floats(),
                                     first.floats(),
                                     error.floats(),
                                     moving.floats(),
                                     {tensor.coefficient, tensor.factor, tensor.root,
                                      tensor.mean_root, tensor.largest_ratio}};
        },
        {1e-6, 1e-6, 1e-6, 1e-6, 1e-6});
  }
}

/// Bits, scales and errors are the reference's.
inline void sign_compression_agrees() {
  for (const int count : {8, 40, 2056})
    for (const int ranks : {1, 3}) {
      oracle::Random random(52);
      const Floats error = random.values<float>(std::size_t(count));
      const int stride = 4 + (count / 8 + 3) / 4 * 4;  // of [scale | bits]
      agrees(
          [&](auto& backend) {
            Buffer<float> lost(error, 0), sum(error, 0), whole(std::size_t(count), 0);
            Buffer<std::uint8_t> messages(std::vector<std::uint8_t>(std::size_t(stride * ranks)),
                                          0);
            std::uint8_t* const first = messages.data();
            auto* const scales = reinterpret_cast<float*>(first);
            for (int r = 0; r < ranks; ++r) {
              ExactSum squares;
              backend.run(SumOfSquares{&squares, lost.data(), count});
              backend.run(PackSigns{first + r * stride + 4, scales + r * stride / 4, lost.data(),
                                    &squares, count, count});
            }
            backend.run(AddMeanOfSigns{sum.data(), first + 4, scales, stride, count, ranks});
            backend.run(UnpackSigns{whole.data(), first + 4, scales, count});
            return std::vector<Floats>{lost.floats(), messages.floats(), sum.floats(),
                                       whole.floats()};
          },
          {0, 0, 0, 0});
    }
}

}  // namespace emulation
