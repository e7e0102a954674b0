// Sums of one bit an element: a worked example, what error feedback promises, and bytes.
#include <ctrain/backend/math/compressed_programs.hpp>
#include <ctrain/backend/math/sign_compression.hpp>
#include <ctrain/memory/sign_traffic.hpp>

#include "oracle.hpp"

using namespace ctrain;
using oracle::Doubles;
using oracle::Floats;

namespace {

/// What a rank keeps of one flat tensor.
struct Errors {
  Floats worker, server;

  explicit Errors(const SignLayout& layout)
      : worker(std::size_t(layout.padded())), server(std::size_t(layout.chunk())) {}
};

std::vector<Errors> errors_of(const SignLayout& layout) {
  return std::vector<Errors>(std::size_t(layout.ranks), Errors(layout));
}

/// The signs and the scale of what is in `error`, which keeps what was lost.
template <class B> void pack(B& backend, Floats& error, std::uint8_t* bits, float* scale) {
  ExactSum sum;
  const auto count = std::int64_t(error.size());
  backend.run(SumOfSquares{&sum, error.data(), count});
  backend.run(PackSigns{bits, scale, error.data(), &sum, count, count});
}

/// The all-reduce among `ranks` in one process: what each rank gets.
template <class B>
Floats all_reduce(B& backend, const SignLayout& layout, const std::vector<Floats>& from,
                  std::vector<Errors>& errors) {
  const auto ranks = std::size_t(layout.ranks), chunk = std::size_t(layout.chunk_bytes());
  std::vector<std::uint8_t> sent(ranks * ranks * chunk), returned(ranks * chunk);
  Floats scales(ranks), server_scales(ranks);
  for (std::size_t r = 0; r < ranks; ++r) {
    Floats padded = from[r];
    padded.resize(std::size_t(layout.padded()));
    backend.run(RunRows<AddToError>{{}, {errors[r].worker.data(), padded.data()}, layout.padded()});
    pack(backend, errors[r].worker, sent.data() + r * ranks * chunk, &scales[r]);
  }
  for (std::size_t server = 0; server < ranks; ++server) {
    // what it has received: a scale and chunk `server` of every rank
    const std::size_t stride = sizeof(float) + (chunk + 3) / 4 * 4;
    std::vector<std::uint8_t> received(ranks * stride);
    for (std::size_t r = 0; r < ranks; ++r) {
      std::memcpy(received.data() + r * stride, &scales[r], sizeof(float));
      std::memcpy(received.data() + r * stride + sizeof(float),
                  sent.data() + (r * ranks + server) * chunk, chunk);
    }
    backend.run(AddMeanOfSigns{errors[server].server.data(), received.data() + sizeof(float),
                               reinterpret_cast<const float*>(received.data()),
                               std::int64_t(stride), layout.chunk(), layout.ranks});
    pack(backend, errors[server].server, returned.data() + server * chunk, &server_scales[server]);
  }
  Floats result = oracle::poisoned<float>(std::size_t(layout.count));
  for (std::size_t server = 0; server < ranks; ++server) {
    const std::int64_t first = std::int64_t(server) * layout.chunk();
    if (first < layout.count)
      backend.run(UnpackSigns{result.data() + first, returned.data() + server * chunk,
                              &server_scales[server],
                              std::min(layout.chunk(), layout.count - first)});
  }
  return result;
}

Floats padding_included(const Floats& from, const SignLayout& layout) {
  Floats result = from;
  result.resize(std::size_t(layout.padded()));
  return result;
}

}  // namespace

TEST_CASE("backend.sign_compression.the_worked_example_comes_out") {
  Floats error{0.3f, -0.1f, 0, 0.2f, -0.4f, 0.05f, 0, -0.2f};
  CpuReference reference;
  std::uint8_t bits = 0;
  float scale = 0;
  pack(reference, error, &bits, &scale);
  CHECK(scale == Approx(0.206911817).epsilon(1e-7));
  CHECK(int(bits) == 182);
  const double lost[] = {0.093088,  0.106912,  -0.206912, -0.006912,
                         -0.193088, -0.156912, -0.206912, 0.006912};
  for (std::size_t i = 0; i < 8; ++i) CHECK(error[i] == Approx(lost[i]).margin(1e-6));
}

