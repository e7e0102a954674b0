#!/usr/bin/env python3
"""Steps of the 1.3B MegatronBERT shape in PyTorch on the card; one JSON object a line, as bench/gpu_cuda.cu prints them.

torch.autocast(bfloat16) over fp32 weights, scaled_dot_product_attention, AdamW(fused=True), clipping by global norm. Each batch
is tried eagerly and with compiled blocks, the smallest also with those as CUDA graphs, since launches are what it waits for; the
fastest is its best set-up. (Blocks are compiled once for all layers, which takes seconds instead of minutes; what is between them
is one embedding and a head.) Packed sentences are what it pads: 128 sentences of 128 tokens. With --ours FILE, where
bench_gpu_cuda's lines are, it ends with the ratios.
"""
import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

BATCHES = ((4, 512, "padded 4 x 512"), (4, 36, "packed 4 pairs of 36"), (128, 128, "packed 16,384 tokens of 128"))
VARIANTS = ("eager", "compiled", "compiled, CUDA graphs")


class Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x):
        batch, length, _ = x.shape
        heads = self.qkv(self.first(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*heads, dropout_p=0.1).transpose(1, 2).reshape(batch, length, -1)
        x = x + F.dropout(self.out(attended), 0.1)
        return x + F.dropout(self.down(F.gelu(self.up(self.second(x)), approximate="tanh")), 0.1)


class Model(nn.Module):
    def __init__(self, shape):
        super().__init__()
        hidden = shape.hidden
        self.word, self.position = nn.Embedding(shape.vocabulary, hidden), nn.Embedding(512, hidden)
        self.blocks = nn.ModuleList(Block(hidden, shape.heads) for _ in range(shape.layers))
        self.norm, self.pooler, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 2)

    def forward(self, ids, labels, run_block):
        x = F.dropout(self.word(ids) + self.position.weight[: ids.shape[1]], 0.1)
        for block in self.blocks:
            x = run_block(block, x)
        pooled = F.dropout(torch.tanh(self.pooler(self.norm(x[:, 0]))), 0.1)
        return F.cross_entropy(self.head(pooled).float(), labels)


def block_runner(variant):
    def run(block, x):
        return block(x)

    if variant == "eager":
        return run
    return torch.compile(run, dynamic=False, mode="reduce-overhead" if variant.endswith("graphs") else None)


def seconds_of_step(model, optimizer, run_block, sentences, length, shape):
    ids = torch.randint(1, shape.vocabulary, (sentences, length), device=shape.device)
    labels = torch.arange(sentences, device=shape.device) % 2
    wait = torch.cuda.synchronize if shape.device == "cuda" else lambda: None
    seconds = []
    for step in range(shape.steps + 3):
        wait()
        begin = time.perf_counter()
        with torch.autocast(shape.device, torch.bfloat16):
            loss = model(ids, labels, run_block)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()
        if step >= 3:
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure(model, optimizer, name, sentences, length, shape):
    """The fastest variant's seconds."""
    best = None
    for variant in VARIANTS if sentences * length < 1024 else VARIANTS[:2]:
        try:
            torch.compiler.reset()
            seconds = seconds_of_step(model, optimizer, block_runner(variant), sentences, length, shape)
        except Exception as fault:  # a variant that this build cannot run is none of its best
            optimizer.zero_grad(set_to_none=True)
            print(json.dumps({"torch_step": name, "variant": variant, "failed": str(fault).splitlines()[0][:200]}), flush=True)
            continue
        print(json.dumps({"torch_step": name, "variant": variant, "rows": sentences * length, "seconds": round(seconds, 6),
                          "steps_per_second": round(1 / seconds, 3),
                          "tokens_per_second": round(sentences * length / seconds)}), flush=True)
        best = seconds if best is None else min(best, seconds)
    return best


def print_ratios(path, best):
    with open(path) as lines:
        ours = {row["step"]: row["seconds"] for row in map(json.loads, lines) if "step" in row}
    for name, seconds in best.items():
        if name in ours and seconds:
            print(json.dumps({"ratio": name, "torch_seconds": round(seconds, 6), "our_seconds": ours[name],
                              "times_as_fast": round(seconds / ours[name], 3)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", help="a file with the lines of bench_gpu_cuda")
    for name, value in (("device", "cuda"), ("hidden", 2048), ("layers", 24), ("heads", 8), ("vocabulary", 21248), ("steps", 20)):
        parser.add_argument(f"--{name}", type=type(value), default=value, help="for a rehearsal without a card")
    shape = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    model = Model(shape).to(shape.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    print(json.dumps({"torch": torch.__version__}), flush=True)
    best = {name: measure(model, optimizer, name, sentences, length, shape) for sentences, length, name in BATCHES}
    if shape.ours:
        print_ratios(shape.ours, best)


if __name__ == "__main__":
    main()
