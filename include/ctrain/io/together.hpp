/// \file  What all ranks do or give up together: errors, values of rank 0, files of many writers.   floor 7: io
#pragma once

#include <ctrain/backend/comm/transfer.hpp>
#include <ctrain/core/error.hpp>
#include <ctrain/io/atomic_file.hpp>
#include <ctrain/io/safetensors.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace ctrain {

/// Another rank has failed and says why.
struct OtherRankFailed : std::exception {
  const char* what() const noexcept override { return "another rank has failed"; }
};

namespace together {

template <Communicator C>
std::vector<std::string> all_texts(C& communicator, const std::string& mine) {
  std::vector<std::string> texts;
  for (const std::vector<std::byte>& text : communicator.gather(std::as_bytes(std::span(mine))))
    texts.emplace_back(reinterpret_cast<const char*>(text.data()), text.size());
  return texts;
}

/// Rank 0's text, on all.
template <Communicator C> std::string of_rank_0(C& communicator, const std::string& mine) {
  return all_texts(communicator, communicator.rank() == 0 ? mine : std::string()).front();
}

/// Runs `act` on every rank. Where it throws an Error on some, it throws on all, before anyone does
/// anything else: on the first of them that Error, on the others OtherRankFailed.
template <Communicator C, class Act> void run(C& communicator, Act&& act) {
  std::exception_ptr error;
  std::string text;
  try {
    act();
  } catch (const Error& e) {
    error = std::current_exception();
    text = e.what();
  }
  const std::vector<std::string> texts = all_texts(communicator, text);
  const auto first = std::ranges::find_if(texts, [](const std::string& t) { return !t.empty(); });
  if (first == texts.end()) return;
  if (first - texts.begin() == communicator.rank()) std::rethrow_exception(error);
  throw OtherRankFailed();
}

}  // namespace together

/// Writes one safetensors file from all ranks, each what it has: rank 0 makes it under a temporary
/// name, all write, and when every byte of all is on the disk, rank 0 gives it its own name. Until
/// then an older file of that name is intact. All ranks pass the same tensors, and must see the
/// same folder; only rank 0's `metadata` counts. `each_part` is called with a function put(name,
/// part) and hands it what this rank writes.
template <Communicator C, class EachPart>
void write_together(C& communicator, const std::filesystem::path& path,
                    std::vector<LogicalTensor> tensors,
                    const std::map<std::string, std::string>& metadata, EachPart&& each_part) {
  std::ranges::sort(tensors, {}, &LogicalTensor::name);
  std::vector<TensorToSave> listed;
  for (const LogicalTensor& t : tensors) listed.push_back({t.name, StoredType::f32, t.shape, {}});
  std::unique_ptr<AtomicFile> file;
  std::string header, temporary;
  together::run(communicator, [&] {
    if (communicator.rank() != 0) return;
    std::uint64_t data_bytes = 0;
    header = safetensors_header(path, listed, metadata, data_bytes);
    const std::uint64_t length = header.size();
    file = std::make_unique<AtomicFile>(path, 8 + length + data_bytes);
    file->write(&length, 8);
    file->write(header);
    temporary = file->temporary().string();
  });
  std::uint64_t at =
      8 + std::stoull(together::of_rank_0(communicator, std::to_string(header.size())));
  temporary = together::of_rank_0(communicator, temporary);
  std::map<std::string, std::uint64_t> place;
  for (const LogicalTensor& t : tensors) {
    place[t.name] = at;
    at += std::uint64_t(byte_count(StoredType::f32, t.shape).value());
  }

  together::run(communicator, [&] {
    SharedWriter writer(path, temporary);
    each_part([&](const std::string& name, const TensorPart& part) {
      writer.write(place.at(name) + 4 * std::uint64_t(part.first), part.data,
                   4 * std::size_t(part.count));
    });
    writer.sync();
  });
  together::run(communicator, [&] {
    if (file) file->commit();
  });
}

}  // namespace ctrain
