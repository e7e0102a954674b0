/// \file  A backend that has no device: it lists what one would be given, with bytes and arithmetic.   floor 5: backend
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/cuda/kernel_calls.hpp>
#include <ctrain/core/units.hpp>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include <cxxabi.h>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// One thing that a device is given. A kernel's bytes are what its call must read and write, once;
/// of several kernels that make up a call the last has them all.
struct DeviceWork {
  enum class Kind : std::uint8_t { kernel, product, copy, transfer, event };
  Kind kind = Kind::kernel;
  std::string what;
  std::int64_t blocks = 0;
  int threads = 0, shared = 0;  // of a block
  double bytes_moved = 0;       // memory; of a transfer: what this rank sends
  double flops = 0;             // multiplications and additions of products and attention
  DType operand = DType::fp32;  // of a product

  friend bool operator==(const DeviceWork&, const DeviceWork&) = default;
};

namespace dry_run {

/// Addresses that nobody follows, aligned as a device's are.
class Space {
 public:
  explicit Space(bytes size) : size_(size) {}
  std::byte* at(bytes offset, bytes count) {
    if (offset + count > high_water_) high_water_ = offset + count;
    return base() + offset;
  }
  std::byte* base() const { return reinterpret_cast<std::byte*>(std::uintptr_t{1} << 44); }
  bytes size() const { return size_; }
  bytes high_water() const { return high_water_; }

 private:
  bytes size_ = 0, high_water_ = 0;
};

/// The name of a kernel with its arguments, without namespaces.
template <class K> std::string name_of_kernel() {
  char* text = abi::__cxa_demangle(typeid(K).name(), nullptr, nullptr, nullptr);
  std::string name(text);
  std::free(text);
  constexpr std::pair<const char*, const char*> shorter[] = {
      {"ctrain::cuda::", ""},
      {"ctrain::", ""},
      {"(Activation)0", "gelu_erf"},
      {"(Activation)1", "gelu_tanh"},
      {"(OptimizerKind)0", "adamw_torch"},
      {"(OptimizerKind)1", "adamw_hugging_face"}};
  for (const auto& [text_there, text_here] : shorter)
    for (std::size_t at; (at = name.find(text_there)) != std::string::npos;)
      name.replace(at, std::strlen(text_there), text_here);
  return name;
}

/// Models cuda::Stream.
class Launches {
 public:
  explicit Launches(std::vector<DeviceWork>& log) : log_(log) {}
  template <class T> T* scratch(std::int64_t) const {
    return reinterpret_cast<T*>(std::uintptr_t{1} << 45);
  }
  template <cuda::Kernel K> void launch(const K& kernel) {
    if (kernel.blocks() <= 0) return;
    log_.push_back({.kind = DeviceWork::Kind::kernel,
                    .what = name_of_kernel<K>(),
                    .blocks = kernel.blocks(),
                    .threads = K::threads,
                    .shared = cuda::shared_bytes_of(kernel)});
  }

 private:
  std::vector<DeviceWork>& log_;
};
static_assert(cuda::Stream<Launches>);

inline const char* word(cuda::Epilogue e) {
  switch (e) {
    case cuda::Epilogue::bias:
      return " + bias";
    case cuda::Epilogue::bias_gelu:
      return " + bias, gelu";
    case cuda::Epilogue::gelu_slope:
      return " * gelu slope";
    case cuda::Epilogue::sums_of_b:
      return ", bias gradient";
    default:
      return "";
  }
}
inline const char* word(DType type) {
  return type == DType::bf16 ? "bf16" : type == DType::fp16 ? "fp16" : "fp32";
}

/// Models cuda::ProductLibrary: one that has a kernel for every shape.
class Products {
 public:
  explicit Products(std::vector<DeviceWork>& log) : log_(log) {}
  bool try_to_run(const cuda::ProductShape& s, const cuda::ProductOperands& on) {
    run(s, on);
    return true;
  }
  void run(const cuda::ProductShape& s, const cuda::ProductOperands&) {
    if (s.m == 0 || s.n == 0) return;
    met_.insert(s);
    const auto size = [](double rows, double cols, DType type) {
      return rows * cols * size_of(type);
    };
    const bool two_results = s.epilogue == cuda::Epilogue::bias_gelu ||
                             s.epilogue == cuda::Epilogue::gelu_slope || s.accumulate;
    log_.push_back({.kind = DeviceWork::Kind::product,
                    .what = std::string(word(s.result)) + " (" + std::to_string(s.m) + ", " +
                            std::to_string(s.n) + ") " + (s.accumulate ? "+= " : "= ") +
                            word(s.operand) + " over " + std::to_string(s.k) +
                            (s.transpose_a ? " T" : " N") + (s.transpose_b ? "T" : "N") +
                            word(s.epilogue),
                    .bytes_moved = size(s.m, s.k, s.operand) + size(s.k, s.n, s.operand) +
                                   size(s.m, s.n, s.result) * (two_results ? 2 : 1),
                    .flops = 2.0 * s.m * s.n * s.k,
                    .operand = s.operand});
  }
  const std::set<cuda::ProductShape>& met() const { return met_; }

