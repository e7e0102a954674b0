/// \file  One transfer on its way: its exchanges in order, each in pieces, two of them in flight.   floor 5: backend
#pragma once

#include <ctrain/backend/comm/link.hpp>
#include <ctrain/backend/comm/sum.hpp>
#include <ctrain/backend/comm/transfer.hpp>
#include <ctrain/memory/split.hpp>
#include <ctrain/schedule/collectives.hpp>

#include <algorithm>

namespace ctrain {

/// Thrown inside the engine: that rank is gone.
struct PeerLost {
  int rank = 0;
};

/// One direction of an exchange: `size` bytes at `data`, to or from `peer`.
template <Link L> class PieceStream {
 public:
  PieceStream() = default;
  PieceStream(int peer, int tag, std::byte* data, bytes size)
      : peer_(peer), tag_(tag), data_(data), size_(size) {}

  int peer() const { return peer_; }
  bool over() const { return ended_ == size_; }
  bytes ended() const { return ended_; }

  void begin_sends(L& link) {
    begin([&](const Piece& piece) {
      return link.send(peer_, tag_, {data_ + piece.begin, std::size_t(piece.size)});
    });
  }
  /// Where piece after piece lands: `scratch` (its two pieces in turn), or its place if that is
  /// null.
  void begin_receives(L& link, std::byte* scratch) {
    begin([&](const Piece& piece) {
      std::byte* to = scratch ? scratch + piece.slot * piece_size : data_ + piece.begin;
      return link.receive(peer_, tag_, {to, std::size_t(piece.size)});
    });
  }
  /// Ends the oldest piece if it arrived; arrived(its place, its slot, its size) comes first.
  template <class Arrived> bool end_piece(L& link, Arrived&& arrived) {
    if (ended_ == begun_) return false;
    const Piece piece = piece_at(ended_);
    const MessageState state = link.state(messages_[piece.slot]);
    if (state == MessageState::lost) throw PeerLost{peer_};
    if (state == MessageState::open) return false;
    arrived(data_ + piece.begin, piece.slot, piece.size);
    ended_ += piece.size;
    return true;
  }
  void cancel(L& link) {
    for (; ended_ < begun_; ended_ += piece_at(ended_).size)
      link.cancel(messages_[piece_at(ended_).slot]);
  }

 private:
  struct Piece {
    bytes begin = 0, size = 0;
    int slot = 0;
  };
  Piece piece_at(bytes begin) const {
    return {begin, std::min(piece_size, size_ - begin), int(begin / piece_size % pieces_in_flight)};
  }
  template <class Start> void begin(Start&& start) {
    while (begun_ < size_ && begun_ - ended_ < pieces_in_flight * piece_size) {
      const Piece piece = piece_at(begun_);
      messages_[piece.slot] = start(piece);
      begun_ += piece.size;
    }
  }

  int peer_ = -1, tag_ = 0;
  std::byte* data_ = nullptr;
  bytes size_ = 0, begun_ = 0, ended_ = 0;
  typename L::Message messages_[pieces_in_flight]{};
};

/// A transfer as a machine that is polled and never blocks.
template <Link L> class RunningTransfer {
 public:
  RunningTransfer() = default;
  /// A send or a receive.
  RunningTransfer(const Transfer& t, int tag) {
    PieceStream<L> stream(t.peer, tag, static_cast<std::byte*>(t.data), t.size);
    (t.kind == EventKind::send ? out_ : in_) = stream;
  }
  /// A collective of member `me`; `world_rank(i)` is member i's. `scratch` is two pieces, for sums.
  template <class WorldRank>
  RunningTransfer(const Transfer& t, int tag, int members, int me, WorldRank&& world_rank,
                  std::byte* scratch)
      : transfer_(t), tag_(tag), members_(members), scratch_(scratch) {
    for (int i = 0; i < members; ++i) world_[i] = std::int16_t(world_rank(i));
    exchanges_ = lowered(t.collective, members, me);
    next_exchange();
  }

  bool over() const { return out_.over() && in_.over() && at_ == exchanges_.size; }
  /// Bytes sent so far.
  bytes sent() const { return sent_ + out_.ended(); }
  /// The ranks whose bytes it waits for now, one bit each.
  std::uint64_t waits_for() const {
    return (out_.over() ? 0 : std::uint64_t{1} << out_.peer()) |
           (in_.over() ? 0 : std::uint64_t{1} << in_.peer());
  }
  /// Goes on as far as it can without waiting; true if a piece has ended. Throws PeerLost.
  bool advance(L& link) {
    bool moved = false, again = true;
    while (again) {
      in_.begin_receives(link, adding_ ? scratch_ : nullptr);
      out_.begin_sends(link);
      again = out_.end_piece(link, [](std::byte*, int, bytes) {});
      again |= in_.end_piece(link, [&](std::byte* place, int slot, bytes size) {
        if (adding_) add_into(place, scratch_ + slot * piece_size, size, transfer_.element);
      });
      if (out_.over() && in_.over() && at_ < exchanges_.size) next_exchange(), again = true;
      moved |= again;
    }
    return moved;
  }
  void cancel(L& link) { out_.cancel(link), in_.cancel(link); }

 private:
  void next_exchange() {
    sent_ += out_.ended();
    const Exchange& e = exchanges_[at_++];
    adding_ = e.add;
    out_ = chunks(e.to, e.send, e.sends);
    in_ = chunks(e.from, e.receive, e.receives);
  }
  PieceStream<L> chunks(int member, int first, int count) const {
    const auto begin = [&](int i) {
      return chunk_begin(transfer_.size, transfer_.element,
                         chunks_of(transfer_.collective, members_), i);
    };
    return {world_[member], tag_, static_cast<std::byte*>(transfer_.data) + begin(first),
            begin(first + count) - begin(first)};
  }

  Transfer transfer_{};
  int tag_ = 0, members_ = 1, at_ = 0;
  bool adding_ = false;
  bytes sent_ = 0;
  std::byte* scratch_ = nullptr;
  Exchanges exchanges_{};
  std::int16_t world_[most_members]{};
  PieceStream<L> out_{}, in_{};
};

}  // namespace ctrain
