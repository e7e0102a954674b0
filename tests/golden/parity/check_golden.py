"""Checks the golden files without transformers: the forward pass is written out again from its equations and run
sentence by sentence in float64, without padding; gradients are compared with finite differences.

    python check_golden.py           (needs torch, safetensors)
"""

import json
import math
import pathlib

import torch
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent
failures = 0


def claim(what, worst, limit):
    global failures
    worst = float(torch.as_tensor(worst).detach())
    failures += not worst <= limit
    print(f"{'ok  ' if worst <= limit else 'FAIL'} {worst:9.2e} <= {limit:.0e}  {what}")


def layernorm(x, w, name, eps=1e-12):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[name + ".weight"] + w[name + ".bias"]


def linear(x, w, name):
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def attention(x, w, layer, heads):
    q, k, v = (linear(x, w, f"{layer}.attention.self.{part}").unflatten(-1, (heads, -1)).transpose(0, 1)
               for part in ("query", "key", "value"))
    p = torch.exp(q @ k.mT / math.sqrt(q.shape[-1]))
    context = (p / p.sum(-1, keepdim=True)) @ v
    return linear(context.transpose(0, 1).flatten(1), w, f"{layer}.attention.output.dense")


def mlp(x, w, layer, act):
    return linear(act(linear(x, w, f"{layer}.intermediate.dense")), w, f"{layer}.output.dense")


