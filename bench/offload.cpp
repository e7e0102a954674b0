// The real model in little memory: Erlangshen-MegatronBert-1.3B (random weights), exact AdamW with
// clipping, four packed AFQMC pairs a step, all states on disk, by a process that may have no more
// than --limit_GiB of address space. Then the same policy without offload, resident. Prints peak
// memory, seconds a step and bytes moved, and whether all weights and moments have the same bits.
//
//   bench_offload [--data_dir DIR] [--vocab_path FILE] [--directory DIR] [--steps N]
//                 [--limit_GiB N] [--run both|streamed|resident] [--json FILE]
#include <ctrain/backend/host/scratch_file.hpp>
#include <ctrain/core/hash.hpp>
#include <ctrain/io/dataset.hpp>
#include <ctrain/io/sampler.hpp>
#include <ctrain/trainer/streamed_trainer.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <bit>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "options.hpp"
#include "shapes.hpp"
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace ctrain;
using Json = nlohmann::ordered_json;

struct Resident {
  static constexpr Policy policy = [] {
    Policy p = shapes::FourPairs::policy;
    p.recompute = Recompute::full;
    p.device = host_memory(20 * GiB, 2);
    return p;
  }();
};
struct Streamed {
  static constexpr Policy policy = [] {
    Policy p = Resident::policy;
    p.offload = {.optimizer = OffloadTo::disk,
                 .parameters = OffloadTo::disk,
                 .activations = OffloadTo::host,
                 .clipping = OffloadClipping::deferred};
    return p;
  }();
};

/// AFQMC pairs, in the order of the seed.
struct Pairs {
  explicit Pairs(const Options& o) {
    const std::string folder = o.text("data_dir");
    const std::string vocabulary =
        o.text("vocab_path").empty() ? folder + "/vocab.txt" : o.text("vocab_path");
    const Policy& p = Resident::policy;
    const ExampleFile file = read_examples(folder + "/train.json", {}, Labels::required);
    const LabelMap labels(file, p.model.labels);
    data =
        encode_examples(file, WordPiece(vocabulary, p.model.vocabulary), &labels, p.batch.length);
  }
  Dataset data;
};

/// One number for all weights and moments, in whatever parts they come: of each element, its
/// tensor, place and bits, mixed (the finalizer of splitmix64), and the sum of those.
std::uint64_t bits_of(auto& trainer) {
  std::uint64_t sum = 0;
  trainer.read_states(
      {State::weight, State::first_moment, State::second_moment},
      [&](State state, const TensorPart& part) {
        Hash name;
        name.add(std::uint64_t(state)).add_bytes(part.name.data(), part.name.size());
        for (std::int64_t i = 0; i < part.count; ++i) {
          std::uint64_t x = std::bit_cast<std::uint32_t>(part.data[i]);
          x = (x << 32) ^ (name.value + std::uint64_t(part.first + i));
          x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
          x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
          sum += x ^ (x >> 31);
        }
      });
  return sum;
}

template <class Step> Json train(Step& step, const Options& options) {
  const Pairs pairs(options);
  Sampler sampler(pairs.data, Resident::policy.batch, Resident::policy.seed);
  Json rows = Json::array();
  for (int i = 0; i < options.number("steps"); ++i) {
    const auto start = std::chrono::steady_clock::now();
    const StepResult r = step.train(sampler, {.seed = 42,
                                              .step = i,
                                              .learning_rate = 1e-5 * std::min(1.0, i / 2.0 + 0.5),
                                              .weight_decay = 0.1f,
                                              .clip = 1.0f});
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    rows.push_back({{"seconds", seconds},
                    {"loss", r.loss()},
                    {"gradient_norm", r.gradient_norm},
                    {"tokens", r.tokens}});
    std::printf("  step %d  %7.2f s  %lld tokens  loss %.6f  gradient norm %.6f\n", i + 1, seconds,
                (long long)r.tokens, r.loss(), r.gradient_norm);
    std::fflush(stdout);
  }
  return rows;
}

