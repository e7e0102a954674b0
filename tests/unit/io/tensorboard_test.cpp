#include <ctrain/io/tensorboard.hpp>

#include <catch2/catch.hpp>

#include <limits>

#include "scratch.hpp"

namespace {

using namespace ctrain;
using namespace ctrain::tensorboard;

TEST_CASE("io.tensorboard.checksums_are_crc32c") {
  // RFC 3720, B.4: 32 bytes of 0 have the CRC 8a9136aa.
  CHECK(masked_checksum(std::string(32, '\0')) ==
        std::uint32_t(std::rotr(0x8a9136aau, 15) + 0xa282ead8u));
}

TEST_CASE("io.tensorboard.bytes_are_those_of_its_own_writer") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string got =
      record(version_event(1650000000.25)) +
      record(scalars_event(1650000001.5, 0, {{"train_loss", 0.75}})) +
      record(scalars_event(1650000002.5, 50,
                           {{"train_loss", 0.6931471805599453}, {"train_acc", 0.0}})) +
      record(scalars_event(1650000003.5, std::int64_t{1} << 40,
                           {{"val_acc", nan}, {"相似/f1", -1e-30}}));
  CHECK(got == scratch::bytes_of(CTRAIN_TEST_DATA "/tensorboard/events.bin"));
}

TEST_CASE("io.tensorboard.a_log_is_readable_while_it_grows") {
  const scratch::Folder folder;
  TensorBoardLog log(folder.path, 1650000000.25);
  const std::string begin = record(version_event(1650000000.25));
  CHECK_THAT(log.path().filename().string(), Catch::StartsWith("events.out.tfevents.1650000000."));
  CHECK(scratch::bytes_of(log.path()) == begin);
  log.add(7, {{"train_loss", 0.5}}, 1650000009.0);
  CHECK(scratch::bytes_of(log.path()) ==
        begin + record(scalars_event(1650000009.0, 7, {{"train_loss", 0.5}})));
}

TEST_CASE("io.tensorboard.a_missing_directory_is_an_error") {
  CHECK_THROWS_AS(TensorBoardLog("/nonexistent/logs"), Error);
}

}  // namespace
