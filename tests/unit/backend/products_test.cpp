// Products on row-major weights: every count of rows, widths that end inside a tile, many blocks,
// nothing written or read beyond, and the same bits with any threads and any rows of zeros behind.
#include <ctrain/backend/cpu/direct_products.hpp>

#include "oracle.hpp"

using namespace ctrain;
using oracle::Doubles;
using oracle::Floats;
using oracle::share;

namespace {

struct Shape {
  int rows, out, in;
};

constexpr int guard = 64;

/// A matrix between two zones that must stay as they are.
template <class T> struct Guarded {
  std::vector<T> all;

  explicit Guarded(std::size_t count) : all(count + 2 * guard, T(-77.0f)) {
    std::fill(all.begin() + guard, all.end() - guard, T(std::numeric_limits<float>::quiet_NaN()));
  }
  explicit Guarded(const std::vector<T>& values) : Guarded(values.size()) {
    std::copy(values.begin(), values.end(), all.begin() + guard);
  }
  T* data() { return all.data() + guard; }
  Floats taken() const {
    for (int i = 0; i < guard; ++i) {
      CHECK(float(all[std::size_t(i)]) == -77.0f);
      CHECK(float(all[all.size() - 1 - std::size_t(i)]) == -77.0f);
    }
    return Floats(all.begin() + guard, all.end() - guard);
  }
};

template <class T> struct Operands {
  Shape shape;
  std::vector<T> x, dz, before;
  Floats weight, bias;

  explicit Operands(Shape s) : shape(s) {
    oracle::Random random(31);
    x = random.values<T>(std::size_t(s.rows * s.in));
    dz = random.values<T>(std::size_t(s.rows * s.out));
    before = random.values<T>(x.size());
    weight = random.values<float>(std::size_t(s.out * s.in));
    bias = random.values<float>(std::size_t(s.out));
  }

  /// With `count` rows of zeros behind.
  Operands with_zero_rows(int count) const {
    Operands longer = *this;
    longer.shape.rows += count;
    longer.x.resize(std::size_t(longer.shape.rows * shape.in));
    longer.dz.resize(std::size_t(longer.shape.rows * shape.out));
    longer.before.resize(longer.x.size());
    return longer;
  }
};

/// z, dx, and dx added to what was there in T and in float, of a weight in W.
template <class W, class T>
std::vector<Floats> products(cpu::DirectProducts& engine, const Operands<T>& layer) {
  const auto [rows, out, in] = layer.shape;
  REQUIRE(cpu::DirectProducts::serves<T>(out, in));
  Guarded<W> weight(std::vector<W>(layer.weight.begin(), layer.weight.end()));
  Guarded<T> z(layer.dz.size()), dx(layer.x.size()), sum(layer.before);
  Guarded<float> wide_sum(oracle::floats(layer.before));
  Weight<T> shape{.out = out, .in = in};
  engine.forward(LinearForward<T>{z.data(), layer.x.data(), shape, layer.bias.data(), rows},
                 weight.data());
  engine.backward_input(LinearBackwardInput<T, T>{dx.data(), layer.dz.data(), shape, rows, false},
                        weight.data());
  engine.backward_input(LinearBackwardInput<T, T>{sum.data(), layer.dz.data(), shape, rows, true},
                        weight.data());
  engine.backward_input(
      LinearBackwardInput<T, float>{wide_sum.data(), layer.dz.data(), shape, rows, true},
      weight.data());
  return {z.taken(), dx.taken(), sum.taken(), wide_sum.taken()};
}

template <class T> std::vector<Doubles> expected(const Operands<T>& layer) {
  const auto [rows, out, in] = layer.shape;
  Doubles z, dx(layer.x.size()), sum;
  for (int r = 0; r < rows; ++r)
    for (int o = 0; o < out; ++o) {
      double dot = layer.bias[o];
      for (int i = 0; i < in; ++i) {
        const double w = T(layer.weight[o * in + i]);
        dot += double(layer.x[r * in + i]) * w;
        dx[r * in + i] += double(layer.dz[r * out + o]) * w;
      }
      z.push_back(dot);
    }
  for (std::size_t i = 0; i < dx.size(); ++i) sum.push_back(dx[i] + double(layer.before[i]));
  return {z, dx, sum, sum};
}

template <class T> void check(cpu::DirectProducts& engine, Shape shape) {
  INFO(shape.rows << " rows, out " << shape.out << ", in " << shape.in);
  const Operands<T> layer(shape);
  const std::vector<Doubles> right = expected(layer);
  const std::vector<Floats> rounded = products<float>(engine, layer);
  const std::vector<Floats> kept = products<T>(engine, layer);
  for (std::size_t i = 0; i < right.size(); ++i) {
    oracle::require_near(kept[i], right[i], i == 3 ? share<float> : share<T>, "output");
    CHECK(oracle::same_bits(kept[i], rounded[i]));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("backend.products.are_right_for_every_count_of_rows", "", float, bf16, fp16) {
  cpu::DirectProducts engine(cpu::Threads{2});
  for (int rows = 1; rows <= 40; ++rows) check<TestType>(engine, {rows, 48, 80});
}

TEMPLATE_TEST_CASE("backend.products.are_right_where_tiles_and_blocks_end", "", float, bf16, fp16) {
  cpu::DirectProducts engine(cpu::Threads{2});
  for (Shape shape : {Shape{3, 2, 256},
                      {300, 2, 64},
                      {64, 256, 2},
                      {9, 110, 1104},
                      {70, 1040, 98},
                      {270, 102, 64},
                      {600, 16, 16},
                      {1, 1, 1},
                      {4, 6, 10}})
    if (cpu::DirectProducts::serves<TestType>(shape.out, shape.in)) check<TestType>(engine, shape);
}

TEMPLATE_TEST_CASE("backend.products.bits_do_not_depend_on_threads_or_on_zero_rows_behind", "",
                   float, bf16, fp16) {
  cpu::DirectProducts one(cpu::Threads{1}), two(cpu::Threads{2});
  for (Shape shape : {Shape{37, 208, 1056}, {265, 96, 320}}) {
    const Operands<TestType> layer(shape);
    const auto alone = products<TestType>(one, layer), together = products<TestType>(two, layer);
    const auto longer = products<TestType>(two, layer.with_zero_rows(23));
    for (std::size_t i = 0; i < alone.size(); ++i) {
      CHECK(oracle::same_bits(alone[i], together[i]));
      CHECK(std::equal(alone[i].begin(), alone[i].end(), longer[i].begin()));
    }
  }
}
