/// \file  Ranks with a card each over NCCL: native collectives, or our fixed trees of its messages.   floor 5: backend
#pragma once

#include <ctrain/backend/comm/device_ranks.hpp>
#include <ctrain/backend/comm/rendezvous.hpp>
#include <ctrain/backend/cuda/cuda.cuh>
#include <ctrain/backend/cuda/elementwise.hpp>
#include <ctrain/backend/cuda/launch.cuh>

#include <nccl.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace ctrain {

namespace cuda {

inline void check(ncclResult_t status, const char* call) {
  if (status == ncclSuccess || status == ncclInProgress) return;
  throw Error(std::string("NCCL: ") + call, ncclGetErrorString(status),
              "Run again with NCCL_DEBUG=WARN, which says more");
}

/// Models CollectiveLibrary. Comms do not block: a rank that never comes is waited for where a
/// deadline holds.
class NcclLibrary {
 public:
  using Comm = ncclComm_t;
  using Stream = cudaStream_t;
  using Event = cudaEvent_t;

  /// Streams that share one of a card's queues wait for each other, and then for ranks that wait
  /// for them: each lane and the step's own want one. It is 8 unless someone says otherwise before
  /// the first use of a card.
  NcclLibrary() { setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0); }

  static std::vector<std::string> cards() {
    std::vector<std::string> names;
    for (int card = 0; card < device_count(); ++card) {
      char name[32] = {};
      check(cudaDeviceGetPCIBusId(name, sizeof name, card), "cudaDeviceGetPCIBusId");
      names.emplace_back(name);
    }
    return names;
  }
  static void select(int card) { select_device(card); }

  static std::vector<std::byte> make_id() {
    ncclUniqueId id{};
    check(ncclGetUniqueId(&id), "ncclGetUniqueId");
    std::vector<std::byte> content(sizeof id);
    std::memcpy(content.data(), &id, sizeof id);
    return content;
  }
  static Comm join(std::span<const std::byte> of, int ranks, int rank, const CommOptions& o) {
    ncclUniqueId id{};
    std::memcpy(&id, of.data(), sizeof id);
    ncclConfig_t config = config_with(o);
    Comm comm = nullptr;
    check(ncclCommInitRankConfig(&comm, ranks, id, rank, &config), "ncclCommInitRankConfig");
    wait_for_start(comm, "ncclCommInitRankConfig");
    return comm;
  }
  static Comm split(Comm whole, int color, int key, const CommOptions& o) {
    ncclConfig_t config = config_with(o);
    Comm part = nullptr;
    check(ncclCommSplit(whole, color < 0 ? NCCL_SPLIT_NOCOLOR : color, key, &part, &config),
          "ncclCommSplit");
    wait_for_start(whole, "ncclCommSplit");
    return part;
  }
  /// What is not flushed within a moment is left to the end of the process.
  static void close(Comm comm) {
    ncclCommFinalize(comm);
    const auto begin = std::chrono::steady_clock::now();
    while (is_busy(comm) && std::chrono::steady_clock::now() - begin < std::chrono::seconds(10))
      std::this_thread::yield();
    ncclCommDestroy(comm);
  }
  /// As a group: each is told to stop before one is waited for, whatever order their kernels are
  /// in.
  static void abort(std::span<const Comm> comms) {
    ncclGroupStart();
    for (const Comm comm : comms) ncclCommAbort(comm);
    ncclGroupEnd();
  }
  static bool is_busy(Comm comm) { return status_of(comm) == ncclInProgress; }
  static std::string fault(Comm comm) {
    const ncclResult_t status = status_of(comm);
    if (status == ncclSuccess || status == ncclInProgress) return "";
    return std::string("NCCL: ") + ncclGetErrorString(status);
  }

