// 0/1 Adam at the end of real steps, against the algorithm in double; what its steps send; and that
// nobody evaluates or saves weights of which every rank has its own.
#include <catch2/catch.hpp>

#include "ranks.hpp"

namespace {

using namespace ctrain;

constexpr ModelShape small{
    .vocabulary = 256, .positions = 48, .layers = 2, .hidden = 64, .heads = 2, .feed_forward = 128};
constexpr int steps_of_the_test = 30, micro_batches = 4;
constexpr Compression by{
    .freeze_step = 10, .variance_scaler = 2, .local_step_scaler = 4, .local_step_limit = 4};

/// What those 30 steps are: V variance, S sync (or, where DeepSpeed differs, signs of gradients:
/// G), L local. Variance steps: two, two of every second step, then of every fourth. After the
/// tenth, four steps with a sync each, four with one in two, then one in four.
constexpr char kinds[] = "VVGVGVGVGGSSSSLSLSLSLLLSLLLSLL";
static_assert(sizeof kinds == steps_of_the_test + 1);
constexpr char kind_of(int t, Compat form) {
  return kinds[t - 1] == 'G' && form == Compat::paper ? 'S' : kinds[t - 1];
}
constexpr bool follows_the_intervals(Compat form) {
  ZeroOneState at;
  for (int t = 1; t <= steps_of_the_test; ++t) {
    const char of[] = {'V', 'G', 'L', 'S'};
    if (of[int(zero_one_step(at, by, form))] != kind_of(t, form)) return false;
    at = zero_one_after(at, by, form, 0.5, 0.1);
    if (at.is_local != (kind_of(t, form) == 'L')) return false;
    if (!at.is_local && (at.rates != 0 || at.kept != 1)) return false;
  }
  return at.rates == 1 && at.kept == 0.95 * 0.95 && zero_one_steps_to_sync(at, by, form) == 2;
}
static_assert(follows_the_intervals(Compat::paper) && follows_the_intervals(Compat::deepspeed));

template <OptimizerKind Kind, int Data, Compat Form = Compat::paper> struct On {
  static constexpr Policy policy{
      .model = small,
      .batch = {.packed_tokens = 64,
                .sentences = 4,
                .length = 32,
                .accumulation = micro_batches / Data},
      .optimizer = {.kind = Kind, .epsilon = 1e-6f, .compat = Form, .compression = by},
      .parallel = {.data = Data},
      .zero = {.bucket = 64 * KiB},
      .device = host_memory(64 * MiB, 1)};
};
template <int Data, Compat Form = Compat::paper>
using ZeroOne = On<OptimizerKind::zero_one_adam, Data, Form>;
using Two = ZeroOne<2>;

// tables -----------------------------------------------------------------------------------------

/// Leaving out any event of a step's end, or a part of a payload, breaks a promise.
template <class Tables> constexpr bool every_event_counts() {
  constexpr const auto& schedule = Tables::schedule;
  if (!prove(schedule).holds()) return false;
  const auto& events = schedule.tables[0].events;
  for (int i = 0; i < events.size; ++i) {
    const Event& e = events.rows[i];
    const bool ends_a_step = e.work == Work::compress || e.work == Work::serve ||
                             e.work == Work::update || e.work == Work::norm ||
                             e.kind == EventKind::collective;
    if (!ends_a_step || e.kind == EventKind::wait) continue;
    auto without = schedule;
    without.tables[0].events.rows[i] = {
        .kind = EventKind::compute, .work = Work::clear, .to = {Store::gradients, 0}, .count = 1};
    if (prove(without).holds()) return false;
    auto shorter = schedule;
    shorter.tables[0].events.rows[i].size -= 16;
    if (e.starts_transfer() && prove(shorter).holds()) return false;
  }
  return true;
}
static_assert(every_event_counts<ScheduleOf<Two>::sign_training>());
static_assert(every_event_counts<ScheduleOf<Two>::local_training>());
static_assert(every_event_counts<ScheduleOf<Two>::sync>());

/// A local step's table is no step in which gradients or signs are summed, and the reverse.
template <class Tables, Sums Other> constexpr bool is_of_its_own_kind() {
  auto schedule = Tables::schedule;
  schedule.split.sums = Other;
  return !prove(schedule).holds();
}
static_assert(is_of_its_own_kind<ScheduleOf<Two>::local_training, Sums::gradients>());
static_assert(is_of_its_own_kind<ScheduleOf<Two>::local_training, Sums::signs>());
static_assert(is_of_its_own_kind<ScheduleOf<Two>::sign_training, Sums::gradients>());

// the algorithm in double ------------------------------------------------------------------------

using Doubles = std::vector<double>;

/// The micro-batches of one of several data ranks, for a trainer of one rank.
struct Share {
  ranks::Sentences all;
  int rank = 0, data = 1;

