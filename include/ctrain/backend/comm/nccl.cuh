/// \file  The communicator of ranks with a card each: NCCL on streams, native collectives or our fixed trees.   floor 5: backend
#pragma once

#include <ctrain/backend/comm/cards.hpp>
#include <ctrain/backend/comm/transfer.hpp>
#include <ctrain/backend/cuda/cuda.cuh>
#include <ctrain/backend/cuda/elementwise.hpp>
#include <ctrain/backend/cuda/launch.cuh>
#include <ctrain/schedule/collectives.hpp>

#include <nccl.h>

#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace ctrain {

namespace cuda {

inline void check(ncclResult_t status, const char* call) {
  if (status == ncclSuccess || status == ncclInProgress) return;
  throw Error(std::string("NCCL: ") + call, ncclGetErrorString(status),
              "Run again with NCCL_DEBUG=WARN, which says more");
}

/// In which order a sum adds: NCCL's own, which depends on the ranks' wiring, or the fixed tree of
/// schedule/collectives.hpp, whose bits every layout and every transport shares.
enum class SumOrder : std::uint8_t { native, fixed_tree };

/// Ranks that talk in one order, and the stream on which they do.
class Lane {
 public:
  Lane() = default;
  Lane(ncclComm_t comm, int members, int me) : comm_(comm), members_(members), me_(me) {
    stream_ = std::make_unique<DeviceStream>();
    for (cudaEvent_t* event : {&begin_, &end_})
      check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate");
  }
  Lane(Lane&& other) noexcept { *this = std::move(other); }
  Lane& operator=(Lane&& other) noexcept {
    std::swap(comm_, other.comm_), std::swap(begin_, other.begin_), std::swap(end_, other.end_);
    std::swap(members_, other.members_), std::swap(me_, other.me_);
    std::swap(stream_, other.stream_), std::swap(staging_, other.staging_);
    std::swap(staging_size_, other.staging_size_), std::swap(latest_, other.latest_);
    return *this;
  }
  ~Lane() {
    cudaFree(staging_);
    if (begin_ != nullptr) cudaEventDestroy(begin_), cudaEventDestroy(end_);
    if (comm_ != nullptr) ncclCommDestroy(comm_);
  }

  /// Starts `body(stream)` once all that `compute` has been given is done.
  template <class Body> void start(cudaStream_t compute, const TransferName& name, Body&& body) {
    check(cudaEventRecord(begin_, compute), "cudaEventRecord");
    check(cudaStreamWaitEvent(stream_->handle(), begin_), "cudaStreamWaitEvent");
    body(stream_->handle());
    check(cudaEventRecord(end_, stream_->handle()), "cudaEventRecord");
    latest_ = name;
  }
  /// `compute` goes on when everything that was started here has ended. No host waits.
  void let_wait(cudaStream_t compute) const {
    check(cudaStreamWaitEvent(compute, end_), "cudaStreamWaitEvent");
  }

  void collective(const Transfer& t, cudaStream_t stream) const {
    auto* data = static_cast<std::byte*>(t.data);
    const std::size_t count = std::size_t(t.size / size_of(t.element));
    const bytes own = chunk_begin(t.size, t.element, members_, me_);
    const std::size_t share = count / std::size_t(members_);
    if (t.collective == Collective::all_reduce)
      check(ncclAllReduce(data, data, count, type_of(t.element), ncclSum, comm_, stream),
            "ncclAllReduce");
    else if (t.collective == Collective::reduce_scatter)
      check(ncclReduceScatter(data, data + own, share, type_of(t.element), ncclSum, comm_, stream),
            "ncclReduceScatter");
    else
      check(ncclAllGather(data + own, data, share, type_of(t.element), comm_, stream),
            "ncclAllGather");
  }
  /// The same as exchanges in a fixed order; sums are ours.
  void exchanges(const Transfer& t, cudaStream_t stream) {
    auto* data = static_cast<std::byte*>(t.data);
    const int chunks = chunks_of(t.collective, members_);
    const auto chunk = [&](int i) { return chunk_begin(t.size, t.element, chunks, i); };
    for (const Exchange& e : lowered(t.collective, members_, me_)) {
      const bytes from = chunk(e.receive), size = chunk(e.receive + e.receives) - from;
      std::byte* to = e.add ? stage(size) : data + from;
      check(ncclGroupStart(), "ncclGroupStart");
      send(data + chunk(e.send), chunk(e.send + e.sends) - chunk(e.send), e.to, stream);
      receive(to, size, e.from, stream);
      check(ncclGroupEnd(), "ncclGroupEnd");
      if (e.add) add(data + from, to, size, t.element);
    }
  }
  void send(const void* from, bytes size, int to, cudaStream_t stream) const {
    check(ncclSend(from, std::size_t(size), ncclUint8, to, comm_, stream), "ncclSend");
  }
  void receive(void* to, bytes size, int from, cudaStream_t stream) const {
    check(ncclRecv(to, std::size_t(size), ncclUint8, from, comm_, stream), "ncclRecv");
  }

