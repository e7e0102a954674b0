/// \file  Where streamed states are at home: host memory, and a checked file on a disk.   floor 6: trainer
#pragma once

#include <ctrain/backend/arena.hpp>
#include <ctrain/backend/host/scratch_file.hpp>
#include <ctrain/core/checksum.hpp>
#include <ctrain/memory/offload.hpp>
#include <ctrain/schedule/streaming.hpp>
#include <ctrain/trainer/memory_map.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace ctrain {

/// What a visit to all states does with them: to replace begins with zeros.
enum class StreamAccess : std::uint8_t { read_weights, read, change, replace };

/// The states of P's model that are not on the device, in pieces. Each area of a piece on disk
/// (weights, first moment, second moment, gradients) has a checksum, kept in memory, which every
/// read compares: a disk that returns something else is an Error with file, unit and offset.
template <HasPolicy P> class StreamStore {
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& parameters = StreamOf<P>::graph.parameters;
  static constexpr const auto& units = StreamOf<P>::units;
  static constexpr const auto& plan = StreamOf<P>::plan;
  static constexpr Homes homes = homes_of(P::policy);
  static constexpr int areas = 4;

 public:
  /// Takes the host memory and, if something goes there, the file in `directory`.
  explicit StreamStore(const std::filesystem::path& directory) : memory_(plan.host()) {
    if (plan.disk() > 0) file_.emplace(directory, plan.disk());
    for (int unit = 0; unit < units.count(); ++unit) first_piece_.push_back(count_pieces(unit));
    sums_.assign(std::size_t(areas * count_pieces(units.count())), 0);
    kept_sums_.assign(std::size_t(plan.kept_slots), 0);
  }

  const Arena& memory() const { return memory_; }
  /// The file, if there is one.
  const ScratchFile* file() const { return file_ ? &*file_ : nullptr; }
  bytes bytes_read() const { return read_; }
  bytes bytes_written() const { return written_; }

  // addresses ------------------------------------------------------------------------------------

  /// A piece's state in its staging slot or at home on the host.
  float* state(State which, int unit, int piece, int slot) {
    const PieceRecord r = record(unit);
    const OffloadTo home = which == State::weight ? homes.weights : homes.moments;
    if (home == OffloadTo::disk) {
      const bytes at = which == State::weight         ? 0
                       : which == State::first_moment ? r.first_moment_at()
                                                      : r.second_moment_at();
      return floats(plan.staging.offset + slot * plan.staging_slot + at);
    }
    const std::int64_t element = start_of(parameters, units, unit) + piece * units.of(unit).piece;
    if (which == State::weight) return floats(plan.host_weights.offset + 4 * element);
    const bytes second = which == State::second_moment ? 4 * parameters.flat_size() : 0;
    return floats(plan.host_moments.offset + second + 4 * element);
  }
  /// A piece's gradients for the update.
  std::byte* gradients(int unit, int piece, int slot) {
    if (homes.gradients == OffloadTo::disk)
      return memory_.base() + plan.staging.offset + slot * plan.staging_slot +
             record(unit).states();
    return host_gradients(unit, piece);
  }
  /// Where a piece's gradients go from the device.
  std::byte* collected(int unit, int piece, int slot) {
    if (homes.gradients == OffloadTo::disk)
      return memory_.base() + plan.gradient_staging.offset + slot * plan.gradient_slot;
    return host_gradients(unit, piece);
  }
  /// What a block keeps, in host memory.
  std::byte* kept(int layer, int micro, int slot) {
    const bytes size = round_up(plan.slot, PieceRecord::block);
    const int index = policy.offload.activations == OffloadTo::disk ? slot : at(layer, micro);
    return memory_.base() + plan.host_kept.offset + index * size;
  }
  float* word_rows() { return floats(plan.host_word_rows.offset); }
  float* word_row_gradients() { return floats(plan.host_d_word_rows.offset); }
  /// A place for the gradient of one piece of the word table.
  float* word_gradient() { return floats(plan.word_gradient.offset); }

  // the disk -------------------------------------------------------------------------------------

  void read(const StreamJob& j, bool all_states) {
    const PieceRecord r = record(j.unit);
    read_record(j, all_states ? r.size() : r.weights);
  }
  void write(const StreamJob& j) {
    const PieceRecord r = record(j.unit);
    const std::byte* from = memory_.base() + plan.staging.offset + j.slot * plan.staging_slot;
    each_area(r, [&](int area, bytes at, bytes size) {
      if (area < 3) sum(j.unit, j.piece, area) = checksum(from + at, std::size_t(size));
    });
    file_->write(offset(j.unit, j.piece), from, r.states(),
                 [&] { return "states of " + name_of(j.unit, j.piece); });
    written_ += r.states();
  }
  void write_gradient(const StreamJob& j) {
    const PieceRecord r = record(j.unit);
    const std::byte* from = collected(j.unit, j.piece, j.slot);
    sum(j.unit, j.piece, 3) = checksum(from, std::size_t(r.gradients));
    file_->write(offset(j.unit, j.piece) + r.states(), from, r.gradients,
                 [&] { return "gradients of " + name_of(j.unit, j.piece); });
    written_ += r.gradients;
  }
  void write_kept(const StreamJob& j) {
    const bytes size = round_up(plan.slot, PieceRecord::block);
    const std::byte* from = kept(j.layer, j.micro, j.slot);
    kept_sums_[std::size_t(at(j.layer, j.micro))] = checksum(from, std::size_t(size));
    file_->write(kept_offset(j), from, size, [&] { return name_of_kept(j); });
    written_ += size;
  }
  void read_kept(const StreamJob& j) {
    const bytes size = round_up(plan.slot, PieceRecord::block);
    std::byte* to = kept(j.layer, j.micro, j.slot);
    file_->read(kept_offset(j), to, size, [&] { return name_of_kept(j); });
    read_ += size;
    if (checksum(to, std::size_t(size)) != kept_sums_[std::size_t(at(j.layer, j.micro))])
      throw_changed(name_of_kept(j), kept_offset(j));
  }

  // everything, between steps --------------------------------------------------------------------

  /// Calls f(unit, piece, states) for every piece; states[i] is where its State i stands, at home
  /// or in a staging slot, until f returns.
  template <StreamAccess Access, class F> void visit(F&& f) {
    for (int unit = 0; unit < units.count(); ++unit)
      for (int piece = 0; piece < units.of(unit).pieces; ++piece) {
        const PieceRecord r = record(unit);
        const StreamJob job{.slot = 0, .unit = std::int16_t(unit), .piece = std::int16_t(piece)};
        const bytes size = Access == StreamAccess::replace        ? 0
                           : Access == StreamAccess::read_weights ? r.weights
                                                                  : r.states();
        if (size > 0) read_record(job, size);
        float* const states[] = {state(State::weight, unit, piece, 0),
                                 state(State::first_moment, unit, piece, 0),
                                 state(State::second_moment, unit, piece, 0)};
        if constexpr (Access == StreamAccess::replace)
          for (float* values : states) std::fill_n(values, units.of(unit).elements_of(piece), 0.0f);
        f(unit, piece, states);
        const bool writes = Access == StreamAccess::replace || Access == StreamAccess::change;
        if (writes && r.states() > 0) write(job);
      }
  }

 private:
  static const PieceRecord& record(int unit) { return units.of(unit).record; }
  static int at(int layer, int micro) { return layer * policy.batch.accumulation + micro; }
  static int count_pieces(int units_before) {
    int count = 0;
    for (int unit = 0; unit < units_before; ++unit) count += units.of(unit).pieces;
    return count;
  }
  static bytes offset(int unit, int piece) {
    bytes at = 0, block = 0;
    const auto size = [](int of) { return record(of).size() * units.of(of).pieces; };
    for (int i = 0; i < units.stretches; ++i) block += size(units.block(0, i));
    for (int i = 0; i < 2 && i < unit; ++i) at += size(i);
    if (unit == units.head()) at += units.layers * block;
    if (unit >= 2 && unit != units.head()) {
      at += units.layer(unit) * block;
      for (int i = units.block(units.layer(unit), 0); i < unit; ++i) at += size(i);
    }
    return plan.disk_states.offset + at + piece * record(unit).size();
  }
  static bytes kept_offset(const StreamJob& j) {
    return plan.disk_kept.offset + at(j.layer, j.micro) * round_up(plan.slot, PieceRecord::block);
  }
  static std::string name_of(int unit, int piece) {
    const std::string part =
        piece > 0 || units.of(unit).pieces > 1 ? ", piece " + std::to_string(piece) : std::string();
    if (unit == StreamUnits::word_table) return "the word table" + part;
    if (unit == StreamUnits::tables) return "the embedding" + part;
    if (unit == units.head()) return "the head" + part;
    return "block " + std::to_string(units.layer(unit)) +
           (units.stretches > 1 ? ", stretch " + std::to_string((unit - 2) % units.stretches)
                                : "") +
           part;
  }
  static std::string name_of_kept(const StreamJob& j) {
    return "activations of block " + std::to_string(j.layer) + ", micro-batch " +
           std::to_string(j.micro);
  }

  float* floats(bytes offset) { return reinterpret_cast<float*>(memory_.base() + offset); }
  std::byte* host_gradients(int unit, int piece) {
    const StreamUnit& u = units.of(unit);
    const Region r = gradient_of_piece(parameters, policy, u, piece);
    const bytes start = gradient_offset(parameters, policy, u.first, units.layer(unit));
    return memory_.base() + plan.host_gradients.offset + start + r.offset;
  }
  std::uint64_t& sum(int unit, int piece, int area) {
    return sums_[std::size_t(areas * (first_piece_[std::size_t(unit)] + piece) + area)];
  }
  template <class F> static void each_area(const PieceRecord& r, F&& f) {
    const bytes sizes[areas] = {r.weights, r.first_moment, r.second_moment, r.gradients};
    bytes at = 0;
    for (int area = 0; area < areas; ++area) {
      if (sizes[area] > 0) f(area, at, sizes[area]);
      at += sizes[area];
    }
  }
  [[noreturn]] void throw_changed(const std::string& what, bytes offset) const {
    throw Error(file_->place(),
                "what was written there is not what is read: " + what + " at offset " +
                    std::to_string(offset) + " has the wrong checksum",
                "The disk or its driver is faulty: use another one, and resume from the last "
                "checkpoint, which is unharmed");
  }

  /// The first `size` bytes of a piece's record into its slot.
  void read_record(const StreamJob& j, bytes size) {
    const bytes from = offset(j.unit, j.piece);
    std::byte* to = memory_.base() + plan.staging.offset + j.slot * plan.staging_slot;
    const auto name = [&] { return "states of " + name_of(j.unit, j.piece); };
    file_->read(from, to, size, name);
    read_ += size;
    each_area(record(j.unit), [&](int area, bytes at, bytes area_size) {
      if (at + area_size <= size &&
          checksum(to + at, std::size_t(area_size)) != sum(j.unit, j.piece, area))
        throw_changed(name(), from + at);
    });
  }
  Arena memory_;
  std::optional<ScratchFile> file_;
  std::vector<int> first_piece_;
  std::vector<std::uint64_t> sums_, kept_sums_;
  bytes read_ = 0, written_ = 0;
};

}  // namespace ctrain
