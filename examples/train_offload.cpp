// Training whose weights and optimizer state lie in a file: what the policy offloads comes to a
// small device arena for the time of its use, with the bits of a run that keeps it all in memory.
// Trains some steps on the bundled pairs and evaluates.
//
//   train_offload [DATA_DIR [DIRECTORY_FOR_THE_FILE [STEPS]]]
#include <ctrain/io/dataset.hpp>
#include <ctrain/io/sampler.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/streamed_trainer.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>

struct AfqmcOffload {
  static constexpr ctrain::Policy policy{
      .model = ctrain::megatron_bert_mini,
      .batch = {.packed_tokens = 2048},
      .weights = ctrain::WeightLayout::plain,
      .optimizer = {.learning_rate = 5e-4f, .weight_decay = 0.1f},
      .recompute = ctrain::Recompute::full,
      .offload = {.optimizer = ctrain::OffloadTo::disk,
                  .parameters = ctrain::OffloadTo::disk,
                  .activations = ctrain::OffloadTo::host,
                  .clipping = ctrain::OffloadClipping::deferred,
                  .piece = 2 * ctrain::MiB},
      .device = ctrain::host_memory(256 * ctrain::MiB)};
};

namespace {

ctrain::Dataset read(const std::string& file, const std::string& vocabulary) {
  const ctrain::Policy& p = AfqmcOffload::policy;
  const ctrain::ExampleFile examples = ctrain::read_examples(file, {}, ctrain::Labels::required);
  const ctrain::LabelMap labels(examples, p.model.labels);
  return ctrain::encode_examples(examples, ctrain::WordPiece(vocabulary, p.model.vocabulary),
                                 &labels, p.batch.length);
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string folder = argc > 1 ? argv[1] : "examples/data";
  const ctrain::Dataset train = read(folder + "/train.json", folder + "/vocab.txt"),
                        dev = read(folder + "/dev.json", folder + "/vocab.txt");
  const ctrain::Policy& p = AfqmcOffload::policy;
  ctrain::Sampler pairs(train, p.batch, p.seed), held_out(dev, p.batch);

  ctrain::StreamedTrainer<AfqmcOffload> trainer({.directory = argc > 2 ? argv[2] : "."});
  std::printf("device %.0f MiB, host %.0f MiB, disk %.0f MiB\n",
              double(trainer.plan.device()) / ctrain::MiB,
              double(trainer.plan.host()) / ctrain::MiB, double(trainer.plan.disk()) / ctrain::MiB);
  ctrain::StepNumbers n{.seed = p.seed,
                        .learning_rate = p.optimizer.learning_rate,
                        .weight_decay = p.optimizer.weight_decay,
                        .clip = p.optimizer.clip};
  for (const long steps = argc > 3 ? std::atol(argv[3]) : 20; n.step < steps; ++n.step) {
    const ctrain::StepResult r = trainer.step().train(pairs, n);
    if (r.micro_batches == 0) break;
    std::printf("step %3lld  loss %.4f  gradient norm %.3f\n", (long long)n.step + 1, r.loss(),
                r.gradient_norm);
  }
  ctrain::StepResult result;
  while (trainer.step().evaluate(held_out, result)) continue;
  std::printf("val_loss %.4f, val_acc %.4f; read %.1f MiB, written %.1f MiB\n", result.loss(),
              result.accuracy(), double(trainer.step().store().bytes_read()) / ctrain::MiB,
              double(trainer.step().store().bytes_written()) / ctrain::MiB);
  return 0;
} catch (const ctrain::Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
