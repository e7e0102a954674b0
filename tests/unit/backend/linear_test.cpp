// Products of linear layers: every way to keep a weight, rows that are no multiple of a block,
// sizes that fit oneDNN's blocks and sizes that do not.
#include "oracle.hpp"

using namespace ctrain;
using oracle::Doubles;
using oracle::Floats;
using oracle::share;

namespace {

struct Shape {
  int rows, out, in;
};

/// The layer's tensors and what they give in double.
template <class T> struct Layer {
  Shape shape;
  std::vector<T> x, dz;
  Floats master, bias, before_weight, before_bias;
  std::vector<T> before_input;
  Doubles z, dx, d_weight, d_bias;

  explicit Layer(Shape s) : shape(s) {
    oracle::Random random(21);
    x = random.values<T>(std::size_t(s.rows * s.in));
    dz = random.values<T>(std::size_t(s.rows * s.out));
    master = random.values<float>(std::size_t(s.out * s.in));
    bias = random.values<float>(std::size_t(s.out));
    before_weight = random.values<float>(master.size());
    before_bias = random.values<float>(bias.size());
    before_input = random.values<T>(x.size());
    z.resize(dz.size()), dx.resize(x.size()), d_weight.resize(master.size());
    d_bias.resize(bias.size());
    for (int r = 0; r < s.rows; ++r)
      for (int o = 0; o < s.out; ++o) {
        z[r * s.out + o] = bias[o];
        d_bias[o] += dz[r * s.out + o];
        for (int i = 0; i < s.in; ++i) {
          z[r * s.out + o] += double(x[r * s.in + i]) * T(master[o * s.in + i]);
          dx[r * s.in + i] += double(dz[r * s.out + o]) * T(master[o * s.in + i]);
          d_weight[o * s.in + i] += double(dz[r * s.out + o]) * x[r * s.in + i];
        }
      }
  }
};

/// What a gradient of T waits in where it is kept narrow.
template <class T> using NarrowOf = std::conditional_t<Half<T>, T, bf16>;

enum class Keep { master, forward_alone, both };

/// All products of the layer on a backend, accumulating or not.
template <class T, class B>
std::vector<Floats> products(B& backend, const Layer<T>& layer, Keep keep, bool accumulate) {
  const auto [rows, out, in] = layer.shape;
  auto forward = oracle::poisoned<T>(layer.master.size()), backward = forward;
  Weight<T> weight{layer.master.data(), keep == Keep::master ? nullptr : forward.data(),
                   keep == Keep::both ? backward.data() : nullptr, out, in};
  backend.run(PrepareWeight<T>{keep == Keep::master ? nullptr : forward.data(),
                               keep == Keep::both ? backward.data() : nullptr, layer.master.data(),
                               out, in});
  auto z = oracle::poisoned<T>(layer.z.size());
  auto dx = accumulate ? layer.before_input : oracle::poisoned<T>(layer.dx.size());
  auto wide_dx =
      accumulate ? oracle::floats(layer.before_input) : oracle::poisoned<float>(dx.size());
  auto d_weight = accumulate ? layer.before_weight : oracle::poisoned<float>(layer.master.size());
  auto d_bias = accumulate ? layer.before_bias : oracle::poisoned<float>(layer.bias.size());
  auto narrow = oracle::poisoned<NarrowOf<T>>(layer.master.size());
  Floats unused(layer.bias.size());
  backend.run(LinearForward<T>{z.data(), layer.x.data(), weight, layer.bias.data(), rows});
  backend.run(LinearBackwardInput<T, T>{dx.data(), layer.dz.data(), weight, rows, accumulate});
  backend.run(
      LinearBackwardInput<T, float>{wide_dx.data(), layer.dz.data(), weight, rows, accumulate});
  backend.run(LinearBackwardWeight<T>{d_weight.data(), d_bias.data(), layer.dz.data(),
                                      layer.x.data(), rows, out, in, accumulate});
  backend.run(LinearBackwardWeight<T, NarrowOf<T>>{narrow.data(), unused.data(), layer.dz.data(),
                                                   layer.x.data(), rows, out, in, false});
  return {oracle::floats(z), oracle::floats(dx), wide_dx, d_weight, d_bias, oracle::floats(narrow)};
}

Doubles plus(Doubles a, const Floats& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

template <class T> void check(Shape shape, Keep keep, bool accumulate) {
  const Layer<T> layer(shape);
  const Floats before = oracle::floats(layer.before_input);
  const std::vector<Doubles> expected =
      accumulate ? std::vector<Doubles>{layer.z,
                                        plus(layer.dx, before),
                                        plus(layer.dx, before),
                                        plus(layer.d_weight, layer.before_weight),
                                        plus(layer.d_bias, layer.before_bias),
                                        layer.d_weight}
                 : std::vector<Doubles>{layer.z,        layer.dx,     layer.dx,
                                        layer.d_weight, layer.d_bias, layer.d_weight};
  const std::vector<double> tolerances{share<T>, share<T>, 4e-6, 4e-6, 4e-6, share<NarrowOf<T>>};
  oracle::on_every_backend(
      [&](auto& backend) { return products(backend, layer, keep, accumulate); }, expected,
      tolerances);
  oracle::Library without_library(2, cpu::LibraryProducts(cpu::Threads{2}, false));
  const std::vector<Floats> plain = products(without_library, layer, keep, accumulate);
  for (std::size_t i = 0; i < expected.size(); ++i)
    oracle::require_near(plain[i], expected[i], tolerances[i], "without bf16 in the library");
}

}  // namespace

TEMPLATE_TEST_CASE("backend.linear.products_are_right_however_the_weight_is_kept", "", float, bf16,
                   fp16) {
  for (Shape shape : {Shape{1, 2, 64},
                      {37, 64, 128},
                      {130, 192, 64},
                      {19, 50, 33},
                      {5, 3, 7},
                      {600, 80, 48},
                      {33, 96, 112},
                      {700, 70, 200}})
    for (bool accumulate : {false, true}) {
      check<TestType>(shape, Keep::master, accumulate);
      check<TestType>(shape, Keep::forward_alone, accumulate);
      check<TestType>(shape, Keep::both, accumulate);
    }
}

TEMPLATE_TEST_CASE("backend.linear.panels_give_the_same_bits_however_the_weight_is_kept", "", float,
                   bf16, fp16) {
  for (Shape shape : {Shape{100, 80, 192}, {7, 35, 50}, {31, 66, 33}}) {
    const Layer<TestType> layer(shape);
    oracle::Panels panels(2);
    const auto rows = products(panels, layer, Keep::master, false);
    for (Keep keep : {Keep::forward_alone, Keep::both}) {
      const auto other = products(panels, layer, keep, false);
      for (std::size_t i = 0; i < rows.size(); ++i) CHECK(oracle::same_bits(rows[i], other[i]));
    }
  }
}

TEST_CASE("backend.linear.a_row_has_the_same_bits_beside_any_others") {
  const Layer<bf16> layer({130, 96, 64});
  Layer<bf16> first = layer;
  first.shape.rows = 41;
  first.z.resize(41 * 96), first.dx.resize(41 * 64);
  oracle::Panels panels(2);
  const auto all = products(panels, layer, Keep::both, false);
  const auto some = products(panels, first, Keep::both, false);
  for (int output : {0, 1, 2})
    CHECK(std::equal(some[output].begin(), some[output].end(), all[output].begin()));
}

TEMPLATE_TEST_CASE("backend.linear.bits_do_not_depend_on_workers_at_the_model_s_shapes", "", float,
                   bf16, fp16) {
  for (Shape shape : {Shape{120, 512, 2048}, {48, 2048, 576}}) {  // the second past the caches
    oracle::Random random(22);
    Layer<TestType> layer({1, 1, 1});  // only the shape is real: results are compared, not checked
    layer.shape = shape;
    const auto size = [](int a, int b) { return std::size_t(a) * std::size_t(b); };
    layer.x = random.values<TestType>(size(shape.rows, shape.in));
    layer.dz = random.values<TestType>(size(shape.rows, shape.out));
    layer.master = random.values<float>(size(shape.out, shape.in), 0.02f);
    layer.bias = random.values<float>(std::size_t(shape.out));
    layer.z.resize(layer.dz.size()), layer.dx.resize(layer.x.size());
    oracle::Panels one(1), two(2);
    const auto alone = products(one, layer, Keep::both, false);
    const auto together = products(two, layer, Keep::both, false);
    for (std::size_t i = 0; i < alone.size(); ++i) {
      INFO("output " << i);
      CHECK(oracle::same_bits(alone[i], together[i]));
    }
    const Floats& d_weight = together[3];
    const std::vector<NarrowOf<TestType>> rounded(d_weight.begin(), d_weight.end());
    CHECK(oracle::same_bits(together[5], oracle::floats(rounded)));
  }
}
