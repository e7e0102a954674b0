// A rank that updates before its gradients are reduced: the message names rank, index and event.
// ERRORS: 1
// EXPECT: error: .*the schedule is not proved
// EXPECT: bytes_in_flight_rest
// EXPECT: rank<0>
// EXPECT: index<[0-9]+>
// EXPECT: compute<.*norm, 0, 2, 0>
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/schedule.hpp>

struct Twice {
  static constexpr ctrain::Policy policy{.model = ctrain::megatron_bert_mini,
                                         .batch = {.packed_tokens = 512},
                                         .parallel = {.data = 2},
                                         .zero = {.bucket = 8 * ctrain::MiB},
                                         .device = ctrain::host_memory(2 * ctrain::GiB)};
};

/// The schedule of Twice, where the norm comes before the last wait.
struct Careless {
  static constexpr auto schedule = [] {
    auto s = ctrain::ScheduleOf<Twice>::schedule;
    auto& events = s.tables[0].events;
    int norm = 0;
    while (events[norm].work != ctrain::Work::norm) ++norm;
    const ctrain::Event wait = events[norm - 1];
    events[norm - 1] = events[norm];
    events[norm] = wait;
    return s;
  }();
};

static_assert(sizeof(ctrain::CheckSchedule<Careless>::check));
