// Checkpoints of a model that streams: the file of the resident trainer, written and read in the
// memory that a step has, however large the model is.
#include <ctrain/io/checkpoint.hpp>
#include <ctrain/trainer/streamed_trainer.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <catch2/catch.hpp>

#include <fstream>

#include "../trainer/changing_sentences.hpp"
#include "scratch.hpp"
#include <omp.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

/// Five million parameters: a checkpoint of 58 MiB.
struct Resident {
  static constexpr Policy policy{.model = {.vocabulary = 4096,
                                           .positions = 64,
                                           .layers = 5,
                                           .hidden = 256,
                                           .heads = 4,
                                           .feed_forward = 1024},
                                 .batch = {.packed_tokens = 128, .length = 64},
                                 .weights = WeightLayout::plain,
                                 .recompute = Recompute::full,
                                 .device = host_memory(256 * MiB, 1)};
};
struct Streamed {
  static constexpr Policy policy = [] {
    Policy p = Resident::policy;
    p.offload = {.optimizer = OffloadTo::disk,
                 .parameters = OffloadTo::disk,
                 .activations = OffloadTo::host,
                 .clipping = OffloadClipping::deferred,
                 .piece = 256 * KiB};
    return p;
  }();
};

template <class T> StepResult train(T& trainer, int step, Changing& feed) {
  return trainer.step().train(
      feed, {.seed = 1, .step = step, .learning_rate = 1e-3, .weight_decay = 0.1f, .clip = 1.0f});
}

/// Address space of this process.
rlim_t address_space() {
  std::ifstream file("/proc/self/statm");
  rlim_t pages = 0;
  file >> pages;
  return pages * rlim_t(sysconf(_SC_PAGESIZE));
}

}  // namespace

TEST_CASE("io.offload_checkpoint.is_the_file_of_the_resident_trainer") {
  omp_set_num_threads(1);
  const scratch::Folder folder;
  StreamedTrainer<Streamed> streamed({.directory = folder.path});
  Trainer<Resident> resident;
  Changing feed{Resident::policy.batch}, same_feed = feed;
  for (int step = 0; step < 2; ++step)
    train(streamed, step, feed), train(resident, step, same_feed);
  RunState state;
  state.step = 2, state.seed = 1;
  for (const bool weights_only : {false, true}) {
    save_checkpoint(folder.path / "streamed", streamed, state, weights_only);
    save_checkpoint(folder.path / "resident", resident, state, weights_only);
    CHECK(scratch::bytes_of(folder.path / "streamed") ==
          scratch::bytes_of(folder.path / "resident"));
  }
  save_checkpoint(folder.path / "full", streamed, state, false);
  train(streamed, 2, feed), train(resident, 2, same_feed);  // and back
  CHECK(load_checkpoint(folder.path / "full", streamed).step == 2);
  CHECK(load_checkpoint(folder.path / "full", resident).step == 2);
  CHECK(train(streamed, 2, feed).loss_sum == train(resident, 2, same_feed).loss_sum);
}

// A process of its own may take 16 MiB more than a trainer has after its first step, a quarter of
// the file; the file is written, read and trained on.
TEST_CASE("io.offload_checkpoint.takes_no_memory_for_the_model") {
  const scratch::Folder folder;
  omp_set_num_threads(1);  // threads do not survive a fork
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 1;
    try {
      StreamedTrainer<Streamed> trainer({.directory = folder.path});
      Changing feed{Streamed::policy.batch};
      train(trainer, 0, feed);
      const rlim_t limit = address_space() + 16 * MiB;
      const rlimit both{limit, limit};
      if (::setrlimit(RLIMIT_AS, &both) != 0) throw Error("limit", "cannot be set", "Lower it");
      save_checkpoint(folder.path / "full", trainer, RunState(), false);
      if (std::filesystem::file_size(folder.path / "full") < 56 * MiB) code = 2;
      load_checkpoint(folder.path / "full", trainer);
      const double loss = train(trainer, 1, feed).loss_sum;
      require_finite(trainer, 2);
      if (code == 1 && loss > 0) code = 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
    }
    ::_exit(code);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
