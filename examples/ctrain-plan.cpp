// What a step needs: every preset model in two precisions and three batch shapes, on GPUs of 24, 40
// and 80 GB. "formula" is the rule of thumb of 16 (fp32) or 20 (bf16) bytes a parameter. With
// --full, each plan category by category; with --graph, what the step does, op by op.
#include <ctrain/check.hpp>

#include <cstdio>
#include <map>
#include <string>

#include <CLI/CLI.hpp>

namespace {

using namespace ctrain;

const std::map<std::string, ModelShape> models{{"erlangshen_1b3", erlangshen_1b3},
                                               {"erlangshen_3b9", erlangshen_3b9},
                                               {"bert_base_chinese", bert_base_chinese},
                                               {"megatron_bert_mini", megatron_bert_mini}};

struct NamedDevice {
  const char* name;
  Device device;
};
constexpr NamedDevice devices[] = {{"24 GB", gpu_24gb}, {"40 GB", a100_40gb}, {"80 GB", a100_80gb}};

std::string text_of(const Batch& b) {
  return b.packed() ? "packed " + std::to_string(b.packed_tokens)
                    : "padded " + std::to_string(b.sentences) + " x " + std::to_string(b.length);
}

std::string verdict(const Policy& p) {
  const Suggestion fix = cheapest_fix(p);
  if (fix.what == Change::nothing_needed) return "fits";
  return text_of(fix) + " (" + in_GiB(fix.total) + ")";
}

void print_row(Policy p, bool full) {
  p.device = devices[0].device;  // all three reserve the same
  const MemoryPlan plan = plan_memory(p);
  std::string compute = p.precision.compute == Compute::fp32 ? "fp32" : "bf16";
  std::string batch = text_of(p.batch), needs = in_GiB(plan.total()),
              formula = in_GiB(bytes_by_formula(p));
  for (const NamedDevice& d : devices) {
    p.device = d.device;
    std::printf("%-8s %-15s %7s %8s   %s  %s\n", compute.c_str(), batch.c_str(), needs.c_str(),
                formula.c_str(), d.name, verdict(p).c_str());
    compute = batch = needs = formula = "";
  }
  if (full) std::printf("\n%s\n", render(plan, p).c_str());
}

void print_model(const std::string& name, const ModelShape& model, bool full) {
  const ParameterTable parameters = parameters_of(model);
  std::printf("%s: %s parameters in %d tensors\n", name.c_str(),
              with_commas(parameters.count()).c_str(), parameters.tensors());
  std::printf("%-8s %-15s %7s %8s   %s\n", "compute", "batch", "GiB", "formula",
              "on     fits, or the cheapest change that does");
  const int longest = model.positions;
  for (const Compute compute : {Compute::fp32, Compute::bf16})
    for (const Batch& batch : {Batch{.sentences = 4, .length = longest},
                               Batch{.packed_tokens = 2048}, Batch{.packed_tokens = 512}})
      print_row({.model = model, .batch = batch, .precision = {compute}}, full);
  std::printf("\n");
}

void print_graphs(const std::string& name, const ModelShape& model) {
  for (const Compute compute : {Compute::fp32, Compute::bf16}) {
    const Policy p{.model = model, .batch = {.packed_tokens = 2048}, .precision = {compute}};
    std::printf("%s in %s\n\n%s\n", name.c_str(), compute == Compute::fp32 ? "fp32" : "bf16",
                render(derive_graph(p)).c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Prints what a step of each preset needs, and whether it fits."};
  std::string only;
  bool full = false, graph = false;
  app.add_option("--model", only, "only this preset")->check(CLI::IsMember(models));
  app.add_flag("--full", full, "every plan category by category");
  app.add_flag("--graph", graph, "the tables of ops instead of plans");
  CLI11_PARSE(app, argc, argv);
  for (const auto& [name, model] : models)
    if (only.empty() || only == name)
      graph ? print_graphs(name, model) : print_model(name, model, full);
}
