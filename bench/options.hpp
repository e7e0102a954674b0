/// \file  The few flags that every bench takes, and medians.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

/// `--NAME VALUE` pairs, each NAME one of `known`. A wrong one ends the program with code 1.
class Options {
 public:
  Options(int argc, char** argv, const std::map<std::string, std::string>& known) : values_(known) {
    values_["json"];
    for (int i = 1; i < argc; i += 2) {
      const std::string flag = argv[i];
      const auto found = flag.starts_with("--") ? values_.find(flag.substr(2)) : values_.end();
      if (found == values_.end() || i + 1 == argc) refuse(flag);
      found->second = argv[i + 1];
    }
  }

  const std::string& text(const std::string& name) const { return values_.at(name); }
  int number(const std::string& name) const { return std::max(1, std::atoi(text(name).c_str())); }

  /// Writes the figures where --json says, if it does.
  void write(const nlohmann::json& figures) const {
    if (!text("json").empty()) std::ofstream(text("json")) << figures.dump(1) << "\n";
  }

 private:
  [[noreturn]] void refuse(const std::string& flag) const {
    std::string all;
    for (const auto& [name, value] : values_) all += " --" + name;
    std::fprintf(stderr, "error: flag %s: there is no such flag, or it has no value. Use%s\n",
                 flag.c_str(), all.c_str());
    std::exit(1);
  }

  std::map<std::string, std::string> values_;
};

inline double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + std::ptrdiff_t(v.size() / 2), v.end());
  return v[v.size() / 2];
}
inline double least(const std::vector<double>& v) {
  return *std::min_element(v.begin(), v.end());
}
