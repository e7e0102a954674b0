// Wherever states are, and however they get to the device: the same bits as the resident step of
// the same policy, in every step, in all weights and moments, and in evaluation.
#include <ctrain/schedule/streaming_cost.hpp>
#include <ctrain/trainer/streamed_trainer.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "changing_sentences.hpp"
#include <omp.h>
#include <sys/resource.h>
#include <unistd.h>

namespace {

using T = OffloadTo;
constexpr OffloadClipping deferred = OffloadClipping::deferred;

constexpr Policy with(Offload offload, Compute compute, int micro_batches = 1,
                      Recompute recompute = Recompute::none) {
  return {.model = small,
          .batch = {.packed_tokens = 128, .length = 64, .accumulation = micro_batches},
          .precision = {compute, micro_batches == 1 ? compute : Compute::fp32},
          .weights = WeightLayout::plain,
          .recompute = recompute,
          .offload = offload,
          .device = host_memory(256 * MiB, 2)};
}
constexpr bytes piece = 128 * KiB;  // several in each unit
const std::vector<State> all_states{State::weight, State::first_moment, State::second_moment};

constexpr Policy in_a_tree(Policy p) {
  p.deterministic = Deterministic::layout_invariant;
  return p;
}
/// A scale so high that some steps are skipped.
constexpr Policy in_fp16(Policy p) {
  p.precision = {
      .compute = Compute::fp16,
      .loss_scale = {.rule = LossScaleRule::grad_scaler, .initial = 0x1p40f, .window = 8}};
  return p;
}

struct AllOnTheHost {
  static constexpr Policy policy = in_a_tree(
      with({.optimizer = T::host, .parameters = T::host, .piece = piece}, Compute::fp32, 4));
};
struct AllOnDisk {
  static constexpr Policy policy = with({.optimizer = T::disk,
                                         .parameters = T::disk,
                                         .activations = T::disk,
                                         .clipping = deferred,
                                         .piece = piece},
                                        Compute::bf16, 1, Recompute::full);
};
struct MomentsOnDisk {
  static constexpr Policy policy = with({.optimizer = T::disk,
                                         .gradients = T::host,
                                         .parameters = T::host,
                                         .activations = T::host,
                                         .clipping = deferred,
                                         .piece = piece},
                                        Compute::fp32, 3);
};
struct GradientsOnDisk {
  static constexpr Policy policy = with({.optimizer = T::disk,
                                         .gradients = T::disk,
                                         .parameters = T::host,
                                         .activations = T::disk,
                                         .piece = piece},
                                        Compute::bf16, 2, Recompute::full);
};
struct WeightsStay {
  static constexpr Policy policy =
      in_fp16(with({.optimizer = T::host, .activations = T::host, .piece = piece}, Compute::fp32));
};
struct WeightsStayDeferred {
  static constexpr Policy policy = [] {
    Policy p = with({.optimizer = T::disk, .clipping = deferred, .piece = piece}, Compute::fp32, 2);
    p.model.norm = NormPlacement::post_layer_norm;
    return p;
  }();
};
struct MatrixByMatrix {
  static constexpr Policy policy = in_fp16(with({.optimizer = T::disk,
                                                 .parameters = T::host,
                                                 .activations = T::host,
                                                 .clipping = deferred,
                                                 .unit = StreamBy::matrix,
                                                 .buffers = 1,
                                                 .piece = piece},
                                                Compute::fp32, 1, Recompute::full));
};
struct PaddedPostNorm {
  static constexpr Policy policy = [] {
    Policy p = with({.optimizer = T::disk,
                     .parameters = T::disk,
                     .activations = T::host,
                     .unit = StreamBy::matrix,
                     .buffers = 3,
                     .piece = piece},
                    Compute::fp32, 1, Recompute::full);
    p.model.norm = NormPlacement::post_layer_norm;
    p.batch = {.sentences = 4, .length = 64};
    return p;
  }();
};

/// Deep enough that filling and draining the link, which no order of jobs can hide, is a twentieth.
struct WeightsMove {
  static constexpr Policy policy = [] {
    Policy p = with({.optimizer = T::host,
                     .parameters = T::host,
                     .activations = T::host,
                     .clipping = deferred,
                     .piece = piece},
                    Compute::fp32, 2, Recompute::full);
    p.model.layers = 12;
    return p;
  }();
};

template <class P> struct ResidentOf {
  static constexpr Policy policy = [] {
    Policy p = P::policy;
    p.offload = {};
    return p;
  }();
};

StepNumbers numbers_of(int step) {
  return {.seed = 1,
          .step = step,
          .learning_rate = 1e-3 / (1 + step),
          .weight_decay = 0.1f,
          .clip = step % 5 == 0 ? 0.0f : 0.5f};
}

/// All states, each of which must come whole and once.
using Tensors = std::map<std::pair<State, std::string>, std::vector<float>>;
Tensors states_of(auto& trainer) {
  Tensors all;
  std::map<std::pair<State, std::string>, std::int64_t> seen;
  for (const State state : all_states)
    for (const LogicalTensor& t : trainer.state_dict()) {
      std::int64_t count = 1;
      for (const std::int64_t extent : t.shape) count *= extent;
      all[{state, t.name}].resize(std::size_t(count));
    }
  trainer.read_states(all_states, [&](State state, const TensorPart& part) {
    std::vector<float>& whole = all.at({state, part.name});
    std::int64_t& at = seen[{state, part.name}];
    REQUIRE(part.first == at);
    at += part.count;
    std::copy_n(part.data, part.count, whole.data() + part.first);
  });
  for (const auto& [name, values] : all) REQUIRE(seen[name] == std::int64_t(values.size()));
  return all;
}

void require_same_states(auto& streamed, auto& resident) {
  const Tensors a = states_of(streamed), b = states_of(resident);
  REQUIRE(a.size() == b.size());
  for (const auto& [name, values] : a) {
    const std::vector<float>& expected = b.at(name);
    INFO(name.second << " of state " << int(name.first));
    REQUIRE(values.size() == expected.size());
    REQUIRE(std::memcmp(values.data(), expected.data(), sizeof(float) * values.size()) == 0);
  }
}

std::filesystem::path scratch() {
  return std::filesystem::temp_directory_path();
}

}  // namespace

