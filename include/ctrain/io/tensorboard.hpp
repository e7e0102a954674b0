/// \file  Event files that TensorBoard reads: scalars only.   floor 7: io
#pragma once

#include <ctrain/io/append_file.hpp>
#include <ctrain/io/csv_log.hpp>

#include <boost/crc.hpp>

#include <bit>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>
#include <unistd.h>

namespace ctrain {

namespace tensorboard {

static_assert(std::endian::native == std::endian::little, "record lengths are written as they lie");

template <class Integer> std::string little_endian(Integer number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}

/// CRC-32C, rotated and shifted, so that a record may itself hold checksums.
inline std::uint32_t masked_checksum(std::string_view bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(bytes.data(), bytes.size());
  return std::rotr(std::uint32_t(crc.checksum()), 15) + 0xa282ead8u;
}

/// TFRecord framing: length, its checksum, the bytes, their checksum.
inline std::string record(std::string_view bytes) {
  const std::string length = little_endian(std::uint64_t{bytes.size()});
  return length + little_endian(masked_checksum(length)) + std::string(bytes) +
         little_endian(masked_checksum(bytes));
}

/// A protobuf message: what `write` puts on the stream it is given.
template <class Write> std::string message(const Write& write) {
  std::string bytes;
  google::protobuf::io::StringOutputStream sink(&bytes);
  google::protobuf::io::CodedOutputStream stream(&sink);
  write(&stream);
  stream.Trim();
  return bytes;
}

using Wire = google::protobuf::internal::WireFormatLite;
using Stream = google::protobuf::io::CodedOutputStream;

/// tensorflow.Event {wall_time, file_version}: what a file begins with.
inline std::string version_event(double wall_time) {
  return message([&](Stream* event) {
    Wire::WriteDouble(1, wall_time, event);
    Wire::WriteBytes(3, "brain.Event:2", event);
  });
}

/// tensorflow.Summary.Value {tag, simple_value}.
inline std::string scalar(const std::string& tag, double value) {
  return message([&](Stream* out) {
    Wire::WriteBytes(1, tag, out);
    Wire::WriteFloat(2, float(value), out);
  });
}

/// tensorflow.Event {wall_time, step, summary}.
inline std::string scalars_event(double wall_time, std::int64_t step, const Scalars& scalars) {
  const std::string summary = message([&](Stream* out) {
    for (const auto& [tag, value] : scalars) Wire::WriteBytes(1, scalar(tag, value), out);
  });
  return message([&](Stream* event) {
    Wire::WriteDouble(1, wall_time, event);
    if (step != 0) Wire::WriteInt64(2, step, event);
    Wire::WriteBytes(5, summary, event);
  });
}

/// Seconds since 1970.
inline double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

inline std::string file_name(double wall_time) {
  char host[256] = {};
  if (::gethostname(host, sizeof host - 1) != 0 || host[0] == '\0') host[0] = '-';
  return fmt::format("events.out.tfevents.{:010}.{}.{}.0", std::int64_t(wall_time), host,
                     ::getpid());
}

}  // namespace tensorboard

/// One event file in a run's directory. Every event reaches the operating system at once.
class TensorBoardLog {
 public:
  /// Throws Error where the file cannot be written. `started`: seconds since 1970.
  explicit TensorBoardLog(const std::filesystem::path& directory,
                          double started = tensorboard::wall_time())
      : file_(directory / tensorboard::file_name(started)) {
    file_.append(tensorboard::record(tensorboard::version_event(started)));
  }

  const std::filesystem::path& path() const { return file_.path(); }

  void add(std::int64_t step, const Scalars& scalars, double now = tensorboard::wall_time()) {
    file_.append(tensorboard::record(tensorboard::scalars_event(now, step, scalars)));
  }

 private:
  AppendFile file_;
};

}  // namespace ctrain
