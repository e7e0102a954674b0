/// \file  The one exception for faults that a user can mend: where, what, and what to do.   floor 0: core
#pragma once

#include <stdexcept>
#include <string>

namespace ctrain {

/// A fault in something a user gave: a file, a flag, a checkpoint, a full disk. A program prints
/// `error: ` and what() on one line to stderr and exits with 1. The text is
/// "PLACE: WHAT. FIX", for example
/// "train.json:17: not a JSON object (unexpected end of input). Mend or remove the line".
class Error : public std::runtime_error {
 public:
  Error(const std::string& place, const std::string& what, const std::string& fix)
      : std::runtime_error(place + ": " + what + ". " + fix) {}
};

}  // namespace ctrain
