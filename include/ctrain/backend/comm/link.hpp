/// \file  What carries messages between ranks: the little that transfers need of it.   floor 5: backend
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace ctrain {

/// `lost`: the other rank is gone, or the message cannot arrive any more.
enum class MessageState : std::uint8_t { open, ended, lost };

/// One thread at a time calls a link, and no call blocks. Messages from one rank to another with
/// one tag arrive in the order in which they were sent; a send may stay open until its receive was
/// started. Memory belongs to a message until state() says that it is not open; that answer comes
/// once. A receive whose message has another size throws an Error. `abandon` is called where peers
/// may be dead: the link's end must not wait for them.
template <class L>
concept Link = requires(L& link, typename L::Message& message, int peer, int tag,
                        std::span<const std::byte> data, std::span<std::byte> space) {
  { link.rank() } -> std::convertible_to<int>;
  { link.ranks() } -> std::convertible_to<int>;
  { link.send(peer, tag, data) } -> std::same_as<typename L::Message>;
  { link.receive(peer, tag, space) } -> std::same_as<typename L::Message>;
  { link.state(message) } -> std::same_as<MessageState>;
  link.cancel(message);
  link.abandon();
};

}  // namespace ctrain
