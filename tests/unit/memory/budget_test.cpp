#include <ctrain/memory/budget.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/check.hpp>

#include <catch2/catch.hpp>

#include <set>
#include <string>

namespace {

using namespace ctrain;

constexpr Policy policy_of(const ModelShape& m, Batch batch, Compute compute, Device device) {
  return {.model = m, .batch = batch, .precision = {compute}, .device = device};
}

// The suggestion, applied, compiles: the very policy that a user would write.
struct TooLarge {
  static constexpr Policy policy =
      policy_of(erlangshen_1b3, {.packed_tokens = 2048}, Compute::fp32, gpu_24gb);
};
struct Mended {
  static constexpr Policy policy = apply(TooLarge::policy, cheapest_fix(TooLarge::policy));
};
static_assert(!PlanOf<TooLarge>::fits && check<Mended>());
static_assert(Mended::policy.batch.packed_tokens == 1024 &&
              Mended::policy.recompute == Recompute::none);

/// Memory sizes from plenty to hardly enough for the weights.
template <class Visit> void for_each_budget(Visit&& visit) {
  for (const ModelShape& m : {erlangshen_1b3, bert_base_chinese, megatron_bert_mini})
    for (const Compute c : {Compute::fp32, Compute::bf16})
      for (const Batch& b :
           {Batch{.packed_tokens = 2048}, Batch{.packed_tokens = 2048, .sentences = 500},
            Batch{.sentences = 64}, Batch{.sentences = 8}, Batch{.sentences = 5}})
        for (const DeviceKind kind : {DeviceKind::host, DeviceKind::cuda})
          for (const Recompute r : {Recompute::none, Recompute::full}) {
            Policy p = policy_of(m, b, c, {kind, 1, 0, 8});
            p.recompute = r;
            const bytes needed = plan_memory(p).total();
            for (const int percent : {101, 97, 90, 80, 70, 60, 50, 40, 10}) {
              p.device.memory = needed / 100 * percent;
              visit(p);
            }
          }
}

/// How much a change costs in speed, by the order that budget.hpp promises.
int cost(const Policy& before, const Policy& after) {
  const auto size = [](const Policy& p) {
    return p.batch.packed() ? p.batch.packed_tokens : p.batch.sentences;
  };
  if (after.device.memory != before.device.memory) return 1000;
  int halvings = 0;
  for (int n = size(before); n > size(after); n /= 2) ++halvings;
  const bool plain = after.weights != before.weights;
  const bool again = after.recompute != before.recompute || (halvings > 2 && !plain);
  if (plain && (again || halvings > 0)) return 500 + halvings;
  if (again) return 200 + halvings;
  return plain ? 100 : halvings;
}

}  // namespace

TEST_CASE("memory.budget.every_suggestion_fits") {
  std::set<Change> seen;
  for_each_budget([&](const Policy& p) {
    const Suggestion fix = cheapest_fix(p);
    const Policy after = apply(p, fix);
    CHECK(plan_memory(after).total() == fix.total);
    CHECK(fix.total <= after.device.memory);
    CHECK((fix.what == Change::nothing_needed) == fits(p));
    seen.insert(fix.what);
  });
  CHECK(seen.size() == 10);  // every word of Change
}

TEST_CASE("memory.budget.nothing_cheaper_fits") {
  for_each_budget([](const Policy& p) {
    const Suggestion fix = cheapest_fix(p);
    const budget::Proposals all = proposals(p);
    REQUIRE(all.size < all.capacity);
    int last = -1;
    for (const Proposal& other : all) {
      const int now = cost(p, other.policy);
      CHECK(now >= last);
      last = now;
    }
    for (const Proposal& other : all) {
      if (other.what == fix.what && other.value == fix.value) break;
      CHECK_FALSE(fits(other.policy));
    }
  });
}

TEST_CASE("memory.budget.a_proposal_changes_what_it_names_and_keeps_the_rules") {
  for_each_budget([](const Policy& p) {
    for (const Proposal& other : proposals(p)) {
      const Batch &before = p.batch, &after = other.policy.batch;
      CHECK(after.length == before.length);
      CHECK(after.accumulation == before.accumulation);
      CHECK(after.packed() == before.packed());
      if (before.packed()) {
        CHECK(after.sentences == before.sentences);
        CHECK(after.packed_tokens % 16 == 0);
        CHECK(after.packed_tokens >= after.length);
        CHECK(after.sentences <= after.packed_tokens / 2);
      }
      CHECK(after.rows() > 0);
      CHECK(before.rows() % after.rows() == 0);  // accumulation makes up for it
      CHECK(other.policy.precision.compute == p.precision.compute);
    }
  });
}
