// Steps of the 1.3B model on a card: AFQMC pairs padded and packed, and 16,384 packed tokens, with
// the card's own rates of products and copies measured in the same process. One JSON object a line,
// for bench/pytorch_gpu.py, which puts PyTorch beside it.
#include <ctrain/model/cost.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "feeds.hpp"

namespace {

using namespace ctrain;

constexpr Policy policy_of(Batch batch) {
  return {.batch = batch, .precision = {.compute = Compute::bf16}, .device = h100_80gb};
}
/// Four AFQMC pairs a step, as the convention has it, and packed.
struct padded_4x512 {
  static constexpr Policy policy = policy_of({.sentences = 4, .length = 512});
};
struct packed_4_pairs {
  static constexpr Policy policy = policy_of({.packed_tokens = 256, .sentences = 4});
};
struct packed_16k {
  static constexpr Policy policy = policy_of({.packed_tokens = 16384, .sentences = 128});
};

/// Bytes a second of a copy within the card's memory, read and written ones counted.
double copy_rate(Cuda& cuda) {
  const bytes size = 1 * GiB;
  const cuda::DeviceArena memory(2 * size);
  double best = 0;
  for (int i = 0; i < 8; ++i)
    best = std::max(
        best, 2.0 * double(size) / cuda::seconds_on(cuda.stream(), [&] {
                cuda::check(cudaMemcpyAsync(memory.base() + size, memory.base(), std::size_t(size),
                                            cudaMemcpyDefault, cuda.stream()),
                            "cudaMemcpyAsync");
              }));
  return best;
}

/// Bytes a second of AdamW with fp32 states over `count` parameters: 28 bytes each.
double adamw_rate(Cuda& cuda) {
  constexpr std::int64_t count = 128 * MiB;
  const cuda::DeviceArena memory(4 * 4 * count);
  const auto at = [&](int i) { return reinterpret_cast<float*>(memory.base()) + i * count; };
  AdamWUpdate call;
  call.weight = at(0), call.first_moment = at(1), call.second_moment = at(2);
  call.gradient = at(3), call.count = count;
  call.learning_rate = 1e-6f, call.beta1 = 0.9f, call.beta2 = 0.999f, call.epsilon = 1e-8f;
  call.gradient_scale = 1, call.t = 1;
  double best = 0;
  for (int i = 0; i < 8; ++i)
    best = std::max(
        best, 28.0 * double(count) / cuda::seconds_on(cuda.stream(), [&] { cuda.run(call); }));
  return best;
}

/// Seconds of a step, the median of five rounds of four steps that nobody waits for one by one;
/// `length` tokens a sentence, all of them real.
template <class P> void measure(const char* name, int length, double peak) try {
  Trainer<P, Cuda> trainer(1);
  EqualSentences feed{P::policy.batch.sentence_bound(), length, P::policy.model.vocabulary};
  std::vector<double> seconds;
  StepResult result;
  constexpr int rounds = 5, each = 4;
  for (int round = -1; round < rounds; ++round) {  // in the one before, the step is recorded
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < each; ++i)
      trainer.step().launch(
          feed, {.seed = 1, .step = (round + 1) * each + i, .learning_rate = 1e-6, .clip = 1});
    result = trainer.step().read_out().back();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (round >= 0) seconds.push_back(taken.count() / each);
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double flops =
      training_flops(P::policy.model, double(result.rows), double(result.attended));
  std::printf(
      "{\"step\": \"%s\", \"rows\": %lld, \"seconds\": %.6f, \"steps_per_second\": %.3f, "
      "\"tokens_per_second\": %.0f, \"tflops\": %.2f, \"share_of_gemm\": %.4f}\n",
      name, static_cast<long long>(result.rows), median, 1 / median, double(result.rows) / median,
      flops / median / 1e12, flops / median / peak);
  std::fflush(stdout);
} catch (const Error& error) {  // too large for this card, perhaps: the others may not be
  std::fprintf(stderr, "error: %s: %s\n", name, error.what());
}

}  // namespace

int main() {
  cuda::require_device("bench_gpu");
  double peak = 0;
  {
    Cuda cuda;
    peak = cuda.measured_peak(DType::bf16);
    const double copy = copy_rate(cuda), adamw = adamw_rate(cuda);
    std::printf(
        "{\"gemm_bf16_tflops\": %.1f, \"copy_GB_per_second\": %.0f, "
        "\"adamw_GB_per_second\": %.0f, \"adamw_share_of_copy\": %.4f}\n",
        peak / 1e12, copy / 1e9, adamw / 1e9, adamw / copy);
  }
  measure<padded_4x512>("padded 4 x 512", 512, peak);
  measure<packed_4_pairs>("packed 4 pairs of 36", 36, peak);
  measure<packed_16k>("packed 16,384 tokens of 128", 128, peak);
  return 0;
}
