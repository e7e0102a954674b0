// What a step does to memory, one 64-byte line at a time: every block of the expanded step is
// walked over a shadow of the arena in which each line remembers the value that was written last.
// It shares no code with lifetimes.hpp and proof.hpp, which it checks.
#pragma once

#include <ctrain/memory/plan.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

class ShadowStep {
 public:
  ShadowStep(const ctrain::Graph& g, const ctrain::Policy& p, const ctrain::MemoryPlan& m)
      : graph_(g), policy_(p), plan_(m), lines_(std::size_t(m.step.size / line), -1) {}

  /// Walks the whole step. True iff every op read what was written for it.
  bool run() {
    const int layers = policy_.model.layers;
    walk(graph_.forward_embedding, 0);
    for (int layer = 0; layer < layers; ++layer) walk(graph_.forward_block, layer);
    walk(graph_.forward_head, layers);
    const ctrain::Op loss = graph_.forward_head.ops[graph_.forward_head.ops.size - 1];
    walk(graph_.backward_head, layers);
    for (int layer = layers - 1; layer >= 0; --layer) {
      if (policy_.recompute == ctrain::Recompute::full) walk(graph_.recompute_block, layer);
      walk(graph_.backward_block, layer);
    }
    walk(graph_.backward_embedding, 0);
    for (int k : {0, 1}) read(loss.outputs[k], layers);
    return fault_.empty();
  }

  const std::string& fault() const { return fault_; }

  /// Most bytes that held values still to be read, over all moments.
  ctrain::bytes most_alive() const {
    ctrain::bytes worst = 0;
    for (int now = 0; now < time_; ++now) {
      ctrain::bytes alive = 0;
      for (const Value& v : values_)
        if (v.written <= now && now <= v.last_read) alive += v.size;
      worst = std::max(worst, alive);
    }
    return worst;
  }

 private:
  static constexpr ctrain::bytes line = 64;
  struct Value {
    int written = 0, last_read = 0;
    ctrain::bytes size = 0;
  };
  struct Range {
    ctrain::bytes first = 0, end = 0;  // lines
    bool touches(const Range& other) const { return first < other.end && other.first < end; }
  };
  using Key = std::pair<int, int>;  // tensor, instance

  const ctrain::Tensor& tensor(ctrain::Operand x) const { return graph_.tensors[x.tensor]; }

  /// Which of a tensor's values is meant: the gradient of the stream is handed from block to block.
  Key key(ctrain::Operand x, int layer) const {
    if (x.tensor == graph_.d_stream) return {x.tensor, 0};
    return {x.tensor, tensor(x).is_stream ? layer + x.shift : layer};
  }
  /// Lines of the tensor's place, found as the executor finds it (MemoryMap::tensor).
  Range place(ctrain::Operand x, int layer) const {
    const ctrain::Placement& at = plan_.tensors[x.tensor];
    const int instance = tensor(x).is_stream ? layer + x.shift : layer;
    const ctrain::bytes offset =
        at.offset + (at.per_block ? instance * plan_.slot : 0) - plan_.step.offset;
    return {offset / line, (offset + bytes_of(x)) / line};
  }
  ctrain::bytes bytes_of(ctrain::Operand x) const {
    const ctrain::Tensor& t = tensor(x);
    const ctrain::bytes tokens =
        policy_.batch.rows() / (t.spread == ctrain::Spread::rows ? policy_.parallel.tensor : 1);
    const ctrain::bytes rows = t.rows == ctrain::Rows::tokens      ? tokens
                               : t.rows == ctrain::Rows::sentences ? policy_.batch.sentence_bound()
                                                                   : policy_.device.workers;
    return (rows * t.cols * ctrain::size_of(t.type) + line - 1) / line * line;
  }
  bool is_inside(Range r) const { return 0 <= r.first && r.end <= ctrain::bytes(lines_.size()); }

  void say(const std::string& what, ctrain::Operand x, int layer) {
    if (fault_.empty())
      fault_ = "op " + std::to_string(time_) + ": '" + std::string(tensor(x).name) + "' of layer " +
               std::to_string(layer) + " " + what;
  }

  void read(ctrain::Operand x, int layer) {
    const Range r = place(x, layer);
    const auto found = latest_.find(key(x, layer));
    if (found == latest_.end()) return say("is read before it is written", x, layer);
    if (!is_inside(r)) return say("stands outside", x, layer);
    values_[std::size_t(found->second)].last_read = time_;
    for (ctrain::bytes i = r.first; i < r.end; ++i)
      if (lines_[std::size_t(i)] != found->second) return say("was overwritten", x, layer);
  }
  void write(ctrain::Operand x, int layer) {
    const Range r = place(x, layer);
    if (!is_inside(r)) return say("stands outside", x, layer);
    const int value = int(values_.size());
    values_.push_back({time_, time_, bytes_of(x)});
    latest_[key(x, layer)] = value;
    std::fill(lines_.begin() + r.first, lines_.begin() + r.end, value);
  }
  /// The same value under a changed content: what an op does in place.
  void rewrite(ctrain::Operand x, int layer) { read(x, layer); }

  void walk(const ctrain::Program& program, int layer) {
    for (int i = 0; i < program.ops.size && fault_.empty(); ++i, ++time_)
      step(program.ops[i], layer);
  }
  void step(const ctrain::Op& op, int layer) {
    std::vector<ctrain::Operand> inputs, outputs;
    for (const ctrain::Operand& x : op.inputs)
      if (x.tensor != ctrain::no_tensor) inputs.push_back(x);
    for (const ctrain::Operand& y : op.outputs)
      if (y.tensor != ctrain::no_tensor) outputs.push_back(y);
    for (const ctrain::Operand& x : inputs) read(x, layer);
    for (const ctrain::Operand& y : outputs) {
      for (const ctrain::Operand& x : inputs)
        if (!(x == y) && place(x, layer).touches(place(y, layer)))
          say("is written while it is read", y, layer);
      for (const ctrain::Operand& z : outputs)
        if (!(z == y) && place(z, layer).touches(place(y, layer)))
          say("is written twice at once", y, layer);
    }
    for (std::size_t k = 0; k < outputs.size(); ++k) {
      const bool in_place = std::find(inputs.begin(), inputs.end(), outputs[k]) != inputs.end();
      const bool adds = k == 0 && op.accumulate_input;
      in_place || adds ? rewrite(outputs[k], layer) : write(outputs[k], layer);
    }
  }

  const ctrain::Graph& graph_;
  const ctrain::Policy& policy_;
  const ctrain::MemoryPlan& plan_;
  std::vector<int> lines_;  // the value that each line holds, -1 at the start
  std::vector<Value> values_;
  std::map<Key, int> latest_;
  std::string fault_;
  int time_ = 0;
};
