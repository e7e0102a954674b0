// Share of the machine's peak that products of linear layers reach, by shape: our panels and
// oneDNN, weights packed and plain. The peak is measured in this process, before each row.
//
//   bench/run.sh gemm [--json FILE] [--threads N]
#include <ctrain/backend/arena.hpp>
#include <ctrain/backend/cpu/cpu.hpp>
#include <ctrain/backend/cpu/peak.hpp>

#include <cmath>
#include <map>

#include "options.hpp"
#include "report.hpp"

using namespace ctrain;

namespace {

struct Layer {
  int out, in;
};

constexpr Layer layers[] = {{6144, 2048}, {2048, 2048}, {8192, 2048}, {2048, 8192}};  // of 1.3B
constexpr int row_counts[] = {128, 512, 2048};

/// Operands of one layer, in an arena as in a step: on huge pages. Both backends write to the same
/// results.
template <class T> struct Operands {
  Layer layer;
  int rows;
  std::int64_t in = layer.in, out = layer.out;
  Arena arena{bytes(4 * sizeof(T) + 12) * (out * in + rows * (out + in)) + 16 * MiB};
  T* x = values<T>(rows * in);
  T* z = values<T>(rows * out);
  T* forward = values<T>(out * in);
  T* backward = values<T>(out * in);
  float* master = values<float>(out * in);
  float* d_weight = values<float>(out * in);
  float* bias = values<float>(out);
  float* d_bias = values<float>(out);
  float* dx = values<float>(rows * in);

  Operands(Layer l, int r) : layer(l), rows(r) {}

  Weight<T> weight(bool packed) const {
    const bool plain_master = !packed && dtype_of<T> == DType::fp32;
    return {master, plain_master ? nullptr : forward, packed ? backward : nullptr, layer.out,
            layer.in};
  }
  double operations() const { return 2.0 * rows * layer.out * layer.in; }

 private:
  /// The next `count` elements, within [-0.5, 0.5).
  template <class U> U* values(std::int64_t count) {
    const bytes size = round_up(count * bytes(sizeof(U)), 4 * KiB);
    U* const result = reinterpret_cast<U*>(arena.at(arena.high_water(), size));
    std::uint32_t bits = 1;
    for (std::int64_t i = 0; i < count; ++i)
      result[i] = U(float((bits = bits * 1664525u + 1013904223u) >> 8) / 16777216.0f - 0.5f);
    return result;
  }
};

/// oneDNN's product x W^T with the weight in whatever layout it likes best.
template <class T> bench::Times library_packed(Operands<T>& at, int calls, int threads) {
  using dnnl::memory;
  const cpu::ThreadBound bound(threads);
  const auto type = cpu::dnnl_type(dtype_of<T>);
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const dnnl::matmul::desc wish(
      cpu::dnnl_rows(dtype_of<T>, at.rows, at.layer.in),
      memory::desc({at.layer.in, at.layer.out}, type, memory::format_tag::any),
      cpu::dnnl_rows(DType::fp32, 1, at.layer.out),
      cpu::dnnl_rows(dtype_of<T>, at.rows, at.layer.out));
  const dnnl::matmul::primitive_desc chosen(wish, engine);
  const dnnl::matmul product(chosen);
  const memory x(chosen.src_desc(), engine, at.x), weight(chosen.weights_desc(), engine),
      bias(chosen.bias_desc(), engine, at.bias), z(chosen.dst_desc(), engine, at.z);
  return bench::time(calls, [&] {
    product.execute(
        stream,
        {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, weight}, {DNNL_ARG_BIAS, bias}, {DNNL_ARG_DST, z}});
  });
}

/// Rows of the table, and the mean share of each column.
class Table {
 public:
  Table(bench::Report& report, int threads) : report_(report), threads_(threads) {}

  template <class T> void measure(const std::string& type) {
    for (Layer layer : layers)
      for (int rows : row_counts) measure<T>(type, layer, rows);
    for (const auto& [name, sums] : logarithms_)
      report_.fact(type + " mean share, " + name, std::exp(sums.first / sums.second));
    logarithms_.clear();
  }

 private:
  template <class T> void measure(const std::string& type, Layer layer, int rows) {
    const double peak = cpu::measured_peak(dtype_of<T>, threads_);
    Operands<T> at(layer, rows);
    CpuWith<cpu::PanelProducts> panels(threads_);
    CpuWith<cpu::LibraryProducts> library(threads_);
    const int calls = rows > 1000 ? 3 : 9;
    bench::Report::Row row{{"type", type},
                           {"rows", rows},
                           {"out", layer.out},
                           {"in", layer.in},
                           {"peak GF/s", peak * 1e-9}};
    const auto put = [&](const std::string& name, const bench::Times& times) {
      const double share = at.operations() / times.best / peak;
      row[name] = share;
      logarithms_[name].first += std::log(share), ++logarithms_[name].second;
    };
    const auto products = [&](auto& backend, const std::string& name, bool packed) {
      const Weight<T> weight = at.weight(packed);
      backend.run(PrepareWeight<T>{at.forward, packed ? at.backward : nullptr, at.master, layer.out,
                                   layer.in});
      put(name + " z", bench::time(calls, [&] {
            backend.run(LinearForward<T>{at.z, at.x, weight, at.bias, rows});
          }));
      put(name + " dx", bench::time(calls, [&] {
            backend.run(LinearBackwardInput<T, float>{at.dx, at.z, weight, rows});
          }));
    };
    const auto gradient = [&](auto& backend, const std::string& name) {
      put(name + " dW", bench::time(calls, [&] {
            backend.run(LinearBackwardWeight<T>{at.d_weight, at.d_bias, at.z, at.x, rows, layer.out,
                                                layer.in});
          }));
    };
    products(panels, "packed", true);
    products(panels, "plain", false);
    gradient(panels, "panels");
    if (std::is_same_v<T, float> || cpu::LibraryProducts::machine_has_bf16()) {
      put("oneDNN packed z", library_packed(at, calls, threads_));
      products(library, "oneDNN plain", false);
      gradient(library, "oneDNN");
    }
    report_.row(row);
  }

  bench::Report& report_;
  int threads_;
  std::map<std::string, std::pair<double, int>> logarithms_;
};

}  // namespace

int main(int argc, char** argv) {
  const Options options(argc, argv,
                        {{"threads", std::to_string(omp_get_max_threads())}, {"only", ""}});
  bench::Report report(options);
  const int threads = options.number("threads");
  report.fact("threads", threads);
  report.fact("figures", "share of the measured peak, best of 9 (3 at 2048 rows)");
  Table table(report, threads);
  if (options.text("only") != "fp32") table.measure<bf16>("bf16");
  if (options.text("only") != "bf16") table.measure<float>("fp32");
  return 0;
}
