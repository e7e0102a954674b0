#include <ctrain/io/config_json.hpp>

#include "scratch.hpp"

namespace {

using ctrain::HfConfig;
using scratch::error_of;

HfConfig config_from(const std::string& json) {
  const scratch::Folder folder;
  scratch::put(folder.path / "config.json", json);
  return ctrain::read_config(folder.path / "config.json");
}

std::string complaint(const std::string& json) {
  return error_of([&] { config_from(json); });
}

/// The complaint about one key of an otherwise empty config.
std::string complaint_about(const std::string& pair) {
  return complaint(R"({"model_type": "megatron-bert", )" + pair + "}");
}

}  // namespace

TEST_CASE("io.config_json.reads_what_transformers_wrote") {
  const HfConfig config = ctrain::read_config(scratch::golden("classifier/config.json"));
  CHECK(config.model_type == "megatron-bert");
  CHECK(config.vocab_size == 6);
  CHECK(config.hidden_size == 4);
  CHECK(config.num_hidden_layers == 1);
  CHECK(config.num_attention_heads == 2);
  CHECK(config.intermediate_size == 8);
  CHECK(config.hidden_act == "gelu_new");
  CHECK(config.hidden_dropout_prob == 0.1);
  CHECK(config.max_position_embeddings == 4);
  CHECK(config.layer_norm_eps == 1e-12);
  CHECK(config.labels.size() == 2);
  CHECK(ctrain::read_config(scratch::golden("bare_bert/config.json")).model_type == "bert");
}

TEST_CASE("io.config_json.reads_the_erlangshen_1b3_config") {
  const auto path = std::filesystem::path(CTRAIN_REAL_DATA) / "erlangshen-1.3b" / "config.json";
  if (!std::filesystem::exists(path)) {
    WARN("no real data here: skipped");
    return;
  }
  HfConfig expected;
  expected.vocab_size = 21248;
  expected.hidden_size = 2048;
  expected.num_attention_heads = 8;
  expected.intermediate_size = 8192;
  expected.hidden_act = "gelu_new";
  CHECK(ctrain::config_differences(ctrain::read_config(path), expected).empty());
}

TEST_CASE("io.config_json.absent_keys_have_the_defaults_of_the_models_class") {
  CHECK(ctrain::config_differences(config_from(R"({"model_type": "megatron-bert"})"), {}).empty());
  const HfConfig bert =
      config_from(R"({"model_type": "bert", "unknown": [1], "pad_token_id": null})");
  CHECK(ctrain::config_differences(bert, ctrain::bert_config()).empty());
  CHECK(bert.vocab_size == 30522);
  CHECK(bert.hidden_size == 768);
}

TEST_CASE("io.config_json.reads_labels") {
  using Labels = std::vector<std::string>;
  CHECK(config_from(R"({"model_type": "bert"})").labels == Labels{"LABEL_0", "LABEL_1"});
  CHECK(config_from(R"({"model_type": "bert", "num_labels": 3})").labels ==
        Labels{"LABEL_0", "LABEL_1", "LABEL_2"});
  CHECK(config_from(R"({"model_type": "bert", "id2label": {"1": "同", "0": "异"}})").labels ==
        Labels{"异", "同"});
  CHECK_THAT(complaint_about(R"("id2label": {"1": "a"})"), Catch::Contains("\"id2label\" is"));
  CHECK_THAT(complaint_about(R"("id2label": {"0": 1})"), Catch::Contains("\"id2label\" is"));
  CHECK_THAT(complaint_about(R"("id2label": [])"), Catch::Contains("\"id2label\" is []"));
  CHECK_THAT(complaint_about(R"("num_labels": 0)"), Catch::Contains("\"num_labels\" is 0"));
  CHECK_THAT(complaint_about(R"("num_labels": 3, "id2label": {"0": "a"})"),
             Catch::Contains("\"num_labels\" is 3. It must be the number of entries"));
}

