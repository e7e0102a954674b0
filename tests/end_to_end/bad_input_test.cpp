// Whatever is wrong is one line that says where and what to do, and costs no file.
#include <ctrain/io/safetensors.hpp>

#include <cmath>
#include <cstring>

#include "run.hpp"
#include <fmt/format.h>
#include <sys/mount.h>

using namespace end_to_end;

namespace {

/// A workspace in which a run has left checkpoints, logs, predictions and a model in out/.
struct Used : Workspace {
  Used() : Workspace(40) {
    Run(*this)
        .set("every_n_train_steps", "3")
        .set("save_weights_only", "False")
        .set("export_path", "out")
        .set("filename", "{step}")
        .succeed();
    REQUIRE(has("checkpoints/step=3.ckpt"));
  }

  /// A file with the line of a number (from 1) replaced.
  void replace_line(const std::string& file, std::size_t number, const std::string& line) const {
    std::vector<std::string> lines = lines_of(text(file));
    lines.at(number - 1) = line;
    std::string whole;
    for (const std::string& l : lines) whole += l + "\n";
    put(file, whole);
  }

  /// A file with one text in place of another, which occurs.
  void replace(const std::string& file, const std::string& from, const std::string& to) const {
    std::string whole = text(file);
    const std::size_t at = whole.find(from);
    REQUIRE(at != whole.npos);
    put(file, whole.replace(at, from.size(), to));
  }

  /// A file of tensors with one value of a tensor replaced.
  void set_value(const std::string& file, const std::string& tensor, float value) const {
    std::string bytes = text(file);
    std::size_t offset;
    {
      const ctrain::SafeTensors tensors(path(file));
      std::uint64_t header;
      std::memcpy(&header, bytes.data(), 8);
      const nlohmann::json json = nlohmann::json::parse(bytes.substr(8, header));
      offset = 8 + header + json.at(tensor).at("data_offsets").at(0).get<std::size_t>();
    }
    std::memcpy(bytes.data() + offset, &value, sizeof value);
    put(file, bytes);
  }
};

Run from(const Workspace& w, const std::string& folder) {
  return Run(w).set("pretrained_model_path", folder);
}

}  // namespace

// data -------------------------------------------------------------------------------------------

TEST_CASE("end_to_end.bad_input.data") {
  const Used w;
  const Run run(w);
  SECTION("a broken line") {
    w.replace_line("data/train.json", 7, "{\"sentence1\": \"a\", \"sentence2\": ");
    run.refuse({"data/train.json:7: not JSON", "mend or remove"});
  }
  SECTION("a line that is no object") {
    w.replace_line("data/dev.json", 2, "[1, 2]");
    run.refuse({"data/dev.json:2: ", "not an object"});
  }
  SECTION("a line that is not UTF-8") {
    w.replace_line("data/test.json", 3, "{\"sentence1\": \"\xc4\xe3\"}");
    run.refuse({"data/test.json:3: not UTF-8", "iconv"});
  }
  SECTION("a missing field") {
    w.replace_line("data/train.json", 9, R"({"sentence": "a", "sentence2": "b", "label": "0"})");
    run.refuse({"data/train.json:9: no field \"sentence1\"", "\"sentence\"", "--texta_name"});
  }
  SECTION("a missing label") {
    w.replace_line("data/dev.json", 4, R"({"sentence1": "a", "sentence2": "b"})");
    run.refuse({"data/dev.json:4: no field \"label\"", "--label_name"});
  }
  SECTION("a flag that names no field") {
    Run(run).set("textb_name", "second").refuse({"no field \"second\"", "--textb_name"});
  }
  SECTION("an unknown label") {
    w.replace_line("data/dev.json", 5, R"({"sentence1": "a", "sentence2": "b", "label": "2"})");
    run.refuse({"data/dev.json:5: label \"2\"", "train.json", "Correct the label"});
  }
  SECTION("more classes than the policy has") {
    w.replace_line("data/train.json", 5, R"({"sentence1": "a", "sentence2": "b", "label": "2"})");
    run.refuse({"data/train.json: ", "(3), but the model has 2 classes", "num_labels"});
  }
  SECTION("an empty file") {
    const std::string name = GENERATE("train.json", "dev.json", "test.json");
    w.put("data/" + name, "");
    run.refuse({"data/" + name + ": an empty file"});
  }
  SECTION("a missing file") {
    w.remove("data/dev.json");
    run.refuse({"data/dev.json: cannot read"});
  }
  SECTION("a folder in its place") {
    Run(run).set("train_data", ".").refuse({"data/.: cannot read (Is a directory)"});
  }
}

