#include <ctrain/io/hugging_face.hpp>
#include <ctrain/io/together.hpp>

#include <algorithm>
#include <map>

#include "scratch.hpp"

namespace {

using ctrain::WantedTensor;
using scratch::error_of;

/// The tensors of the golden models, with room for their values.
struct SmallModel {
  std::vector<WantedTensor> wanted;
  std::map<std::string, std::vector<float>> values;

  explicit SmallModel(const std::string& folder = "classifier") {
    const auto source = ctrain::open_weights(scratch::golden(folder));
    for (const std::string& name : source->names()) add(name, source->find(name)->shape);
  }
  void add(const std::string& name, const std::vector<std::int64_t>& shape) {
    std::vector<float>& room = values[name];
    room.assign(std::size_t(ctrain::element_count(shape).value()), -1);
    wanted.push_back({.name = name, .shape = shape, .optional = name.starts_with("classifier.")});
  }
  ctrain::LoadReport load(const std::filesystem::path& directory) {
    const auto source = ctrain::open_weights(directory);
    const ctrain::MatchedTensors matched(*source, wanted);
    for (auto& [name, room] : values) {  // in two stretches, as a trainer may ask for it
      const auto all = std::int64_t(room.size()), some = all / 3;
      matched.read(name, some, room.data() + some, all - some);
      matched.read(name, 0, room.data(), some);
    }
    return matched.report();
  }
  /// Tensors that do not hold what make_golden.py put in: number k of the names begins with k.
  int wrong() const {
    int count = 0;
    float k = 0;
    for (const auto& [name, room] : values) {
      for (std::size_t i = 0; i < room.size(); ++i)
        if (room[i] != k + float(i) / 4) {
          ++count;
          break;
        }
      ++k;
    }
    return count;
  }
};

}  // namespace

TEST_CASE("io.hugging_face.loads_a_saved_classifier") {
  SmallModel model;
  CHECK(model.wanted.size() == 25);
  const ctrain::LoadReport report = model.load(scratch::golden("classifier"));
  CHECK(model.wrong() == 0);
  CHECK(report.fresh.empty());
  CHECK(report.unused.empty());
  CHECK(ctrain::describe(report) == "loaded 25 tensors");
}

TEST_CASE("io.hugging_face.loads_shards") {
  SmallModel model;
  model.load(scratch::golden("sharded"));
  CHECK(model.wrong() == 0);
}

TEST_CASE("io.hugging_face.loads_a_lightning_checkpoint") {
  SmallModel model;
  CHECK(model.load(scratch::golden("lightning")).loaded == 25);
  CHECK(model.wrong() == 0);
}

TEST_CASE("io.hugging_face.loads_a_pretrained_model_and_reports_the_fresh_classifier") {
  SmallModel model;
  const ctrain::LoadReport report = model.load(scratch::golden("pretrained"));
  CHECK(report.fresh == std::vector<std::string>{"classifier.bias", "classifier.weight"});
  CHECK(model.wrong() == 2);  // the classifier, which is the caller's to fill
  CHECK(ctrain::describe(report) ==
        "loaded 23 tensors; fresh: classifier.bias, classifier.weight; unused: cls.* (9), "
        "position_ids (1)");
}

TEST_CASE("io.hugging_face.loads_names_without_the_bert_prefix") {
  SmallModel bare("bare_bert"), model;
  model.wanted.clear();
  model.values.clear();
  for (const WantedTensor& tensor : bare.wanted) model.add("bert." + tensor.name, tensor.shape);
  model.add("classifier.weight", {2, 4});
  const ctrain::LoadReport report = model.load(scratch::golden("bare_bert"));
  CHECK(report.loaded == bare.wanted.size());
  CHECK(report.fresh == std::vector<std::string>{"classifier.weight"});
  model.values.erase("classifier.weight");
  CHECK(model.wrong() == 0);
}

TEST_CASE("io.hugging_face.one_error_names_all_that_is_missing_or_misshapen") {
  SmallModel model;
  model.wanted[0].shape = {4, 5};
  model.add("bert.absent", {1});
  const std::string error = error_of([&] { model.load(scratch::golden("classifier")); });
  CHECK(error ==
        scratch::golden("classifier/model.safetensors").string() +
            ": 2 tensors do not fit the model: "
            "bert.embeddings.position_embeddings.weight has shape [4, 4] instead of [4, 5]; "
            "bert.absent is missing. Use the weights of the model that the policy "
            "describes");
  CHECK(model.values["bert.pooler.dense.bias"][0] == -1);  // nothing was loaded

  for (int i = 0; i < 20; ++i) model.add("bert.more." + std::to_string(i), {1});
  const std::string many = error_of([&] { model.load(scratch::golden("classifier")); });
  CHECK_THAT(many, Catch::Contains("22 tensors do not fit") && Catch::Contains("and 12 more"));
}

