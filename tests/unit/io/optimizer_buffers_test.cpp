// What 1-bit optimizers keep beside their moments goes through checkpoints. Ranks are threads.
#include <ctrain/io/checkpoint.hpp>

#include <catch2/catch.hpp>

#include <array>

#include "../trainer/ranks.hpp"
#include "scratch.hpp"

namespace {

using namespace ctrain;
using Kind = OptimizerKind;

constexpr int freeze = 3;

/// Four micro-batches a step, on any ranks.
template <Kind Which, int Data, int Freeze = freeze> struct On {
  static constexpr Policy policy{
      .model = {.vocabulary = 256,
                .positions = 48,
                .layers = 1,
                .hidden = 32,
                .heads = 2,
                .feed_forward = 64},
      .batch = {.packed_tokens = 128, .sentences = 6, .length = 48, .accumulation = 4 / Data},
      .optimizer = {.kind = Which, .compression = {.freeze_step = Freeze}},
      .parallel = {.data = Data},
      .zero = {.bucket = 16 * KiB},
      .device = host_memory(64 * MiB, 1)};
};
template <int Data, int Freeze = freeze> using Lamb = On<Kind::one_bit_lamb, Data, Freeze>;
template <int Data> using Adam = On<Kind::one_bit_adam, Data>;

/// In fp16, with a loss scale that grows until a gradient overflows, again and again.
struct InHalf {
  static constexpr Policy policy = [] {
    Policy p = Lamb<2>::policy;
    p.precision = {
        .compute = Compute::fp16,
        .loss_scale = {.rule = LossScaleRule::grad_scaler, .initial = 0x1p24f, .window = 2}};
    return p;
  }();
};

/// What a run holds of each buffer of each tensor, in the shape of a file.
using Buffers = std::map<std::string, std::vector<float>>;

struct Outcome {
  Buffers buffers;
  std::string notice;
};

/// Goes on from `from` unless it is empty, up to step `end`, and saves as `to` unless it is empty.
template <class P> Outcome go(const std::string& from, int end, const std::string& to) {
  Outcome outcome;
  std::mutex mutex;
  ranks::on_all_ranks<P>([&](auto& trainer) {
    int first = 0;
    std::string notice;
    if (!from.empty()) {
      const ResumedRun run = load_checkpoint(from, trainer);
      first = int(run.step), notice = run.notice;
      trainer.step().restore(run.loss_scale);
      trainer.weights_changed();
    }
    ranks::Sentences feed{P::policy.batch, P::policy.model.vocabulary};
    feed.next = 4 * first;
    ranks::steps(trainer, first, end, feed);
    RunState state;
    state.step = std::max(first, end);
    state.loss_scale = trainer.step().loss_scale();
    if (!to.empty()) save_checkpoint(to, trainer, state, false);
    const std::lock_guard lock(mutex);
    outcome.notice = notice;
    for (const OptimizerBuffer b : optimizer_buffers)
      for (const TensorPart& part : trainer.parts(b)) {
        std::vector<float>& all = outcome.buffers[checkpoint::prefix_of(b) + part.name];
        all.resize(std::size_t(element_count(part.shape).value()));
        std::copy_n(part.data, part.count, all.begin() + part.first);
      }
  });
  return outcome;
}

/// What all ranks together had lost of a tensor's elements and will still send.
std::vector<double> lost(const Buffers& buffers, const std::string& name, std::size_t count) {
  const std::vector<float>& server = buffers.at("optimizer.server_error." + name);
  const std::vector<float>& worker = buffers.at("optimizer.worker_error." + name);
  const std::size_t padded = server.size(), ranks = worker.size() / padded;
  std::vector<double> sum(count);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t r = 0; r < ranks; ++r) sum[i] += double(worker[r * padded + i]);
    sum[i] = sum[i] / double(ranks) + double(server[i]);
  }
  return sum;
}

double largest(const std::vector<double>& values) {
  double most = 0;
  for (const double x : values) most = std::max(most, std::fabs(x));
  return most;
}

/// Those that every rank has alike.
Buffers of_lamb(const Buffers& all) {
  Buffers found;
  for (const auto& [name, values] : all)
    if (name.find("_error.") == name.npos) found[name] = values;
  return found;
}

template <class P> void goes_on_to_the_bit(int end, std::initializer_list<int> stops) {
  const scratch::Folder folder;
  const auto path = [&](const std::string& name) { return (folder.path / name).string(); };
  go<P>("", end, path("whole"));
  const std::string whole = scratch::bytes_of(path("whole"));
  for (const int stop : stops) {
    CAPTURE(stop);
    go<P>("", stop, path("part"));
    CHECK(go<P>(path("part"), end, path("resumed")).notice == "");
    CHECK(scratch::bytes_of(path("resumed")) == whole);
  }
}

}  // namespace

TEST_CASE("io.optimizer_buffers.a_run_goes_on_to_the_bit_before_at_and_after_its_freeze") {
  const auto around_the_freeze = {1, freeze - 1, freeze, freeze + 1, freeze + 3};
  goes_on_to_the_bit<Adam<2>>(freeze + 4, around_the_freeze);
  goes_on_to_the_bit<Lamb<2>>(freeze + 4, around_the_freeze);
  goes_on_to_the_bit<Lamb<4>>(freeze + 4, around_the_freeze);
  goes_on_to_the_bit<Lamb<1>>(freeze + 4, around_the_freeze);
}