  int open(int) { return all.open(micro_batches) / data; }
  int sentences(int i) const { return all.sentences(i * data + rank); }
  void fill(int i, BatchView& b, std::uint32_t) const {
    std::uint32_t ordinal = 0;
    for (int before = 0; before < i * data + rank; ++before)
      ordinal += std::uint32_t(all.sentences(before));
    all.fill(i * data + rank, b, ordinal);
  }
};

/// Gradients of one rank's share of a step, at weights of its own.
struct Gradients {
  using Alone = On<OptimizerKind::adamw_torch, 1>;
  Trainer<Alone> trainer{11};

  /// Sums over its sentences, tensor after tensor; returns how many sentences those are.
  std::int64_t at(const std::vector<Doubles>& weights, int rank, int ranks, int step,
                  std::vector<Doubles>& gradients) {
    auto tensors = trainer.tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i)
      std::copy(weights[i].begin(), weights[i].end(), tensors[i].weight);
    trainer.weights_changed();
    Share share{{Alone::policy.batch, small.vocabulary}, rank, ranks};
    share.all.next = step * micro_batches;
    const StepResult result = trainer.step().train(share, {.seed = 3, .step = step});
    gradients.resize(tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      gradients[i].resize(std::size_t(tensors[i].count));
      for (std::size_t k = 0; k < gradients[i].size(); ++k)
        gradients[i][k] = tensors[i].gradient_at(std::int64_t(k));
    }
    return result.sentences;
  }
};

/// One tensor of all ranks.
struct OfRanks {
  Doubles variance, at_last_sync, last_compared;
  std::vector<Doubles> weight, momentum, gathered;  // of each rank
  std::vector<Doubles> worker_error, server_error;
  bool decays = false;
};

double norm(const Doubles& x) {
  double sum = 0;
  for (const double each : x) sum += each * each;
  return std::sqrt(sum);
}

/// The mean of what all ranks have, as sums of signs with error feedback tell it.
Doubles mean_by_signs(OfRanks& t, const std::vector<Doubles>& from) {
  const std::size_t n = from.size(), count = from[0].size();
  const std::size_t multiple = n * 8 / std::size_t(std::gcd(int(n), 8)) * n;
  const std::size_t padded = (count + multiple - 1) / multiple * multiple, chunk = padded / n;
  const auto signs = [](Doubles& error) {  // becomes what is lost
    const double scale = norm(error) / std::sqrt(double(error.size()));
    Doubles sent(error.size());
    for (std::size_t i = 0; i < error.size(); ++i) {
      sent[i] = error[i] >= 0 ? scale : -scale;
      error[i] -= sent[i];
    }
    return sent;
  };
  t.worker_error.resize(n), t.server_error.resize(n);
  Doubles sum(padded);
  for (std::size_t r = 0; r < n; ++r) {
    t.worker_error[r].resize(padded);
    for (std::size_t i = 0; i < count; ++i) t.worker_error[r][i] += from[r][i];
    const Doubles sent = signs(t.worker_error[r]);
    for (std::size_t i = 0; i < padded; ++i) sum[i] += sent[i] / double(n);
  }
  Doubles mean;
  for (std::size_t r = 0; r < n; ++r) {
    t.server_error[r].resize(chunk);
    for (std::size_t i = 0; i < chunk; ++i) t.server_error[r][i] += sum[r * chunk + i];
    const Doubles sent = signs(t.server_error[r]);
    mean.insert(mean.end(), sent.begin(), sent.end());
  }
  mean.resize(count);
  return mean;
}

