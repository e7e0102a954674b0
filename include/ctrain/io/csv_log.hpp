/// \file  metrics.csv: one row per logged step, one column per metric.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/append_file.hpp>
#include <ctrain/io/atomic_file.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace ctrain {

/// Named numbers of one moment.
using Scalars = std::vector<std::pair<std::string, double>>;

/// Columns `epoch,step`, then each metric in the order in which it first appeared; a cell is empty
/// where its metric was not logged. A metric that appears later adds a column at the right: the
/// file is then replaced, atomically, by one whose older rows end in empty cells. Every row reaches
/// the operating system at once. An existing file goes on; a last row torn by a crash is dropped.
class CsvLog {
 public:
  /// Throws Error where the file cannot be written, or is no such log.
  explicit CsvLog(std::filesystem::path path) : path_(std::move(path)), file_(start(path_)) {
    read_columns();
  }

  const std::vector<std::string>& metrics() const { return metrics_; }

  /// Throws Error on a full disk, and on a metric's name that a header cannot hold.
  void add(std::int64_t epoch, std::int64_t step, const Scalars& scalars) {
    add_columns(scalars);
    std::vector<std::string> cells(metrics_.size());
    for (const auto& [name, value] : scalars) cells[column(name)] = fmt::format("{}", value);
    std::string row = fmt::format("{},{}", epoch, step);
    for (const std::string& cell : cells) row += "," + cell;
    file_.append(row + "\n");
  }

 private:
  static constexpr std::string_view first_columns = "epoch,step";

  static std::string contents(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  /// Makes `path` a file of whole rows.
  static AppendFile start(const std::filesystem::path& path) {
    const std::string found = contents(path);
    const std::string whole_rows = found.substr(0, found.rfind('\n') + 1);
    if (whole_rows.empty())
      write_file(path, std::string(first_columns) + "\n");
    else if (whole_rows.size() < found.size())
      write_file(path, whole_rows);
    return AppendFile(path);
  }

  void read_columns() {
    std::ifstream file(path_);
    std::string header;
    std::getline(file, header);
    if (header != first_columns && !header.starts_with(std::string(first_columns) + ","))
      throw Error(path_.string() + ":1", "not a log of metrics ('" + header.substr(0, 60) + "')",
                  "Move the file away");
    for (std::size_t comma = first_columns.size(); comma < header.size();) {
      const std::size_t next = std::min(header.find(',', comma + 1), header.size());
      metrics_.push_back(header.substr(comma + 1, next - comma - 1));
      comma = next;
    }
  }

  std::size_t column(const std::string& name) const {
    return std::size_t(std::find(metrics_.begin(), metrics_.end(), name) - metrics_.begin());
  }

  void add_columns(const Scalars& scalars) {
    const std::size_t before = metrics_.size();
    for (const auto& [name, value] : scalars) {
      if (name.empty() || name.find_first_of(",\"\r\n") != name.npos)
        throw Error(path_.string(), "a metric called '" + name + "' cannot head a column",
                    "Name it without commas, quotes and line ends");
      if (column(name) == metrics_.size()) metrics_.push_back(name);
    }
    if (metrics_.size() > before) widen(before);
  }

  /// Replaces the file by one with the columns from `before` on, and goes on appending to that.
  void widen(std::size_t before) {
    std::string heads, gaps;
    for (std::size_t i = before; i < metrics_.size(); ++i) {
      heads += "," + metrics_[i];
      gaps += ",";
    }
    std::string wider;
    bool in_header = true;
    for (char byte : contents(path_)) {
      if (byte == '\n') wider += std::exchange(in_header, false) ? heads : gaps;
      wider += byte;
    }
    write_file(path_, wider);
    file_ = AppendFile(path_);
  }

  std::filesystem::path path_;
  AppendFile file_;
  std::vector<std::string> metrics_;
};

}  // namespace ctrain
