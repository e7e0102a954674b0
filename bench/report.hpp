/// \file  Timing, a table on stdout while it grows, and the same rows as JSON.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "options.hpp"
#include <nlohmann/json.hpp>

namespace bench {

/// Seconds of some calls of f, after one that does not count.
struct Times {
  double best = 0, median = 0;
};

template <class F> Times time(int calls, F&& f) {
  using Clock = std::chrono::steady_clock;
  f();
  std::vector<double> seconds;
  for (int i = 0; i < calls; ++i) {
    const auto start = Clock::now();
    f();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds.front(), seconds[seconds.size() / 2]};
}

/// Prints rows of equal keys as a table while they come, and writes {"facts", "rows"} at the end.
class Report {
 public:
  using Row = nlohmann::ordered_json;

  explicit Report(const Options& options) : options_(options) {}
  ~Report() { options_.write({{"facts", facts_}, {"rows", rows_}}); }
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  /// Something measured once, or true of the whole run.
  void fact(const std::string& name, const Row& value) {
    facts_[name] = value;
    std::printf("%-28s %s\n", name.c_str(), text(value).c_str());
  }

  void row(const Row& row) {
    if (rows_.empty()) {
      for (const auto& [key, value] : row.items()) std::printf("%*s", width(key), key.c_str());
      std::printf("\n");
    }
    for (const auto& [key, value] : row.items())
      std::printf("%*s", width(key), text(value).c_str());
    std::printf("\n");
    std::fflush(stdout);
    rows_.push_back(row);
  }

 private:
  static int width(const std::string& key) { return std::max(int(key.size()), 10) + 2; }

  static std::string text(const Row& value) {
    if (value.is_string()) return value.get<std::string>();
    if (!value.is_number_float()) return value.dump();
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.3g", value.get<double>());
    return digits;
  }

  const Options& options_;
  Row facts_ = Row::object();
  Row rows_ = Row::array();
};

}  // namespace bench