/// GB/s of a file like that of the states: written, read, and both at once by two threads.
Json rates_of_disk(const Options& options) {
  constexpr bytes size = 2 * GiB, some = 32 * MiB;
  ScratchFile file(options.text("directory"), size);
  Arena memory(2 * some);
  const auto name = [] { return std::string("the bench's bytes"); };
  const auto write = [&](bytes from, bytes to) {
    for (bytes at = from; at < to; at += some) file.write(at, memory.base(), some, name);
  };
  const auto read = [&](bytes from, bytes to) {
    for (bytes at = from; at < to; at += some) file.read(at, memory.base() + some, some, name);
  };
  const auto seconds = [](auto&& f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const double written = seconds([&] { write(0, size); }), back = seconds([&] { read(0, size); });
  const double both = seconds([&] {
    std::thread other([&] { write(0, size / 2); });
    read(size / 2, size);
    other.join();
  });
  const Json out{{"direct", file.is_direct()},
                 {"written_GB_s", double(size) / written / 1e9},
                 {"read_GB_s", double(size) / back / 1e9},
                 {"both_at_once_GB_s", double(size) / both / 1e9}};
  std::printf("  disk: writes %.2f GB/s, reads %.2f GB/s, both at once %.2f GB/s together\n",
              out["written_GB_s"].get<double>(), out["read_GB_s"].get<double>(),
              out["both_at_once_GB_s"].get<double>());
  return out;
}

Json run_resident(const Options& options) {
  Trainer<Resident> trainer;
  Json out{{"steps", train(trainer.step(), options)}};
  out["bits"] = bits_of(trainer);
  return out;
}

Json run_streamed(const Options& options) {
  const rlim_t limit = rlim_t(options.number("limit_GiB")) * GiB;
  const rlimit both{limit, limit};
  if (setrlimit(RLIMIT_AS, &both) != 0) throw Error("limit", std::strerror(errno), "Lower it");
  const Json disk = rates_of_disk(options);
  const auto start = std::chrono::steady_clock::now();
  StreamedTrainer<Streamed> trainer({.directory = options.text("directory")});
  auto& step = trainer.step();
  Json out{{"seconds_to_start",
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()}};
  out["disk"] = disk;
  const bytes read = step.store().bytes_read(), written = step.store().bytes_written();
  out["steps"] = train(step, options);
  out["bytes_read"] = step.store().bytes_read() - read;
  out["bytes_written"] = step.store().bytes_written() - written;
  out["device_bytes"] = trainer.plan.device();
  out["host_bytes"] = trainer.plan.host();
  out["disk_bytes"] = trainer.plan.disk();
  double all = 0;
  for (const Json& row : out["steps"]) all += row["seconds"].get<double>();
  std::printf("  of %.1f s, busy:", all);
  constexpr const char* lanes[] = {"compute", "down", "up", "host", "reads", "writes"};
  for (int lane = 0; lane < stream_lanes; ++lane) {
    const double busy = step.lanes().busy(StreamLane(lane));
    out["busy_seconds"][lanes[lane]] = busy;
    std::printf(" %s %.1f", lanes[lane], busy);
  }
  std::printf("\n");
  out["bits"] = bits_of(trainer);
  return out;
}

/// Runs f in a process of its own; its figures with that process's peak memory.
template <class F> Json in_a_process(const char* name, const Options& options, F&& f) {
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("bench-offload-" + std::to_string(getpid()));
  std::printf("%s:\n", name);
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    int code = 0;
    try {
      std::ofstream(file) << f(options).dump();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "error: %s\n", error.what());
      code = 1;
    }
    std::fflush(stdout);
    _exit(code);
  }
  int status = 0;
  rusage usage{};
  wait4(child, &status, 0, &usage);
  if (status != 0) throw Error(name, "the run failed", "See above");
  Json out = Json::parse(std::ifstream(file));
  std::filesystem::remove(file);
  out["peak_resident_GiB"] = double(usage.ru_maxrss) * 1024 / double(GiB);
  std::printf("  peak resident %.2f GiB\n", out["peak_resident_GiB"].get<double>());
  return out;
}

}  // namespace

int main(int argc, char** argv) try {
  const Options options(argc, argv,
                        {{"data_dir", "examples/data"},
                         {"vocab_path", ""},
                         {"directory", "."},
                         {"steps", "3"},
                         {"limit_GiB", "5"},
                         {"run", "both"}});
  const std::string run = options.text("run");
  Json all;
  if (run != "resident") {
    const Json streamed = all["streamed"] = in_a_process("streamed", options, run_streamed);
    std::printf("  read %.2f GB, written %.2f GB; planned: device %.2f GiB, host %.2f, disk %.2f\n",
                streamed["bytes_read"].get<double>() / 1e9,
                streamed["bytes_written"].get<double>() / 1e9,
                streamed["device_bytes"].get<double>() / double(GiB),
                streamed["host_bytes"].get<double>() / double(GiB),
                streamed["disk_bytes"].get<double>() / double(GiB));
  }
  if (run != "streamed") all["resident"] = in_a_process("resident", options, run_resident);
  const bool differ = run == "both" && all["streamed"]["bits"] != all["resident"]["bits"];
  if (run == "both")
    std::printf("weights and moments: %s\n", differ ? "DIFFERENT" : "the same bits");
  options.write(all);
  return differ ? 1 : 0;
} catch (const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