  bool exists() const { return comm_ != nullptr; }
  bool is_done() const { return cudaEventQuery(end_) != cudaErrorNotReady; }
  const TransferName& latest() const { return latest_; }
  /// What NCCL noticed since: a peer's death, mostly.
  ncclResult_t fault() const {
    ncclResult_t status = ncclSuccess;
    ncclCommGetAsyncError(comm_, &status);
    return status;
  }
  void abort() { ncclCommAbort(std::exchange(comm_, nullptr)); }

 private:
  static ncclDataType_t type_of(DType element) {
    return element == DType::bf16   ? ncclBfloat16
           : element == DType::fp16 ? ncclFloat16
                                    : ncclFloat32;
  }
  /// Where a summand waits; taken at its largest in the first step.
  std::byte* stage(bytes size) {
    if (size > staging_size_) {
      cudaFree(std::exchange(staging_, nullptr));
      check(cudaMalloc(&staging_, std::size_t(size)), "cudaMalloc of a summand");
      staging_size_ = size;
    }
    return static_cast<std::byte*>(staging_);
  }
  void add(void* to, const void* summand, bytes size, DType element) const {
    const auto typed = [&]<class T>(T*) {
      convert(*stream_, static_cast<T*>(to), static_cast<const T*>(summand),
              size / bytes(sizeof(T)), true);
    };
    if (element == DType::bf16)
      typed(static_cast<bf16*>(nullptr));
    else if (element == DType::fp16)
      typed(static_cast<fp16*>(nullptr));
    else
      typed(static_cast<float*>(nullptr));
  }

  ncclComm_t comm_ = nullptr;
  int members_ = 1, me_ = 0;
  std::unique_ptr<DeviceStream> stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  void* staging_ = nullptr;
  bytes staging_size_ = 0;
  TransferName latest_{};
};

}  // namespace cuda

/// What a start of NCCL decides.
struct NcclOptions {
  cuda::SumOrder order = cuda::SumOrder::fixed_tree;
  double deadline = 60;  // seconds of silence after which settle() names the transfer and ends
};

