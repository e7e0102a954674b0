// A checkpoint knows nothing of the ranks that wrote it. Ranks are threads.
#include <ctrain/io/checkpoint.hpp>

#include <catch2/catch.hpp>

#include <functional>

#include "../trainer/ranks.hpp"
#include "scratch.hpp"

namespace {

using namespace ctrain;

/// Eight micro-batches a step, on any ranks.
template <Parallel Ranks, int Stage> struct On {
  static constexpr Policy policy{
      .model = {.vocabulary = 256,
                .positions = 48,
                .layers = 4,
                .hidden = 32,
                .heads = 2,
                .feed_forward = 64},
      .batch = {.packed_tokens = 128, .sentences = 6, .length = 48, .accumulation = 8 / Ranks.data},
      .weights = Stage == 3 ? WeightLayout::plain : WeightLayout::packed,
      .parallel = Ranks,
      .zero = {.stage = Stage, .bucket = 16 * KiB},
      .deterministic = Deterministic::layout_invariant,
      .device = host_memory(64 * MiB, 1)};
};

/// One way to lay a run out.
struct Layout {
  std::string name;
  /// Two steps from step `first` on, after loading `from` unless it is empty; saves as `to`.
  std::function<ranks::Tensors(const std::string& from, int first, const std::string& to)> go;
  /// What its ranks hold once they have loaded `from`.
  std::function<ranks::Tensors(const std::string& from)> load;
};

template <Parallel Ranks, int Stage> Layout layout(std::string name) {
  using P = On<Ranks, Stage>;
  return {std::move(name),
          [](const std::string& from, int first, const std::string& to) {
            ranks::Tensors tensors;
            std::mutex mutex;
            ranks::on_all_ranks<P>([&](auto& trainer) {
              if (!from.empty()) {
                if (load_checkpoint(from, trainer).step != first)
                  throw Error(from, "has another step", "See who wrote it");
              }
              ranks::Sentences feed{P::policy.batch, P::policy.model.vocabulary};
              feed.next = 8 * first;
              ranks::steps(trainer, first, first + 2, feed);
              RunState state;
              state.step = first + 2;
              save_checkpoint(to, trainer, state, false);
              const std::lock_guard lock(mutex);
              ranks::add_parts(trainer, tensors);
            });
            return tensors;
          },
          [](const std::string& from) {
            ranks::Tensors tensors;
            std::mutex mutex;
            ranks::on_all_ranks<P>([&](auto& trainer) {
              load_checkpoint(from, trainer);
              const std::lock_guard lock(mutex);
              ranks::add_parts(trainer, tensors);
            });
            return tensors;
          }};
}

/// Those that claim the bits of one rank.
const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all = {
      layout<Parallel{}, 0>("one rank"),
      layout<Parallel{.data = 2}, 0>("data 2"),
      layout<Parallel{.data = 2}, 1>("ZeRO 1 on 2"),
      layout<Parallel{.data = 4}, 2>("ZeRO 2 on 4"),
      layout<Parallel{.data = 2}, 3>("ZeRO 3 on 2"),
      layout<Parallel{.data = 4}, 3>("ZeRO 3 on 4"),
      layout<Parallel{.pipeline = 2}, 0>("pipeline 2"),
      layout<Parallel{.data = 2, .pipeline = 2}, 1>("ZeRO 1 on data 2 x pipeline 2")};
  return all;
}
/// And those that follow it, but for the order of sums.
std::vector<Layout> all_layouts() {
  std::vector<Layout> all = layouts();
  all.push_back(layout<Parallel{.tensor = 2}, 0>("tensor 2"));
  all.push_back(layout<Parallel{.data = 2, .tensor = 2}, 3>("ZeRO 3 on data 2 x tensor 2"));
  all.push_back(
      layout<Parallel{.tensor = 2, .pipeline = 2, .sequence = true}, 0>("tensor 2 x pipeline 2"));
  return all;
}

}  // namespace

TEST_CASE("io.checkpoint_layouts.each_layout_reads_what_each_other_wrote") {
  const scratch::Folder folder;
  const std::string last = (folder.path / "last.ckpt").string();
  int step = 0;
  for (const Layout& writer : all_layouts()) {  // each goes on from the last, so that files differ
    const std::string path = (folder.path / (writer.name + ".ckpt")).string();
    const ranks::Tensors written = writer.go(step == 0 ? std::string() : last, step, path);
    std::filesystem::copy_file(path, last, std::filesystem::copy_options::overwrite_existing);
    step += 2;
    for (const Layout& reader : all_layouts()) {
      CAPTURE(writer.name, reader.name);
      CHECK(reader.load(path) == written);
    }
  }
}

TEST_CASE(
    "io.checkpoint_layouts.a_run_that_goes_on_elsewhere_has_the_bits_of_one_that_did_not_stop") {
  const scratch::Folder folder;
  const auto path = [&](const std::string& name) { return (folder.path / name).string(); };
  const Layout& one = layouts().front();
  one.go("", 0, path("first"));
  const ranks::Tensors whole = one.go(path("first"), 2, path("whole"));
  const std::string bytes = scratch::bytes_of(path("whole"));
  for (const Layout& before : layouts()) {
    before.go("", 0, path("first"));
    for (const Layout& after : layouts()) {
      CAPTURE(before.name, after.name);
      CHECK(after.go(path("first"), 2, path("second")) == whole);
      CHECK(scratch::bytes_of(path("second")) == bytes);
    }
  }
}
