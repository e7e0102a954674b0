/// \file  Is a policy valid, does its plan fit, is its schedule right? One instantiation, no error that follows from another.   floor 4: schedule
#pragma once

#include <ctrain/memory/budget.hpp>
#include <ctrain/policy/rules.hpp>
#include <ctrain/schedule/schedule.hpp>
#include <ctrain/schedule/streaming_proof.hpp>

#include <cstddef>
#include <type_traits>

namespace ctrain {

/// The verdict on a class that does not name a policy.
template <class P> struct NamesNoPolicy {
  static_assert(HasPolicy<P>,
                "invalid policy: a policy is named by a struct. Give the struct a member, static "
                "constexpr ctrain::Policy policy{...};");
};

/// The verdict on a policy that the compiler could not read and has said why, for example a
/// misspelt field: to say more would bury that.
struct Unreadable {};
template <int Anything>
concept is_a_constant = (Anything * 0 == 0);
template <class P> inline constexpr bool is_readable = is_a_constant<P::policy.batch.accumulation>;

/// The verdict on what is derived from a valid policy: plan and schedule, or a stream.
template <class P, bool Streams> struct CheckOneOf : PlanOf<P>::check, ScheduleOf<P>::check {};
template <class P> struct CheckOneOf<P, true> : CheckStreamed<P>::check {};
template <class P> struct CheckDerived : CheckOneOf<P, P::policy.offload.any()> {};

template <class P> struct VerdictOn { using type = NamesNoPolicy<P>; };
template <class P>
concept HasMemberPolicy = requires {
  P::policy;
};
template <HasMemberPolicy P> struct VerdictOn<P> {
  template <class Q>
  using of_policy =
      std::conditional_t<is_readable<Q>,
                         std::conditional_t<keeps_every_rule<Q>, CheckDerived<Q>, CheckPolicy<Q>>,
                         Unreadable>;
  template <class Q> struct policy { using type = of_policy<Q>; };
  template <class Q> struct other { using type = NamesNoPolicy<Q>; };
  using type = typename std::conditional_t<std::is_same_v<decltype(P::policy), const Policy>,
                                           policy<P>, other<P>>::type;
};

/// Instantiating it checks a policy: every rule it breaks is an error of its own; one that breaks
/// none is planned and scheduled, both are proved, and a plan that does not fit is an error with
/// its table. An invalid policy is not planned, since such a plan would say nothing.
template <class P> struct Check : VerdictOn<P>::type {};

/// True, or a compile error: static_assert(ctrain::check<Mine>()). (The check stands in a default
/// argument, because clang reports a faulty function body twice.)
template <class P> constexpr bool check(std::size_t = sizeof(Check<P>)) {
  return true;
}

}  // namespace ctrain
