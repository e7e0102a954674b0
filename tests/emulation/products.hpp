// Calls that are products, on their way to a device's library: shapes, operands and epilogues as
// cuBLASLt's documentation defines them, on a host, give what the reference gives.
#pragma once

#include <ctrain/backend/cuda/kernel_calls.hpp>
#include <ctrain/backend/math/activation.hpp>

#include "emulated.hpp"

namespace emulation {

using namespace ctrain;

/// Models cuda::ProductLibrary: column-major loops, sums in double. `epilogues`: which it has.
struct PlainProducts {
  std::set<cuda::Epilogue> epilogues;
  std::vector<cuda::ProductShape> met{};

  bool try_to_run(const cuda::ProductShape& s, const cuda::ProductOperands& on) {
    if (s.epilogue > cuda::Epilogue::bias && epilogues.count(s.epilogue) == 0) return false;
    run(s, on);
    return true;
  }
  void run(const cuda::ProductShape& s, const cuda::ProductOperands& on) {
    met.push_back(s);
    with_type(s.operand, [&]<class T>(T*) {
      with_type(s.result, [&]<class D>(D*) { multiply<T, D>(s, on); });
    });
  }

 private:
  template <class Body> static void with_type(DType type, Body&& body) {
    if (type == DType::bf16)
      body(static_cast<bf16*>(nullptr));
    else if (type == DType::fp16)
      body(static_cast<fp16*>(nullptr));
    else
      body(static_cast<float*>(nullptr));
  }

  template <class T, class D>
  static void multiply(const cuda::ProductShape& s, const cuda::ProductOperands& on) {
    const auto* a = static_cast<const T*>(on.a);
    const auto* b = static_cast<const T*>(on.b);
    auto* d = static_cast<D*>(on.d);
    auto* bias = const_cast<D*>(static_cast<const D*>(on.bias));
    auto* aux = const_cast<D*>(static_cast<const D*>(on.aux));
    const auto b_at = [&](int k, int n) {
      return double(float(s.transpose_b ? b[n + k * s.n] : b[k + n * s.k]));
    };
    for (int n = 0; n < s.n; ++n) {
      double sum_of_b = 0;
      for (int k = 0; k < s.k; ++k) sum_of_b += b_at(k, n);
      if (s.epilogue == cuda::Epilogue::sums_of_b) bias[n] = D(float(sum_of_b));
      for (int m = 0; m < s.m; ++m) {
        const int at = m + n * s.m;
        double sum = s.accumulate ? double(float(d[at])) : 0;
        for (int k = 0; k < s.k; ++k)
          sum += double(float(s.transpose_a ? a[k + m * s.k] : a[m + k * s.m])) * b_at(k, n);
        auto value = float(sum);
        if (s.epilogue == cuda::Epilogue::bias || s.epilogue == cuda::Epilogue::bias_gelu)
          value = float(sum + double(float(bias[m])));
        if (s.epilogue == cuda::Epilogue::bias_gelu) aux[at] = D(value), value = gelu_tanh(value);
        if (s.epilogue == cuda::Epilogue::gelu_slope) value *= gelu_tanh_slope(float(aux[at]));
        d[at] = D(value);
      }
    }
  }
};

/// Each call alone, and GELU after its layer, with a library that has every epilogue, or none.
template <class T> void products_agree(bool with_epilogues, bool accumulate) {
  const int rows = 7, in = 16, out = 24;
  oracle::Random random(11);
  const auto size = std::size_t(out * in), wide = std::size_t(rows * out),
             narrow = std::size_t(rows * in);
  Buffer<float> master(random.values<float>(size)), bias(random.values<float>(std::size_t(out)));
  Buffer<T> copy{std::vector<T>(size)}, x(random.values<T>(narrow)), dz(random.values<T>(wide));
  for (std::size_t i = 0; i < size; ++i) copy.data()[i] = T(master.data()[i]);
  const Weight<T> weight{master.data(), copy.data(), nullptr, out, in};
  const Weight<T> transposed{master.data(), copy.data(), nullptr, in, out};
  const Floats before = random.values<float>(size);

  const auto run = [&](auto& backend) {
    Buffer<T> u(wide), v(wide), dv(wide), dx(narrow);
    Buffer<float> d_weight(before), d_bias(Floats(before.begin(), before.begin() + out)),
        stream(Floats(before.begin(), before.begin() + rows * in));
    backend.run(LinearForward<T>{u.data(), x.data(), weight, bias.data(), rows});
    backend.run(GeluForward<T>{v.data(), u.data(), rows, out, Activation::gelu_tanh});
    backend.run(LinearBackwardWeight<T>{d_weight.data(), d_bias.data(), dz.data(), x.data(), rows,
                                        out, in, accumulate});
    backend.run(LinearBackwardInput<T, T>{dx.data(), dz.data(), weight, rows});
    backend.run(LinearBackwardInput<T, float>{stream.data(), dz.data(), weight, rows, true});
    backend.run(LinearBackwardInput<T, T>{dv.data(), x.data(), transposed, rows});
    backend.run(GeluBackward<T>{dv.data(), dv.data(), u.data(), rows, out, Activation::gelu_tanh});
    return std::vector<Floats>{u.floats(),      v.floats(),  d_weight.floats(), d_bias.floats(),
                               stream.floats(), dx.floats(), dv.floats()};
  };

  CpuReference reference;
  Stream stream;
  PlainProducts products;
  if (with_epilogues)
    products.epilogues = {cuda::Epilogue::bias_gelu, cuda::Epilogue::gelu_slope,
                          cuda::Epilogue::sums_of_b};
  cuda::KernelCalls<Stream, PlainProducts> device(stream, products, true);
  const std::vector<Floats> expected = run(reference), got = run(device);
  // Halves: bias, and what GELU or its slope reads, are rounded here and not there.
  constexpr double once = Half<T> ? 2 * oracle::share<T> : 1e-6;
  const double tolerances[] = {once, once, 1e-6, 1e-6, 1e-6, once, Half<T> ? 3 * once : once};
  for (std::size_t i = 0; i < expected.size(); ++i)
    oracle::require_near(got[i], oracle::doubles(expected[i]), tolerances[i],
                         "output " + std::to_string(i));

  // Two pairs are one product each, and no kernel sums a bias gradient, where the library can.
  CHECK(products.met.size() == 5);
  const auto count = [&](cuda::Epilogue e) {
    return std::count_if(products.met.begin(), products.met.end(),
                         [&](const cuda::ProductShape& s) { return s.epilogue == e; });
  };
  CHECK(count(cuda::Epilogue::bias_gelu) == with_epilogues);
  CHECK(count(cuda::Epilogue::gelu_slope) == with_epilogues);
  CHECK(count(cuda::Epilogue::sums_of_b) == (with_epilogues && !accumulate));
  CHECK(stream.names.count("SumChunks") == !(with_epilogues && !accumulate));
}

}  // namespace emulation
