// Every call of the CUDA backend on a card gives what the reference gives on the host: kernels,
// and the products of cuBLASLt. Small shapes, so that compute-sanitizer ends soon.
#include "pairs.cuh"

using namespace ctrain;
using namespace gpu;

namespace {

template <class T> std::string typed(const char* what) {
  return std::string(what) + (dtype_of<T> == DType::fp32   ? "<fp32>"
                              : dtype_of<T> == DType::bf16 ? "<bf16>"
                                                           : "<fp16>");
}

struct Bench {
  CpuReference reference;
  Cuda cuda;
  Report report;
  template <class... Make> void run(Make&&... makes) { run_both(reference, cuda, makes...); }
};

/// The hidden sizes: that of the 1.3B model, and one whose rows do not start at 16 bytes.
constexpr int widths[] = {2048, 77};

template <class T> void norms(Bench& on) {
  for (const int hidden : widths)
    for (const bool accumulate : {false, true}) {
      Random random(1);
      const int rows = 70;
      const auto count = std::size_t(rows * hidden), width = std::size_t(hidden);
      Pair<float> x(random, count), gain(random, width), bias(random, width), dx(random, count),
          d_gain(random, width), d_bias(random, width), mean = Pair<float>::output(rows),
                                                        rstd = Pair<float>::output(rows);
      Pair<T> y = Pair<T>::output(count), dy(random, count);
      on.run([&](auto at) {
        return LayerNormForward<T>{at(y),    at(mean), at(rstd), at(x), at(gain),
                                   at(bias), rows,     hidden,   1e-5f};
      });
      on.run([&](auto at) {
        return LayerNormBackward<T>{at(dx), at(d_gain), at(d_bias), at(dy),
                                    at(x),  at(mean),   at(rstd),   at(gain),
                                    rows,   hidden,     accumulate, accumulate};
      });
      on.report.compare(typed<T>("layer_norm y"), y, share<T>);
      on.report.compare(typed<T>("layer_norm dx"), dx, 2e-5);
      on.report.compare(typed<T>("layer_norm d_gain"), d_gain, 2e-5);
      on.report.compare(typed<T>("layer_norm d_bias"), d_bias, 2e-5);
    }
}

/// Residual, dropout and norm in one kernel, forward and backward.
template <class T, class Y> void joined_norms(Bench& on) {
  for (const int hidden : widths) {
    Random random(8);
    const int rows = 70;
    const auto count = std::size_t(rows * hidden), width = std::size_t(hidden);
    Sentences batch = Sentences::random(random, rows, 1, 0, false, 10, 2);
    Pair<StepNumbers> numbers(std::vector<StepNumbers>{{.seed = 0x1234567, .step = 7}});
    Pair<T> branch(random, count), d_branch = Pair<T>::output(count);
    Pair<Y> y = Pair<Y>::output(count), dy(random, count);
    Pair<float> residual(random, count), gain(random, width), bias(random, width),
        sum = Pair<float>::output(count), dx(random, count), mean = Pair<float>::output(rows),
        rstd = Pair<float>::output(rows), d_gain(random, width), d_bias(random, width);
    const auto drop = [&](auto at) {
      return Dropout{at(numbers), 11, dropout_threshold(0.3f), at(batch.row_keys), nullptr};
    };
    on.run([&](auto at) {
      return DropoutAddLayerNormForward<T, Y>{
          {at(sum), at(branch), at(residual), drop(at), rows, hidden},
          {at(y), at(mean), at(rstd), at(sum), at(gain), at(bias), rows, hidden, 1e-5f}};
    });
    on.run([&](auto at) {
      return LayerNormDropoutAddBackward<T, Y>{
          {at(dx), at(d_gain), at(d_bias), at(dy), at(sum), at(mean), at(rstd), at(gain), rows,
           hidden, true, false},
          {at(d_branch), at(dx), drop(at), rows, hidden}};
    });
    on.report.compare(typed<T>("dropout_add of a joined norm"), sum, 1e-7);
    on.report.compare(typed<T>("joined layer_norm y"), y, share<Y>);
    on.report.compare(typed<T>("joined layer_norm dx"), dx, 2e-5);
    on.report.compare(typed<T>("joined layer_norm d_gain"), d_gain, 2e-5);
    on.report.compare(typed<T>("dropout_add_backward of a joined norm"), d_branch,
                      is_half<T> ? 2 * share<T> : 2e-5);
  }
}

/// A device converts in one instruction: every finite value of 16 bits, and what lies halfway to
/// the next.
template <class T> void conversions(Bench& on) {
  std::vector<float> values;
  std::vector<T> narrow;
  const auto value_of = [](int bits) {
    T value;
    value.bits = std::uint16_t(bits);
    return value;
  };
  for (int bits = 0; bits < 0xffff; ++bits) {
    const T one = value_of(bits), next = value_of(bits + 1);
    if (!std::isfinite(float(one)) || !std::isfinite(float(next))) continue;
    narrow.push_back(one);
    values.push_back(float((double(float(one)) + double(float(next))) / 2));
  }
  const int count = int(values.size());
  Pair<float> wide(values), widened = Pair<float>::output(values.size());
  Pair<T> from(narrow), halves = Pair<T>::output(values.size());
  on.run([&](auto at) { return CastForward<T>{at(halves), at(wide), 1, count}; });
  on.run([&](auto at) { return CastBackward<T>{at(widened), at(from), 1, count, false}; });
  on.report.compare(typed<T>("narrowing of all values"), halves, 0);
  on.report.compare(typed<T>("widening of all values"), widened, 0);
}

template <class T> void elements(Bench& on) {
  for (const int cols : widths) {
    Random random(2);
    const int rows = 33;
    const auto count = std::size_t(rows * cols);
    Sentences batch = Sentences::random(random, rows, 1, 0, false, 10, 2);
    Pair<float> wide(random, count), sum = Pair<float>::output(count), added(random, count),
                                     alone = Pair<float>::output(count);
    Pair<T> x(random, count), narrow = Pair<T>::output(count), y = Pair<T>::output(count),
                              dx = Pair<T>::output(count), d_branch = Pair<T>::output(count);
    Pair<StepNumbers> numbers(std::vector<StepNumbers>{{.seed = 0x1234567, .step = 7}});
    const auto drop = [&](auto at) {
      return Dropout{at(numbers), 11, dropout_threshold(0.3f), at(batch.row_keys), nullptr};
    };
    on.run([&](auto at) { return CastForward<T>{at(narrow), at(wide), rows, cols}; });
    on.run([&](auto at) { return CastBackward<T>{at(added), at(x), rows, cols, true}; });
    on.run([&](auto at) {
      return DropoutAddForward<T>{at(sum), at(x), at(wide), drop(at), rows, cols};
    });
    on.run([&](auto at) {
      return DropoutAddBackward<T>{at(d_branch), at(wide), drop(at), rows, cols};
    });
    on.run([&](auto at) { return DropoutForward{at(alone), at(wide), drop(at), rows, cols}; });
    on.report.compare(typed<T>("cast"), narrow, 0);
    on.report.compare(typed<T>("cast_backward"), added, 0);
    on.report.compare(typed<T>("dropout_add"), sum, 1e-7);  // product and sum may be one rounding
    on.report.compare(typed<T>("dropout_add_backward"), d_branch, 0);
    on.report.compare("dropout", alone, 0);
    for (const Activation form : {Activation::gelu_erf, Activation::gelu_tanh}) {
      on.run([&](auto at) { return GeluForward<T>{at(y), at(x), rows, cols, form}; });
      on.run([&](auto at) { return GeluBackward<T>{at(dx), at(narrow), at(x), rows, cols, form}; });
      on.report.compare(typed<T>("gelu"), y, share<T>);
      on.report.compare(typed<T>("gelu_backward"), dx, share<T>);
    }
    on.run([&](auto at) { return Copy{at(y), at(x), std::int64_t(count * sizeof(T))}; });
    on.report.compare("copy", y, 0);
    Pair<float> t = Pair<float>::output(count), dt = Pair<float>::output(count);
    on.run([&](auto at) { return TanhForward{at(t), at(wide), rows, cols}; });
    on.run([&](auto at) { return TanhBackward{at(dt), at(sum), at(t), rows, cols}; });
    on.report.compare("tanh", t, 1e-6);
    on.report.compare("tanh_backward", dt, 1e-6);
  }
}

template <class T> void attention(Bench& on) {
  for (const int size : {64, 128, 256, 40})
    for (const bool padded : {false, true}) {
      Random random(3);
      const int heads = 2, longest = 70, hidden = heads * size;
      Sentences batch = Sentences::random(random, 4, longest, 5, padded, 10, 2);
      const auto rows = std::size_t(batch.rows), width = std::size_t(hidden);
      Pair<T> qkv(random, rows * 3 * width), d_context(random, rows * width),
          context = Pair<T>::output(rows * width), d_qkv = Pair<T>::output(rows * 3 * width);
      Pair<float> lse = Pair<float>::output(rows * heads), workspace = Pair<float>::output(9800);
      Pair<StepNumbers> numbers(std::vector<StepNumbers>{{.seed = 0x1234567, .step = 7}});
      const auto drop = [&](auto at) {
        return Dropout{at(numbers), 11, dropout_threshold(0.1f), at(batch.row_keys), nullptr};
      };
      on.run([&](auto at) {
        return AttentionForward<T>{at(context),   at(lse), at(qkv), batch.view(at), drop(at),
                                   at(workspace), heads,   size,    longest,        1};
      });
      on.run([&](auto at) {
        return AttentionBackward<T>{at(d_qkv), at(d_context),  at(context), at(qkv),
                                    at(lse),   batch.view(at), drop(at),    at(workspace),
                                    heads,     size,           longest,     1};
      });
      const std::string of = " of heads of " + std::to_string(size);
      on.report.compare(typed<T>("attention") + of, context, share<T>);
      on.report.compare(typed<T>("attention lse") + of, lse, 4e-6);
      // bf16: backward sums over the rounded context, the reference over exact probabilities
      on.report.compare(typed<T>("attention_backward") + of, d_qkv,
                        is_half<T> ? 4 * share<T> : share<T>);
    }
}

void model_ends(Bench& on) {
  Random random(4);
  const int hidden = 520, vocabulary = 31, positions = 12, labels = 3;
  Sentences batch = Sentences::random(random, 20, 10, 5, false, vocabulary, labels);
  const auto rows = std::size_t(batch.rows), count = std::size_t(batch.sentences);
  Pair<float> word(random, vocabulary * hidden), position(random, positions * hidden),
      type(random, 2 * hidden), x = Pair<float>::output(rows * hidden), dx(random, rows * hidden);
  on.run([&](auto at) {
    return EmbedForward{at(x), at(word), at(position), at(type), batch.view(at), hidden};
  });
  on.run([&](auto at) {
    return EmbedBackward{at(word),   at(position), at(type), at(dx), batch.view(at),
                         vocabulary, positions,    2,        hidden, false};
  });
  on.report.compare("embed", x, 0);
  on.report.compare("embed_backward word", word, 0);
  on.report.compare("embed_backward position", position, 0);
  on.report.compare("embed_backward type", type, 0);
  // What one of several ranks has: some words, and no places.
  const RowRange words{9, 15};
  on.run([&](auto at) {
    return EmbedForward{at(x), at(word), nullptr, nullptr, batch.view(at), hidden, words};
  });
  on.run([&](auto at) {
    return EmbedBackward{at(word),       at(position), at(type),   at(dx),
                         batch.view(at), words.count,  positions,  2,
                         hidden,         true,         words.first};
  });
  on.report.compare("embed, some words", x, 0);
  on.report.compare("embed_backward, some words", word, 0);

  Pair<float> first = Pair<float>::output(count * hidden), logits(random, count * labels, 3),
              losses = Pair<float>::output(count), d_logits = Pair<float>::output(count * labels);
  Pair<std::int32_t> predictions = Pair<std::int32_t>::output(count);
  Pair<float> scale(std::vector<float>{0.25f});
  on.run([&](auto at) { return SelectFirstForward{at(first), at(x), batch.view(at), hidden}; });
  on.run([&](auto at) { return SelectFirstBackward{at(dx), at(first), batch.view(at), hidden}; });
  on.run([&](auto at) {
    return CrossEntropyForward{at(losses), at(predictions), at(logits), batch.view(at), labels};
  });
  on.run([&](auto at) {
    return CrossEntropyBackward{at(d_logits), at(logits), batch.view(at), labels, at(scale)};
  });
  on.report.compare("select_first", first, 0);
  on.report.compare("select_first_backward", dx, 0);
  const RowRange half{batch.rows / 2, batch.rows - batch.rows / 2};
  on.run([&](auto at) {
    return SelectFirstForward{at(first), at(x), batch.view(at), hidden, half};
  });
  on.run([&](auto at) {
    return SelectFirstBackward{at(dx), at(first), batch.view(at), hidden, half};
  });
  on.report.compare("select_first, some rows", first, 0);
  on.report.compare("select_first_backward, some rows", dx, 0);
  on.report.compare("cross_entropy", losses, 1e-6);
  on.report.compare("cross_entropy predictions", predictions, 0);
  on.report.compare("cross_entropy_backward", d_logits, 1e-6);
}

struct ProductSize {
  int rows, in, out;
};
constexpr ProductSize product_sizes[] = {
    {128, 256, 768}, {48, 2048, 512}, {16, 256, 2}, {17, 40, 24}};

/// n products in another order differ by about sqrt(n) * 2^-24 of their terms.
template <class T> void products(Bench& on) {
  for (const ProductSize& one : product_sizes) {
    const auto [rows, in, out] = one;
    if (is_half<T> && (in % 8 != 0 || out % 8 != 0)) continue;
    Random random(5);
    const auto size = std::size_t(out * in);
    Pair<float> master(random, size, 0.05f), bias(random, std::size_t(out)), d_weight(random, size),
        d_bias(random, std::size_t(out)), wide(random, std::size_t(rows * in));
    Pair<T> copy = Pair<T>::output(size), x(random, std::size_t(rows * in)),
            dz(random, std::size_t(rows * out)), z = Pair<T>::output(std::size_t(rows * out)),
            dx = Pair<T>::output(std::size_t(rows * in));
    on.run([&](auto at) { return PrepareWeight<T>{at(copy), nullptr, at(master), out, in}; });
    const auto weight = [&, o = out, i = in](auto at) {
      return Weight<T>{at(master), at(copy), nullptr, o, i};
    };
    const int r = rows, o = out, i = in;
    on.run([&](auto at) { return LinearForward<T>{at(z), at(x), weight(at), at(bias), r}; });
    on.run([&](auto at) { return LinearBackwardInput<T, T>{at(dx), at(dz), weight(at), r}; });
    on.run([&](auto at) {
      return LinearBackwardInput<T, float>{at(wide), at(dz), weight(at), r, true};
    });
    for (const bool accumulate : {false, true}) {
      on.run([&](auto at) {
        return LinearBackwardWeight<T>{at(d_weight), at(d_bias), at(dz), at(x), r, o, i,
                                       accumulate};
      });
      on.report.compare(typed<T>("linear_backward_weight"), d_weight, 2e-5);
      on.report.compare(typed<T>("linear_backward_weight bias"), d_bias, 2e-5);
    }
    // the bias of a product of halves is rounded like them
    on.report.compare(typed<T>("linear"), z, is_half<T> ? 2 * share<T> : 2e-5);
    on.report.compare(typed<T>("linear_backward_input"), dx, is_half<T> ? share<T> : 2e-5);
    on.report.compare(typed<T>("linear_backward_input into the stream"), wide, 2e-5);
  }
}

/// A layer and GELU, a layer's gradient and GELU's slope: one product each where the library can.
template <class T> void products_with_gelu(Bench& on) {
  Random random(7);
  const int rows = 128, in = 256, out = 512;
  const auto size = std::size_t(out * in), wide = std::size_t(rows * out);
  Pair<float> master(random, size, 0.05f), bias(random, std::size_t(out));
  Pair<T> copy = Pair<T>::output(size), x(random, std::size_t(rows * in)),
          u = Pair<T>::output(wide), v = Pair<T>::output(wide), dv = Pair<T>::output(wide),
          dz(random, std::size_t(rows * in));
  on.run([&](auto at) { return PrepareWeight<T>{at(copy), nullptr, at(master), out, in}; });
  on.run(
      [&](auto at) {
        return LinearForward<T>{
            at(u), at(x), {at(master), at(copy), nullptr, out, in}, at(bias), rows};
      },
      [&](auto at) {
        return GeluForward<T>{at(v), at(u), rows, out, Activation::gelu_tanh};
      });
  on.report.compare(typed<T>("linear before gelu"), u, is_half<T> ? 2 * share<T> : 2e-5);
  on.report.compare(typed<T>("gelu of a linear"), v, is_half<T> ? 2 * share<T> : 2e-5);
  on.run(
      [&](auto at) {  // of a layer with the same numbers, read as (in, out)
        return LinearBackwardInput<T, T>{
            at(dv), at(dz), {at(master), at(copy), nullptr, in, out}, rows};
      },
      [&](auto at) {
        return GeluBackward<T>{at(dv), at(dv), at(u), rows, out, Activation::gelu_tanh};
      });
  // the reference rounds before it takes the slope, the library may not
  on.report.compare(typed<T>("gelu_backward of a linear"), dv, is_half<T> ? 3 * share<T> : 2e-5);
}

template <class G> void updates(Bench& on) {
  for (const int count : {65536 + 777, 3}) {
    Random random(6);
    Pair<G> gradient(random, std::size_t(count));
    Pair<ExactSum> sum(std::vector<ExactSum>(1));
    on.run([&](auto at) { return SumOfSquaresOf<G>{at(sum), at(gradient), count}; });
    on.report.say(typed<G>("sum_of_squares"), sum.download()[0] == *sum.host(),
                  sum.download()[0].value(), sum.host()->value());
    for (const OptimizerKind kind :
         {OptimizerKind::adamw_torch, OptimizerKind::adamw_hugging_face}) {
      Pair<float> weight(random, std::size_t(count)), first(random, std::size_t(count)),
          second(std::vector<float>(std::size_t(count), 0.5f));
      on.run([&](auto at) {
        return AdamWUpdateOf<G>{at(weight), at(first), at(second), at(gradient), count, kind, 1e-3f,
                                0.9f,       0.999f,    1e-8f,      0.1f,         0.5f,  3};
      });
      on.report.compare(typed<G>("adamw weight"), weight, 1e-6);
      on.report.compare(typed<G>("adamw first moment"), first, 1e-6);
      on.report.compare(typed<G>("adamw second moment"), second, 1e-6);
    }
  }
}

/// AdamW, and the copy that products read.
template <class T> void update_into_a_copy(Bench& on) {
  for (const int in : {64, 5}) {
    Random random(9);
    const int out = 33;
    const auto size = std::size_t(out * in);
    Pair<float> weight(random, size), first(random, size), gradient(random, size),
        second(std::vector<float>(size, 0.5f));
    Pair<T> copy = Pair<T>::output(size);
    on.run([&](auto at) {
      return AdamWUpdateAndPrepare<T, float>{
          {at(weight), at(first), at(second), at(gradient), std::int64_t{out} * in,
           OptimizerKind::adamw_torch, 1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.5f, 3},
          {at(copy), nullptr, at(weight), out, in},
          {0, out}};
    });
    on.report.compare(typed<T>("adamw weight beside a copy"), weight, 1e-6);
    on.report.compare(typed<T>("adamw copy"), copy, share<T>);
  }
}

}  // namespace

int main() {
  cuda::require_device("gpu_kernels");
  Bench on;
  norms<float>(on), norms<bf16>(on), norms<fp16>(on);
  joined_norms<float, float>(on), joined_norms<bf16, bf16>(on), joined_norms<fp16, float>(on);
  conversions<bf16>(on), conversions<fp16>(on);
  elements<float>(on), elements<bf16>(on), elements<fp16>(on);
  attention<float>(on), attention<bf16>(on), attention<fp16>(on);
  model_ends(on);
  products<float>(on), products<bf16>(on), products<fp16>(on);
  products_with_gelu<float>(on), products_with_gelu<bf16>(on), products_with_gelu<fp16>(on);
  updates<float>(on), updates<bf16>(on);
  update_into_a_copy<bf16>(on);
  return on.report.end("gpu_kernels");
}