 private:
  std::vector<DeviceWork>& log_;
  std::set<cuda::ProductShape> met_;
};
static_assert(cuda::ProductLibrary<Products>);

// what calls cost --------------------------------------------------------------------------------

struct CallCost {
  double bytes_moved = 0, flops = 0;
};

template <class T> double elements(int rows, int cols) {
  return double(rows) * cols * sizeof(T);
}
inline CallCost cost_of(const Clear& c) {
  return {double(c.size)};
}
inline CallCost cost_of(const EmbedForward& c) {
  return {4 * elements<float>(c.batch.rows, c.hidden)};
}
inline CallCost cost_of(const EmbedBackward& c) {  // three tables are written whole
  return {3 * elements<float>(c.batch.rows, c.hidden) +
          elements<float>(c.vocabulary + c.positions + c.token_types, c.hidden)};
}
template <class T> CallCost cost_of(const LayerNormForward<T>& c) {
  return {elements<float>(c.rows, c.hidden + 2) + elements<T>(c.rows, c.hidden)};
}
template <class T> CallCost cost_of(const LayerNormBackward<T>& c) {  // read for rows and columns
  return {elements<float>(c.rows, (c.accumulate_input ? 4 : 3) * c.hidden) +
          2 * elements<T>(c.rows, c.hidden)};
}
inline CallCost cost_of(const DropoutForward& c) {
  return {2 * elements<float>(c.rows, c.cols)};
}
template <class T> CallCost cost_of(const DropoutAddForward<T>& c) {
  return {2 * elements<float>(c.rows, c.hidden) + elements<T>(c.rows, c.hidden)};
}
template <class T> CallCost cost_of(const DropoutAddBackward<T>& c) {
  return {elements<float>(c.rows, c.hidden) + elements<T>(c.rows, c.hidden)};
}
/// What the second call reads has just been written.
template <class T, class Y> CallCost cost_of(const DropoutAddLayerNormForward<T, Y>& c) {
  return {cost_of(c.add).bytes_moved + cost_of(c.norm).bytes_moved -
          elements<float>(c.add.rows, c.add.hidden)};
}
template <class T, class Y> CallCost cost_of(const LayerNormDropoutAddBackward<T, Y>& c) {
  return {cost_of(c.norm).bytes_moved + cost_of(c.add).bytes_moved -
          elements<float>(c.add.rows, c.add.hidden)};
}
template <class T> CallCost cost_of(const CastForward<T>& c) {
  return {elements<float>(c.rows, c.cols) + elements<T>(c.rows, c.cols)};
}
template <class T> CallCost cost_of(const CastBackward<T>& c) {
  return {elements<float>(c.rows, (c.accumulate_input ? 2 : 1) * c.cols) +
          elements<T>(c.rows, c.cols)};
}
template <class T> CallCost cost_of(const GeluForward<T>& c) {
  return {2 * elements<T>(c.rows, c.cols)};
}
template <class T> CallCost cost_of(const GeluBackward<T>& c) {
  return {3 * elements<T>(c.rows, c.cols)};
}
template <class T> CallCost cost_of(const PrepareWeight<T>& c) {
  return {elements<float>(c.out, c.in) + elements<T>(c.out, c.in)};
}
/// Every row attends `length` keys: exact for padded batches, a bound for packed ones.
template <class T> CallCost cost_of(const AttentionForward<T>& c) {
  const int hidden = c.heads * c.head_size;
  return {4 * elements<T>(c.batch.rows, hidden), 4.0 * c.batch.rows * c.length * hidden};
}
template <class T> CallCost cost_of(const AttentionBackward<T>& c) {  // five products, two twice
  const int hidden = c.heads * c.head_size;
  return {8 * elements<T>(c.batch.rows, hidden), 14.0 * c.batch.rows * c.length * hidden};
}
inline CallCost cost_of(const SelectFirstForward& c) {
  return {2 * elements<float>(c.batch.sentences, c.hidden)};
}
inline CallCost cost_of(const SelectFirstBackward& c) {
  return {elements<float>(c.batch.rows, c.hidden)};
}
inline CallCost cost_of(const TanhForward& c) {
  return {2 * elements<float>(c.rows, c.cols)};
}
inline CallCost cost_of(const TanhBackward& c) {
  return {3 * elements<float>(c.rows, c.cols)};
}
inline CallCost cost_of(const CrossEntropyForward& c) {
  return {elements<float>(c.batch.sentences, c.labels + 2)};
}
inline CallCost cost_of(const CrossEntropyBackward& c) {
  return {2 * elements<float>(c.batch.sentences, c.labels)};
}
template <class G> CallCost cost_of(const SumOfSquaresOf<G>& c) {
  return {double(c.count) * sizeof(G)};
}
template <class G> CallCost cost_of(const AdamWUpdateOf<G>& c) {
  return {double(c.count) * (24 + sizeof(G))};
}
template <class T, class G> CallCost cost_of(const AdamWUpdateAndPrepare<T, G>& c) {
  return {cost_of(c.update).bytes_moved + double(c.update.count) * sizeof(T)};
}
/// Products say themselves what they cost.
template <class Call> CallCost cost_of(const Call&) {
  return {};
}

}  // namespace dry_run