TEST_CASE("io.hugging_face.optional_tensors_may_be_absent_and_integers_do_not_fit") {
  SmallModel model;
  model.add("extra", {1});
  model.wanted.back().optional = true;
  CHECK(model.load(scratch::golden("classifier")).fresh == std::vector<std::string>{"extra"});
  model.add("bert.embeddings.position_ids", {1, 4});
  CHECK_THAT(error_of([&] { model.load(scratch::golden("pretrained")); }),
             Catch::Contains("bert.embeddings.position_ids is stored as I64"));
}

TEST_CASE("io.hugging_face.names_unused_tensors") {
  ctrain::LoadReport report{.fresh = {}, .unused = {}, .loaded = 1};
  for (int i = 0; i < 7; ++i) report.unused.push_back("t" + std::to_string(i));
  CHECK(ctrain::describe(report) ==
        "loaded 1 tensors; unused: \"t0\", \"t1\", \"t2\", \"t3\", \"t4\", 2 more");
}

TEST_CASE("io.hugging_face.says_what_a_directory_lacks") {
  const scratch::Folder folder;
  CHECK_THAT(
      error_of([&] { ctrain::open_weights(folder.path); }),
      Catch::Contains(folder.path.string() + ": holds no weights: neither model.safetensors"));
  CHECK_THAT(error_of([&] { ctrain::open_tensor_file("weights.npz"); }),
             Catch::Contains("has a name of no known format"));
}

TEST_CASE("io.hugging_face.rejects_an_index_that_lies") {
  const scratch::Folder folder;
  std::filesystem::copy(scratch::golden("classifier/model.safetensors"),
                        folder.path / "a.safetensors");
  const auto complaint = [&](const std::string& index) {
    scratch::put(folder.path / "model.safetensors.index.json", index);
    return error_of([&] { ctrain::open_weights(folder.path); });
  };
  CHECK(complaint(R"({"weight_map": {"classifier.bias": "a.safetensors"}})") == "no error");
  CHECK_THAT(complaint("{"), Catch::Contains("is not JSON"));
  CHECK_THAT(complaint("{}"), Catch::Contains("has no \"weight_map\""));
  CHECK_THAT(complaint(R"({"weight_map": {"a": 1}})"), Catch::Contains("is not a string"));
  CHECK_THAT(complaint(R"({"weight_map": {"a": "../a.safetensors"}})"),
             Catch::Contains("names the file \"../a.safetensors\", which is not in its own"));
  CHECK_THAT(complaint(R"({"weight_map": {"a": "/etc/passwd"}})"),
             Catch::Contains("names the file"));
  CHECK_THAT(complaint(R"({"weight_map": {"a": ".."}})"), Catch::Contains("no known format"));
  CHECK_THAT(complaint(R"({"weight_map": {"a": "b.safetensors"}})"),
             Catch::Contains("b.safetensors: cannot read (No such file or directory)"));
  CHECK_THAT(complaint(R"({"weight_map": {"a": "a.safetensors"}})"),
             Catch::Contains("says that tensor \"a\" is in a.safetensors, but it is not"));
}

TEST_CASE("io.hugging_face.loads_back_the_directory_that_it_saves") {
  const scratch::Folder folder;
  const auto directory = folder.path / "out" / "best";
  SmallModel model;
  model.load(scratch::golden("classifier"));
  std::vector<ctrain::LogicalTensor> tensors;
  for (const WantedTensor& tensor : model.wanted) tensors.push_back({tensor.name, tensor.shape});
  const ctrain::HfConfig config = ctrain::read_config(scratch::golden("classifier/config.json"));
  const auto save = [&](const std::filesystem::path& to, const std::filesystem::path& vocabulary) {
    ctrain::Single alone;
    ctrain::save_config_and_vocabulary(to, config, vocabulary);
    ctrain::write_together(alone, to / "model.safetensors", tensors, {{"format", "pt"}},
                           [&](auto&& put) {
                             for (auto& [name, room] : model.values)
                               put(name, {.count = std::int64_t(room.size()), .data = room.data()});
                           });
  };
  save(directory, scratch::golden("classifier/vocab.txt"));
  save(directory, directory / "vocab.txt");  // over itself

  CHECK(scratch::bytes_of(directory / "model.safetensors") ==
        scratch::bytes_of(scratch::golden("classifier/model.safetensors")));
  CHECK(scratch::bytes_of(directory / "vocab.txt") ==
        scratch::bytes_of(scratch::golden("classifier/vocab.txt")));
  CHECK(ctrain::config_differences(ctrain::read_config(directory / "config.json"), config).empty());
  CHECK(std::distance(std::filesystem::directory_iterator(directory), {}) == 3);
  SmallModel back;
  back.load(directory);
  CHECK(back.wrong() == 0);

  scratch::put(folder.path / "file", "x");
  CHECK_THAT(error_of([&] { save(folder.path / "file" / "out", directory / "vocab.txt"); }),
             Catch::Contains("cannot create the directory"));
}
