// Every CUDA kernel, emulated on a host, gives what the reference gives.
#include "model_ends.hpp"
#include "rows.hpp"
#include "updates.hpp"

using namespace ctrain;

TEMPLATE_TEST_CASE("cuda.emulated.layer_norm_agrees", "", float, bf16) {
  emulation::layer_norm_agrees<TestType>();
}

TEMPLATE_TEST_CASE("cuda.emulated.dropout_has_the_same_bits", "", float, bf16) {
  emulation::dropout_agrees<TestType>();
}

TEMPLATE_TEST_CASE("cuda.emulated.casts_and_gelu_agree", "", float, bf16) {
  emulation::elements_agree<TestType>();
}

TEMPLATE_TEST_CASE("cuda.emulated.bias_gradients_agree", "", float, bf16) {
  emulation::bias_gradient_agrees<TestType>();
}

TEST_CASE("cuda.emulated.tanh_agrees") {
  emulation::tanh_agrees();
}

TEST_CASE("cuda.emulated.embedding_has_the_same_bits") {
  emulation::embedding_agrees();
}

TEST_CASE("cuda.emulated.head_agrees") {
  emulation::head_agrees();
}

TEST_CASE("cuda.emulated.sum_of_squares_has_the_same_bits") {
  emulation::sum_of_squares_agrees();
}

TEST_CASE("cuda.emulated.adamw_agrees") {
  emulation::adamw_agrees();
}

TEST_CASE("cuda.emulated.clip_and_loss_scale_are_decided_right") {
  emulation::decisions_agree();
}
