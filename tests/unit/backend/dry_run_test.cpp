#include <ctrain/backend/cuda/dry_run.hpp>

#include <catch2/catch.hpp>

using namespace ctrain;
using Kind = DeviceWork::Kind;

TEST_CASE("backend.dry_run.kernels_have_their_grids") {
  DryRun backend;
  DryRun::Arena arena(MiB);
  auto* x = reinterpret_cast<float*>(arena.at(0, 4096));
  auto* y = reinterpret_cast<bf16*>(arena.at(4096, 2048));
  backend.run(CastForward<bf16>{y, x, 8, 128});
  backend.run(CastForward<bf16>{y, x + 1, 8, 127});  // no multiple of 16 bytes: one by one
  const std::vector<DeviceWork> list = backend.take();
  REQUIRE(list.size() == 2);
  CHECK(list[0] == DeviceWork{.what = "EachElement<Convert<bf16, float>, 8>",
                              .blocks = 1,
                              .threads = 256,
                              .bytes_moved = 1024 * 6});
  CHECK(list[1].what == "EachElement<Convert<bf16, float>, 1>");
  CHECK(list[1].blocks == 4);
  CHECK(backend.take().empty());
  CHECK(arena.high_water() == 6144);
}

TEST_CASE("backend.dry_run.a_layer_and_gelu_are_one_product") {
  DryRun backend;
  DryRun::Arena arena(MiB);
  auto* x = reinterpret_cast<float*>(arena.at(0, 4096));
  const Weight<float> weight{x, nullptr, nullptr, 32, 16};
  backend.run(LinearForward<float>{x + 64, x, weight, x, 4});
  backend.run(GeluForward<float>{x + 512, x + 64, 4, 32, Activation::gelu_tanh});
  backend.run(LinearForward<float>{x + 64, x, weight, x, 4});
  backend.run(GeluForward<float>{x + 512, x + 64, 4, 32, Activation::gelu_erf});
  const std::vector<DeviceWork> list = backend.take();
  REQUIRE(list.size() == 3);
  CHECK(list[0].what == "fp32 (32, 4) = fp32 over 16 TN + bias, gelu");
  CHECK(list[0].flops == 2 * 32 * 4 * 16);
  CHECK(list[0].bytes_moved == 4 * (32 * 16 + 16 * 4 + 2 * 32 * 4));
  CHECK(list[1].what == "fp32 (32, 4) = fp32 over 16 TN + bias");
  CHECK(list[2].kind == Kind::kernel);
}

TEST_CASE("backend.dry_run.a_recorded_step_is_listed_where_it_is_replayed") {
  DryRun backend;
  DryRun::Arena arena(MiB);
  const auto clear = [&] { backend.run(Clear{arena.at(0, 64), 64}); };
  backend.run(Clear{arena.at(0, 128), 128});
  DryRun::Recording recording = backend.capture([&] { clear(), clear(); });
  CHECK(backend.take().size() == 1);
  DryRun::Staging staging = backend.staging(8);
  backend.write_later(arena.at(0, 8), staging.data(), 8);
  backend.replay(recording);
  const std::vector<DeviceWork> list = backend.take();
  REQUIRE(list.size() == 5);
  CHECK(list[0].kind == Kind::copy);
  CHECK(list[1].what == "a graph of 2 nodes begins");
  CHECK(list[2].kind == Kind::kernel);
  CHECK(list[4].what == "the graph ends");
}

TEST_CASE("backend.dry_run.reads_what_was_written_there") {
  DryRun backend;
  DryRun::Arena arena(MiB);
  const int there = 17;
  int here = 1, unknown = 1;
  backend.write(arena.at(64, 4), &there, 4);
  backend.read(&here, arena.at(64, 4), 4);
  backend.read(&unknown, arena.at(128, 4), 4);
  CHECK(here == 17);
  CHECK(unknown == 0);
}
