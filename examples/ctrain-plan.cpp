// What a step needs: every preset model in two precisions and three batch shapes, on GPUs of 24, 40
// and 80 GB. "formula" is the rule of thumb of 16 (fp32) or 20 (bf16) bytes a parameter. With
// --full, each plan category by category; with --graph, what the step does, op by op; with
// --offload, what each way of offloading needs, moves and takes.
#include <ctrain/check.hpp>
#include <ctrain/schedule/streaming_report.hpp>

#include <cstdio>
#include <map>
#include <string>
#include <vector>

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

constexpr OffloadTo none = OffloadTo::none, host = OffloadTo::host, disk = OffloadTo::disk;

/// Every choice of homes, clipping in the next step; then what else one can choose.
std::vector<Offload> offloads() {
  std::vector<Offload> all;
  for (const OffloadTo optimizer : {host, disk})
    for (const OffloadTo parameters : {none, host, disk})
      for (const OffloadTo activations : {none, host, disk})
        if (parameters <= optimizer)
          all.push_back({.optimizer = optimizer,
                         .parameters = parameters,
                         .activations = activations,
                         .clipping = OffloadClipping::deferred});
  Offload other{.optimizer = disk,
                .gradients = host,
                .parameters = host,
                .activations = host,
                .clipping = OffloadClipping::deferred};
  all.push_back(other);
  for (const OffloadTo home : {host, disk})
    all.push_back({.optimizer = home, .parameters = home, .activations = host});
  other = {.optimizer = host,
           .parameters = host,
           .activations = host,
           .clipping = OffloadClipping::deferred,
           .unit = StreamBy::matrix,
           .buffers = 1};
  all.push_back(other);
  return all;
}

std::string name_of(const Offload& o) {
  const auto word = [](OffloadTo to) {
    return std::string(to == none ? "stays" : to == host ? "host " : "disk ");
  };
  std::string name =
      word(o.optimizer) + "     " + word(o.parameters) + "      " + word(o.activations) + "      ";
  if (o.gradients != none) name += " gradients " + word(o.gradients);
  if (o.clipping == OffloadClipping::second_pass) name += " second pass";
  if (o.unit == StreamBy::matrix) name += " one matrix";
  return name;
}

void print_offloads(const std::string& name, const ModelShape& model, const StreamRates& rates) {
  std::printf(
      "%s, bf16, one sentence of %d, recompute, exact AdamW with clipping in the next step, two "
      "buffers of a block\n%s",
      name.c_str(), model.positions,
      stream_header("optimizer parameters activations   (GiB)").c_str());
  for (const Offload& o : offloads())
    std::printf("%s", render_stream(name_of(o),
                                    {.model = model,
                                     .batch = {.sentences = 1, .length = model.positions},
                                     .precision = {Compute::bf16, Compute::bf16},
                                     .recompute = Recompute::full,
                                     .offload = o,
                                     .device = gpu_24gb},
                                    rates)
                          .c_str());
  std::printf(
      "at %.0f TFLOP/s and %.0f GB/s on the device, %.0f GB/s each way on the link, %.0f GB/s "
      "of host memory, disk reads %.1f and writes %.1f GB/s\n\n",
      rates.flops / 1e12, rates.device_bytes / 1e9, rates.down / 1e9, rates.host_bytes / 1e9,
      rates.read / 1e9, rates.written / 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Prints what a step of each preset needs, and whether it fits."};
  std::string only;
  bool full = false, graph = false, offload = false;
  StreamRates rates;
  double link = rates.down / 1e9, memory = rates.host_bytes / 1e9, read = rates.read / 1e9,
         write = rates.written / 1e9;
  app.add_option("--model", only, "only this preset")->check(CLI::IsMember(models));
  app.add_flag("--full", full, "every plan category by category");
  app.add_flag("--graph", graph, "the tables of ops instead of plans");
  app.add_flag("--offload", offload, "each way of offloading instead of plans");
  app.add_option("--link", link, "GB/s each way between host and device");
  app.add_option("--host", memory, "GB/s of host memory");
  app.add_option("--read", read, "GB/s that the disk reads");
  app.add_option("--write", write, "GB/s that the disk writes");
  CLI11_PARSE(app, argc, argv);
  rates.down = rates.up = link * 1e9, rates.host_bytes = memory * 1e9;
  rates.read = read * 1e9, rates.written = write * 1e9;
  for (const auto& [name, model] : models)
    if (only.empty() || only == name)
      offload ? print_offloads(name, model, rates)
      : graph ? print_graphs(name, model)
              : print_model(name, model, full);
  return 0;
}
