// Every CUDA kernel, emulated on a host, gives what the reference gives.
#include <filesystem>
#include <fstream>
#include <regex>

#include "attentions.hpp"
#include "model_ends.hpp"
#include "products.hpp"
#include "row_programs.hpp"
#include "rows.hpp"
#include "updates.hpp"

using namespace ctrain;

TEMPLATE_TEST_CASE("cuda.emulated.layer_norm_agrees", "", float, bf16, fp16) {
  emulation::layer_norm_agrees<TestType>();
}

TEMPLATE_TEST_CASE("cuda.emulated.dropout_has_the_same_bits", "", float, bf16, fp16) {
  emulation::dropout_agrees<TestType>();
}

TEMPLATE_TEST_CASE("cuda.emulated.casts_and_gelu_agree", "", float, bf16, fp16) {
  emulation::elements_agree<TestType>();
}

TEMPLATE_TEST_CASE("cuda.emulated.bias_gradients_agree", "", float, bf16, fp16) {
  emulation::bias_gradient_agrees<TestType>();
}

TEMPLATE_TEST_CASE("cuda.emulated.attention_agrees", "", float, bf16, fp16) {
  emulation::attention_agrees<TestType>();
}

TEST_CASE("cuda.emulated.tanh_agrees") {
  emulation::tanh_agrees();
}

TEST_CASE("cuda.emulated.clear_agrees") {
  emulation::clear_agrees();
}

TEST_CASE("cuda.emulated.copy_agrees") {
  emulation::copy_agrees();
}

TEST_CASE("cuda.emulated.embedding_has_the_same_bits") {
  emulation::embedding_agrees();
}

TEST_CASE("cuda.emulated.head_agrees") {
  emulation::head_agrees();
}

TEMPLATE_TEST_CASE("cuda.emulated.sum_of_squares_has_the_same_bits", "", float, bf16, fp16) {
  emulation::sum_of_squares_agrees<TestType>();
}

TEMPLATE_TEST_CASE("cuda.emulated.adamw_agrees", "", float, bf16, fp16) {
  emulation::adamw_agrees<TestType>();
}

TEMPLATE_TEST_CASE("cuda.emulated.row_programs_agree", "", float, bf16, fp16) {
  emulation::row_programs_agree<TestType>();
  emulation::zero_one_programs_agree<TestType>();
}

TEST_CASE("cuda.emulated.sign_compression_has_the_same_bits") {
  emulation::sign_compression_agrees();
}

TEST_CASE("cuda.emulated.clip_and_loss_scale_are_decided_right") {
  emulation::decisions_agree();
}

TEMPLATE_TEST_CASE("cuda.emulated.products_and_their_epilogues_agree", "", float, bf16, fp16) {
  for (const bool with_epilogues : {false, true})
    for (const bool accumulate : {false, true})
      emulation::products_agree<TestType>(with_epilogues, accumulate);
}

namespace {

/// Names of the kernels in a header: structs that say how many threads a block has.
void add_kernels_of(const std::filesystem::path& header, std::set<std::string>& names) {
  std::ifstream file(header);
  std::string line, name;
  while (std::getline(file, line)) {
    std::smatch match;
    if (std::regex_search(line, match, std::regex("^(?:template <.*> )?struct (\\w+)")))
      name = match[1];
    if (line.find("static constexpr int threads = ") != std::string::npos) names.insert(name);
  }
}

}  // namespace

TEST_CASE("cuda.emulated.no_kernel_lacks_a_test") {
  emulation::layer_norm_agrees<float>();
  emulation::dropout_agrees<bf16>();
  emulation::elements_agree<bf16>();
  emulation::bias_gradient_agrees<bf16>();
  emulation::attention_agrees<float>();
  emulation::embedding_agrees();
  emulation::head_agrees();
  emulation::sum_of_squares_agrees<float>();
  emulation::row_programs_agree<float>();
  emulation::sign_compression_agrees();
  emulation::decisions_agree();

  std::set<std::string> kernels;
  const std::filesystem::path source = CTRAIN_SOURCE_DIR;
  for (const auto& header :
       std::filesystem::directory_iterator(source / "include/ctrain/backend/cuda"))
    add_kernels_of(header.path(), kernels);
  // Not kernels themselves: what attention's kernels have in common.
  kernels.erase("HeadTile");
  kernels.erase("AttentionKernel");
  CHECK(kernels.size() >= 18);
  for (const std::string& kernel : kernels) {
    INFO(kernel << " is in backend/cuda, but no emulated test runs it");
    CHECK(emulation::kernels_run().count(kernel) == 1);
  }
}
