"""Writes the golden files of this folder; tests/parity/README.md says what each one holds.

    python make_golden.py            (needs torch, transformers, safetensors; CPU only, about a minute)

Two small classifiers with random weights are run by Hugging Face transformers and trained by torch, without
dropout. Whatever a file calls f64 was computed in double precision from the same stored fp32 weights.
"""

import copy
import json
import math
import pathlib
import shutil

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
VOCAB, POSITIONS, PADDED = 128, 64, 48
CLS, SEP = 101, 102
STEPS, WARM_UP, BASE_LR, LAST_LR, DECAY, CLIP = 100, 10, 1e-3, 1e-7, 0.1, 1.0
BETAS, EPS = (0.9, 0.999), 1e-8
NO_DECAY = ("bias", "LayerNorm.bias", "LayerNorm.weight")  # substrings: MegatronBERT's `ln.weight` does decay


def save(path, tensors):
    path.parent.mkdir(exist_ok=True)
    safetensors.torch.save_file({name: t.detach().clone().contiguous() for name, t in tensors.items()}, path)


# ---------------------------------------------------------------------------------------------- models


def megatron_config():
    return transformers.MegatronBertConfig(
        vocab_size=VOCAB, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256,
        hidden_act="gelu_new", max_position_embeddings=POSITIONS, layer_norm_eps=1e-12, num_labels=2)


def bert_config():
    return transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192,
        hidden_act="gelu", max_position_embeddings=POSITIONS, layer_norm_eps=1e-12, num_labels=2)


def random_model(kind, config, seed):
    """Weights of std 0.1 and perturbed biases and gains, so that no term of the forward pass is negligible."""
    config._attn_implementation = "eager"
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        centre = 1.0 if name.endswith(("ln.weight", "LayerNorm.weight")) else 0.0
        parameter.data = centre + 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def write_vocabulary(path):
    """124 words for 128 rows: as in the 1.3B model, the last embedding rows belong to no word."""
    words = ["[PAD]"] + [f"[unused{i}]" for i in range(1, 100)] + ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += list("花呗借还款怎么样可以开通不能用了吗的")
    words += ["##" + letter for letter in "ab"]
    path.write_text("\n".join(words[:124]) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------- inputs


def random_batch(sentences, generator, padding_word=False):
    """[CLS] a [SEP] b [SEP] for each sentence pair, padded with 0 to PADDED columns."""
    draw = lambda low, high: int(torch.randint(low, high, (), generator=generator))
    batch = {key: torch.zeros(sentences, PADDED, dtype=torch.int32)
             for key in ("input_ids", "token_type_ids", "attention_mask")}
    lengths = [draw(5, 41) for _ in range(sentences)]
    for row, length in enumerate(lengths):
        ids = torch.randint(1, 100, (length,), generator=generator)
        middle = draw(2, length - 2)
        ids[0], ids[middle], ids[-1] = CLS, SEP, SEP
        if padding_word and row == 0:
            ids[1 if middle != 1 else 2] = 0  # a real token with id 0: its embedding row gets no gradient
        batch["input_ids"][row, :length] = ids
        batch["token_type_ids"][row, middle + 1 : length] = 1
        batch["attention_mask"][row, :length] = 1
    batch["labels"] = torch.randint(0, 2, (sentences,), generator=generator, dtype=torch.int32)
    batch["lengths"] = torch.tensor(lengths, dtype=torch.int32)
    return batch


def for_model(batch):
    return {key: value.long() for key, value in batch.items() if key != "lengths"}


# ---------------------------------------------------------------------------------------------- outputs


def outputs(model, batch):
    model.zero_grad()
    base = {}
    hook = model.base_model.register_forward_hook(lambda _, __, out: base.update(out=out))
    out = model(**for_model(batch))
    hook.remove()
    out.loss.backward()
    real = batch["attention_mask"].bool()
    values = {"hidden": base["out"].last_hidden_state[real], "pooled": base["out"].pooler_output,
              "logits": out.logits, "loss": out.loss.reshape(1)}
    gradients = {f"grad.{name}": p.grad for name, p in model.named_parameters()}
    return values, gradients


def write_outputs(path, model, batches, facts):
    stored = {}
    for index, batch in enumerate(batches):
        single, single_gradients = outputs(model, batch)
        double, double_gradients = outputs(copy.deepcopy(model).double(), batch)
        for name in single:
            stored[f"batch{index}.{name}.f32"] = single[name]
            stored[f"batch{index}.{name}.f64"] = double[name]
        # The second batch keeps only single precision, to keep the folder small.
        gradients = double_gradients if index == 0 else single_gradients
        stored.update({f"batch{index}.{name}": g.clone() for name, g in gradients.items()})
        facts[f"batch{index}.fp32_minus_f64"] = {
            **{name: largest_difference(single[name], double[name]) for name in single},
            "gradients": max(largest_difference(g, double_gradients[n]) for n, g in single_gradients.items())}
    save(path, stored)


def largest_difference(a, b):
    return float(f"{(a.double() - b.double()).abs().max().item():.3g}")


# ---------------------------------------------------------------------------------------------- training


class OldHuggingFaceAdamW(torch.optim.Optimizer):
    """transformers' former AdamW with correct_bias: eps beside sqrt(v), not rescaled; decay of the new theta."""

    def __init__(self, groups, lr):
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                s = self.state[p]
                if not s:
                    s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                s["t"] += 1
                s["m"].mul_(BETAS[0]).add_(p.grad, alpha=1 - BETAS[0])
                s["v"].mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1 - BETAS[1])
                rescale = math.sqrt(1 - BETAS[1] ** s["t"]) / (1 - BETAS[0] ** s["t"])
                p.addcdiv_(s["m"], s["v"].sqrt().add_(EPS), value=-group["lr"] * rescale)
                p.add_(p, alpha=-group["lr"] * group["weight_decay"])