TEST_CASE("backend.sign_compression.every_backend_has_the_same_bits") {
  for (const int ranks : {1, 2, 3, 4}) {
    const SignLayout layout{70001, ranks};
    oracle::Random random(41);
    std::vector<Floats> from;
    for (int r = 0; r < ranks; ++r) from.push_back(random.values<float>(70001));
    const auto twice = [&](auto& backend) {
      std::vector<Errors> errors = errors_of(layout);
      all_reduce(backend, layout, from, errors);
      Floats all = all_reduce(backend, layout, from, errors);
      for (const Errors& e : errors) {
        all.insert(all.end(), e.worker.begin(), e.worker.end());
        all.insert(all.end(), e.server.begin(), e.server.end());
      }
      return all;
    };
    CpuReference reference;
    Cpu one(1), two(2);
    const Floats plain = twice(reference);
    CHECK(oracle::same_bits(plain, twice(one)));
    CHECK(oracle::same_bits(plain, twice(two)));
  }
}

TEST_CASE("backend.sign_compression.what_is_lost_is_kept_for_the_next_time") {
  // Sent so far + what the errors hold = the mean of what was given, whatever was given.
  for (const int ranks : {2, 4}) {
    const SignLayout layout{1000, ranks};
    oracle::Random random(42);
    std::vector<Errors> errors = errors_of(layout);
    CpuReference reference;
    Doubles given(1000), sent(1000);
    for (int step = 0; step < 20; ++step) {
      std::vector<Floats> from;
      for (int r = 0; r < ranks; ++r) {
        from.push_back(random.values<float>(1000));
        for (std::size_t i = 0; i < 1000; ++i) given[i] += double(from.back()[i]) / ranks;
      }
      const Floats got = all_reduce(reference, layout, from, errors);
      for (std::size_t i = 0; i < 1000; ++i) sent[i] += double(got[i]);
    }
    for (std::size_t i = 0; i < 1000; ++i) {
      double held = errors[i / std::size_t(layout.chunk())].server[i % std::size_t(layout.chunk())];
      for (const Errors& e : errors) held += double(e.worker[i]) / ranks;
      CHECK(sent[i] + held == Approx(given[i]).margin(1e-4));  // 20 steps of float sums near 10
    }
  }
}

TEST_CASE("backend.sign_compression.errors_do_not_grow") {
  const SignLayout layout{4096, 2};
  oracle::Random random(43);
  std::vector<Errors> errors = errors_of(layout);
  Cpu cpu(2);
  const auto norm = [](const Floats& x) {
    double sum = 0;
    for (const float e : x) sum += double(e) * e;
    return std::sqrt(sum / double(x.size()));
  };
  double early = 0, late = 0;
  for (int step = 0; step < 200; ++step) {
    const std::vector<Floats> from{random.values<float>(4096), random.values<float>(4096)};
    all_reduce(cpu, layout, from, errors);
    double& most = step < 100 ? early : late;
    most = std::max({most, norm(errors[0].worker), norm(errors[1].server)});
  }
  CHECK(late < 1.2 * early);
}

TEST_CASE("backend.sign_compression.one_rank_alone_still_sends_signs_to_itself") {
  const SignLayout layout{20, 1};
  oracle::Random random(44);
  const Floats from = random.values<float>(20);
  std::vector<Errors> errors = errors_of(layout);
  CpuReference reference;
  const Floats got = all_reduce(reference, layout, {from}, errors);
  const Floats all = padding_included(from, layout);
  double squares = 0;
  for (const float x : all) squares += double(x) * x;
  const double scale = std::sqrt(squares / double(layout.padded()));
  for (std::size_t i = 0; i < 20; ++i)
    CHECK(double(got[i]) == Approx(from[i] >= 0 ? scale : -scale).epsilon(1e-6));
}

namespace {
// Sizes: a sixteenth of what an fp16 all-reduce sends, and eight bytes of scales to each rank.
constexpr std::int64_t parameters = 1257371650;
constexpr SignLayout whole{parameters, 8};
static_assert(whole.padded() % 64 == 0 && whole.padded() - parameters < 64);
static_assert(whole.bytes_sent() == 2 * 7 * (whole.padded() / 64 + 4));
static_assert(whole.bytes_sent() / 1000000 == 275);  // 0.275 GB
static_assert(SignLayout{parameters, 2}.bytes_sent() / 1000000 == 157);
static_assert(SignLayout{parameters, 4}.bytes_sent() / 1000000 == 235);
static_assert(SignLayout{parameters, 1}.bytes_sent() == 0);
static_assert(whole.error_bytes() / 10000000 == 565);  // 5.03 + 0.63 GB
}  // namespace