/// behaviours.md 4.6 in both spellings, on all ranks.
template <int Data, Compat Form> struct Algorithm {
  static constexpr std::size_t ranks = Data;
  static constexpr double rate = 1e-3f, beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-6f, decay = 0.1f,
                          clip = 1;
  static constexpr bool paper = Form == Compat::paper;
  Gradients gradients;
  std::vector<OfRanks> tensors;
  std::vector<std::string> names;
  int since = 0;      // local steps since the last sync
  int variances = 0;  // variance steps

  Algorithm() {
    for (const NamedTensor& from : gradients.trainer.tensors()) {
      const Doubles start(from.weight, from.weight + from.count);
      const std::vector<Doubles> zero(ranks, Doubles(start.size()));
      const auto& row = GraphOf<Two>::graph.parameters.rows[from.parameter];
      tensors.push_back({Doubles(start.size()),
                         start,
                         start,
                         std::vector<Doubles>(ranks, start),
                         zero,
                         zero,
                         {},
                         {},
                         decays(row, Two::policy.optimizer.decay)});
      names.push_back(from.name);
    }
  }

  double root(double v) const { return paper ? std::sqrt(v + epsilon) : std::sqrt(v) + epsilon; }
  double within(double x, double most) const {
    const double bound = paper ? std::fmax((1 - 0.9) / std::sqrt(1 - 0.999),
                                           1 / std::sqrt(1 - std::pow(0.999, variances)))
                               : 1e38;
    return most > 0 ? std::fmin(std::fmax(x, -bound * most), bound * most) : 0;
  }

  void step(int t) {
    std::vector<std::vector<Doubles>> all(ranks);  // gradients of each rank
    double sentences = 0, norms = 0;
    for (std::size_t r = 0; r < ranks; ++r) {
      std::vector<Doubles> weights;
      for (const OfRanks& tensor : tensors) weights.push_back(tensor.weight[r]);
      sentences += double(gradients.at(weights, int(r), Data, t - 1, all[r]));
    }
    const char kind = kind_of(t, Form);
    if (kind == 'V') {
      for (std::size_t r = 1; r < ranks; ++r)
        for (std::size_t i = 0; i < tensors.size(); ++i)
          for (std::size_t k = 0; k < all[0][i].size(); ++k) all[0][i][k] += all[r][i][k];
      norms = norm_of(all[0]);
    } else {
      for (const auto& of_rank : all) norms += norm_of(of_rank);
    }
    double scale = std::fmin(1, clip / (norms / sentences + 1e-6)) / sentences;
    if (kind != 'V') scale *= double(ranks);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      std::vector<Doubles> mine;
      for (std::size_t r = 0; r < ranks; ++r) {
        mine.push_back(all[kind == 'V' ? 0 : r][i]);
        for (double& g : mine.back()) g *= scale;
      }
      update(tensors[i], mine, kind, t);
    }
    since = kind == 'L' ? since + 1 : 0;
    variances += kind == 'V';
  }
  static double norm_of(const std::vector<Doubles>& all) {
    double squares = 0;
    for (const Doubles& each : all) squares += norm(each) * norm(each);
    return std::sqrt(squares);
  }

  void update(OfRanks& x, std::vector<Doubles>& g, char kind, int t) {
    const double lambda = x.decays ? decay : 0;
    if (kind == 'V' && t == 1 && !paper) return;
    if (!paper && t == by.freeze_step + 1) x.worker_error = x.server_error = {};
    if (kind == 'G' && ranks > 1) g.assign(ranks, mean_by_signs(x, g));
    for (std::size_t r = 0; r < ranks; ++r)
      for (std::size_t i = 0; i < x.variance.size(); ++i) {
        double &m = x.momentum[r][i], &v = x.variance[i];
        if (kind == 'V' && r == 0) v = beta2 * v + (1 - 0.999) * g[r][i] * g[r][i];
        m = beta1 * m + (1 - 0.9) * g[r][i];
        if (kind != 'V') m = within(m, std::sqrt(v));
        double& w = x.weight[r][i];
        const double sent = m + (paper ? 0 : lambda * w * root(v));
        w -= rate * (m / root(v) + lambda * w);
        if (kind == 'L' || kind == 'S') x.gathered[r][i] += rate * sent;
      }
    if (kind == 'V' || kind == 'G') x.at_last_sync = x.weight[0];
    if (kind == 'S') meet(x, since + 1, lambda);
  }
  /// `count`: steps since ranks last met.
  void meet(OfRanks& x, int count, double lambda) {
    const Doubles mean = ranks > 1 ? mean_by_signs(x, x.gathered) : x.gathered[0];
    const double kept = paper ? std::pow(1 - rate * lambda, count) : 1, rates = rate * count;
    for (std::size_t i = 0; i < mean.size(); ++i) {
      const double v = x.variance[i];
      const double u = ranks > 1 ? within(mean[i], rates * std::sqrt(v)) : mean[i];
      if (ranks > 1 && paper) {  // what is cut off is sent later
        const std::size_t chunk = x.server_error[0].size();
        x.server_error[i / chunk][i % chunk] += mean[i] - u;
      }
      x.at_last_sync[i] = kept * x.at_last_sync[i] - u / root(v);
      for (std::size_t r = 0; r < ranks; ++r) {
        if (ranks > 1) x.weight[r][i] = x.at_last_sync[i];
        x.momentum[r][i] = u / rates;
        x.gathered[r][i] = 0;
      }
    }
  }
  void meet() {
    for (OfRanks& x : tensors) meet(x, since, x.decays ? decay : 0);
    since = 0;
  }
};

