"""Times one training step of the MegatronBERT shape in PyTorch on the CPU; prints one JSON object.

    python pytorch_step.py --mode bf16                    (two blocks of the 1.3B model on 4 x 64 tokens)
    python pytorch_step.py --vocab 21248 --hidden 256 --layers 4 --heads 4 --batch 32 --padded 64 --real 32

Without --vocab the model is the blocks alone: random activations in, a random gradient in at the end. With it, embeddings, final norm,
pooler, classifier and cross-entropy are added. Modes, all with AdamW (fused) and clipping by global norm:
  fp32         weights and compute in fp32
  bf16         torch.autocast(bfloat16) over fp32 weights: PyTorch's documented recipe
  bf16-master  bf16 weights and gradients, fp32 master weights and moments, as DeepSpeed's bf16 optimizer does

Settings that were best on two blocks (4 x 64 tokens, bf16, one thread, processor time of a step, torch 2.15, EPYC with AVX512-BF16), hence
the defaults: glibc-keep 490 ms, tcmalloc 488, jemalloc 494, glibc as it is 760-780; --no-fused 605; --compile 535; bf16-master 529.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import sys
import time

LIBRARIES = pathlib.Path("/usr/lib/x86_64-linux-gnu")
ALLOCATORS = {  # glibc gives large blocks back to the kernel after each use unless told to keep them
    "as-is": {},
    "glibc-keep": {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "68719476736",
                   "MALLOC_TOP_PAD_": "1073741824", "MALLOC_ARENA_MAX": "1"},
    "tcmalloc": {"LD_PRELOAD": str(LIBRARIES / "libtcmalloc_minimal.so.4")},
    "jemalloc": {"LD_PRELOAD": str(LIBRARIES / "libjemalloc.so.2"),
                 "MALLOC_CONF": "oversize_threshold:1,background_thread:false,metadata_thp:auto,"
                                "dirty_decay_ms:-1,muzzy_decay_ms:-1"},
}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=["fp32", "bf16", "bf16-master"], default="fp32")
    for name, default in {"hidden": 2048, "layers": 2, "heads": 8, "mlp": 0, "vocab": 0}.items():
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--padded", type=int, default=64, help="columns of the padded batch")
    p.add_argument("--real", type=int, default=0, help="real tokens per sentence; 0: every column, and no mask")
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--warm-up", type=int, default=3)
    p.add_argument("--compile", action="store_true", help="torch.compile the model")
    p.add_argument("--no-fused", action="store_true", help="AdamW(foreach=True) instead of fused=True")
    p.add_argument("--allocator", choices=ALLOCATORS, default="glibc-keep")
    return p.parse_args()


def restart_with(allocator):
    """An allocator is chosen when a process starts, so the script starts itself again."""
    wanted = ALLOCATORS[allocator]
    library = wanted.get("LD_PRELOAD")
    if library and not os.path.exists(library):
        sys.exit(f"{library} is missing: install libtcmalloc-minimal4 or libjemalloc2, or choose another --allocator")
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


args = arguments()
restart_with(args.allocator)

import torch  # noqa: E402  after the restart
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402


class Block(nn.Module):
    """The pre-LN block, with the three projections as one product."""

    def __init__(self, hidden, mlp, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(hidden, eps=1e-12), nn.LayerNorm(hidden, eps=1e-12)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, mlp), nn.Linear(mlp, hidden)

    def forward(self, x, mask):
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = map(split, self.qkv(self.attention_norm(x)).chunk(3, -1))
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout)
        x = x + F.dropout(self.out(context.transpose(1, 2).flatten(2)), self.dropout)
        return x + F.dropout(self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh")), self.dropout)


class Blocks(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.blocks = nn.ModuleList(Block(a.hidden, a.mlp or 4 * a.hidden, a.heads, a.dropout) for _ in range(a.layers))

    def forward(self, x, mask):
        for block in self.blocks:
            x = block(x, mask)
        return x


class Classifier(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.words, self.types = nn.Embedding(a.vocab, a.hidden, padding_idx=0), nn.Embedding(2, a.hidden)
        self.positions = nn.Parameter(torch.randn(512, a.hidden) * 0.02)
        self.blocks, self.norm = Blocks(a), nn.LayerNorm(a.hidden, eps=1e-12)
        self.pooler, self.head, self.dropout = nn.Linear(a.hidden, a.hidden), nn.Linear(a.hidden, 2), a.dropout

    def forward(self, ids, mask):
        x = self.words(ids) + self.types(torch.zeros_like(ids)) + self.positions[: ids.shape[1]]
        x = self.norm(self.blocks(F.dropout(x, self.dropout), mask))
        return self.head(F.dropout(torch.tanh(self.pooler(x[:, 0])), self.dropout))


class Step:
    def __init__(self, a):
        torch.manual_seed(1)
        self.a = a
        self.model = Classifier(a) if a.vocab else Blocks(a)
        shape = (a.batch, a.padded)
        self.x = torch.randint(1, a.vocab, shape) if a.vocab else torch.randn(*shape, a.hidden, requires_grad=True)
        self.labels, self.dy = torch.randint(0, 2, (a.batch,)), torch.randn(*shape, a.hidden) / a.hidden
        self.mask = (torch.arange(a.padded) < a.real).expand(a.batch, 1, a.padded, a.padded) if a.real else None
        self.masters = list(self.model.parameters())
        if a.mode == "bf16-master":
            self.masters = [nn.Parameter(p.detach().clone()) for p in self.masters]
            self.model.bfloat16()
            self.x = self.x if a.vocab else self.x.detach().bfloat16().requires_grad_()
        kind = {"foreach": True} if a.no_fused else {"fused": True}
        self.optimizer = torch.optim.AdamW(self.masters, lr=1e-5, weight_decay=0.1, **kind)
        self.run = torch.compile(self.model) if a.compile else self.model

    def forward_backward(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.a.mode == "bf16"):
            y = self.run(self.x, self.mask)
            loss = F.cross_entropy(y.float(), self.labels) if self.a.vocab else None
        loss.backward() if self.a.vocab else y.backward(self.dy.to(y.dtype))

    def zero(self):
        self.model.zero_grad(set_to_none=True)
        self.x.grad = None

    def update(self):
        working = list(self.model.parameters())
        if self.a.mode == "bf16-master":
            for master, p in zip(self.masters, working):
                master.grad = p.grad.float()
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        if self.a.mode == "bf16-master":
            torch._foreach_copy_([p.detach() for p in working], [m.detach() for m in self.masters])


def milliseconds(run):
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main():
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    step = Step(args)
    times = []
    for _ in range(args.warm_up + args.repeats):
        used = time.process_time()
        parts = [milliseconds(part) for part in (step.zero, step.forward_backward, step.update)]
        times.append({"forward_backward": parts[1], "update": parts[2], "step": sum(parts),
                      "processor_time_of_step": 1e3 * (time.process_time() - used)})
    times = times[args.warm_up :]
    median = {key: statistics.median(t[key] for t in times) for key in times[0]}
    tokens = args.batch * args.padded
    print(json.dumps({
        "program": "pytorch_step.py", "torch": torch.__version__, "processor": processor(), **vars(args),
        "bf16_in_hardware": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "parameters": sum(p.numel() for p in step.model.parameters()),
        "median_ms": {key: round(value, 3) for key, value in median.items()},
        "least_ms": {key: round(min(t[key] for t in times), 3) for key in median},
        "rows_per_second": round(1e3 * tokens / median["step"], 1),
        "real_tokens_per_second": round(1e3 * args.batch * (args.real or args.padded) / median["step"], 1),
        "peak_resident_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


if __name__ == "__main__":
    main()