def torch_adamw(groups, lr):
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, foreach=False)


def linear(t):
    return BASE_LR * (t / max(1, WARM_UP) if t < WARM_UP else max(0, (STEPS - t) / max(1, STEPS - WARM_UP)))


def polynomial(t):
    if t < WARM_UP:
        return BASE_LR * t / max(1, WARM_UP)
    if t > STEPS:
        return LAST_LR
    return (BASE_LR - LAST_LR) * (1 - (t - WARM_UP) / (STEPS - WARM_UP)) + LAST_LR


# name: optimizer, schedule
RUNS = {"torch_linear": (torch_adamw, linear), "hf_polynomial": (OldHuggingFaceAdamW, polynomial)}


def train(model, batches, optimizer, schedule, half=None):
    """half: the type of torch.autocast's products; float16 with a loss scale of 1024, which no step overflows."""
    decays = lambda name: not any(part in name for part in NO_DECAY)
    parameters = list(model.named_parameters())
    groups = [{"params": [p for n, p in parameters if decays(n)], "weight_decay": DECAY},
              {"params": [p for n, p in parameters if not decays(n)], "weight_decay": 0.0}]
    stepper = optimizer(groups, BASE_LR)
    losses, norms = [], []
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=half == torch.float16)
    for t in range(STEPS):
        for group in stepper.param_groups:
            group["lr"] = schedule(t)
        stepper.zero_grad()
        with torch.autocast("cpu", half, enabled=half is not None):
            loss = model(**for_model(batches[t % len(batches)])).loss
        scaler.scale(loss).backward()
        scaler.unscale_(stepper)
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP))
        scaler.step(stepper)
        scaler.update()
        losses.append(loss.detach())
    assert scaler.get_scale() == (1024.0 if scaler.is_enabled() else 1.0)
    dtype = parameters[0][1].dtype
    return torch.stack(losses).to(dtype), torch.stack(norms).to(dtype), dict(parameters)


def write_training(path, model, batches, kept_weights, facts):
    stored, losses = {}, {}
    for name, (optimizer, schedule) in RUNS.items():
        single = train(copy.deepcopy(model), batches, optimizer, schedule)
        double = train(copy.deepcopy(model).double(), batches, optimizer, schedule)
        losses[name] = double[0]
        stored[f"{name}.lr"] = torch.tensor([schedule(t) for t in range(STEPS)], dtype=torch.float64)
        for key, i in {"loss": 0, "grad_norm": 1}.items():
            stored[f"{name}.{key}.f32"], stored[f"{name}.{key}.f64"] = single[i], double[i]
        stored.update({f"{name}.final.{weight}": double[2][weight] for weight in kept_weights})
        facts[name] = {
            "first_loss": double[0][0].item(), "last_loss": double[0][-1].item(),
            "clipped_steps": int((double[1] > CLIP).sum()),
            "fp32_minus_f64": {
                "loss": largest_difference(single[0], double[0]),
                "grad_norm": largest_difference(single[1], double[1]),
                **{weight: largest_difference(single[2][weight], double[2][weight]) for weight in kept_weights}}}
    for name, half in {"bf16": torch.bfloat16, "fp16": torch.float16}.items():
        narrow = train(copy.deepcopy(model), batches, *RUNS["torch_linear"], half)
        stored[f"torch_linear.loss.{name}"], stored[f"torch_linear.grad_norm.{name}"] = narrow[0], narrow[1]
        difference = (narrow[0].double() - losses["torch_linear"]).abs()
        facts["torch_linear"][f"{name}_minus_f64"] = {
            "loss": float(f"{difference.max().item():.3g}"),
            "loss_in_the_first_ten_steps": float(f"{difference[:10].max().item():.3g}"),
            "mean_of_absolute_loss_differences": float(f"{difference.mean().item():.3g}")}
    facts["loss_of_torch_linear_minus_hf_polynomial"] = largest_difference(*losses.values())
    save(path, stored)


# ---------------------------------------------------------------------------------------------- single operations