/// Weights and moments of a run of P, wherever its ranks were synced, and after a sync at the end.
template <class P> std::map<int, ranks::Tensors> synced_states() {
  std::map<int, ranks::Tensors> states;
  std::mutex mutex;
  ranks::on_all_ranks<P>([&](auto& trainer) {
    ranks::Sentences feed{P::policy.batch, small.vocabulary};
    for (int t = 1; t <= steps_of_the_test; ++t) {
      trainer.step().train(
          feed,
          {.seed = 3, .step = t - 1, .learning_rate = 1e-3, .weight_decay = 0.1f, .clip = 1.0f});
      if (t == steps_of_the_test) trainer.step().sync();
      if (!trainer.step().is_synced()) continue;
      const std::lock_guard lock(mutex);
      if (!ranks::add_parts(trainer, states[t])) throw Error("ranks", "differ", "Sync them");
    }
    if (trainer.arena().high_water() != trainer.plan().arena()) throw Error("arena", "?", "");
  });
  return states;
}

/// The share of weights and moments that are not the algorithm's after a sync, which goes on from
/// there with those of the run. Where the last bit decides whether something is negative, both are
/// right, and one element is off by as much as it moves.
template <int Data, Compat Form> double share_off_the_algorithm() {
  omp_set_num_threads(1);
  const auto states = synced_states<ZeroOne<Data, Form>>();
  Algorithm<Data, Form> algorithm;
  std::int64_t off = 0, all = 0;
  /// Elements may differ by a thousandth of what is usual, and by the roundings of some steps.
  const auto adopt = [&](Doubles& is, const Doubles& before, const std::vector<float>& got) {
    Doubles moved = is;
    for (std::size_t i = 0; i < is.size(); ++i) moved[i] -= before[i];
    const double usual = norm(moved) / std::sqrt(double(is.size()));
    for (std::size_t i = 0; i < is.size(); ++i, ++all) {
      off += !(std::fabs(got[i] - is[i]) <= 1e-3 * usual + std::ldexp(std::fabs(is[i]), -21));
      is[i] = got[i];
    }
  };
  for (int t = 1; t <= steps_of_the_test; ++t) {
    algorithm.step(t);
    if (t == steps_of_the_test) algorithm.meet();
    const auto got = states.find(t);
    if ((algorithm.since == 0) != (got != states.end())) return 1;
    if (algorithm.since > 0) continue;
    for (std::size_t i = 0; i < algorithm.tensors.size(); ++i) {
      if (algorithm.names[i].ends_with("self.key.bias")) continue;  // see ranks::difference
      OfRanks& x = algorithm.tensors[i];
      const Doubles zero(x.variance.size());
      const auto of = [&](const char* state) { return got->second.at(state + algorithm.names[i]); };
      adopt(x.weight[0], x.last_compared, of("weight "));
      adopt(x.momentum[0], zero, of("first_moment "));
      adopt(x.variance, zero, of("second_moment "));
      x.at_last_sync = x.last_compared = x.weight[0];
      for (std::size_t r = 1; r < Data; ++r)
        x.weight[r] = x.weight[0], x.momentum[r] = x.momentum[0];
    }
    if (getenv("SHOW")) std::printf("t %d off %ld of %ld\n", t, long(off), long(all));
  }
  return double(off) / double(all);
}

}  // namespace

TEST_CASE("trainer.zero_one.steps_of_one_rank_are_the_algorithms") {
  CHECK(share_off_the_algorithm<1, Compat::paper>() < 1e-4);
  CHECK(share_off_the_algorithm<1, Compat::deepspeed>() < 1e-4);
}

TEST_CASE("trainer.zero_one.steps_of_ranks_are_the_algorithms") {
  CHECK(share_off_the_algorithm<2, Compat::paper>() < 1e-4);
  CHECK(share_off_the_algorithm<2, Compat::deepspeed>() < 1e-4);
  CHECK(share_off_the_algorithm<4, Compat::paper>() < 1e-4);
}

