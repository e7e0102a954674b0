/// \file  Products of linear layers through oneDNN, for machines without AVX2.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/plain_products.hpp>
#include <ctrain/backend/cpu/products.hpp>
#include <ctrain/backend/cpu/rows.hpp>
#include <ctrain/backend/cpu/threads.hpp>
#include <ctrain/backend/cpu/update.hpp>

#include <compare>
#include <map>
#include <span>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

namespace ctrain::cpu {

/// The three products of a linear layer.
enum class ProductKind : std::uint8_t { forward, backward_input, backward_weight };

/// What a prepared product depends on.
struct ProductKey {
  ProductKind kind = ProductKind::forward;
  DType type = DType::fp32;    // operands
  DType result = DType::fp32;  // what is written
  bool accumulate = false;
  int rows = 0, out = 0, in = 0;
  friend auto operator<=>(const ProductKey&, const ProductKey&) = default;
};

inline dnnl::memory::data_type dnnl_type(DType type) {
  return type == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

/// A (rows, columns) matrix; `row_step` and `column_step` in elements.
inline dnnl::memory::desc dnnl_matrix(DType type, int rows, int columns, int row_step,
                                      int column_step) {
  return {dnnl::memory::dims{rows, columns}, dnnl_type(type),
          dnnl::memory::dims{row_step, column_step}};
}

inline dnnl::memory::desc dnnl_rows(DType type, int rows, int columns) {
  return dnnl_matrix(type, rows, columns, columns, 1);
}

/// Every product of a step, made once per key and then only executed. The scratch memory that
/// oneDNN asks for is taken when a product is made; executing one, oneDNN 2.6 itself allocates six
/// or seven times and frees again. Weights are row-major: where a policy packs them, `forward` is
/// the copy that both directions read and `backward` stays untouched.
class LibraryProducts {
 public:
  /// `library_bf16` false: bf16 products do without oneDNN.
  explicit LibraryProducts(Threads threads, bool library_bf16 = machine_has_bf16())
      : threads_(threads),
        library_bf16_(library_bf16),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_) {}

  /// Whether oneDNN has bf16 products on this machine that are worth calling.
  static bool machine_has_bf16() { return machine_has(dnnl::cpu_isa::avx512_core_bf16); }

  /// Whether oneDNN's products are the same for any number of threads. Its AVX-512 products are;
  /// for older units it splits long sums by the number of threads where the result is small.
  static bool ignores_thread_count() { return machine_has(dnnl::cpu_isa::avx512_core); }

  /// Makes every product that steps over these layers and row counts can ask for.
  template <class T> void prepare(std::span<const LinearShape> layers, std::span<const int> rows) {
    constexpr DType type = dtype_of<T>;
    for (const LinearShape& layer : layers)
      for (int count : rows)
        for (bool accumulate : {false, true})
          for (ProductKey key :
               {ProductKey{ProductKind::forward, type, type, false},
                ProductKey{ProductKind::backward_input, type, type, accumulate},
                ProductKey{ProductKind::backward_input, type, DType::fp32, accumulate},
                ProductKey{ProductKind::backward_weight, type, DType::fp32, accumulate}}) {
            key.rows = count, key.out = layer.out, key.in = layer.in;
            if (by_library<T>(key, static_cast<const T*>(nullptr))) product(key);
          }
  }

  template <class T> void compute(const PrepareWeight<T>& call) {
    if (call.forward)
      cpu::compute(CastForward<T>{call.forward, call.master, call.out, call.in}, threads_);
  }

  template <class T, class G> void compute(const AdamWUpdateAndPrepare<T, G>& call) {
    cpu::compute(call.update, threads_);
    if (call.is_last()) compute(call.prepare);
  }

  template <class T> void compute(const LinearForward<T>& call) {
    const ProductKey key = product_key(ProductKind::forward, call.weight, dtype_of<T>, call.rows);
    with_rows(call.weight, call.weight.forward, [&](const auto* weight) {
      if (!by_library<T>(key, weight)) return plain_forward(call, weight, threads_);
      execute(product(key), call.x, weight, bias_of(call), call.z);
    });
  }

  template <class T, class DX> void compute(const LinearBackwardInput<T, DX>& call) {
    ProductKey key = product_key(ProductKind::backward_input, call.weight, dtype_of<DX>, call.rows);
    key.accumulate = call.accumulate_input;
    with_rows(call.weight, call.weight.forward, [&](const auto* weight) {
      if (!by_library<T>(key, weight)) return plain_backward_input(call, weight, threads_);
      execute(product(key), call.dz, weight, nullptr, call.dx);
    });
  }

  template <class T, class G> void compute(const LinearBackwardWeight<T, G>& call) {
    column_sums(call.d_bias, call.dz, call.rows, call.out, call.accumulate, threads_);
    const Weight<T> shape{.out = call.out, .in = call.in};
    ProductKey key = product_key(ProductKind::backward_weight, shape, dtype_of<G>, call.rows);
    key.accumulate = call.accumulate;
    if (!by_library<T>(key, call.x)) return plain_backward_weight(call, threads_);
    execute(product(key), call.dz, call.x, nullptr, call.d_weight);
  }

 private:
  static bool machine_has(dnnl::cpu_isa isa) {
    return (unsigned(dnnl::get_effective_cpu_isa()) & unsigned(isa)) == unsigned(isa);
  }

  /// oneDNN's product has a bias always: zeros where the call has none.
  template <class T> const float* bias_of(const LinearForward<T>& call) {
    if (call.bias != nullptr) return call.bias;
    no_bias_.resize(std::max(no_bias_.size(), std::size_t(call.weight.out)));
    return no_bias_.data();
  }

  struct Product {
    dnnl::matmul primitive;
    dnnl::memory source, weight, bias, result, scratch;
  };

  template <class T>
  static ProductKey product_key(ProductKind kind, const Weight<T>& weight, DType result, int rows) {
    return {kind, dtype_of<T>, result, false, rows, weight.out, weight.in};
  }

  /// Whether oneDNN makes this product of T with an operand of W. Vectors and small matrices are as
  /// fast without it.
  template <class T, class W> bool by_library(const ProductKey& key, const W*) const {
    constexpr std::int64_t small = 1 << 17;
    const bool has_types = dtype_of<T> == DType::fp32 ? key.result == DType::fp32
                                                      : dtype_of<T> == DType::bf16 && library_bf16_;
    return has_types && dtype_of<T> == dtype_of<W> && std::min({key.rows, key.out, key.in}) > 1 &&
           std::int64_t(key.rows) * key.out * key.in > small;
  }

  /// A row-major (out, in) weight as the operand of x W^T or dz W.
  static dnnl::memory::desc weight_operand(const ProductKey& key) {
    return key.kind == ProductKind::forward ? dnnl_matrix(key.type, key.in, key.out, 1, key.in)
                                            : dnnl_rows(key.type, key.out, key.in);
  }

  static dnnl::matmul::desc describe(const ProductKey& key) {
    if (key.kind == ProductKind::backward_weight)
      return {dnnl_matrix(key.type, key.out, key.rows, 1, key.out),
              dnnl_rows(key.type, key.rows, key.in), dnnl_rows(key.result, key.out, key.in)};
    const dnnl::memory::desc weight = weight_operand(key);
    if (key.kind == ProductKind::backward_input)
      return {dnnl_rows(key.type, key.rows, key.out), weight,
              dnnl_rows(key.result, key.rows, key.in)};
    return {dnnl_rows(key.type, key.rows, key.in), weight, dnnl_rows(DType::fp32, 1, key.out),
            dnnl_rows(key.result, key.rows, key.out)};
  }

  Product& product(const ProductKey& key) {
    const auto known = products_.find(key);
    return known != products_.end() ? known->second
                                    : products_.emplace(key, make(key)).first->second;
  }

  Product make(const ProductKey& key) {
    const ThreadBound bound(threads_.count);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (key.accumulate) {
      dnnl::post_ops add;
      add.append_sum(1.0f);
      attributes.set_post_ops(add);
    }
    const dnnl::matmul::primitive_desc desc(describe(key), attributes, engine_);
    const std::size_t lines = desc.scratchpad_desc().get_size() / sizeof(CacheLine) + 1;
    scratch_.resize(std::max(scratch_.size(), lines));
    const auto memory = [&](const dnnl::memory::desc& d) {
      return d.get_size() == 0 ? dnnl::memory() : dnnl::memory(d, engine_, nullptr);
    };
    return {dnnl::matmul(desc),       memory(desc.src_desc()), memory(desc.weights_desc()),
            memory(desc.bias_desc()), memory(desc.dst_desc()), memory(desc.scratchpad_desc())};
  }

  void execute(Product& product, const void* source, const void* weight, const void* bias,
               void* result) {
    const ThreadBound bound(threads_.count);
    dnnl_exec_arg_t arguments[5];
    int count = 0;
    const auto bind = [&](int name, const dnnl::memory& memory, const void* data) {
      dnnl::error::wrap_c_api(dnnl_memory_set_data_handle(memory.get(), const_cast<void*>(data)),
                              "oneDNN memory");
      arguments[count++] = {name, memory.get()};
    };
    bind(DNNL_ARG_SRC, product.source, source);
    bind(DNNL_ARG_WEIGHTS, product.weight, weight);
    bind(DNNL_ARG_DST, product.result, result);
    if (product.scratch) bind(DNNL_ARG_SCRATCHPAD, product.scratch, scratch_.data());
    if (bias) bind(DNNL_ARG_BIAS, product.bias, bias);
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(product.primitive.get(), stream_.get(), count, arguments),
        "oneDNN product");
  }

  Threads threads_;
  bool library_bf16_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<ProductKey, Product> products_;
  std::vector<CacheLine> scratch_;
  std::vector<float> no_bias_;
};

}  // namespace ctrain::cpu