  static Stream make_stream(const char*) {
    Stream stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    return stream;
  }
  static Event make_event() {
    Event event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    return event;
  }
  static void destroy(Stream stream) { cudaStreamDestroy(stream); }
  static void destroy(Event event) { cudaEventDestroy(event); }
  static void record(Event event, Stream stream) {
    check(cudaEventRecord(event, stream), "cudaEventRecord");
  }
  static void wait(Stream stream, Event event) {
    check(cudaStreamWaitEvent(stream, event), "cudaStreamWaitEvent");
  }
  static bool is_done(Event event) {
    return is_over(cudaEventQuery(event), "cudaEventQuery, which tells of a kernel");
  }
  static bool is_idle(Stream stream) {
    return is_over(cudaStreamQuery(stream), "cudaStreamQuery, which tells of a kernel");
  }
  static bool is_capturing(Stream stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
    return status != cudaStreamCaptureStatusNone;
  }
  static void forget_capture(Stream stream) {
    cudaGraph_t recorded = nullptr;
    cudaStreamEndCapture(stream, &recorded);
    if (recorded != nullptr) cudaGraphDestroy(recorded);
  }

  static void all_reduce(Comm comm, Stream stream, void* data, std::int64_t count, DType element) {
    check(ncclAllReduce(data, data, std::size_t(count), type_of(element), ncclSum, comm, stream),
          "ncclAllReduce");
  }
  static void reduce_scatter(Comm comm, Stream stream, const void* from, void* to,
                             std::int64_t count, DType element) {
    check(ncclReduceScatter(from, to, std::size_t(count), type_of(element), ncclSum, comm, stream),
          "ncclReduceScatter");
  }
  static void all_gather(Comm comm, Stream stream, const void* from, void* to, std::int64_t count,
                         DType element) {
    check(ncclAllGather(from, to, std::size_t(count), type_of(element), comm, stream),
          "ncclAllGather");
  }
  static void begin_group() { check(ncclGroupStart(), "ncclGroupStart"); }
  static void end_group() { check(ncclGroupEnd(), "ncclGroupEnd"); }
  static void send(Comm comm, Stream stream, const void* from, bytes size, int to) {
    check(ncclSend(from, std::size_t(size), ncclUint8, to, comm, stream), "ncclSend");
  }
  static void receive(Comm comm, Stream stream, void* to, bytes size, int from) {
    check(ncclRecv(to, std::size_t(size), ncclUint8, from, comm, stream), "ncclRecv");
  }
  static void add(Stream stream, void* to, const void* summand, bytes size, DType element) {
    DeviceStream on(stream);
    const auto typed = [&]<class T>(const T* from) {
      convert(on, static_cast<T*>(to), from, size / bytes(sizeof(T)), true);
    };
    if (element == DType::bf16)
      typed(static_cast<const bf16*>(summand));
    else if (element == DType::fp16)
      typed(static_cast<const fp16*>(summand));
    else
      typed(static_cast<const float*>(summand));
  }

 private:
  /// Until then NCCL may still write the handle that it was asked for.
  static void wait_for_start(Comm comm, const char* call) {
    constexpr auto most = std::chrono::minutes(5);
    const auto begin = std::chrono::steady_clock::now();
    while (is_busy(comm)) {
      if (std::chrono::steady_clock::now() - begin > most)
        throw Error(std::string("NCCL: ") + call, "not all ranks came within five minutes",
                    "Look at the other ranks' last lines; run again with NCCL_DEBUG=INFO");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    check(status_of(comm), call);
  }
  static ncclConfig_t config_with(const CommOptions& options) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.maxCTAs = options.most_blocks;
    return config;
  }
  static ncclResult_t status_of(Comm comm) {
    ncclResult_t status = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &status);
    return asked == ncclSuccess ? status : asked;
  }
  static bool is_over(cudaError_t status, const char* call) {
    if (status != cudaErrorNotReady) check(status, call);
    return status == cudaSuccess;
  }
  static ncclDataType_t type_of(DType element) {
    return element == DType::bf16   ? ncclBfloat16
           : element == DType::fp16 ? ncclFloat16
                                    : ncclFloat32;
  }
};

static_assert(CollectiveLibrary<NcclLibrary>);

}  // namespace cuda

/// The communicator of a rank with a card of its own, in a process that torchrun, mpirun or srun
/// started: Trainer<P, Cuda, Nccl>(communicator). NcclOver<Mpi> meets over MPI instead of a socket.
template <class Control> using NcclOver = DeviceRanks<cuda::NcclLibrary, Control>;
using Nccl = NcclOver<Rendezvous>;

}  // namespace ctrain
