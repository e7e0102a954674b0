/// \file  What a backend offers: one `run` per call, on memory it is handed.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/core/floating.hpp>
#include <ctrain/core/units.hpp>

#include <concepts>
#include <cstddef>

namespace ctrain {

/// A backend owns threads or a stream and whatever its libraries prepare per shape, never memory
/// that a step uses. Every overload of run() is listed here, and only here.
template <class B, class T>
concept RunsComputeType = requires(B& backend, const LayerNormForward<T>& a,
                                   const LayerNormBackward<T>& b, const DropoutAddForward<T>& c,
                                   const DropoutAddBackward<T>& d, const CastForward<T>& e,
                                   const CastBackward<T>& f, const GeluForward<T>& g,
                                   const GeluBackward<T>& h, const PrepareWeight<T>& i,
                                   const LinearForward<T>& j, const LinearBackwardInput<T, T>& k,
                                   const LinearBackwardInput<T, float>& l,
                                   const LinearBackwardWeight<T>& m, const AttentionForward<T>& n,
                                   const AttentionBackward<T>& o) {
  backend.run(a), backend.run(b), backend.run(c), backend.run(d), backend.run(e), backend.run(f);
  backend.run(g), backend.run(h), backend.run(i), backend.run(j), backend.run(k), backend.run(l);
  backend.run(m), backend.run(n), backend.run(o);
};

template <class B>
concept Backend = RunsComputeType<B, float> && RunsComputeType<B, bf16> &&
    RunsComputeType<B, fp16> &&
    requires(B& backend, const EmbedForward& a, const EmbedBackward& b, const DropoutForward& c,
             const SelectFirstForward& d, const SelectFirstBackward& e, const TanhForward& f,
             const TanhBackward& g, const CrossEntropyForward& h, const CrossEntropyBackward& i,
             const SumOfSquares& j, const AdamWUpdate& k, const Clear& l, const Copy& m) {
  backend.run(a), backend.run(b), backend.run(c), backend.run(d), backend.run(e);
  backend.run(f), backend.run(g), backend.run(h), backend.run(i), backend.run(j);
  backend.run(k), backend.run(l), backend.run(m);
  {backend.workers()};  // how many workspaces it may use at once
};

/// A backend that can record calls once and run them again without its host, in the order in which
/// it is given everything else. Nothing here waits but synchronize(): what is copied from and to
/// `staging` memory is there after it.
template <class B>
concept Replays = Backend<B> &&
    requires(B& backend, void (*body)(), typename B::Recording& recording,
             typename B::Staging& staging, bytes size) {
  { backend.capture(body) } -> std::same_as<typename B::Recording>;
  backend.replay(recording);
  { backend.staging(size) } -> std::same_as<typename B::Staging>;
  { staging.data() } -> std::same_as<std::byte*>;
  backend.write_later(static_cast<void*>(nullptr), staging.data(), size);
  backend.read_later(staging.data(), static_cast<const void*>(nullptr), size);
  backend.synchronize();
};

/// A backend that also runs calls which stand for two of these: AdamWUpdateAndPrepare,
/// DropoutAddLayerNormForward and LayerNormDropoutAddBackward.
template <class B>
concept JoinsCalls = requires {
  requires B::joins_calls;
};

}  // namespace ctrain
