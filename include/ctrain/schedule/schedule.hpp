/// \file  The schedule of a policy, proved, or a compile error that names rank, index and event.   floor 4: schedule
#pragma once

#include <ctrain/memory/budget.hpp>
#include <ctrain/memory/sign_traffic.hpp>
#include <ctrain/policy/rules.hpp>
#include <ctrain/schedule/build.hpp>
#include <ctrain/schedule/proof.hpp>

#include <cstddef>
#include <type_traits>

namespace ctrain {

namespace say {

template <int Number> struct rank {};
template <int Number> struct index {};
template <Work What, int First, int Count, int Micro> struct compute {};
template <Collective What, Group Among, int Bucket, bytes Payload> struct collective {};
template <EventKind What, int PeerStage, int Micro, bytes Payload> struct transfer {};
template <int Index> struct wait_for {};
template <EventKind What, Store Where, int Index> struct buffer {};

template <class Rank, class Index> inline constexpr bool promise_is_kept = false;

template <Promise Broken, class Rank, class Index, class Event> struct schedule_breaks_a_promise {
  static_assert(promise_is_kept<Rank, Index>,
                "internal: the schedule is not proved. The names around this message say which "
                "promise is broken, and by which rank at which event of its table.");
};
struct schedule_is_proved {};

}  // namespace say

/// The schedule of a policy of `Ranks` ranks or, for tests, any schedule that a `Source` holds.
template <class Source> struct CheckSchedule {
  static constexpr Verdict verdict = prove(Source::schedule);

 private:
  static constexpr Event event() {
    const int stage = verdict.rank < 0 ? 0 : verdict.rank;
    return Source::schedule.tables[stage].events.rows[verdict.index < 0 ? 0 : verdict.index];
  }
  template <EventKind Kind> static constexpr auto word_for() {
    constexpr Event e = event();
    if constexpr (Kind == EventKind::compute)
      return std::type_identity<say::compute<e.work, e.first, e.count, e.micro>>{};
    else if constexpr (Kind == EventKind::collective)
      return std::type_identity<say::collective<e.collective, e.group, e.first, e.size>>{};
    else if constexpr (Kind == EventKind::wait)
      return std::type_identity<say::wait_for<e.awaited>>{};
    else if constexpr (Kind == EventKind::send || Kind == EventKind::receive)
      return std::type_identity<say::transfer<Kind, e.peer, e.micro, e.size>>{};
    else
      return std::type_identity<say::buffer<Kind, e.to.store, e.to.index>>{};
  }
  template <bool Holds, class S> struct words_of { using type = say::schedule_is_proved; };
  template <class S> struct words_of<false, S> {
    static constexpr int first_rank = S::schedule.split.grid.rank({0, 0, verdict.rank});
    using type = say::schedule_breaks_a_promise<verdict.broken, say::rank<first_rank>,
                                                say::index<verdict.index>,
                                                typename decltype(word_for<event().kind>())::type>;
  };

 public:
  using check = typename words_of<verdict.holds(), Source>::type;
};

/// What a schedule is of: a step whose data ranks sum gradients, signs or nothing; a sync of what
/// they have gathered in steps that summed nothing; or an evaluation.
enum class Turn : std::uint8_t { training, sign_training, local_training, sync, evaluation };

/// The numbers of a policy's step, or of its evaluation, which takes one micro-batch.
template <class P, Turn What> constexpr Split split_for() {
  Split split = split_of(P::policy);
  if (What == Turn::sign_training || What == Turn::sync) {
    split.sums = Sums::signs;
    split.sign_message = sign_traffic(GraphOf<P>::graph.parameters, split.grid.data).message();
  }
  if (What == Turn::local_training) split.sums = Sums::nothing;
  if (What == Turn::sync) split.only_syncs = true, split.micro_batches = 0;
  if (What == Turn::evaluation) split.trains = false, split.micro_batches = 1;
  return split;
}

/// One of the schedules. Instantiating `check` proves it.
template <class P, Turn What> struct ScheduleFor {
  static constexpr Split split = split_for<P, What>();
  static constexpr int stages = split.grid.pipeline;
  static constexpr int capacity = schedule_events(split, GraphOf<P>::graph.parameters);
  static constexpr Schedule<stages, capacity> schedule =
      build_schedule<stages, capacity>(split, GraphOf<P>::graph.parameters);

  static_assert(bytes_sent_are_least(schedule), "internal: a rank sends more than it must");

  /// One table for each of the stage's ranks.
  static constexpr const StageTable<capacity>& table(int rank) {
    return schedule.tables[split.grid.at(rank).pipeline];
  }
  using check = typename CheckSchedule<ScheduleFor>::check;
};

/// What the ranks of a policy do in one optimizer step, and in `evaluation` with one micro-batch.
template <class P> struct ScheduleOf {
  static constexpr Split split = split_for<P, Turn::training>();
  static constexpr bool sends_signs = ctrain::sends_signs(P::policy);
  static constexpr bool has_local_steps =
      sends_signs && P::policy.optimizer.kind == OptimizerKind::zero_one_adam;
  template <Turn What, bool Has>
  using one_of = std::conditional_t<Has, ScheduleFor<P, What>, ScheduleFor<P, Turn::training>>;

  using training = ScheduleFor<P, Turn::training>;
  using sign_training = one_of<Turn::sign_training, sends_signs>;
  using local_training = one_of<Turn::local_training, has_local_steps>;
  using sync = one_of<Turn::sync, has_local_steps>;
  using evaluation = ScheduleFor<P, Turn::evaluation>;
  static constexpr int stages = training::stages;
  static constexpr int capacity =  // the others' transfers are among these
      training::capacity > sign_training::capacity ? training::capacity : sign_training::capacity;
  static constexpr const auto& schedule = training::schedule;

  static_assert(norms_alone_see_own_rows(GraphOf<P>::graph, split.sequence),
                "internal: gradients of norms are summands that nobody adds up, or the reverse");
  static_assert(collectives_are_exact<split.grid.data>,
                "internal: a collective over the data ranks is not what its exchanges do");
  static_assert(collectives_are_exact<split.grid.tensor>,
                "internal: a collective over the tensor ranks is not what its exchanges do");

  static constexpr const auto& table(int rank) { return training::table(rank); }
  using check = std::conditional_t<
      sizeof(typename evaluation::check) != 0 && sizeof(typename sign_training::check) != 0 &&
          sizeof(typename local_training::check) != 0 && sizeof(typename sync::check) != 0,
      typename training::check, void>;
};

/// True, or a compile error, for a valid policy: its schedule keeps every promise.
template <HasPolicy P>
constexpr bool check_schedule(std::size_t = sizeof(typename ScheduleOf<P>::check)) {
  return true;
}

}  // namespace ctrain
