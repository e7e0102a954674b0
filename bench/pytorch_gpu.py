#!/usr/bin/env python3
"""Steps of the 1.3B MegatronBERT shape in PyTorch on the card; one JSON object a line, as bench/gpu_cuda.cu prints them.

Its best set-up: torch.autocast(bfloat16) over fp32 weights, scaled_dot_product_attention, AdamW(fused=True), clipping by global
norm, and torch.compile unless --no-compile. Packed sentences are what it pads: 128 sentences of 128 tokens.
"""
import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

HIDDEN, LAYERS, HEADS, WIDE, VOCABULARY = 2048, 24, 8, 8192, 21248


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, WIDE), nn.Linear(WIDE, HIDDEN)

    def forward(self, x):
        batch, length, _ = x.shape
        heads = self.qkv(self.first(x)).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*heads, dropout_p=0.1).transpose(1, 2).reshape(batch, length, HIDDEN)
        x = x + F.dropout(self.out(attended), 0.1)
        return x + F.dropout(self.down(F.gelu(self.up(self.second(x)), approximate="tanh")), 0.1)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.word, self.position = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(512, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.pooler, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, ids, labels):
        x = F.dropout(self.word(ids) + self.position.weight[: ids.shape[1]], 0.1)
        for block in self.blocks:
            x = block(x)
        pooled = F.dropout(torch.tanh(self.pooler(self.norm(x[:, 0]))), 0.1)
        return F.cross_entropy(self.head(pooled).float(), labels)


def measure(model, optimizer, name, sentences, length):
    ids = torch.randint(1, VOCABULARY, (sentences, length), device="cuda")
    labels = torch.arange(sentences, device="cuda") % 2
    seconds = []
    for step in range(23):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(ids, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        if step >= 3:
            seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    print(json.dumps({"step": name, "rows": sentences * length, "seconds": round(median, 6),
                      "steps_per_second": round(1 / median, 3),
                      "tokens_per_second": round(sentences * length / median)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    model = Model().cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    step = model if options.no_compile else torch.compile(model)
    print(json.dumps({"torch": torch.__version__, "compiled": not options.no_compile}), flush=True)
    measure(step, optimizer, "padded 4 x 512", 4, 512)
    measure(step, optimizer, "padded 4 x 36", 4, 36)
    measure(step, optimizer, "padded 128 x 128", 128, 128)


if __name__ == "__main__":
    main()
