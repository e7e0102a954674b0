/// \file  What a JSON parser says, as part of a one-line message.   floor 7: io
#pragma once

#include <string>
#include <string_view>

namespace ctrain {

/// nlohmann's exception text without its "[json.exception...]" label, bounded to one screen line.
inline std::string json_complaint(std::string_view text) {
  constexpr std::size_t longest = 200;
  if (text.starts_with('[')) {
    const std::size_t end = text.find("] ");
    if (end != std::string_view::npos) text.remove_prefix(end + 2);
  }
  return std::string(text.substr(0, longest)) + (text.size() > longest ? "..." : "");
}

}  // namespace ctrain