TEST_CASE("end_to_end.bad_input.vocabulary") {
  const Used w;
  SECTION("larger than the model's") {
    std::string vocabulary = w.text("data/vocab.txt");
    for (int i = 0; i < 1024; ++i) vocabulary += fmt::format("word{}\n", i);
    w.put("data/vocab.txt", vocabulary);
    Run(w).refuse({"data/vocab.txt: ", "1024"});
  }
  SECTION("without a special token") {
    w.replace("data/vocab.txt", "[SEP]\n", "[OTHER]\n");
    Run(w).refuse({"data/vocab.txt: ", "[SEP]"});
  }
  SECTION("missing") {
    w.remove("data/vocab.txt");
    Run(w).refuse({"data/vocab.txt: cannot read", "Check the path"});
  }
  SECTION("missing beside the weights") {
    w.remove("out/vocab.txt");
    from(w, "out").refuse({"out/vocab.txt: cannot read"});
  }
}

// weights ----------------------------------------------------------------------------------------

TEST_CASE("end_to_end.bad_input.weights") {
  const Used w;
  const std::string file = "out/model.safetensors", whole = w.text(file);
  SECTION("a truncated file") {
    for (const std::size_t length :
         {whole.size() - 1, whole.size() / 2, std::size_t{100}, std::size_t{3}}) {
      w.put(file, whole.substr(0, length));
      from(w, "out").refuse({file + ": ", "again"});
    }
  }
  SECTION("bytes after the end") {
    w.put(file, whole + "more");
    from(w, "out").refuse({file + ": "});
  }
  SECTION("a header that claims to be larger than memory") {
    std::string bytes = whole;
    bytes[6] = '\x7f';
    w.put(file, bytes);
    from(w, "out").refuse({file + ": claims a header of"});
  }
  SECTION("a header that lies about a place") {
    w.replace(file, "\"data_offsets\":[0,", "\"data_offsets\":[4,");
    from(w, "out").refuse({file + ": "});
  }
  SECTION("a header that lies about a shape") {
    w.replace(file, "[1024,64]", "[1025,64]");
    from(w, "out").refuse({file + ": ", "bert.embeddings.word_embeddings.weight"});
  }
  SECTION("another shape") {
    w.replace(file, "[1024,64]", "[64,1024]");
    from(w, "out").refuse({file + ": 1 tensors do not fit the model: "
                                  "bert.embeddings.word_embeddings.weight has shape",
                           "[64, 1024]", "[1024, 64]"});
  }
  SECTION("a tensor that is missing") {
    w.replace(file, "bert.pooler.dense.bias", "bert.pooler.dense.bios");
    from(w, "out").refuse({file + ": ", "bert.pooler.dense.bias is missing"});
  }
  SECTION("no weights") {
    w.remove(file);
    from(w, "out").refuse({"out: holds no weights", "model.safetensors"});
  }
  SECTION("a pickle that wants to run something") {
    w.remove(file);
    w.put("out/pytorch_model.bin", scratch::bytes_of(scratch::golden("os_system.bin")));
    from(w, "out").refuse({"out/pytorch_model.bin: ", "system"});
  }
  SECTION("a pickle that is cut") {
    w.remove(file);
    const std::string pickle = scratch::bytes_of(scratch::golden("torch.bin"));
    w.put("out/pytorch_model.bin", pickle.substr(0, pickle.size() / 2));
    from(w, "out").refuse({"out/pytorch_model.bin: "});
  }
  SECTION("no folder") {
    from(w, "nowhere").refuse({"nowhere/vocab.txt: cannot read"});
  }
}

TEST_CASE("end_to_end.bad_input.config") {
  const Used w;
  SECTION("each key that differs is listed") {
    w.replace("out/config.json", "\"hidden_size\": 64", "\"hidden_size\": 128");
    w.replace("out/config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 24");
    w.replace("out/config.json", "\"hidden_act\": \"gelu_new\"", "\"hidden_act\": \"gelu\"");
    from(w, "out").refuse({"out/config.json: ", "hidden_size: file has 128, policy has 64",
                           "num_hidden_layers: file has 24, policy has 2",
                           "hidden_act: file has \"gelu\", policy has \"gelu_new\""});
  }
  SECTION("broken") {
    w.put("out/config.json", "{\"model_type\": ");
    from(w, "out").refuse({"out/config.json: is not JSON"});
  }
  SECTION("missing") {
    w.remove("out/config.json");
    from(w, "out").refuse({"out/config.json: cannot read"});
  }
}

// flags ------------------------------------------------------------------------------------------

