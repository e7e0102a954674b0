/// \file  What a run shows and keeps of its numbers: progress line, metrics.csv, TensorBoard.   floor 7: io
#pragma once

#include <ctrain/core/clock.hpp>
#include <ctrain/io/csv_log.hpp>
#include <ctrain/io/progress_line.hpp>
#include <ctrain/io/run_directory.hpp>
#include <ctrain/io/tensorboard.hpp>

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace ctrain {

/// lightning_logs/version_K with its two logs, and the progress line on stdout.
class RunLog {
 public:
  RunLog(const std::string& root, const std::vector<Setting>& settings)
      : directory_(make_run_directory(root)),
        csv_(directory_.path / "metrics.csv"),
        tensorboard_(directory_.path),
        display_(stdout) {
    write_hparams(directory_.path, settings);
  }

  const RunDirectory& directory() const { return directory_; }
  ProgressDisplay& display() { return display_; }

  void add(std::int64_t epoch, std::int64_t step, const Scalars& scalars) {
    csv_.add(epoch, step, scalars);
    tensorboard_.add(step, scalars);
  }

 private:
  RunDirectory directory_;
  CsvLog csv_;
  TensorBoardLog tensorboard_;
  ProgressDisplay display_;
};

}  // namespace ctrain