TEMPLATE_TEST_CASE("trainer.streamed_step.has_the_bits_of_the_resident_step", "", AllOnTheHost,
                   AllOnDisk, MomentsOnDisk, GradientsOnDisk, WeightsStay, WeightsStayDeferred,
                   MatrixByMatrix, PaddedPostNorm) {
  using P = TestType;
  static_assert(check_stream<P>());
  omp_set_num_threads(1);  // no bit depends on it, and lanes have threads of their own
  StreamedTrainer<P> streamed({.directory = scratch()});
  Trainer<ResidentOf<P>> resident;
  Changing feed{P::policy.batch}, same_feed = feed;
  constexpr bool is_fp16 = P::policy.precision.compute == Compute::fp16;  // slow on a host
  int skipped = 0;
  for (int step = 0; step < (is_fp16 ? 30 : 100); ++step) {
    if (step == 60) feed.left = same_feed.left = 1;  // the epoch ends within the step
    if (step == 61) feed.left = same_feed.left = 1 << 20;
    const StepResult a = streamed.step().train(feed, numbers_of(step)),
                     b = resident.step().train(same_feed, numbers_of(step));
    INFO("step " << step);
    REQUIRE(a.loss_sum == b.loss_sum);
    REQUIRE(a.gradient_norm == b.gradient_norm);
    REQUIRE(a.micro_batches == b.micro_batches);
    REQUIRE(a.sentences == b.sentences);
    REQUIRE(a.tokens == b.tokens);
    REQUIRE(a.rows == b.rows);
    REQUIRE(a.attended == b.attended);
    REQUIRE(a.skipped == b.skipped);
    REQUIRE(streamed.step().loss_scale().scale == resident.step().loss_scale().scale);
    skipped += a.skipped;
    if (step % 40 != 19) continue;
    StepResult c, d;
    std::vector<float> logits, expected;
    const auto add = [](std::vector<float>& all, const auto& some) {
      all.insert(all.end(), some.begin(), some.end());
    };
    for (int pass = 0; pass < 2; ++pass)
      REQUIRE(streamed.evaluate(feed, c, [&](int) { add(logits, streamed.step().logits()); }));
    for (int i = 0; i < 2 * P::policy.batch.accumulation; ++i)
      REQUIRE(
          resident.evaluate(same_feed, d, [&](int) { add(expected, resident.step().logits()); }));
    REQUIRE(c.loss_sum == d.loss_sum);
    REQUIRE(c.correct == d.correct);
    REQUIRE(c.sentences == d.sentences);
    REQUIRE(logits == expected);
    require_same_states(streamed, resident);
  }
  require_same_states(streamed, resident);
  CHECK((skipped > 5) == is_fp16);
  feed.left = 0;
  CHECK(streamed.step().train(feed, numbers_of(100)).micro_batches == 0);
}