/// Models Communicator on device memory. `Control` gathers small values (Rendezvous, or any other
/// communicator) and lives as long. Every group, and every direction between two pipeline
/// stages, has an NCCL communicator and a stream of its own; start() and wait() put events between
/// those and the backend's stream, and no host ever waits, but in settle().
template <class Control> class Nccl {
 public:
  Nccl(Control& control, Cuda& backend, Grid grid, const NcclOptions& options)
      : control_(control), backend_(backend), grid_(grid), options_(options) {
    require_a_card_for_each_rank(control_, cuda::device_count());
    ncclUniqueId id{};
    if (rank() == 0) cuda::check(ncclGetUniqueId(&id), "ncclGetUniqueId");
    const auto ids = control_.gather(std::as_bytes(std::span(&id, 1)));
    std::memcpy(&id, ids[0].data(), sizeof id);
    ncclComm_t world = nullptr;
    cuda::check(ncclCommInitRank(&world, ranks(), id, rank()), "ncclCommInitRank");
    split(world);
    lane(Group::world) = cuda::Lane(world, ranks(), rank());
  }

  int rank() const { return control_.rank(); }
  int ranks() const { return control_.ranks(); }
  Grid grid() const { return grid_; }

  int start(const Transfer& t) {
    const int which = t.kind == EventKind::collective ? int(t.group) : lane_to(t);
    cuda::Lane& on = lanes_[std::size_t(which)];
    on.start(backend_.stream(), t.name, [&](cudaStream_t stream) {
      if (t.kind == EventKind::send)
        on.send(t.data, t.size, t.peer > rank() ? 1 : 0, stream);
      else if (t.kind == EventKind::receive)
        on.receive(t.data, t.size, t.peer > rank() ? 1 : 0, stream);
      else if (options_.order == cuda::SumOrder::native && splits_evenly(t))
        on.collective(t, stream);
      else
        on.exchanges(t, stream);
    });
    return which;
  }
  void wait(int ticket) { lanes_[std::size_t(ticket)].let_wait(backend_.stream()); }
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) {
    return control_.gather(mine);
  }

  /// Before a host reads a result: ends when every transfer has, and throws Error, naming the
  /// transfer, when a peer died or nothing ended for the deadline.
  void settle() {
    const auto begin = std::chrono::steady_clock::now();
    for (cuda::Lane& on : lanes_)
      while (on.exists() && !on.is_done()) {
        const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
        const ncclResult_t fault = on.fault();
        if (fault != ncclSuccess && fault != ncclInProgress) fail(on, ncclGetErrorString(fault));
        if (waited.count() > options_.deadline) fail(on, "the others said nothing in time");
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
  }

 private:
  // four groups, then two directions to the next stage and two to the one before
  static constexpr int to_next = 4, from_next = 5, to_previous = 6, from_previous = 7;

  cuda::Lane& lane(Group g) { return lanes_[std::size_t(g)]; }
  int lane_to(const Transfer& t) const {
    const bool next = t.peer > rank();
    if (t.kind == EventKind::send) return next ? to_next : to_previous;
    return next ? from_next : from_previous;
  }
  /// NCCL's own reduce_scatter and all_gather take equal chunks only, and it has no all_to_all.
  bool splits_evenly(const Transfer& t) const {
    if (t.collective == Collective::all_to_all) return false;
    return t.collective == Collective::all_reduce ||
           t.size / size_of(t.element) % grid_.size(t.group) == 0;
  }

  /// All ranks split together: one communicator a group, and one for each direction of each pair of
  /// neighbouring stages, pairs that start at an even stage first.
  void split(ncclComm_t world) {
    const Coordinates c = grid_.at(rank());
    for (const Group g : {Group::data, Group::tensor, Group::model})
      if (grid_.size(g) > 1)
        lane(g) =
            cuda::Lane(part(world, grid_.member(g, c, 0)), grid_.size(g), grid_.position(g, c));
    for (const int parity : {0, 1})
      for (const bool down : {true, false}) {
        const bool is_first = c.pipeline % 2 == parity;
        const int first = is_first ? c.pipeline : c.pipeline - 1;
        const bool paired = first >= 0 && first + 1 < grid_.pipeline;
        Coordinates at = c;
        at.pipeline = first;
        if (grid_.pipeline == 1) continue;
        ncclComm_t pair = part(world, paired ? grid_.rank(at) : NCCL_SPLIT_NOCOLOR);
        const int which =
            is_first ? (down ? to_next : from_next) : (down ? from_previous : to_previous);
        if (paired) lanes_[std::size_t(which)] = cuda::Lane(pair, 2, is_first ? 0 : 1);
      }
  }
  ncclComm_t part(ncclComm_t world, int color) const {
    ncclComm_t result = nullptr;
    cuda::check(ncclCommSplit(world, color, rank(), &result, nullptr), "ncclCommSplit");
    return result;
  }

  [[noreturn]] void fail(cuda::Lane& on, const std::string& why) {
    const TransferName name = on.latest();
    for (cuda::Lane& each : lanes_)
      if (each.exists()) each.abort();
    throw Error("rank " + std::to_string(rank()),
                "event " + std::to_string(name.index) + " (" + name.what + ", micro-batch " +
                    std::to_string(name.micro) + ") did not end: " + why,
                "Look at the other ranks' last lines; resume from the last checkpoint");
  }

  Control& control_;
  Cuda& backend_;
  Grid grid_;
  NcclOptions options_;
  std::array<cuda::Lane, 8> lanes_;
};

}  // namespace ctrain
