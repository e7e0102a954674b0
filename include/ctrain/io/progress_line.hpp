/// \file  The line that shows how far a run is, as tqdm draws it.   floor 7: io
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// What a line shows.
struct Progress {
  std::string description{};
  std::int64_t done = 0;
  std::int64_t total = 0;    // 0: unknown
  std::int64_t resumed = 0;  // where `done` began, as it is not 0 in a resumed run
  double elapsed = 0;        // seconds since then
  std::string postfix{};
};

/// The two lines of a run: training (with the validation inside it), and below it the one that only
/// lasts as long as a validation or sanity check.
enum class ProgressRow : std::uint8_t { main, nested };

inline constexpr const char* validation_description = "Validation DataLoader 0";
inline constexpr const char* sanity_check_description = "Sanity Checking DataLoader 0";

inline std::string epoch_description(std::int64_t epoch) {
  return fmt::format("Epoch {}", epoch);
}

// text -------------------------------------------------------------------------------------------

/// `loss=1.44, v_num=8`, then `name=value` of further fields. A negative version is not shown.
inline std::string training_postfix(
    double loss, std::int64_t version,
    const std::vector<std::pair<std::string, std::string>>& further = {}) {
  std::string text = fmt::format("loss={:.3g}", loss);
  if (version >= 0) text += fmt::format(", v_num={}", version);
  for (const auto& [name, value] : further) text += fmt::format(", {}={}", name, value);
  return text;
}

/// `[H:]MM:SS`, rounded down.
inline std::string clock_time(double seconds) {
  const double bounded = seconds > 0 ? std::min(seconds, 1e15) : 0;
  const auto whole = std::int64_t(bounded);
  const std::int64_t hours = whole / 3600, minutes = whole / 60 % 60, rest = whole % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, rest)
                   : fmt::format("{:02}:{:02}", minutes, rest);
}

namespace progress {

inline bool has_total(const Progress& p) {
  return p.total > 0 && p.done <= p.total;
}

/// Everything left of the bar.
inline std::string left_of_bar(const Progress& p) {
  const std::string name = p.description.empty() ? "" : p.description + ": ";
  return has_total(p) ? fmt::format("{}{:3.0f}%", name, double(p.done) / double(p.total) * 100)
                      : name;
}

/// Everything right of the bar.
inline std::string right_of_bar(const Progress& p) {
  const double rate = p.elapsed > 0 ? double(p.done - p.resumed) / p.elapsed : 0;
  std::string speed = "?it/s", remaining = "?";
  if (rate > 0) {
    speed = rate < 1 ? fmt::format("{:5.2f}s/it", 1 / rate) : fmt::format("{:5.2f}it/s", rate);
    remaining = clock_time(double(p.total - p.done) / rate);
  }
  const std::string postfix = p.postfix.empty() ? "" : ", " + p.postfix;
  const std::string elapsed = clock_time(p.elapsed);
  return has_total(p) ? fmt::format("{}/{} [{}<{}, {}{}]", p.done, p.total, elapsed, remaining,
                                    speed, postfix)
                      : fmt::format("{}it [{}, {}{}]", p.done, elapsed, speed, postfix);
}

/// `width` columns, filled to a share of `done / total` in eighths.
inline std::string blocks(const Progress& p, std::int64_t width) {
  static constexpr std::array<std::string_view, 9> eighths{" ", "▏", "▎", "▍", "▌",
                                                           "▋", "▊", "▉", "█"};
  const auto filled = std::int64_t(double(p.done) / double(p.total) * double(width) * 8);
  std::string bar;
  for (std::int64_t i = 0; i < width; ++i)
    bar += eighths[std::size_t(std::clamp<std::int64_t>(filled - 8 * i, 0, 8))];
  return bar;
}

inline bool starts_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
}

inline std::int64_t columns_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(), starts_character);
}