namespace {

template <class P> void sends_what_its_tables_say() {
  using S = ScheduleOf<P>;
  constexpr bytes record = Split::record,
                  signs = bytes_sent(S::sign_training::schedule, 0) - record,
                  full = bytes_sent(S::training::schedule, 0) - record;
  // behaviours.md 4.7, f = 1/2, but for scales and paddings: sums in binary32 are 8 bytes f an
  // element, signs a quarter of a byte f, and a local step is its records.
  constexpr double elements = double(GraphOf<P>::graph.parameters.count());
  static_assert(full >= bytes(4 * elements) && double(full) < 4.1 * elements);
  static_assert(signs >= bytes(elements / 8) && double(signs) < 1.1 * elements / 8);
  static_assert(bytes_sent(S::local_training::schedule, 0) == record);
  static_assert(bytes_sent(S::sync::schedule, 0) == signs);
  ranks::on_all_ranks<P>([&](auto& trainer) {
    ranks::Sentences feed{P::policy.batch, small.vocabulary};
    for (int t = 1; t <= steps_of_the_test; ++t) {
      const bytes before = trainer.communicator().sent();
      ranks::steps(trainer, t - 1, t, feed);
      feed.open(micro_batches);
      const char kind = kind_of(t, P::policy.optimizer.compat);
      const bytes sent = trainer.communicator().sent() - before;
      if (sent != record + (kind == 'V' ? full : kind == 'S' || kind == 'G' ? signs : 0))
        throw Error("step", std::to_string(t) + " sends " + std::to_string(sent), "Count again");
    }
    const bytes before = trainer.communicator().sent();
    trainer.step().sync();
    trainer.step().sync();  // which is nothing
    if (trainer.communicator().sent() - before != signs)
      throw Error("sync", "sends", "Count again");
  });
}

}  // namespace

TEST_CASE("trainer.zero_one.steps_send_what_their_tables_say") {
  sends_what_its_tables_say<Two>();
  sends_what_its_tables_say<ZeroOne<2, Compat::deepspeed>>();
}

TEST_CASE("trainer.zero_one.nobody_evaluates_or_reads_weights_between_syncs") {
  ranks::on_all_ranks<Two>([&](auto& trainer) {
    ranks::Sentences feed{Two::policy.batch, small.vocabulary};
    const auto complaint_of = [](auto&& act) -> std::string {
      try {
        act();
      } catch (const Error& error) {
        return error.what();
      }
      return "";
    };
    const auto evaluate = [&] {
      ranks::Sentences held{Two::policy.batch, small.vocabulary, 2};
      StepResult result;
      while (trainer.step().evaluate(held, result)) {
      }
    };
    const auto require = [](bool truth, const std::string& what) {
      if (!truth) throw Error("between syncs", what, "See the test");
    };
    ranks::steps(trainer, 0, 21, feed);  // the 24th ends with a sync
    feed.next = 21 * micro_batches;
    require(!trainer.step().is_synced(), "is_synced() says so");
    const std::string evaluated = complaint_of(evaluate),
                      read = complaint_of([&] { trainer.parts(State::weight); });
    for (const std::string& complaint : {evaluated, read})
      require(complaint.find("after step 21: ") != complaint.npos &&
                  complaint.find("the next sync, which ends step 24.") != complaint.npos &&
                  complaint.find("Wait for 3 more, or call step().sync() first") != complaint.npos,
              "'" + complaint + "'");
    ranks::steps(trainer, 21, 24, feed);
    feed.next = 24 * micro_batches;
    require(complaint_of(evaluate).empty(), "step 24 ends with no sync");
    ranks::steps(trainer, 24, 26, feed);
    trainer.step().sync();
    require(complaint_of(evaluate).empty(), "sync() is none");
  });
}

namespace {
struct Learner {
  static constexpr Policy policy = [] {
    Policy p = Two::policy;
    p.optimizer.beta2 = 0.99f;  // nothing corrects the bias of the variance
    p.optimizer.compression = {
        .freeze_step = 40, .variance_scaler = 16, .local_step_scaler = 8, .local_step_limit = 4};
    return p;
  }();
};
}  // namespace

TEST_CASE("trainer.zero_one.ranks_learn_as_adamw_does") {
  const auto mean_of_last = [](const std::vector<StepResult>& steps) {
    double sum = 0;
    for (std::size_t i = steps.size() - 10; i < steps.size(); ++i) sum += steps[i].loss() / 10;
    return sum;
  };
  double zero_one = 0;
  ranks::on_all_ranks<Learner>([&](auto& trainer) {
    const auto steps = ranks::steps(trainer, 0, 80, {Learner::policy.batch, small.vocabulary});
    if (trainer.communicator().rank() == 0) zero_one = mean_of_last(steps);
  });
  omp_set_num_threads(1);
  Trainer<Gradients::Alone> adamw(11);
  const double wanted =
      mean_of_last(ranks::steps(adamw, 0, 80, {Learner::policy.batch, small.vocabulary}));
  CAPTURE(zero_one, wanted);
  CHECK(zero_one < wanted + 0.02);
}
