"""Ours against PyTorch on the same work: whole steps of the same blocks, the same padded batch of real tokens, interleaved.

    bench/run.sh pytorch [--python PYTHON] [--rounds N]

Builds bench_step (bench/run.sh does), then for each shape runs it and pytorch_step.py (its defaults are the best set-up found; see there)
in turn, and prints medians over all rounds and their ratio. PYTHON needs torch; nothing else of ctrain does.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
BLOCKS = ["--vocab", "64", "--hidden", "2048", "--layers", "2", "--heads", "8", "--padded", "32"]
MINI = ["--vocab", "21248", "--hidden", "256", "--layers", "4", "--heads", "4", "--padded", "32"]
SHAPES = [  # name in bench_step, pytorch_step.py's arguments
    ("blocks-128", [*BLOCKS, "--batch", "4"]),
    ("blocks-512", [*BLOCKS, "--batch", "16"]),
    ("blocks-2048", [*BLOCKS, "--batch", "64"]),
    ("mini-2048", [*MINI, "--batch", "64"]),
]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bench-step", default=HERE.parent / "build/cuda/bench/bench_step")
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--repeats", type=int, default=6, help="steps in a round")
    p.add_argument("--modes", default="bf16,fp32")
    p.add_argument("--only", default="", help="shapes whose name begins so")
    p.add_argument("--json")
    return p.parse_args()


def ours(args, name):
    with tempfile.NamedTemporaryFile(suffix=".json") as figures:
        subprocess.run([args.bench_step, "--only", name, "--repeats", str(args.repeats), "--json", figures.name],
                       check=True, stdout=subprocess.DEVNULL)
        return json.loads(pathlib.Path(figures.name).read_text())[0]["median_ms"]


def theirs(args, mode, shape):
    out = subprocess.run([args.python, HERE / "pytorch_step.py", "--mode", mode, "--repeats", str(args.repeats), *shape],
                         check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out)


def main():
    args = arguments()
    rows = []
    print(f"{'step':18} {'ours ms':>9} {'PyTorch ms':>11} {'ratio':>6}")
    for mode in args.modes.split(","):
        for name, shape in SHAPES:
            if not name.startswith(args.only):
                continue
            mine, other = [], []
            for _ in range(args.rounds):
                mine.append(ours(args, f"{name}-{mode}"))
                result = theirs(args, mode, shape)
                other.append(result["median_ms"]["step"])
            a, b = statistics.median(mine), statistics.median(other)
            print(f"{name + '-' + mode:18} {a:9.1f} {b:11.1f} {b / a:6.2f}", flush=True)
            rows.append({"name": f"{name}-{mode}", "ours_ms": mine, "pytorch_ms": other, "ratio": b / a, "torch": result["torch"],
                         "processor": result["processor"]})
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
