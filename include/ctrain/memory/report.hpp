/// \file  The plan as a table, beside the rule of thumb that leaves most of it out.   floor 3: memory
#pragma once

#include <ctrain/core/table.hpp>
#include <ctrain/memory/budget.hpp>
#include <ctrain/memory/plan.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// One category of a plan.
struct MemoryRow {
  std::string_view category;
  bytes planned = 0;
  bytes by_formula = 0;  // 0: left out by the formula
};

/// Bytes a parameter takes by the rule of thumb of the article this library answers: weight,
/// gradient and optimizer. It gives 16 in binary32 and 20 in a 16-bit format, where a gradient in
/// binary32 counts as the optimizer's; activations, workspace, copies, the batch and the runtime
/// are in neither.
struct BytesPerParameter {
  int weight = 4, gradient = 4, optimizer = 8;
  constexpr int sum() const { return weight + gradient + optimizer; }
};

// functions --------------------------------------------------------------------------------------

constexpr BytesPerParameter formula_of(Compute compute) {
  return storage_of(compute) == DType::fp32 ? BytesPerParameter{4, 4, 8}
                                            : BytesPerParameter{2, 2, 16};
}

/// The formula's total for a policy's model.
constexpr bytes bytes_by_formula(const Policy& p) {
  return parameters_of(p.model).count() * formula_of(p.precision.compute).sum();
}

/// Categories of a plan, the total last.
constexpr Table<MemoryRow, 10> rows_of(const MemoryPlan& m, const Policy& p) {
  const std::int64_t count = parameters_of(p.model).count();
  const BytesPerParameter formula = formula_of(p.precision.compute);
  Table<MemoryRow, 10> rows;
  rows.add({"parameters", m.parameters.size, count * formula.weight});
  rows.add({"gradients", m.gradients.size, count * formula.gradient});
  rows.add({"optimizer state", m.optimizer_state(), count * formula.optimizer});
  rows.add({"weight copies", m.weight_copies.size});
  rows.add({"activations", m.activations()});
  rows.add({"workspace", m.workspace()});
  rows.add({"batch", m.batch.size});
  if (m.communication.size > 0) rows.add({"communication", m.communication.size});
  rows.add({"runtime", m.runtime});
  rows.add({"total", m.total(), count * formula.sum()});
  return rows;
}

/// "1,257,371,650".
inline std::string with_commas(std::int64_t number) {
  std::string text = std::to_string(number);
  for (int i = int(text.size()) - 3; i > (number < 0 ? 1 : 0); i -= 3)
    text.insert(std::size_t(i), ",");
  return text;
}

/// "25.39" for that many GiB, rounded up, so that a plan over its budget never reads as equal to
/// it.
inline std::string in_GiB(bytes count) {
  const bytes hundredths = count / GiB * 100 + (count % GiB * 100 + GiB - 1) / GiB;
  const std::string part = std::to_string(100 + hundredths % 100);
  return std::to_string(hundredths / 100) + "." + part.substr(1);
}

/// What to write in a policy, for example "batch.packed_tokens = 1024".
inline std::string text_of(const Suggestion& s) {
  const std::string value = std::to_string(s.value);
  const std::string recompute = "recompute = full", plain = "weights = plain";
  const std::string tokens = "batch.packed_tokens = " + value;
  const std::string sentences = "batch.sentences = " + value;
  switch (s.what) {
    case Change::nothing_needed:
      return "nothing";
    case Change::set_zero_stage_to:
      return "zero.stage = " + value;
    case Change::set_batch_packed_tokens_to:
      return tokens;
    case Change::set_batch_sentences_to:
      return sentences;
    case Change::set_weights_to_plain:
      return plain;
    case Change::set_recompute_to_full:
      return recompute;
    case Change::set_recompute_to_full_and_batch_packed_tokens_to:
      return recompute + ", " + tokens;
    case Change::set_recompute_to_full_and_batch_sentences_to:
      return recompute + ", " + sentences;
    case Change::set_recompute_to_full_weights_to_plain_and_batch_packed_tokens_to:
      return recompute + ", " + plain + ", " + tokens;
    case Change::set_recompute_to_full_weights_to_plain_and_batch_sentences_to:
      return recompute + ", " + plain + ", " + sentences;
    case Change::get_a_device_of_GiB:
      return "a device of " + value + " GiB";
  }
  return "";
}

namespace report {

inline std::string left(std::string_view text, std::size_t width) {
  return std::string(text) + std::string(text.size() < width ? width - text.size() : 0, ' ');
}
inline std::string right(std::string_view text, std::size_t width) {
  return std::string(text.size() < width ? width - text.size() : 0, ' ') + std::string(text);
}

}  // namespace report

/// A plan, category by category: bytes, GiB, and what the formula says, or "-" where it says
/// nothing.
inline std::string render(const MemoryPlan& m, const Policy& p) {
  using report::left, report::right;
  const BytesPerParameter formula = formula_of(p.precision.compute);
  std::string text = left("category", 16) + right("bytes", 16) + right("GiB", 8) +
                     right("formula", 9) + "  (GiB at " + std::to_string(formula.weight) + " + " +
                     std::to_string(formula.gradient) + " + " + std::to_string(formula.optimizer) +
                     " bytes a parameter)\n";
  for (const MemoryRow& row : rows_of(m, p))
    text += left(row.category, 16) + right(with_commas(row.planned), 16) +
            right(in_GiB(row.planned), 8) +
            right(row.by_formula > 0 ? in_GiB(row.by_formula) : "-", 9) + "\n";
  return text;
}

}  // namespace ctrain