TEST_CASE("end_to_end.bad_input.flags") {
  const Used w;
  const Run run(w);
  SECTION("misspelt") {
    Run(run).set("learning_rte", "1").refuse({"flag --learning_rte: ", "--learning_rate?"});
  }
  SECTION("out of range") {
    Run(run).set("learning_rate", "-1").refuse({"flag --learning_rate: -1"});
    Run(run).set("max_steps", "many").refuse({"flag --max_steps: 'many'"});
    Run(run).set("mode", "best").refuse({"flag --mode: 'best'", "min, max"});
    Run(run).set("filename", "{epoch").refuse({"flag --filename: '{epoch'"});
  }
  SECTION("without an end") {
    Run(run).set("max_epochs", "-1").refuse({"flag --max_epochs: -1", "--max_steps"});
  }
  SECTION("against the policy") {
    Run(run).set("train_batchsize", "17").refuse({"flag --train_batchsize: 17", "batch.sentences"});
    Run(run).set("max_length", "128").refuse({"flag --max_length: 128", "batch.length"});
    Run(run).set("num_labels", "3").refuse({"flag --num_labels: 3", "model.labels"});
    Run(run).set("gpus", "2").refuse({"flag --gpus: 2 ranks"});
    Run(run).set("precision", "bf16").refuse({"flag --precision: bf16", "precision.compute"});
    Run(run).set("precision", "16").refuse({"flag --precision: 16", "loss_scale"});
    Run(run).set("accumulate_grad_batches", "2").refuse({"--accumulate_grad_batches: 2"});
    Run padded(w, tiny_padded);
    padded.set("train_batchsize", "3").refuse({"flag --train_batchsize: 3", "holds 4"});
  }
  SECTION("a metric that no step logs") {
    Run(run).set("monitor", "val_f2").refuse({"flag --monitor: ", "'val_f2'", "val_f1"});
  }
  SECTION("more batches between validations than there are") {
    Run(run).set("val_check_interval", "1000").refuse({"flag --val_check_interval: 1000"});
  }
}

// checkpoints ------------------------------------------------------------------------------------

TEST_CASE("end_to_end.bad_input.resume") {
  const Used w;
  const std::string file = "checkpoints/step=3.ckpt", whole = w.text(file);
  const Run run = Run(w).set("ckpt_path", file).set("max_epochs", "2");
  SECTION("from weights only") {
    Run(w)
        .set("dirpath", "light")
        .set("filename", "{step}")
        .set("every_n_train_steps", "3")
        .succeed();
    Run(run)
        .set("ckpt_path", "light/step=3.ckpt")
        .refuse({"light/step=3.ckpt: holds weights only", "--save_weights_only False"});
  }
  SECTION("from a model") {
    Run(run)
        .set("ckpt_path", "out/model.safetensors")
        .refuse({"out/model.safetensors: ", "--pretrained_model_path"});
  }
  SECTION("from something else") {
    Run(run).set("ckpt_path", "data/train.json").refuse({"data/train.json: "});
    Run(run).set("ckpt_path", "data").refuse({"data: cannot read (Is a directory)"});
    Run(run).set("ckpt_path", "nowhere").refuse({"nowhere: cannot read"});
  }
  SECTION("from a part of one") {
    w.put(file, whole.substr(0, whole.size() / 3));
    run.refuse({file + ": "});
  }
  SECTION("from one whose state is damaged") {
    w.replace(file, "\\\"sampler\\\":", "\\\"sumpler\\\":");
    run.refuse({file + ": its run state cannot be read", "sampler"});
  }
  SECTION("from one that claims to be elsewhere") {
    w.replace(file, "\\\"sample\\\":1", "\\\"sample\\\":9");
    run.refuse({"data/train.json: the saved position", "Resume with the training file"});
  }
  SECTION("of another model") {
    w.replace(file, "[1024,64]", "[64,1024]");
    run.refuse({file + ": ", "bert.embeddings.word_embeddings.weight has shape"});
  }
  SECTION("on other labels") {
    std::string text = w.text("data/train.json");
    for (std::size_t at = 0; (at = text.find("\"label\": \"", at)) != text.npos; at += 10)
      text[at + 10] = text[at + 10] == '0' ? '1' : '0';
    w.put("data/train.json", text);
    run.refuse({file + ": its classes are the labels", "training file"});
  }
}

// where to write ---------------------------------------------------------------------------------

