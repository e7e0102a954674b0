// AdamW with clipping against the machine's memory bandwidth, both measured in this process.
//
//   bench/run.sh adamw [--json FILE] [--parameters MILLIONS]
#include <ctrain/backend/cpu/cpu.hpp>

#include <cstring>
#include <memory>

#include "report.hpp"
#include <sys/mman.h>

using namespace ctrain;

namespace {

/// Floats on huge pages, touched, as an arena has them.
class Buffer {
 public:
  explicit Buffer(std::int64_t count)
      : size_((std::size_t(count) * sizeof(float) + huge - 1) / huge * huge) {
    memory_ = std::aligned_alloc(huge, size_);
    if (!memory_) std::exit((std::perror("adamw bench"), 1));
    madvise(memory_, size_, MADV_HUGEPAGE);
    std::memset(memory_, 0, size_);
  }
  ~Buffer() { std::free(memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  float* data() { return static_cast<float*>(memory_); }

 private:
  static constexpr std::size_t huge = 2u << 20;
  std::size_t size_;
  void* memory_;
};

}  // namespace

int main(int argc, char** argv) {
  const Options options(argc, argv, {{"parameters", "128"}});
  bench::Report report(options);
  const std::int64_t count = std::int64_t(options.number("parameters")) << 20;
  const int workers = omp_get_max_threads();
  Cpu backend(workers);
  const cpu::Threads threads{workers};
  Buffer weight{count}, first{count}, second{count}, gradient{count};
  std::fill_n(gradient.data(), count, 1e-3f);
  report.fact("threads", workers);
  report.fact("parameters", count);

  // Copying in place of arithmetic: the same streams, read and written back where they stood.
  const auto pieces = [&](auto&& f) {
    constexpr std::int64_t piece = 1 << 16;
    threads.each(count / piece, count, [&](std::int64_t i) {
      for (std::int64_t at = i * piece; at < (i + 1) * piece; at += simd::width) f(at);
    });
  };
  constexpr simd::All all;
  const auto copy = [&] {
    pieces([&](std::int64_t i) {
      simd::store(weight.data() + i, simd::load(gradient.data() + i, all), all);
    });
  };
  const auto copy_in_place = [&] {
    pieces([&](std::int64_t i) {
      const simd::Lanes g = simd::load(gradient.data() + i, all);
      for (float* at : {weight.data(), first.data(), second.data()})
        simd::store(at + i, simd::load(at + i, all) + g, all);
    });
  };
  ExactSum sum;
  const auto norm = [&] { backend.run(SumOfSquares{&sum, gradient.data(), count}); };
  const auto update = [&] {
    backend.run(AdamWUpdate{weight.data(), first.data(), second.data(), gradient.data(), count,
                            OptimizerKind::adamw_torch, 1e-5f, 0.9f, 0.999f, 1e-8f, 0.01f, 0.5f,
                            10});
  };

  double bandwidth = 0;
  const auto measure = [&](const std::string& what, double bytes, auto&& f) {
    const bench::Times times = bench::time(7, f);
    const double rate = bytes * double(count) / times.best;
    if (what.starts_with("copy")) bandwidth = std::max(bandwidth, rate);
    report.row({{"what", what},
                {"bytes each", bytes},
                {"ms best", times.best * 1e3},
                {"ms median", times.median * 1e3},
                {"GB/s", rate * 1e-9},
                {"of copy", rate / bandwidth}});
  };
  measure("copy", 8, copy);
  measure("copy x4", 28, copy_in_place);
  measure("norm", 4, norm);
  measure("AdamW", 28, update);
  measure("clip+AdamW", 32, [&] { norm(), update(); });
  return 0;
}
