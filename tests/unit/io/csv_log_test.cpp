#include <ctrain/io/csv_log.hpp>

#include <catch2/catch.hpp>

#include <filesystem>
#include <limits>

#include "scratch.hpp"

namespace {

using namespace ctrain;

struct LogFile {
  scratch::Folder folder;
  std::filesystem::path path = folder.path / "metrics.csv";

  std::string text() const { return scratch::bytes_of(path); }
  void put(const std::string& text) const { scratch::put(path, text); }
};

TEST_CASE("io.csv_log.rows_are_on_disk_at_once_and_columns_may_come_later") {
  const LogFile file;
  CsvLog log(file.path);
  log.add(0, 49, {{"train_loss", 0.1}, {"train_acc", 1}});
  CHECK(file.text() == "epoch,step,train_loss,train_acc\n0,49,0.1,1\n");
  log.add(0, 99, {{"train_acc", 0.25}});
  log.add(1, 100, {{"val_acc", 0.7012}});
  CHECK(file.text() ==
        "epoch,step,train_loss,train_acc,val_acc\n"
        "0,49,0.1,1,\n"
        "0,99,,0.25,\n"
        "1,100,,,0.7012\n");
}

TEST_CASE("io.csv_log.values_read_back_as_they_were") {
  const LogFile file;
  CsvLog log(file.path);
  log.add(0, 0,
          {{"x", 0.1 + 0.2}, {"y", std::numeric_limits<double>::quiet_NaN()}, {"z", -1e-300}});
  CHECK_THAT(file.text(), Catch::EndsWith("\n0,0,0.30000000000000004,nan,-1e-300\n"));
}

TEST_CASE("io.csv_log.an_existing_log_goes_on_without_its_torn_row") {
  const LogFile file;
  file.put("epoch,step,loss\n0,1,0.5\n0,2,0.");
  CsvLog log(file.path);
  CHECK(log.metrics() == std::vector<std::string>{"loss"});
  log.add(0, 2, {{"loss", 0.25}, {"acc", 1}});
  CHECK(file.text() == "epoch,step,loss,acc\n0,1,0.5,\n0,2,0.25,1\n");
}

TEST_CASE("io.csv_log.other_files_and_names_are_refused") {
  const LogFile file;
  file.put("id,label\n1,2\n");
  CHECK_THROWS_WITH(CsvLog(file.path), Catch::Contains("not a log of metrics"));
  CHECK(file.text() == "id,label\n1,2\n");
  file.put("");
  CsvLog log(file.path);
  for (const char* name : {"", "a,b", "a\nb", "\"a\""})
    CHECK_THROWS_AS(log.add(0, 0, {{name, 1.0}}), Error);
  CHECK(file.text() == "epoch,step\n");
  CHECK_THROWS_AS(CsvLog("/nonexistent/metrics.csv"), Error);
}

}  // namespace