// templates --------------------------------------------------------------------------------------

/// Models Backend, and goes through the same code as Cuda on the way to a kernel: what it lists is
/// what Cuda launches. What it is asked to read is what was written to that very address before, or
/// 0.
class DryRun {
 public:
  using Arena = dry_run::Space;
  using Recording = std::vector<DeviceWork>;
  using Staging = std::vector<std::byte>;
  static constexpr bool joins_calls = true;

  DryRun() : launches_(log_), products_(log_), calls_(launches_, products_, true) {}
  DryRun(const DryRun&) = delete;
  DryRun& operator=(const DryRun&) = delete;

  int workers() const { return 1; }
  /// Its name, for who orders something against it; what is held back goes first, as with Cuda.
  std::string stream() {
    calls_.flush();
    return "backend's stream";
  }
  static void before_waiting(const std::function<void()>&) {}
  void read(void* host, const void* device, bytes count) {
    std::vector<std::byte>& memory = written_[device];
    memory.resize(std::size_t(count));
    std::memcpy(host, memory.data(), memory.size());
    add({.kind = DeviceWork::Kind::copy, .what = "device to host", .bytes_moved = double(count)});
  }
  void write(void* device, const void* host, bytes count) {
    const auto* from = static_cast<const std::byte*>(host);
    written_[device].assign(from, from + count);
    add({.kind = DeviceWork::Kind::copy, .what = "host to device", .bytes_moved = double(count)});
  }
  /// As if others had written it there.
  void pretend(const void* device, std::span<const std::byte> content) {
    written_[device].assign(content.begin(), content.end());
  }
  template <cuda::RunsOnDevice<dry_run::Launches> Call> void run(const Call& call) {
    const std::size_t before = log_.size();
    calls_.run(call);
    if (log_.size() == before || log_.back().kind != DeviceWork::Kind::kernel) return;
    const dry_run::CallCost cost = dry_run::cost_of(call);
    log_.back().bytes_moved = cost.bytes_moved, log_.back().flops = cost.flops;
  }
  /// A recorded step is listed where it is replayed, between two events.
  template <class Body> Recording capture(Body&& body) {
    Recording before = take();
    body();
    calls_.flush();
    return std::exchange(log_, std::move(before));
  }
  void replay(const Recording& graph) {
    add({.kind = DeviceWork::Kind::event,
         .what = "a graph of " + std::to_string(graph.size()) + " nodes begins"});
    log_.insert(log_.end(), graph.begin(), graph.end());
    add({.kind = DeviceWork::Kind::event, .what = "the graph ends"});
  }
  Staging staging(bytes size) const { return Staging(std::size_t(size)); }
  void write_later(void* device, const std::byte* staged, bytes count) {
    write(device, staged, count);
  }
  void read_later(std::byte* staged, const void* device, bytes count) {
    read(staged, device, count);
  }
  void synchronize() {}

  /// Something that is no call: a transfer, an event.
  void add(DeviceWork work) {
    calls_.flush();
    log_.push_back(std::move(work));
  }
  /// Shapes of all products so far.
  const std::set<cuda::ProductShape>& products() const { return products_.met(); }
  /// Everything so far, in order; the list is empty again.
  std::vector<DeviceWork> take() {
    calls_.flush();
    return std::exchange(log_, {});
  }

 private:
  std::vector<DeviceWork> log_;
  std::map<const void*, std::vector<std::byte>> written_;
  dry_run::Launches launches_;
  dry_run::Products products_;
  cuda::KernelCalls<dry_run::Launches, dry_run::Products> calls_;
};

static_assert(Replays<DryRun> && JoinsCalls<DryRun>);

}  // namespace ctrain
