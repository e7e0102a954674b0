/// \file  Products of machines with AVX2 but not AVX-512: fp32 through oneDNN, 16 bits in panels.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/library_products.hpp>
#include <ctrain/backend/cpu/panel_products.hpp>

#include <span>
#include <type_traits>

namespace ctrain::cpu {

/// A product, or what prepares one.
template <class Call>
concept IsProduct = requires(PanelProducts& products, const Call& call) {
  products.compute(call);
};

/// There oneDNN's fp32 products are the faster ones, and it has none in 16 bits (bench/README.md).
class MixedProducts {
 public:
  explicit MixedProducts(Threads threads) : library_(threads), panels_(threads) {}

  template <class T> void prepare(std::span<const LinearShape> layers, std::span<const int> rows) {
    of<T>().template prepare<T>(layers, rows);
  }
  template <template <class...> class Call, class T, class... Rest>
  void compute(const Call<T, Rest...>& call) requires IsProduct<Call<T, Rest...>> {
    of<T>().compute(call);
  }

 private:
  template <class T> auto& of() {
    if constexpr (std::is_same_v<T, float>)
      return library_;
    else
      return panels_;
  }

  LibraryProducts library_;
  PanelProducts panels_;
};

}  // namespace ctrain::cpu
