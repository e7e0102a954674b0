/// \file  Sums of signs among data ranks: what each rank packs, serves and unpacks, tensor by tensor.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/math/compressed_programs.hpp>
#include <ctrain/backend/row_calls.hpp>
#include <ctrain/memory/sign_traffic.hpp>
#include <ctrain/trainer/memory_map.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace ctrain {

/// One rank's part in the sums of P's data ranks, in the optimizer's own memory. Tensors come in
/// the order of the flat vector.
template <HasPolicy P, Backend B> class SignSums {
  using Map = MemoryMap<P, ArenaOf<B>>;

 public:
  static constexpr SignTraffic traffic =
      sign_traffic(GraphOf<P>::graph.parameters, P::policy.parallel.data);

  SignSums(B& backend, Map& map) : backend_(backend), map_(map) {}

  static constexpr SignLayout layout_of(const Run& run) {
    return {run.count, P::policy.parallel.data};
  }
  template <class Visit> void each_tensor(Visit&& visit) {
    for (int b = 0; b < map_.layout().buckets.size; ++b) map_.each_run(b, false, visit);
  }

  /// What a rank compresses of a tensor, padded: what was lost before, and what is added to it.
  float* error(const SignLayout& layout, const TensorCursor& at) {
    return floats(traffic.worker_errors() + 4 * at.padded, layout.padded());
  }
  /// Makes that ready for its servers.
  void pack(const SignLayout& layout, const TensorCursor& at) {
    float* const all = error(layout, at);
    const ExactSum* const sum = squares(all, layout.padded());
    for (int to = 0; to < traffic.ranks; ++to)
      backend_.run(PackSigns{signs(message_to(to), at), scale(message_to(to), at),
                             all + to * layout.chunk(), sum, layout.padded(), layout.chunk()});
  }

  /// The mean of this rank's chunk of all signs, and what was lost of it before, as signs.
  void serve() {
    TensorCursor at;
    each_tensor([&](const Run& run) {
      const SignLayout layout = layout_of(run);
      float* const error = server_error(layout, at);
      const bytes first = traffic.incoming(), mine = mean_of(map_.at().data);
      backend_.run(AddMeanOfSigns{error, signs(first, at), scale(first, at), traffic.message(),
                                  layout.chunk(), traffic.ranks});
      backend_.run(PackSigns{signs(mine, at), scale(mine, at), error,
                             squares(error, layout.chunk()), layout.chunk(), layout.chunk()});
      at.pass(layout);
    });
  }

  /// A tensor's mean, as all servers' signs tell it.
  void unpack(float* to, const SignLayout& layout, const TensorCursor& at) {
    for (int server = 0; server < traffic.ranks; ++server) {
      const std::int64_t first = server * layout.chunk();
      if (first < layout.count)
        backend_.run(UnpackSigns{to + first, signs(mean_of(server), at), scale(mean_of(server), at),
                                 std::min(layout.chunk(), layout.count - first)});
    }
  }

  /// What a bound cuts off a tensor's mean in `m`, the server of its chunk sends later.
  /// `lamb`: of 1-bit LAMB.
  void keep_what_is_cut_off(const Run& run, float* m, float* v, float bound, const TensorCursor& at,
                            const OneBitLambTensor* lamb = nullptr) {
    const SignLayout layout = layout_of(run);
    const std::int64_t first = map_.at().data * layout.chunk();
    const std::int64_t mine = std::min(layout.chunk(), run.count - first);
    if (mine > 0)
      backend_.run(RunRows<KeepWhatIsCutOff>{
          {bound, lamb}, {server_error(layout, at), m + first, v + first}, mine});
  }

  /// What all ranks exchange, as transfers.
  void* signs_in_flight() {
    return map_.template optimizer<std::byte>(traffic.outgoing(),
                                              2 * traffic.ranks * traffic.message());
  }
  void* means_in_flight() {
    return map_.template optimizer<std::byte>(traffic.means(), traffic.ranks * traffic.message());
  }

  /// What was lost is forgotten.
  void clear_errors() {
    backend_.run(Clear{floats(traffic.worker_errors(), traffic.padded + traffic.chunk),
                       4 * (traffic.padded + traffic.chunk)});
  }

  // the optimizer's own memory -------------------------------------------------------------------

  float* floats(bytes offset, std::int64_t count) {
    return map_.template optimizer<float>(offset, 4 * count);
  }
  const ExactSum* squares(const float* values, std::int64_t count) {
    auto* const sum = map_.template optimizer<ExactSum>(0, sizeof(ExactSum));
    backend_.run(Clear{sum, sizeof *sum});
    backend_.run(SumOfSquares{sum, values, count});
    return sum;
  }
  void copy(float* to, const float* from, const Run& run) {
    backend_.run(CastForward<float>{to, from, int(round_up(run.count, 16) / 16), 16});
  }

 private:
  float* server_error(const SignLayout& layout, const TensorCursor& at) {
    return floats(traffic.server_errors() + 4 * at.chunk, layout.chunk());
  }
  /// What this rank sends itself stands where it would come in.
  bytes message_to(int rank) const {
    const bytes first = rank == map_.at().data ? traffic.incoming() : traffic.outgoing();
    return first + rank * traffic.message();
  }
  static bytes mean_of(int server) { return traffic.means() + server * traffic.message(); }
  float* scale(bytes message, const TensorCursor& at) { return floats(message + 4 * at.tensor, 1); }
  std::uint8_t* signs(bytes message, const TensorCursor& at) {
    return map_.template optimizer<std::uint8_t>(message + traffic.scales() + at.chunk_bytes, 1);
  }

  B& backend_;
  Map& map_;
};

}  // namespace ctrain