TEMPLATE_TEST_CASE("trainer.streamed_step.writes_into_the_states_are_trained_on", "", WeightsStay,
                   AllOnDisk) {
  using P = TestType;
  StreamedTrainer<P> streamed({.directory = scratch()});
  Trainer<ResidentOf<P>> resident;
  const auto change = [](State state, const TensorPart& part) {
    for (std::int64_t i = 0; i < part.count; ++i)
      part.data[i] = state == State::weight ? 0.01f * float((part.first + i) % 7) - 0.02f : 1e-4f;
  };
  streamed.write_states({State::weight, State::second_moment}, change);
  resident.write_states({State::weight, State::second_moment}, change);
  Changing feed{P::policy.batch}, same_feed = feed;
  CHECK(streamed.step().train(feed, numbers_of(1)).loss_sum ==
        resident.step().train(same_feed, numbers_of(1)).loss_sum);
  require_same_states(streamed, resident);
}

// disks that fail
// ----------------------------------------------------------------------------------

TEST_CASE("trainer.streamed_step.a_changed_byte_on_disk_is_an_error_with_its_place") {
  StreamedTrainer<AllOnDisk> trainer({.directory = scratch()});
  Changing feed{AllOnDisk::policy.batch};
  trainer.step().train(feed, numbers_of(0));
  // The second moments of some piece in the middle of the file.
  const ScratchFile& file = *trainer.step().store().file();
  std::vector<std::byte> block(4096, std::byte{7});
  void* aligned = nullptr;
  REQUIRE(posix_memalign(&aligned, 4096, 4096) == 0);
  std::memcpy(aligned, block.data(), 4096);
  REQUIRE(pwrite(file.descriptor(), aligned, 4096, file.size() / 3 / 4096 * 4096) == 4096);
  std::free(aligned);
  using Catch::Matchers::Contains;
  CHECK_THROWS_WITH(trainer.step().train(feed, numbers_of(1)),
                    Contains("ctrain-offload: what was written there is not what is read: states "
                             "of block ") &&
                        Contains(", piece ") && Contains(" at offset ") &&
                        Contains("has the wrong checksum"));
  CHECK_THROWS_WITH(trainer.step().train(feed, numbers_of(1)),
                    Contains("an earlier step has failed"));
}

TEST_CASE("trainer.streamed_step.a_disk_without_room_is_an_error_before_the_first_step") {
  // A limit on the size of files is what a process can set for itself that acts like a full disk.
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
  const rlimit small_files{1 * MiB, old.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small_files) == 0);
  std::string message;
  try {
    StreamedTrainer<AllOnDisk> trainer({.directory = scratch()});
  } catch (const Error& error) {
    message = error.what();
  }
  REQUIRE(setrlimit(RLIMIT_FSIZE, &old) == 0);
  std::signal(SIGXFSZ, before);
  using Catch::Matchers::Contains;
  CHECK_THAT(message, Contains("the disk has no room for the " +
                               std::to_string(StreamOf<AllOnDisk>::plan.disk()) + " bytes"));
  CHECK_THROWS_WITH(StreamedTrainer<AllOnDisk>({.directory = scratch() / "not" / "there"}),
                    Contains("no file can be made there"));
}

