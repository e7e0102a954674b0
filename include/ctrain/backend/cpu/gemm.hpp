/// \file  Matrix products through oneDNN, prepared per shape.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/pack.hpp>
#include <ctrain/backend/cpu/plain_products.hpp>
#include <ctrain/backend/cpu/rows.hpp>
#include <ctrain/backend/cpu/threads.hpp>

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
  bool packed = false;         // the weight comes in blocks
  bool accumulate = false;
  int rows = 0, out = 0, in = 0;
  friend auto operator<=>(const ProductKey&, const ProductKey&) = default;
};

/// How a weight is kept for one direction: its descriptor, and its blocks (none: row-major).
struct OperandLayout {
  dnnl::memory::desc desc;
  Blocking blocking;
};

/// 64 aligned bytes of scratch memory.
struct alignas(64) CacheLine {
  char bytes[64];
};

/// A linear layer that steps will ask for.
struct LinearShape {
  int out = 0, in = 0;
  bool packed = false;
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

/// The blocks of a (depth, width) operand that oneDNN chose, {} where they are not of the kind that
/// pack() writes or take more room than the matrix.
inline Blocking blocking_of(const dnnl::memory::desc& desc) {
  const dnnl_memory_desc_t& d = desc.data;
  if (d.format_kind != dnnl_blocked || d.offset0 != 0 || d.extra.flags != 0) return {};
  const dnnl_blocking_desc_t& b = d.format_desc.blocking;
  const bool pairs = b.inner_nblks == 3 && b.inner_idxs[2] == 0;
  if (!pairs && b.inner_nblks != 2) return {};
  if (b.inner_idxs[0] != 0 || b.inner_idxs[1] != 1) return {};
  const int group = pairs ? int(b.inner_blks[2]) : 1;
  const Blocking blocking{int(b.inner_blks[1]), int(b.inner_blks[0]) * group, group};
  const int depth = int(d.dims[0]), width = int(d.dims[1]);
  const bool known = pairs ? packs<bf16>(blocking) : packs<float>(blocking);
  const bool dense = known && blocking.fits(width, depth) &&
                     b.strides[0] == std::int64_t(blocking.columns) * blocking.depth &&
                     b.strides[1] == std::int64_t(blocking.columns) * depth;
  return dense ? blocking : Blocking{};
}

/// Every product of a step, made once per key and then only executed. The scratch memory that
/// oneDNN asks for is taken when a product is made: steps whose shapes were prepared take none.
class Products {
 public:
  /// `library_bf16` false: bf16 products do without oneDNN.
  Products(Threads threads, bool library_bf16)
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
               {ProductKey{ProductKind::forward, type, type, layer.packed, false},
                ProductKey{ProductKind::backward_input, type, type, layer.packed, accumulate},
                ProductKey{ProductKind::backward_input, type, DType::fp32, layer.packed,
                           accumulate},
                ProductKey{ProductKind::backward_weight, type, DType::fp32, false, accumulate}}) {
            key.rows = count, key.out = layer.out, key.in = layer.in;
            if (by_library<T>(key)) product(key);
          }
  }

  template <class T> void compute(const PrepareWeight<T>& call) {
    if (call.forward)
      fill(call.forward, call, call.backward ? ProductKind::forward : ProductKind::backward_weight);
    if (call.backward) fill(call.backward, call, ProductKind::backward_input);
  }

  template <class T> void compute(const LinearForward<T>& call) {
    const T* weight = operand(call.weight, call.weight.forward);
    const ProductKey key = product_key(ProductKind::forward, call.weight, dtype_of<T>, call.rows);
    if (!by_library<T>(key)) return plain_forward(call, weight, threads_);
    execute(product(key), call.x, weight, call.bias, call.z);
  }

  template <class T, class DX> void compute(const LinearBackwardInput<T, DX>& call) {
    const T* weight =
        operand(call.weight, call.weight.backward ? call.weight.backward : call.weight.forward);
    ProductKey key = product_key(ProductKind::backward_input, call.weight, dtype_of<DX>, call.rows);
    key.accumulate = call.accumulate_input;
    if (!by_library<T>(key)) return plain_backward_input(call, weight, threads_);
    execute(product(key), call.dz, weight, nullptr, call.dx);
  }

  template <class T> void compute(const LinearBackwardWeight<T>& call) {
    column_sums(call.d_bias, call.dz, call.rows, call.out, call.accumulate, threads_);
    const Weight<T> shape{.out = call.out, .in = call.in};
    ProductKey key = product_key(ProductKind::backward_weight, shape, DType::fp32, call.rows);
    key.accumulate = call.accumulate;
    if (!by_library<T>(key)) return plain_backward_weight(call, threads_);
    execute(product(key), call.dz, call.x, nullptr, call.d_weight);
  }

 private:
  static bool machine_has(dnnl::cpu_isa isa) {
    return (unsigned(dnnl::get_effective_cpu_isa()) & unsigned(isa)) == unsigned(isa);
  }

  struct Product {
    dnnl::matmul primitive;
    dnnl::memory source, weight, bias, result, scratch;
  };

  template <class T>
  static ProductKey product_key(ProductKind kind, const Weight<T>& weight, DType result, int rows) {
    return {kind,  dtype_of<T>, result,     weight.forward && weight.backward,
            false, rows,        weight.out, weight.in};
  }

  /// Whether oneDNN has products of this type here.
  template <class T> bool served() const { return dtype_of<T> == DType::fp32 || library_bf16_; }

  /// Whether oneDNN makes this product. It alone reads its blocks. Vectors and small matrices are
  /// as fast without it.
  template <class T> bool by_library(const ProductKey& key) {
    if (!served<T>()) return false;
    if (key.packed && layout(key.kind, key.type, key.out, key.in).blocking != Blocking{})
      return true;
    constexpr std::int64_t small = 1 << 17;
    return std::min({key.rows, key.out, key.in}) > 1 &&
           std::int64_t(key.rows) * key.out * key.in > small;
  }

  /// The copy, or the master where there is none (fp32).
  template <class T> static const T* operand(const Weight<T>& weight, const T* copy) {
    if constexpr (dtype_of<T> == DType::fp32)
      return copy ? copy : weight.master;
    else
      return copy;
  }

  /// Writes one copy: blocks where `kind` has them, else row-major.
  template <class T> void fill(T* to, const PrepareWeight<T>& call, ProductKind kind) {
    Blocking blocking;
    if (kind != ProductKind::backward_weight && served<T>())
      blocking = layout(kind, dtype_of<T>, call.out, call.in).blocking;
    if (blocking == Blocking{})
      ctrain::cpu::compute(CastForward<T>{to, call.master, call.out, call.in}, threads_);
    else if (kind == ProductKind::forward)
      pack(to, call.master, 1, call.in, call.in, call.out, blocking, threads_);
    else
      pack(to, call.master, call.in, 1, call.out, call.in, blocking, threads_);
  }

  /// The operand that a weight is in a product of this kind, in blocks where oneDNN likes blocks
  /// that fill exactly out * in elements. Chosen at 128 rows, whatever the rows of a step: the
  /// choice depends on width and depth.
  const OperandLayout& layout(ProductKind kind, DType type, int out, int in) {
    const ProductKey key{kind, type, type, true, false, 0, out, in};
    const auto known = layouts_.find(key);
    if (known != layouts_.end()) return known->second;
    const ThreadBound bound(threads_.count);
    const bool forward = kind == ProductKind::forward;
    const int depth = forward ? in : out, width = forward ? out : in;
    const dnnl::matmul::desc wish(
        dnnl_rows(type, 128, depth),
        dnnl::memory::desc({depth, width}, dnnl_type(type), dnnl::memory::format_tag::any),
        dnnl_rows(type, 128, width));
    const dnnl::memory::desc chosen = dnnl::matmul::primitive_desc(wish, engine_).weights_desc();
    const Blocking blocking = blocking_of(chosen);
    const bool blocks = blocking != Blocking{};
    return layouts_.emplace(key, OperandLayout{blocks ? chosen : plain_operand(key), blocking})
        .first->second;
  }

  /// A row-major (out, in) weight as the operand of x W^T or dz W.
  static dnnl::memory::desc plain_operand(const ProductKey& key) {
    return key.kind == ProductKind::forward ? dnnl_matrix(key.type, key.in, key.out, 1, key.in)
                                            : dnnl_rows(key.type, key.out, key.in);
  }

  dnnl::matmul::desc describe(const ProductKey& key) {
    if (key.kind == ProductKind::backward_weight)
      return {dnnl_matrix(key.type, key.out, key.rows, 1, key.out),
              dnnl_rows(key.type, key.rows, key.in), dnnl_rows(DType::fp32, key.out, key.in)};
    const dnnl::memory::desc weight =
        key.packed ? layout(key.kind, key.type, key.out, key.in).desc : plain_operand(key);
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
  std::map<ProductKey, OperandLayout> layouts_;
  std::map<ProductKey, Product> products_;
  std::vector<CacheLine> scratch_;
};

}  // namespace ctrain::cpu