/// The first `columns` characters.
inline std::string trimmed(const std::string& text, std::int64_t columns) {
  std::int64_t seen = 0;
  for (std::size_t i = 0; i < text.size(); ++i)
    if (starts_character(text[i]) && ++seen > columns) return text.substr(0, i);
  return text;
}

}  // namespace progress

/// The line without a bar, of any length:
/// `Epoch 0:  12% 1121/9664 [07:18<55:44,  2.55it/s, loss=1.44, v_num=8]`.
inline std::string progress_line(const Progress& p) {
  const std::string gap = progress::has_total(p) ? " " : "";
  return progress::left_of_bar(p) + gap + progress::right_of_bar(p);
}

/// The line with a bar, exactly as wide as a terminal; cut where even a short bar does not fit.
inline std::string progress_bar(const Progress& p, std::int64_t columns) {
  if (!progress::has_total(p)) return progress::trimmed(progress_line(p), columns);
  const std::string left = progress::left_of_bar(p) + "|", right = "| " + progress::right_of_bar(p);
  const std::int64_t text = progress::columns_of(left) + progress::columns_of(right);
  const std::int64_t width = std::max<std::int64_t>(1, columns - text);
  return progress::trimmed(left + progress::blocks(p, width) + right, columns);
}

// display ----------------------------------------------------------------------------------------

/// Where and how often lines appear.
struct DisplayOptions {
  bool on_terminal = false;  // redraw in place; else whole lines, for a file or a pipe
  int columns = 0;           // of the terminal; 0: ask it each time
  double interval = 10;      // seconds between two lines of a row, at least
};

/// Shows the progress of a run. Failures to write are ignored: a run outlives its terminal.
class ProgressDisplay {
 public:
  /// Finds out what `out` is.
  explicit ProgressDisplay(std::FILE* out)
      : ProgressDisplay(out, isatty(fileno(out))
                                 ? DisplayOptions{.on_terminal = true, .interval = 0.1}
                                 : DisplayOptions{}) {}
  ProgressDisplay(std::FILE* out, const DisplayOptions& options) : out_(out), options_(options) {}

  /// Shows a row, unless it was shown less than the interval ago; a completed one always. `now` is
  /// in seconds of any steady clock.
  void show(ProgressRow row, const Progress& p, double now) {
    Row& shown = rows_[std::size_t(row)];
    const bool complete = p.total > 0 && p.done >= p.total;
    if (!complete && shown.visible && now - shown.time < options_.interval) return;
    const std::string line =
        options_.on_terminal ? progress_bar(p, terminal_columns()) : progress_line(p);
    if (shown.visible && shown.line == line) return;
    shown = {true, now, line};
    draw(row);
  }

  /// Ends a row: the main line stays and the next one starts below it, the nested one disappears.
  void finish(ProgressRow row) {
    Row& shown = rows_[std::size_t(row)];
    if (options_.on_terminal && shown.visible)
      write(row == ProgressRow::main ? "\n" : "\n\r\x1b[K\x1b[A");
    shown = {};
  }

  /// Writes a line of text above the rows.
  void print(const std::string& text) {
    if (!options_.on_terminal) return write(text + "\n");
    write("\r\x1b[K" + text + "\n");
    if (rows_[0].visible) draw(ProgressRow::main);
    if (rows_[1].visible) draw(ProgressRow::nested);
  }

 private:
  struct Row {
    bool visible = false;
    double time = 0;
    std::string line{};
  };

  void draw(ProgressRow row) {
    const std::string& line = rows_[std::size_t(row)].line;
    if (!options_.on_terminal)
      write(line + "\n");
    else if (row == ProgressRow::main)
      write("\r" + line + "\x1b[K");
    else
      write("\n\r" + line + "\x1b[K\x1b[A");
  }

  int terminal_columns() const {
    winsize size{};
    if (options_.columns > 0) return options_.columns;
    return ioctl(fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  }

  void write(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), out_);
    std::fflush(out_);
  }

  std::FILE* out_;
  DisplayOptions options_;
  std::array<Row, 2> rows_{};
};

}  // namespace ctrain
