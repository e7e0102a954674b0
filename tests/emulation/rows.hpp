// Kernels on rows and on single elements against the reference.
#pragma once

#include "emulated.hpp"

namespace emulation {

using namespace ctrain;
using oracle::share;

/// Rows and columns: groups of 16 bytes or not, less than a block's stride and more.
struct Shape {
  int rows, cols, shift = 0;
};
inline constexpr Shape shapes[] = {{1, 1}, {3, 5}, {9, 40}, {3, 1096}, {2, 2050}, {5, 48, 1}};

template <class T> void layer_norm_agrees() {
  for (const auto [rows, hidden, shift] : shapes) {
    if (hidden == 1) continue;  // no variance: rstd and dx are rounding, and no policy has it
    oracle::Random random(1);
    const auto count = std::size_t(rows) * std::size_t(hidden), width = std::size_t(hidden);
    Buffer<float> x(random.values<float>(count), shift), gain(random.values<float>(width), shift),
        bias(random.values<float>(width), shift);
    const std::vector<T> dy = random.values<T>(count);
    const Floats before = random.values<float>(count), slopes = random.values<float>(width);
    for (const bool accumulate : {false, true})
      agrees(
          [&](auto& backend) {
            Buffer<T> y(count, shift), given(dy, shift);
            Buffer<float> mean(std::size_t(rows), 0), rstd(std::size_t(rows), 0);
            backend.run(LayerNormForward<T>{y.data(), mean.data(), rstd.data(), x.data(),
                                            gain.data(), bias.data(), rows, hidden, 1e-5f});
            Buffer<float> dx(before, shift), d_gain(slopes, shift), d_bias(slopes, shift);
            LayerNormBackward<T> call{dx.data(), d_gain.data(), d_bias.data(), given.data(),
                                      x.data(),  mean.data(),   rstd.data(),   gain.data(),
                                      rows,      hidden,        accumulate,    accumulate};
            if constexpr (std::is_same_v<T, float>)
              if (!accumulate) call.dx = given.data();
            backend.run(call);
            return std::vector<Floats>{y.floats(),      mean.floats(),   rstd.floats(), dx.floats(),
                                       d_gain.floats(), d_bias.floats(), given.floats()};
          },
          {share<T>, 4e-6, 4e-6, 2e-5, 2e-5, 4e-6, share<T>});
  }
}

/// Residual, dropout and norm, forward and backward, in one kernel each: the bits of one after the
/// other, also where a result stands in the place of what was read.
template <class T, class Y> void joined_norm_has_the_bits_of_both() {
  for (const auto [rows, hidden, shift] : shapes) {
    if (hidden == 1) continue;
    oracle::Random random(13);
    oracle::OwnedBatch batch = oracle::random_batch(random, rows, 1, 0, false);
    const Dropout dropout = oracle::dropout(batch, rows % 2 == 0 ? 0.0f : 0.3f);
    const auto count = std::size_t(rows) * std::size_t(hidden), width = std::size_t(hidden),
               height = std::size_t(rows);
    const std::vector<T> branch = random.values<T>(count);
    const std::vector<Y> dy = random.values<Y>(count);
    const Floats stream = random.values<float>(count);
    Buffer<float> residual(random.values<float>(count), shift),
        gain(random.values<float>(width), shift), bias(random.values<float>(width), shift);
    const int all = rows, wide = hidden, first = shift;
    const auto outputs = [&](auto&& backend, bool joined, bool in_place) {
      Buffer<T> from(branch, first), d_branch(count, first);
      Buffer<Y> y(count, first), d_y(dy, first);
      Buffer<float> sum(count, first), dx(stream, first), mean(height), rstd(height),
          d_gain(width, first), d_bias(width, first);
      DropoutAddForward<T> add{sum.data(), from.data(), residual.data(), dropout, all, wide};
      LayerNormForward<Y> norm{y.data(),    mean.data(), rstd.data(), sum.data(), gain.data(),
                               bias.data(), all,         wide,        1e-5f};
      LayerNormBackward<Y> norm_back{dx.data(),  d_gain.data(), d_bias.data(), d_y.data(),
                                     sum.data(), mean.data(),   rstd.data(),   gain.data(),
                                     all,        wide,          true,          false};
      DropoutAddBackward<T> add_back{d_branch.data(), dx.data(), dropout, all, wide};
      if constexpr (std::is_same_v<T, Y>)
        if (in_place) norm.y = from.data(), add_back.d_branch = d_y.data();
      if (joined) {
        backend.run(DropoutAddLayerNormForward<T, Y>{add, norm});
        backend.run(LayerNormDropoutAddBackward<T, Y>{norm_back, add_back});
      } else {
        backend.run(add), backend.run(norm), backend.run(norm_back), backend.run(add_back);
      }
      kernels_run().merge(backend.stream.names);
      return std::vector<Floats>{sum.floats(),
                                 mean.floats(),
                                 rstd.floats(),
                                 dx.floats(),
                                 d_gain.floats(),
                                 d_bias.floats(),
                                 in_place ? from.floats() : y.floats(),
                                 in_place ? d_y.floats() : d_branch.floats()};
    };
    const auto apart = outputs(Emulated(), false, false), joined = outputs(Emulated(), true, false),
               backwards = outputs(Emulated(true), true, std::is_same_v<T, Y>);
    for (std::size_t i = 0; i < apart.size(); ++i) {
      INFO("output " << i << ", " << all << " rows of " << wide);
      CHECK(oracle::same_bits(joined[i], apart[i]));
      CHECK(oracle::same_bits(backwards[i], apart[i]));
    }
  }
}

template <class T> void dropout_agrees() {
  for (const auto [rows, cols, shift] : shapes)
    for (const float probability : {0.0f, 0.3f}) {
      oracle::Random random(2);
      oracle::OwnedBatch batch = oracle::random_batch(random, rows, 1, 0, false);
      const auto count = std::size_t(rows) * std::size_t(cols);
      Buffer<T> branch(random.values<T>(count), shift);
      Buffer<float> residual(random.values<float>(count), shift);
      const Dropout dropout = oracle::dropout(batch, probability);
      Dropout pooled = dropout;
      pooled.first_row = batch.first_row.data();
      agrees(
          [&](auto& backend) {
            Buffer<float> sum(count, shift), alone(count, shift), inside(residual.values(), shift);
            Buffer<T> d_branch(count, shift);
            backend.run(DropoutAddForward<T>{sum.data(), branch.data(), residual.data(), dropout,
                                             rows, cols});
            backend.run(
                DropoutAddBackward<T>{d_branch.data(), residual.data(), dropout, rows, cols});
            backend.run(DropoutForward{alone.data(), residual.data(), pooled, rows, cols});
            backend.run(DropoutForward{inside.data(), inside.data(), dropout, rows, cols});
            return std::vector<Floats>{sum.floats(), d_branch.floats(), alone.floats(),
                                       inside.floats()};
          },
          {1e-7, 0, 0, 0});  // the sum: a device may fuse product and addition
    }
}

template <class T> void elements_agree() {
  for (const auto [rows, cols, shift] : shapes) {
    oracle::Random random(3);
    const auto count = std::size_t(rows) * std::size_t(cols);
    Buffer<float> wide(random.values<float>(count, 2), shift);
    Buffer<T> x(random.values<T>(count, 2), shift), dy(random.values<T>(count), shift);
    agrees(
        [&](auto& backend) {
          std::vector<Floats> outputs;
          Buffer<T> narrow(count, shift), forward(count, shift);
          backend.run(CastForward<T>{narrow.data(), wide.data(), rows, cols});
          backend.run(PrepareWeight<T>{forward.data(), nullptr, wide.data(), rows, cols});
          Buffer<float> widened(count, shift), added(wide.values(), shift);
          backend.run(CastBackward<T>{widened.data(), x.data(), rows, cols, false});
          backend.run(CastBackward<T>{added.data(), x.data(), rows, cols, true});
          for (const Floats& one :
               {narrow.floats(), forward.floats(), widened.floats(), added.floats()})
            outputs.push_back(one);
          for (const Activation form : {Activation::gelu_erf, Activation::gelu_tanh}) {
            Buffer<T> y(count, shift), dx(dy.values(), shift);
            backend.run(GeluForward<T>{y.data(), x.data(), rows, cols, form});
            backend.run(GeluBackward<T>{dx.data(), dx.data(), x.data(), rows, cols, form});
            outputs.push_back(y.floats());
            outputs.push_back(dx.floats());
          }
          return outputs;
        },
        {0, 0, 0, 0, share<T>, share<T>, share<T>, share<T>});
  }
}

inline void clear_agrees() {
  for (const int count : {1, 15, 64, 77})
    for (const int shift : {0, 3})
      agrees(
          [&](auto& backend) {
            Buffer<bf16> to(std::size_t(count), shift);
            backend.run(Clear{to.data(), std::int64_t{2} * count});
            return std::vector<Floats>{to.floats()};
          },
          {0});
}

inline void copy_agrees() {
  for (const int count : {1, 15, 64, 77})
    for (const int shift : {0, 3}) {
      oracle::Random random(12);
      Buffer<bf16> from(random.values<bf16>(std::size_t(count)), shift);
      agrees(
          [&](auto& backend) {
            Buffer<bf16> to(std::size_t(count), shift);
            backend.run(Copy{to.data(), from.data(), std::int64_t{2} * count});
            return std::vector<Floats>{to.floats()};
          },
          {0});
    }
}

inline void tanh_agrees() {
  for (const auto [rows, cols, shift] : shapes) {
    oracle::Random random(4);
    const auto count = std::size_t(rows) * std::size_t(cols);
    Buffer<float> x(random.values<float>(count), shift), dy(random.values<float>(count), shift);
    agrees(
        [&](auto& backend) {
          Buffer<float> y(x.values(), shift), dx(count, shift);
          backend.run(TanhForward{y.data(), y.data(), rows, cols});
          backend.run(TanhBackward{dx.data(), dy.data(), y.data(), rows, cols});
          return std::vector<Floats>{y.floats(), dx.floats()};
        },
        {1e-6, 1e-6});
  }
}

template <class T> void bias_gradient_agrees() {
  for (const auto [rows, out, shift] : shapes)
    for (const int times : {1, 90}) {
      oracle::Random random(5);
      const int many = rows * times, in = 2;
      const auto count = std::size_t(many) * std::size_t(out);
      if (count > 100000) continue;
      Buffer<T> dz(random.values<T>(count), shift), x(random.values<T>(std::size_t(many * in)));
      const Floats before = random.values<float>(std::size_t(out));
      for (const bool accumulate : {false, true})
        agrees(
            [&](auto& backend) {
              Buffer<float> d_weight(Floats(std::size_t(out * in))), d_bias(before, shift);
              backend.run(LinearBackwardWeight<T>{d_weight.data(), d_bias.data(), dz.data(),
                                                  x.data(), many, out, in, accumulate});
              return std::vector<Floats>{d_bias.floats()};
            },
            {4e-6});
    }
}

}  // namespace emulation