TEST_CASE("trainer.streamed_step.a_write_that_fails_is_an_error_and_not_a_wrong_weight") {
  StreamedTrainer<AllOnDisk> trainer({.directory = scratch()});
  Changing feed{AllOnDisk::policy.batch};
  trainer.step().train(feed, numbers_of(0));
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
  const rlimit small_files{1 * MiB, old.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small_files) == 0);
  std::string message;
  try {
    trainer.step().train(feed, numbers_of(1));
  } catch (const Error& error) {
    message = error.what();
  }
  REQUIRE(setrlimit(RLIMIT_FSIZE, &old) == 0);
  std::signal(SIGXFSZ, before);
  using Catch::Matchers::Contains;
  CHECK_THAT(message, Contains("ctrain-offload: writing ") && Contains(" at offset ") &&
                          Contains("File too large"));
}

TEST_CASE("trainer.streamed_step.a_loss_that_is_no_number_is_an_error") {
  StreamedTrainer<AllOnTheHost> trainer({.directory = scratch()});
  trainer.write_states({State::weight}, [](State, const TensorPart& part) {
    if (part.name == "classifier.weight") part.data[0] = std::numeric_limits<float>::infinity();
  });
  Changing feed{AllOnTheHost::policy.batch};
  CHECK_THROWS_WITH(
      trainer.step().train(feed, numbers_of(4)),
      Catch::Matchers::Contains("step 5: ") && Catch::Matchers::Contains("is not a finite number"));
}

TEST_CASE("trainer.streamed_step.bytes_on_the_link_and_the_disk_are_those_of_the_table") {
  using P = AllOnDisk;
  StreamedTrainer<P> trainer({.directory = scratch()});
  Changing feed{P::policy.batch};
  trainer.step().train(feed, numbers_of(0));
  auto& step = trainer.step();
  const bytes read = step.store().bytes_read(), written = step.store().bytes_written();
  step.train(feed, numbers_of(1));
  const StreamTraffic t =
      traffic_of(StreamTableOf<P, StreamPass::train>::table, StreamOf<P>::graph, P::policy);
  CHECK(step.store().bytes_read() - read == t.read);
  CHECK(step.store().bytes_written() - written == t.written);
}

// A link that is slower than anything else decides how long a step takes; the table must keep it
// busy. The bound is what it carries at its rate; a step may take 1.15 times as long.
TEST_CASE("trainer.streamed_step.a_slow_link_is_kept_busy_at_three_rates") {
  using P = WeightsMove;
  omp_set_num_threads(1);
  for (const double rate : {6e6, 8e6, 12e6}) {
    const StreamTime modelled =
        time_of(StreamTableOf<P, StreamPass::train>::table, StreamOf<P>::graph, P::policy,
                {.flops = 0, .device_bytes = 0, .down = rate, .up = rate, .host_bytes = 0});
    StreamedTrainer<P> trainer({.down_bytes_per_second = rate, .up_bytes_per_second = rate});
    Changing feed{P::policy.batch};
    double least = 1e9;  // of steps, until one is not disturbed by another process
    for (int step = 0; step < 12 && least > 1.15 * modelled.bound(); ++step) {
      const auto start = std::chrono::steady_clock::now();
      trainer.step().train(feed, numbers_of(step));
      least = std::min(
          least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    INFO("rate " << rate << ", bound " << modelled.bound() << " s, modelled " << modelled.seconds
                 << " s, least " << least << " s");
    CHECK(least <= 1.15 * modelled.bound());
    CHECK(least >= 0.95 * modelled.bound());
  }
}