def gelu_vectors():
    x = torch.linspace(-6, 6, 81, dtype=torch.float64, requires_grad=True)
    stored = {"gelu.x": x}
    for name in ("none", "tanh"):
        y = torch.nn.functional.gelu(x, approximate=name)
        kind = {"none": "erf", "tanh": "tanh"}[name]
        stored[f"gelu.{kind}.value"] = y
        stored[f"gelu.{kind}.derivative"] = torch.autograd.grad(y.sum(), x)[0]
    return stored


def layernorm_vectors(generator):
    random = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    x, gain, bias = 3 * random(7, 24) + 1, 1 + 0.3 * random(24), 0.3 * random(24)
    dy = random(7, 24)
    leaves = [t.requires_grad_() for t in (x, gain, bias)]
    y = torch.nn.functional.layer_norm(x, (24,), gain, bias, eps=1e-12)
    names = ("dx", "dgain", "dbias")
    gradients = torch.autograd.grad(y, leaves, dy)
    return {"layernorm.x": x, "layernorm.gain": gain, "layernorm.bias": bias, "layernorm.y": y, "layernorm.dy": dy,
            **{f"layernorm.{n}": g for n, g in zip(names, gradients)}}


def cross_entropy_vectors(generator):
    """Row 1 is shifted by 100 and row 2 by -100: an implementation must subtract the largest logit."""
    logits = 3 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    logits[1] += 100
    logits[2] -= 100
    logits.requires_grad_()
    labels = torch.tensor([2, 0, 1, 1, 0])
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return {"cross_entropy.logits": logits, "cross_entropy.labels": labels.int(),
            "cross_entropy.loss": loss.reshape(1), "cross_entropy.dlogits": torch.autograd.grad(loss, logits)[0]}


def adamw_vectors():
    gradients = torch.tensor([0.5, -0.25, 0.125, 0.0, -1.0], dtype=torch.float64)
    stored = {"adamw.gradient": gradients}
    for name, optimizer in {"torch": torch_adamw, "hf": OldHuggingFaceAdamW}.items():
        theta = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        stepper = optimizer([{"params": [theta], "weight_decay": 0.1}], 0.1)
        seen = []
        for g in gradients:
            theta.grad = g.reshape(1).clone()
            stepper.step()
            seen.append(theta.detach().clone())
        stored[f"adamw.{name}"] = torch.cat(seen)
    return stored


# ---------------------------------------------------------------------------------------------- main


def write_pretraining(path, seed):
    """What a pretraining checkpoint looks like: half precision, no classifier, extra heads, the decoder's weight
    sharing the storage of the word embeddings, and the position_ids buffer of older saves."""
    config = megatron_config()
    config.architectures = ["MegatronBertForPreTraining"]
    model = random_model(transformers.MegatronBertForPreTraining, config, seed).half()
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    tensors = {"bert.embeddings.position_ids": torch.arange(POSITIONS).expand(1, -1), **model.state_dict()}
    path.mkdir()
    config.save_pretrained(path)
    torch.save(tensors, path / "pytorch_model.bin")
    write_vocabulary(path / "vocab.txt")


def main():
    torch.set_num_threads(1)
    for folder in ("megatron", "bert", "megatron-pretraining"):
        shutil.rmtree(HERE / folder, ignore_errors=True)

    generator = torch.Generator().manual_seed(7)
    batches = [random_batch(6, generator), random_batch(4, generator, padding_word=True)]
    training = [random_batch(5, generator) for _ in range(8)]
    save(HERE / "batch.safetensors", {
        **{f"batch{i}.{key}": value for i, batch in enumerate(batches) for key, value in batch.items()},
        **{f"train.{key}": torch.stack([batch[key] for batch in training]) for key in training[0]}})

    generator = torch.Generator().manual_seed(8)
    save(HERE / "blocks.safetensors", {**gelu_vectors(), **layernorm_vectors(generator),
                                       **cross_entropy_vectors(generator), **adamw_vectors()})

    kept = {"megatron": ["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight",
                         "bert.encoder.layer.1.ln.weight", "bert.encoder.ln.weight"],
            "bert": ["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight",
                     "bert.embeddings.LayerNorm.weight", "bert.encoder.layer.1.output.LayerNorm.weight"]}
    models = {"megatron": (transformers.MegatronBertForSequenceClassification, megatron_config(), 1),
              "bert": (transformers.BertForSequenceClassification, bert_config(), 2)}
    facts = {"torch": torch.__version__, "transformers": transformers.__version__}
    for name, (kind, config, seed) in models.items():
        model = random_model(kind, config, seed)
        model.save_pretrained(HERE / name)
        write_vocabulary(HERE / name / "vocab.txt")
        facts[name] = {"parameters": sum(p.numel() for p in model.parameters()),
                       "tensors": len(list(model.parameters()))}
        write_outputs(HERE / name / "outputs.safetensors", model, batches, facts[name])
        write_training(HERE / name / "training.safetensors", model, training,
                       kept[name] + ["classifier.weight", "classifier.bias"], facts[name])
        if name == "megatron":
            torch.save(model.state_dict(), HERE / name / "pytorch_model.bin")
    write_pretraining(HERE / "megatron-pretraining", 3)
    (HERE / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