TEST_CASE("io.optimizer_buffers.in_fp16_a_skipped_step_changes_nothing_but_the_scale") {
  int skipped = 0, skipped_late = 0;
  ranks::on_all_ranks<InHalf>([&](auto& trainer) {
    const auto all = [&] {
      std::vector<std::vector<float>> values;
      const auto add = [&](const TensorPart& part) {
        values.emplace_back(part.data, part.data + part.count);
      };
      for (const State s : {State::weight, State::first_moment, State::second_moment})
        std::ranges::for_each(trainer.parts(s), add);
      for (const OptimizerBuffer b : optimizer_buffers)
        std::ranges::for_each(trainer.parts(b), add);
      return values;
    };
    ranks::Sentences feed{InHalf::policy.batch, InHalf::policy.model.vocabulary};
    for (int step = 0; step < 40; ++step) {
      const auto before = all();
      const LossScaleState scale = trainer.step().loss_scale();
      const StepResult result = trainer.step().train(
          feed, {.seed = 3, .step = step, .learning_rate = 1e-3, .weight_decay = 0.1f, .clip = 1});
      if ((all() == before) != result.skipped)
        throw Error("step " + std::to_string(step), "is not what it says", "See the loss scale");
      if (!result.skipped || trainer.communicator().rank() != 0) continue;
      ++skipped;
      skipped_late += step - scale.skipped_steps > freeze;
      if (trainer.step().loss_scale().scale != scale.scale / 2)
        throw Error("step " + std::to_string(step), "has not halved the scale", "See its rule");
    }
  });
  CHECK(skipped < 30);
  CHECK(skipped_late > 2);
}

TEST_CASE("io.optimizer_buffers.in_fp16_a_run_goes_on_to_the_bit_also_between_skipped_steps") {
  goes_on_to_the_bit<InHalf>(40, {3, 10, 22, 23, 24, 25, 39});
}

TEST_CASE("io.optimizer_buffers.files_hold_them_only_once_they_are_not_all_0") {
  const scratch::Folder folder;
  const std::string path = (folder.path / "a").string();
  const auto holds = [&](const char* kind) {
    const SafeTensors file(path);
    return std::any_of(file.names().begin(), file.names().end(), [&](const std::string& name) {
      return name.starts_with(std::string("optimizer.") + kind);
    });
  };
  go<Lamb<2>>("", freeze - 1, path);
  CHECK((holds("one_bit_lamb.") && !holds("exp_avg_sq_fresh.") && !holds("worker_error.")));
  go<Lamb<2>>("", freeze, path);
  CHECK((holds("one_bit_lamb.") && holds("exp_avg_sq_fresh.") && !holds("worker_error.")));
  go<Lamb<2>>("", freeze + 1, path);
  CHECK((holds("exp_avg_sq_fresh.") && holds("worker_error.") && holds("server_error.")));
}

TEST_CASE("io.optimizer_buffers.on_other_ranks_what_all_had_lost_is_still_sent_later") {
  const scratch::Folder folder;
  const std::string path = (folder.path / "two").string();
  const Buffers two = go<Lamb<2>>("", freeze + 4, path).buffers;
  const Outcome four = go<Lamb<4>>(path, 0, "");
  CHECK(four.notice.find("lost on 2 data ranks goes on as its mean on 4") != std::string::npos);
  CHECK(of_lamb(four.buffers) == of_lamb(two));
  int compared = 0;
  for (const LogicalTensor& t : Trainer<Lamb<1>>::state_dict()) {
    const auto count = std::size_t(element_count(t.shape).value());
    const std::vector<double> before = lost(two, t.name, count),
                              after = lost(four.buffers, t.name, count);
    for (std::size_t i = 0; i < count; ++i)  // a mean is rounded to float
      REQUIRE(after[i] == Approx(before[i]).margin(1e-6 * largest(before)));
    compared += largest(before) > 0;
  }
  CHECK(compared == int(Trainer<Lamb<1>>::state_dict().size()));
}

TEST_CASE("io.optimizer_buffers.one_rank_drops_errors_and_a_run_of_one_has_none") {
  const scratch::Folder folder;
  const auto path = [&](const std::string& name) { return (folder.path / name).string(); };
  const Buffers two = go<Lamb<2>>("", freeze + 2, path("two")).buffers;
  const Outcome one = go<Lamb<1>>(path("two"), 0, path("one"));
  CHECK(one.notice.find("dropped, since one sends no signs") != std::string::npos);
  CHECK(one.buffers == of_lamb(two));
  const Outcome back = go<Lamb<2>>(path("one"), 0, "");
  CHECK(back.notice.find("errors begin at 0") != std::string::npos);
  CHECK(of_lamb(back.buffers) == of_lamb(two));
  for (const auto& [name, values] : back.buffers)
    if (name.find("_error.") != name.npos)
      CHECK(std::all_of(values.begin(), values.end(), [](float x) { return x == 0; }));
}

TEST_CASE("io.optimizer_buffers.what_a_run_cannot_do_without_is_missed_by_name") {
  const scratch::Folder folder;
  const std::string path = (folder.path / "a").string();
  const auto complaint = [&](auto&& load) {
    try {
      load();
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  go<Adam<2>>("", freeze + 1, path);
  CHECK(complaint([&] {
          go<Lamb<1>>(path, 0, "");
        }).find("holds none of the ratios and second variances") != std::string::npos);
  go<Adam<2>>("", freeze - 1, path);
  CHECK(go<Lamb<1>>(path, 0, "").notice.find("they begin here") != std::string::npos);

  go<Lamb<1, 100>>("", freeze + 1, path);
  const std::string text = complaint([&] { go<Lamb<1>>(path, 0, ""); });
  CHECK(text.find("is of step 4, where 1-bit LAMB has frozen its variance (step 3), but the run "
                  "that wrote it had not") != std::string::npos);
}
