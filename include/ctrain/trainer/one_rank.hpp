/// \file  The rule that a Trainer is one rank, for as long as no executor walks schedules.   floor 6: trainer
#pragma once

namespace ctrain {

template <int Ranks>
concept a_trainer_is_one_rank = (Ranks == 1);

namespace rule {
template <int Ranks> struct a_trainer_is_one_rank {
  static_assert(ctrain::a_trainer_is_one_rank<Ranks>,
                "invalid policy: a policy of many ranks can be checked, planned and printed, but "
                "this version trains on one. Set parallel.data, parallel.tensor and "
                "parallel.pipeline to 1.");
};
}  // namespace rule

}  // namespace ctrain