def gelu_erf(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def hidden_rows(ids, types, w, config):
    """One sentence without padding: (tokens) -> (tokens, hidden)."""
    e = "bert.embeddings."
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    x = w[e + "word_embeddings.weight"][ids] + w[e + "token_type_embeddings.weight"][types]
    x = x + w[e + "position_embeddings.weight"][: len(ids)]
    names = [f"bert.encoder.layer.{i}" for i in range(layers)]
    if config["model_type"] == "megatron-bert":
        for name in names:
            x = x + attention(layernorm(x, w, f"{name}.attention.ln"), w, name, heads)
            x = x + mlp(layernorm(x, w, f"{name}.ln"), w, name, gelu_tanh)
        return layernorm(x, w, "bert.encoder.ln")
    x = layernorm(x, w, e + "LayerNorm")
    for name in names:
        x = layernorm(x + attention(x, w, name, heads), w, f"{name}.attention.output.LayerNorm")
        x = layernorm(x + mlp(x, w, name, gelu_erf), w, f"{name}.output.LayerNorm")
    return x


def forward(batch, w, config):
    rows, logits, pooled, loss = [], [], [], 0.0
    for ids, types, length, label in zip(*(batch[k] for k in ("input_ids", "token_type_ids", "lengths", "labels"))):
        rows.append(hidden_rows(ids[:length], types[:length], w, config))
        pooled.append(torch.tanh(linear(rows[-1][0], w, "bert.pooler.dense")))
        logits.append(linear(pooled[-1], w, "classifier"))
        loss = loss + torch.logsumexp(logits[-1], 0) - logits[-1][label]
    loss = loss / len(logits)
    return {"hidden": torch.cat(rows), "pooled": torch.stack(pooled), "logits": torch.stack(logits),
            "loss": loss.reshape(1)}


def part(tensors, prefix):
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def finite_difference(batch, w, config, name, index, step=1e-5):
    loss = []
    for sign in (1, -1):
        moved = dict(w, **{name: w[name].clone()})
        moved[name].view(-1)[index] += sign * step
        loss.append(forward(batch, moved, config)["loss"].item())
    return (loss[0] - loss[1]) / (2 * step)


def check_outputs(model, batches, w, config):
    stored = load_file(HERE / model / "outputs.safetensors")
    for index in (0, 1):
        batch, golden = part(batches, f"batch{index}."), part(stored, f"batch{index}.")
        for name, value in forward(batch, w, config).items():
            claim(f"{model} batch {index}: {name}, float64", (value - golden[f"{name}.f64"]).abs().max(), 1e-12)
            claim(f"{model} batch {index}: {name}, float32", (value - golden[f"{name}.f32"]).abs().max(), 5e-6)
        gradients = part(golden, "grad.")
        assert gradients.keys() == w.keys()
        generator, worst, largest = torch.Generator().manual_seed(9), 0.0, 0.0
        for name, g in gradients.items():
            i = int(torch.randint(0, g.numel(), (), generator=generator))
            if name == "bert.embeddings.word_embeddings.weight":
                row = int(batch["input_ids"][1, 1])  # a word that occurs
                i = row * g.shape[1] + 3
            worst = max(worst, abs(finite_difference(batch, w, config, name, i) - g.view(-1)[i].item()))
            largest = max(largest, g.abs().max().item())
        claim(f"{model} batch {index}: one finite difference in each of {len(w)} gradients (largest {largest:.2g})",
              worst, 1e-8 if index == 0 else 2e-7)
        claim(f"{model} batch {index}: gradient of the padding word's row",
              gradients["bert.embeddings.word_embeddings.weight"][0].abs().max(), 0)
        for i in range(config["num_hidden_layers"]):
            claim(f"{model} batch {index}: key bias {i} has no gradient but rounding",
                  gradients[f"bert.encoder.layer.{i}.attention.self.key.bias"].abs().max(), 1e-8)
    slope = finite_difference(part(batches, "batch1."), w, config, "bert.embeddings.word_embeddings.weight", 3)
    claim(f"{model} batch 1: has a real token 0, so that without the rule row 0 would have a gradient (0 = yes)",
          abs(slope) < 1e-6, 0)


def manual_training(batches, w, config, kind, rates):
    """100 updates written out from the equations of AdamW; gradients by autograd through the forward pass above."""
    w = {name: t.clone().requires_grad_() for name, t in w.items()}
    m, v = ({name: torch.zeros_like(t) for name, t in w.items()} for _ in range(2))
    losses, norms = [], []
    for t, rate in enumerate(rates.tolist(), start=1):
        batch = {key: value[(t - 1) % 8] for key, value in batches.items()}
        loss = forward(batch, w, config)["loss"]
        gradients = dict(zip(w, torch.autograd.grad(loss.sum(), list(w.values()))))
        gradients["bert.embeddings.word_embeddings.weight"][0] = 0
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
        losses.append(loss.item())
        norms.append(norm)
        c1, c2 = 1 - 0.9**t, 1 - 0.999**t
        for name, theta in w.items():
            g = gradients[name] * min(1.0, 1.0 / (norm + 1e-6))
            decay = 0.0 if any(s in name for s in ("bias", "LayerNorm.weight")) else 0.1
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g * g
            old = theta.detach()
            if kind == "torch_linear":
                new = old * (1 - rate * decay) - rate * (m[name] / c1) / (v[name].sqrt() / math.sqrt(c2) + 1e-8)
            else:
                new = old - rate * math.sqrt(c2) / c1 * m[name] / (v[name].sqrt() + 1e-8)
                new = new - rate * decay * new
            w[name] = new.requires_grad_()
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(norms, dtype=torch.float64), w


def check_training(model, batches, w, config):
    stored = load_file(HERE / model / "training.safetensors")
    for run in ("torch_linear", "hf_polynomial"):
        golden = part(stored, run + ".")
        last = 0.0 if run == "torch_linear" else 1e-7
        rates = torch.tensor([1e-3 * t / 10 if t < 10 else (1e-3 - last) * (100 - t) / 90 + last for t in range(100)],
                             dtype=torch.float64)
        claim(f"{model} {run}: learning rates", (rates - golden["lr"]).abs().max(), 1e-15)
        losses, norms, trained = manual_training(part(batches, "train."), w, config, run, rates)
        claim(f"{model} {run}: loss curve, float64", (losses - golden["loss.f64"]).abs().max(), 1e-9)
        claim(f"{model} {run}: loss curve, float32", (losses - golden["loss.f32"]).abs().max(), 1e-5)
        claim(f"{model} {run}: gradient norms, float64", (norms - golden["grad_norm.f64"]).abs().max(), 1e-7)
        for name, value in part(golden, "final.").items():
            claim(f"{model} {run}: final {name}", (trained[name] - value).abs().max(), 1e-8)
        row = w["bert.embeddings.word_embeddings.weight"][0] * torch.prod(1 - rates * 0.1)
        claim(f"{model} {run}: the padding word's row only decays",
              (row - golden["final.bert.embeddings.word_embeddings.weight"][0]).abs().max(), 1e-15)
        claim(f"{model} {run}: the first update has rate 0", golden["lr"][0], 0)


def check_blocks():
    b = load_file(HERE / "blocks.safetensors")
    for kind, f in {"erf": gelu_erf, "tanh": gelu_tanh}.items():
        claim(f"gelu {kind}", (f(b["gelu.x"]) - b[f"gelu.{kind}.value"]).abs().max(), 1e-14)
        slope = (f(b["gelu.x"] + 1e-6) - f(b["gelu.x"] - 1e-6)) / 2e-6
        claim(f"gelu {kind} derivative", (slope - b[f"gelu.{kind}.derivative"]).abs().max(), 1e-9)
    known = {-3: (-0.0040497, -0.0036374), -1: (-0.1586553, -0.1588080), 0.5: (0.3457312, 0.3457140),
             1: (0.8413447, 0.8411920), 3: (2.9959503, 2.9963626)}
    for x, values in known.items():
        for f, value in zip((gelu_erf, gelu_tanh), values):
            claim(f"{f.__name__}({x})", abs(f(torch.tensor(float(x), dtype=torch.float64)).item() - value), 6e-8)

    w = {"ln.weight": b["layernorm.gain"], "ln.bias": b["layernorm.bias"]}
    leaves = [t.clone().requires_grad_() for t in (b["layernorm.x"], *w.values())]
    y = layernorm(leaves[0], dict(zip(w, leaves[1:])), "ln")
    claim("layernorm", (y - b["layernorm.y"]).abs().max(), 1e-13)
    for name, g in zip(("dx", "dgain", "dbias"), torch.autograd.grad(y, leaves, b["layernorm.dy"])):
        claim(f"layernorm {name}", (g - b[f"layernorm.{name}"]).abs().max(), 1e-13)

    logits, labels = b["cross_entropy.logits"], b["cross_entropy.labels"].long()
    p = torch.exp(logits - logits.amax(1, keepdim=True))
    p /= p.sum(1, keepdim=True)
    claim("cross entropy", (-p[range(5), labels].log().mean() - b["cross_entropy.loss"]).abs().max(), 1e-13)
    claim("cross entropy dlogits",
          ((p - torch.nn.functional.one_hot(labels, 3)) / 5 - b["cross_entropy.dlogits"]).abs().max(), 1e-13)

    for kind, known in {"torch": (0.890000002, 0.854466299), "hf": (0.891000063, 0.855722710)}.items():
        for step, value in enumerate(known):
            claim(f"adamw {kind}, step {step + 1}", abs(b[f"adamw.{kind}"][step].item() - value), 6e-10)


def check_files(model):
    w = load_file(HERE / model / "model.safetensors")
    binary = HERE / model / "pytorch_model.bin"
    if binary.exists():
        pickled = torch.load(binary, weights_only=True)
        claim(f"{model}: pytorch_model.bin equals model.safetensors (0 = yes)",
              pickled.keys() != w.keys() or any(not torch.equal(w[n], t) for n, t in pickled.items()), 0)
    facts = json.loads((HERE / "facts.json").read_text())[model]
    claim(f"{model}: parameter count", abs(sum(t.numel() for t in w.values()) - facts["parameters"]), 0)


def check_pretraining():
    w = torch.load(HERE / "megatron-pretraining" / "pytorch_model.bin", weights_only=True)
    shared = ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight")
    claim("pretraining: the decoder shares the storage of the word embeddings (0 = yes)",
          len({w[n].untyped_storage().data_ptr() for n in shared}) - 1, 0)
    classifier = [n for n in load_file(HERE / "megatron" / "model.safetensors") if n not in w]
    claim("pretraining: only the classifier is missing (0 = yes)",
          set(classifier) != {"classifier.weight", "classifier.bias"}, 0)


def main():
    torch.set_num_threads(1)
    batches = load_file(HERE / "batch.safetensors")
    batches = {n: t.long() for n, t in batches.items()}
    check_blocks()
    check_pretraining()
    for model in ("megatron", "bert"):
        w = {n: t.double() for n, t in load_file(HERE / model / "model.safetensors").items()}
        config = json.loads((HERE / model / "config.json").read_text())
        check_files(model)
        check_outputs(model, batches, w, config)
        check_training(model, batches, w, config)
    print(f"{failures} failed")
    raise SystemExit(failures != 0)


if __name__ == "__main__":
    main()
