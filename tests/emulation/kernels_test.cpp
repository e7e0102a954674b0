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

TEST_CASE("cuda.emulated.joined_norms_have_the_bits_of_separate_ones") {
  emulation::joined_norm_has_the_bits_of_both<float, float>();
  emulation::joined_norm_has_the_bits_of_both<bf16, bf16>();
  emulation::joined_norm_has_the_bits_of_both<fp16, float>();
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

TEST_CASE("cuda.emulated.adamw_fills_the_copy_of_its_weight") {
  emulation::adamw_into_a_copy_agrees<bf16>();
}

TEMPLATE_TEST_CASE("cuda.emulated.row_programs_agree", "", float, bf16, fp16) {
  emulation::row_programs_agree<TestType>();
  emulation::zero_one_programs_agree<TestType>();
}

TEST_CASE("cuda.emulated.compressed_programs_agree") {
  emulation::compressed_programs_agree();
}

TEST_CASE("cuda.emulated.sign_compression_has_the_same_bits") {
  emulation::sign_compression_agrees();
}

TEST_CASE("cuda.emulated.losses_are_counted") {
  emulation::losses_are_counted();
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

namespace fs = std::filesystem;

/// What a device can run, as the headers in `folder` have it: kernels, which see their block;
/// what EachElement and its like do to elements; programs and functions, where something runs them.
std::set<std::string> parts_of_kernels(const fs::path& folder) {
  const std::regex begins("^(?:template <.*> )?struct (\\w+)"),
      works("operator\\(\\)\\(B& block\\) const|\\bat\\(std::int64_t i\\) const"),
      runs("\\b(?:RunRows|RunOnce|SumSquaresOfRows|LargestOfRows)<(\\w+)");
  std::set<std::string> names;
  for (const auto& header : fs::recursive_directory_iterator(folder)) {
    const bool on_device = header.path().parent_path().filename() == "cuda";
    std::ifstream file(header.path());
    std::string line, name;
    for (std::smatch match; std::getline(file, line);) {
      if (std::regex_search(line, match, begins)) name = match[1];
      if (on_device && std::regex_search(line, works)) names.insert(name);
      if (std::regex_search(line, match, runs)) names.insert(match[1]);
    }
  }
  for (const char* parameter : {"Program", "Function"}) names.erase(parameter);
  return names;
}

/// Lines with a word, in headers.
int lines_with(const fs::path& folder, const std::string& word) {
  int count = 0;
  for (const auto& header : fs::recursive_directory_iterator(folder)) {
    std::ifstream file(header.path());
    for (std::string line; std::getline(file, line);) count += line.find(word) != line.npos;
  }
  return count;
}

}  // namespace

TEST_CASE("cuda.emulated.no_kernel_lacks_a_test") {
  emulation::layer_norm_agrees<float>();
  emulation::joined_norm_has_the_bits_of_both<float, float>();
  emulation::dropout_agrees<bf16>();
  emulation::elements_agree<bf16>();
  emulation::tanh_agrees();
  emulation::clear_agrees();
  emulation::copy_agrees();
  emulation::bias_gradient_agrees<bf16>();
  emulation::attention_agrees<float>();
  emulation::embedding_agrees();
  emulation::head_agrees();
  emulation::sum_of_squares_agrees<float>();
  emulation::adamw_agrees<float>();
  emulation::adamw_into_a_copy_agrees<bf16>();
  emulation::row_programs_agree<float>();
  emulation::zero_one_programs_agree<float>();
  emulation::compressed_programs_agree();
  emulation::sign_compression_agrees();
  emulation::losses_are_counted();
  emulation::decisions_agree();

  const fs::path headers = fs::path(CTRAIN_SOURCE_DIR) / "include/ctrain";
  CHECK(lines_with(headers, "__global__") == 1);  // all kernels enter there
  const std::set<std::string> parts = parts_of_kernels(headers);
  CHECK(parts.size() >= 60);
  for (const std::string& part : parts) {
    INFO(part << " runs on a device, but in no emulated test");
    CHECK(emulation::kernels_run().count(part) == 1);
  }
}
