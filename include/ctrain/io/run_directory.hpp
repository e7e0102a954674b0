/// \file  lightning_logs/version_K: where a run keeps its logs, and what it was started with.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/atomic_file.hpp>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

struct RunDirectory {
  std::filesystem::path path;
  std::int64_t version = 0;  // K; `v_num` of the progress line
};

/// One line of hparams.yaml.
struct Setting {
  std::string name;
  std::string value;
  bool is_text = false;  // quoted; else a number, true, false or null

  friend bool operator==(const Setting&, const Setting&) = default;
};

// functions --------------------------------------------------------------------------------------

/// The whole of `text` as a number from 0 up, or nothing.
inline std::optional<std::int64_t> natural_number(std::string_view text) {
  std::int64_t number = -1;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = read.ec == std::errc{} && read.ptr == text.data() + text.size();
  return whole && number >= 0 ? std::optional(number) : std::nullopt;
}

/// The number of the SLURM job this process belongs to. None in an interactive one, whose runs
/// would all get the same directory.
inline std::optional<std::int64_t> slurm_job() {
  const char *id = std::getenv("SLURM_JOB_ID"), *name = std::getenv("SLURM_JOB_NAME");
  if (id == nullptr || (name != nullptr && std::string_view(name) == "bash")) return std::nullopt;
  return natural_number(id);
}

/// The version after the highest `version_K` in `logs`, or 0.
inline std::int64_t next_version(const std::filesystem::path& logs) {
  constexpr std::string_view prefix = "version_";
  std::int64_t next = 0;
  std::error_code unreadable;
  for (std::filesystem::directory_iterator it(logs, unreadable), end; it != end;
       it.increment(unreadable)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(prefix)) continue;
    // A number with no room for a next one is not ours.
    const auto version = natural_number(std::string_view(name).substr(prefix.size()));
    if (version && *version < INT64_MAX) next = std::max(next, *version + 1);
  }
  return next;
}

/// Creates `root`/lightning_logs/version_K: K is the SLURM job, whose directory may exist (a job
/// that was started again), else the first free number above all others. Runs that start at the
/// same moment get different numbers. Called by one rank only. Throws Error where nothing can be
/// created.
inline RunDirectory make_run_directory(const std::filesystem::path& root,
                                       std::optional<std::int64_t> job = slurm_job()) {
  const std::filesystem::path logs = root / "lightning_logs";
  std::error_code failure;
  std::filesystem::create_directories(logs, failure);
  for (std::int64_t version = job.value_or(next_version(logs)); !failure; ++version) {
    const std::filesystem::path path = logs / fmt::format("version_{}", version);
    const bool created = std::filesystem::create_directory(path, failure);
    const bool exists = !failure && std::filesystem::is_directory(path, failure);
    if (created || (job && exists)) return {path, version};
    if (job && !failure) failure = std::make_error_code(std::errc::not_a_directory);
  }
  throw Error(
      "flag --default_root_dir",
      "cannot create a run's directory in " + logs.string() + " (" + failure.message() + ")",
      "Make it writable for this user, or name another directory");
}

/// A YAML scalar: text in double quotes, everything else as it is.
inline std::string yaml_scalar(const Setting& setting) {
  if (!setting.is_text) return setting.value;
  std::string quoted = "\"";
  for (char byte : setting.value) {
    const auto code = static_cast<unsigned char>(byte);
    if (byte == '"' || byte == '\\')
      quoted += std::string{'\\', byte};
    else if (code < 0x20 || code == 0x7f)
      quoted += fmt::format("\\x{:02x}", code);
    else
      quoted += byte;
  }
  return quoted + "\"";
}

/// Writes hparams.yaml into a run's directory.
inline void write_hparams(const std::filesystem::path& directory,
                          const std::vector<Setting>& settings) {
  std::string text;
  for (const Setting& setting : settings) text += setting.name + ": " + yaml_scalar(setting) + "\n";
  write_file(directory / "hparams.yaml", settings.empty() ? "{}\n" : text);
}

}  // namespace ctrain