TEST_CASE("end_to_end.bad_input.outputs") {
  const Used w;
  // Below a file nobody may write, not even root.
  Run(w).set("dirpath", "data/vocab.txt/x").refuse({"flag --dirpath: ", "data/vocab.txt/x"});
  Run(w).set("dirpath", "data/vocab.txt").refuse({"flag --dirpath: ", "data/vocab.txt"});
  Run(w).set("export_path", "data/vocab.txt/x").refuse({"flag --export_path: "});
  Run(w).set("output_save_path", "data/vocab.txt/x").refuse({"flag --output_save_path: "});
  Run(w).set("output_save_path", "data").refuse({"flag --output_save_path: 'data' names no file"});
  Run(w).set("output_save_path", "").refuse({"flag --output_save_path: '' names no file"});
  Run(w).set("dirpath", "").refuse({"flag --dirpath: it is empty"});
  Run(w).set("default_root_dir", "data/vocab.txt/x").refuse({"flag --default_root_dir: "});
}

TEST_CASE("end_to_end.bad_input.full_disk") {
  const Used w;
  const Snapshot before = snapshot(w.root());
  const auto lost = [&] {  // but for what the run replaces on its way
    std::vector<std::string> names;
    const Snapshot after = snapshot(w.root());
    for (const auto& [name, bytes] : before)
      if (name != "predict.json" && name != "out/config.json" && after.at(name) != bytes)
        names.push_back(name);
    for (const auto& [name, bytes] : after)
      if (name.find(".tmp-") != name.npos) names.push_back(name);
    return names;
  };
  SECTION("at a checkpoint") {
    const Disk disk(w.path("disk"), 4 << 20);
    if (!disk.mounted()) {
      WARN("no file system can be mounted here");
      return;
    }
    Run full(w);
    full.set("every_n_train_steps", "2").set("save_weights_only", "False").set("save_top_k", "-1");
    full.set("dirpath", "disk").set("filename", "{step}");
    full.fail({"disk/step=6.ckpt: cannot write (No space left on device)", "Free ", " bytes on"});
    CHECK(w.names("disk") == std::vector<std::string>{"step=2.ckpt", "step=4.ckpt"});
    Run(w).set("ckpt_path", "disk/step=4.ckpt").succeed();
  }
  SECTION("at a checkpoint, where files may not grow") {
    Run full(w);
    full.longest_file(100'000).set("every_n_train_steps", "3").set("filename", "{step}");
    full.fail({"checkpoints/step=3-v1.ckpt: cannot write (File too large)", "ulimit -f"});
  }
  SECTION("at the model") {
    Run full(w);
    full.longest_file(100'000).set("save_top_k", "0").set("export_path", "out");
    full.fail({"out/model.safetensors: cannot write"});
  }
  CHECK(lost() == std::vector<std::string>{});
  Run(w).set("ckpt_path", "checkpoints/step=3.ckpt").succeed();
  from(w, "out").succeed();
}

// numbers ----------------------------------------------------------------------------------------

TEST_CASE("end_to_end.bad_input.not_a_number") {
  const Used w;
  const Snapshot checkpoints = snapshot(w.path("checkpoints"));
  const std::string weight = "bert.encoder.layer.1.output.dense.weight";
  SECTION("in the weights, found by the first validation") {
    w.set_value("out/model.safetensors", weight, std::nanf(""));
    from(w, "out").fail({"step 0: ", "weight " + weight, "use other weights"});
    from(w, "out").set("max_steps", "0").fail({"step 0: ", "weight " + weight});
  }
  SECTION("in the weights, found by the first step") {
    w.set_value("out/model.safetensors", weight, INFINITY);
    from(w, "out")
        .set("num_sanity_val_steps", "0")
        .fail({"step 1: the loss is not a finite number", "weight " + weight, "last checkpoint"});
  }
  SECTION("in the sums of large weights") {
    const std::string bias = "output.dense.bias";
    w.set_value("out/model.safetensors", "bert.encoder.layer.0." + bias, 3e38f);
    w.set_value("out/model.safetensors", "bert.encoder.layer.1." + bias, 3e38f);
    from(w, "out")
        .set("num_sanity_val_steps", "0")
        .fail({"step 1: ", "activation '", "of block 1"});
    from(w, "out").fail({"step 0: the outputs", "though its weights are", "overflow in 32"});
  }
  SECTION("in the weights that an update makes") {
    w.set_value("checkpoints/step=3.ckpt", "optimizer.exp_avg." + weight, std::nanf(""));
    const std::string damaged = w.text("checkpoints/step=3.ckpt");
    Run(w)
        .set("ckpt_path", "checkpoints/step=3.ckpt")
        .set("every_n_train_steps", "1")
        .set("save_top_k", "1")
        .fail({"step 4: weight " + weight, "last checkpoint"});
    w.put("checkpoints/step=3.ckpt", checkpoints.at("step=3.ckpt"));
  }
  CHECK(snapshot(w.path("checkpoints")) == checkpoints);
  Run(w).set("ckpt_path", "checkpoints/step=3.ckpt").succeed();
}
