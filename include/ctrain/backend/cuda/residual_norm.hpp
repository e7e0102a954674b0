/// \file  Device kernels of residual, dropout and layer normalisation of a row at once.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/cuda/dropout.hpp>
#include <ctrain/backend/cuda/layer_norm.hpp>

namespace ctrain::cuda {

/// DropRows, then NormaliseRows of what that has written, with their bits. One block per row, which
/// stays in shared memory between the two: a quarter less traffic in 16 bits.
template <class T, class Y, int Group> struct AddNormaliseRows {
  using Drop = RowDropout<Group>;
  using Norm = RowNorm<Y, Group>;
  static constexpr int threads = Norm::threads;
  static_assert(Drop::threads == threads, "a thread normalises the groups that it has added");
  DropoutAddLayerNormForward<T, Y> call;

  std::int64_t blocks() const { return call.add.rows; }
  int shared_bytes() const {
    return Drop::shared_bytes + Norm::shared_bytes + call.add.hidden * int(sizeof(float));
  }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    auto* draws = reinterpret_cast<std::uint16_t*>(block.shared());
    auto* sums = reinterpret_cast<float*>(block.shared() + Drop::shared_bytes);
    float* row = sums + Norm::shared_bytes / int(sizeof(float));
    const auto& add = call.add;
    const std::int64_t at = block.index() * add.hidden;
    Drop::each_group(block, dropout_row(add.dropout, int(block.index())), add.hidden, draws,
                     [&](int c, const auto& dropped) {
                       Values<Group> value = dropped(load<Group>(add.branch + at + c));
                       const Values<Group> other = load<Group>(add.residual + at + c);
                       for (int i = 0; i < Group; ++i) value[i] += other[i];
                       store(add.sum + at + c, value);
                       store(row + c, value);
                     });
    Norm{call.norm}.normalise(block, block.index(), row, sums);
  }
};

/// NormaliseRowsSlope, then DropRows of what that has written, with their bits. One block per row.
template <class T, class Y, int Group> struct NormaliseRowsSlopeDrop {
  using Drop = RowDropout<Group>;
  using Norm = RowNormSlope<Y, Group>;
  static constexpr int threads = Norm::threads;
  static_assert(Drop::threads == threads, "a thread drops from the groups that it has written");
  LayerNormDropoutAddBackward<T, Y> call;

  std::int64_t blocks() const { return call.add.rows; }
  int shared_bytes() const { return Drop::shared_bytes + Norm::shared_bytes; }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    auto* draws = reinterpret_cast<std::uint16_t*>(block.shared());
    const auto& add = call.add;
    Norm row(call.norm, block.index());
    row.sum(block, reinterpret_cast<float*>(block.shared() + Drop::shared_bytes));
    Drop::each_group(block, dropout_row(add.dropout, int(block.index())), add.hidden, draws,
                     [&](int c, const auto& dropped) {
                       store(add.d_branch + block.index() * add.hidden + c, dropped(row.write(c)));
                     });
  }
};

template <class T, class Y, Stream S>
void compute(const DropoutAddLayerNormForward<T, Y>& call, S& stream) {
  const DropoutAddForward<T>& add = call.add;
  const LayerNormForward<Y>& norm = call.norm;
  with_norm_group(
      add.hidden,
      [&]<int Group>(Index<Group>) { stream.launch(AddNormaliseRows<T, Y, Group>{call}); }, add.sum,
      add.branch, add.residual, norm.y, norm.gain, norm.bias);
}

template <class T, class Y, Stream S>
void compute(const LayerNormDropoutAddBackward<T, Y>& call, S& stream) {
  const LayerNormBackward<Y>& norm = call.norm;
  const DropoutAddBackward<T>& add = call.add;
  with_norm_group(
      add.hidden,
      [&]<int Group>(Index<Group>) {
        sum_norm_parameters<Group>(norm, stream);
        stream.launch(NormaliseRowsSlopeDrop<T, Y, Group>{call});
      },
      add.d_branch, norm.dx, norm.dy, norm.x, norm.gain);
}

}  // namespace ctrain::cuda