TEST_CASE("io.config_json.names_the_key_that_is_wrong") {
  CHECK_THAT(
      complaint_about(R"("hidden_size": "big")"),
      Catch::EndsWith("config.json: \"hidden_size\" is \"big\". It must be an integer from 1 "
                      "to 2147483647"));
  CHECK_THAT(complaint_about(R"("hidden_size": 0)"), Catch::Contains("\"hidden_size\" is 0"));
  CHECK_THAT(complaint_about(R"("hidden_size": 4.0)"), Catch::Contains("\"hidden_size\" is 4.0"));
  CHECK_THAT(complaint_about(R"("hidden_size": null)"), Catch::Contains("\"hidden_size\" is null"));
  CHECK_THAT(complaint_about(R"("vocab_size": 18446744073709551615)"),
             Catch::Contains("\"vocab_size\" is 18446744073709551615"));
  CHECK_THAT(complaint_about(R"("hidden_dropout_prob": 1.5)"),
             Catch::Contains("\"hidden_dropout_prob\" is 1.5. It must be a number from 0 to 1"));
  CHECK_THAT(complaint_about(R"("layer_norm_eps": true)"), Catch::Contains("\"layer_norm_eps\""));
  CHECK_THAT(complaint_about(R"("hidden_act": 1)"), Catch::Contains("\"hidden_act\" is 1"));
  CHECK_THAT(complaint(R"({"model_type": "gpt2"})"), Catch::Contains("\"model_type\" is \"gpt2\""));
  CHECK_THAT(complaint("{}"), Catch::Contains("has no \"model_type\""));
}

TEST_CASE("io.config_json.rejects_variants_of_the_model_that_are_not_computed") {
  CHECK_THAT(complaint_about(R"("position_embedding_type": "relative_key")"),
             Catch::Contains("\"position_embedding_type\" is \"relative_key\". It must be "
                             "\"absolute\""));
  CHECK_THAT(complaint_about(R"("is_decoder": true)"), Catch::Contains("\"is_decoder\" is true"));
  CHECK_THAT(complaint_about(R"("classifier_dropout": 0.5)"),
             Catch::Contains("\"classifier_dropout\" is 0.5. It must be 0.1"));
  CHECK(complaint_about(R"("classifier_dropout": null)") == "no error");
}

TEST_CASE("io.config_json.rejects_what_is_not_a_json_object") {
  CHECK_THAT(complaint("{"), Catch::Contains("is not JSON (parse error at line 1, column 2"));
  CHECK_THAT(complaint(""), Catch::Contains("is not JSON"));
  CHECK_THAT(complaint("\xff"), Catch::Contains("is not JSON"));
  CHECK_THAT(complaint("[]"), Catch::Contains("is not a JSON object"));
  CHECK_THAT(error_of([] { ctrain::read_config("/absent/config.json"); }),
             Catch::Contains("/absent/config.json: cannot read (No such file or directory)"));
}

TEST_CASE("io.config_json.lists_every_key_that_differs_from_the_policy") {
  HfConfig policy;
  policy.hidden_size = 2048;
  policy.hidden_act = "gelu_new";
  policy.layer_norm_eps = 1e-5;
  CHECK(ctrain::config_differences({}, policy) ==
        std::vector<std::string>{"hidden_size: file has 1024, policy has 2048",
                                 "hidden_act: file has \"gelu\", policy has \"gelu_new\"",
                                 "layer_norm_eps: file has 1e-12, policy has 1e-05"});
  CHECK(
      error_of([&] { ctrain::require_same_config("m/config.json", {}, policy); }) ==
      "m/config.json: hidden_size: file has 1024, policy has 2048; hidden_act: file has \"gelu\", "
      "policy has \"gelu_new\"; layer_norm_eps: file has 1e-12, policy has 1e-05. Set the policy "
      "to what the file has, or use another model");
  CHECK(error_of([&] { ctrain::require_same_config("m/config.json", policy, policy); }) ==
        "no error");
}

TEST_CASE("io.config_json.reads_back_what_it_writes") {
  const scratch::Folder folder;
  HfConfig config = ctrain::bert_config();
  config.hidden_dropout_prob = 0.25;
  config.initializer_range = 0.01;
  config.labels = {"不同", "相同", "无关"};
  ctrain::write_config(folder.path / "config.json", config);
  const HfConfig back = ctrain::read_config(folder.path / "config.json");
  CHECK(ctrain::config_differences(back, config).empty());
  CHECK(back.labels == config.labels);
  config.labels = {"\xff", "b"};
  CHECK_THAT(error_of([&] { ctrain::write_config(folder.path / "config.json", config); }),
             Catch::Contains("a label is not UTF-8"));
}
