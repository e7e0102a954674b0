#include <ctrain/io/progress_line.hpp>

#include <catch2/catch.hpp>

#include <fstream>
#include <limits>
#include <memory>
#include <sstream>

namespace {

using namespace ctrain;

/// What was written through a FILE.
class Captured {
 public:
  std::FILE* file() { return file_.get(); }
  std::string text() {
    std::rewind(file());
    std::string all(4096, '\0');
    all.resize(std::fread(all.data(), 1, all.size(), file()));
    return all;
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_{std::tmpfile()};
};

std::vector<std::string> columns_of_table(const std::string& row) {
  std::vector<std::string> cells(1);
  for (char byte : row) {
    if (byte == '\t')
      cells.emplace_back();
    else
      cells.back() += byte;
  }
  return cells;
}

TEST_CASE("io.progress_line.shows_the_well_known_line") {
  CHECK(progress_line({.description = epoch_description(0),
                       .done = 1121,
                       .total = 9664,
                       .elapsed = 438.9,
                       .postfix = training_postfix(1.44, 8)}) ==
        "Epoch 0:  12% 1121/9664 [07:18<55:44,  2.55it/s, loss=1.44, v_num=8]");
  CHECK(progress_line({.description = epoch_description(0),
                       .done = 1000,
                       .total = 38924,
                       .elapsed = 2751.96,
                       .postfix = training_postfix(2.07, 8)}) ==
        "Epoch 0:   3% 1000/38924 [45:51<28:59:25,  2.75s/it, loss=2.07, v_num=8]");
}

TEST_CASE("io.progress_line.lines_are_tqdms") {
  std::ifstream table(CTRAIN_TEST_DATA "/progress/lines.tsv");
  int lines = 0;
  for (std::string row; std::getline(table, row); ++lines) {
    const auto cells = columns_of_table(row);
    REQUIRE(cells.size() == 7);
    const Progress p{.description = cells[4],
                     .done = std::stoll(cells[0]),
                     .total = std::stoll(cells[1]),
                     .elapsed = std::stod(cells[2]),
                     .postfix = cells[5]};
    const std::int64_t columns = std::stoll(cells[3]);
    CHECK((columns > 0 ? progress_bar(p, columns) : progress_line(p)) == cells[6]);
  }
  CHECK(lines == 20);
}

TEST_CASE("io.progress_line.loss_has_three_digits_and_further_fields_follow") {
  CHECK(training_postfix(0.9471, 107491) == "loss=0.947, v_num=107491");
  CHECK(training_postfix(1.5, -1) == "loss=1.5");
  CHECK(training_postfix(12345, 0) == "loss=1.23e+04, v_num=0");
  CHECK(training_postfix(0.5, 8, {{"mfu", "41.2%"}, {"arena", "1.2GiB"}}) ==
        "loss=0.5, v_num=8, mfu=41.2%, arena=1.2GiB");
  CHECK(training_postfix(std::numeric_limits<double>::quiet_NaN(), -1) == "loss=nan");
}

TEST_CASE("io.progress_line.odd_times_are_harmless") {
  CHECK(clock_time(-5) == "00:00");
  CHECK(clock_time(std::numeric_limits<double>::quiet_NaN()) == "00:00");
  CHECK(clock_time(3599.9) == "59:59");
  CHECK(clock_time(3600) == "1:00:00");
  CHECK(clock_time(std::numeric_limits<double>::infinity()).ends_with(":40"));
}

TEST_CASE("io.progress_line.a_file_gets_whole_lines_now_and_then") {
  Captured out;
  ProgressDisplay display(out.file(), {.interval = 10});
  Progress p{.description = "Epoch 0", .total = 4};
  for (double now : {0.0, 5.0, 9.9, 10.0}) {
    p.elapsed = now;
    display.show(ProgressRow::main, p, now);
    ++p.done;
  }
  p.elapsed = 11;
  display.show(ProgressRow::main, p, 11);  // complete: shown though it is early
  display.show(ProgressRow::main, p, 12);  // nothing changed
  display.print("note");
  display.finish(ProgressRow::main);
  CHECK(out.text() ==
        "Epoch 0:   0% 0/4 [00:00<?, ?it/s]\n"
        "Epoch 0:  75% 3/4 [00:10<00:03,  3.33s/it]\n"
        "Epoch 0: 100% 4/4 [00:11<00:00,  2.75s/it]\n"
        "note\n");
}

TEST_CASE("io.progress_line.a_terminal_is_redrawn_in_place") {
  Captured out;
  ProgressDisplay display(out.file(), {.on_terminal = true, .columns = 60, .interval = 0.1});
  const Progress main{.description = "Epoch 0", .done = 5, .total = 10, .elapsed = 5};
  const Progress nested{.description = "Validation", .done = 1, .total = 2, .elapsed = 1};
  display.show(ProgressRow::main, main, 0);
  display.show(ProgressRow::nested, nested, 0);
  display.print("note");
  display.finish(ProgressRow::nested);
  display.finish(ProgressRow::main);
  const std::string first = "\r" + progress_bar(main, 60) + "\x1b[K";
  const std::string second = "\n\r" + progress_bar(nested, 60) + "\x1b[K\x1b[A";
  CHECK(progress_bar(main, 60) == "Epoch 0:  50%|███████▌       | 5/10 [00:05<00:05,  1.00it/s]");
  CHECK(out.text() ==
        first + second + "\r\x1b[Knote\n" + first + second + "\n\r\x1b[K\x1b[A" + "\n");
}

}  // namespace
