#!/usr/bin/env python3
"""What the proof of a schedule costs: front-end seconds of every way to split a step of the 1.3B model.

Data ranks 1 to 8, tensor ranks 1 and 2 (with and without sequence parallelism), pipeline stages 1 to
4 in both orders, ZeRO 0 to 3, within 8 ranks, less what the rules forbid, eight micro-batches a step.
Each is one source that states static_assert(ctrain::check<Mine>()): rules, plan and its proofs,
schedules of a step and of an evaluation and their proofs. Seconds are those of the processor, which
other processes change little.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from compile import ROOT, machine

SOURCE = """#include <ctrain/check.hpp>

struct Mine {{
  static constexpr ctrain::Policy policy{{
      .model = ctrain::erlangshen_1b3,
      .batch = {{.packed_tokens = 2048, .accumulation = 8}},
      .precision = {{ctrain::Compute::bf16}},
      .parallel = {{.data = {data}, .tensor = {tensor}, .pipeline = {pipeline},
                   .sequence = {sequence}, .order = ctrain::PipelineOrder::{order}}},
      .zero = {{.stage = {stage}}},
      .device = ctrain::h200_141gb}};
}};
static_assert(ctrain::check<Mine>());
"""
ONE_F_ONE_B, ZERO_BUBBLE = "one_forward_one_backward", "zero_bubble"
AIM = 2.0  # seconds


def layouts(most_ranks):
    for pipeline in (1, 2, 3, 4):
        for tensor in (1, 2):
            for data in range(1, most_ranks // (pipeline * tensor) + 1):
                for stage in (0, 1, 2, 3) if pipeline == 1 else (0, 1):
                    for order in (ONE_F_ONE_B,) if pipeline == 1 else (ONE_F_ONE_B, ZERO_BUBBLE):
                        for sequence in (False,) if tensor == 1 else (False, True):
                            yield {"data": data, "tensor": tensor, "pipeline": pipeline,
                                   "stage": stage, "order": order, "sequence": sequence}


def seconds(compiler, source):
    command = [compiler, "-std=c++20", f"-I{ROOT}/include", "-fsyntax-only", str(source)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    message = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)}\n{source.read_text()}\n{message}")
    return round(usage.ru_utime + usage.ru_stime, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--ranks", type=int, default=8, help="at most so many (default: 8)")
    options = parser.parse_args()

    compilers = [c for c in ("g++", "clang++") if shutil.which(c)]
    rows = []
    print("".join(f"{key:>10}" for key in ("data", "tensor", "pipeline", "stage", *compilers)) + "  order")
    with tempfile.TemporaryDirectory() as scratch:
        source = pathlib.Path(scratch) / "mine.cpp"
        for layout in layouts(options.ranks):
            source.write_text(SOURCE.format(**layout | {"sequence": str(layout["sequence"]).lower()}))
            row = layout | {c: seconds(c, source) for c in compilers}
            rows.append(row)
            words = ([row["order"]] if row["pipeline"] > 1 else []) + ["sequence"] * row["sequence"]
            print("".join(f"{row[key]:>10}" for key in ("data", "tensor", "pipeline", "stage")) +
                  "".join(f"{row[c]:>10.2f}" for c in compilers) + "  " + " ".join(words), flush=True)
    for c in compilers:
        worst = max(row[c] for row in rows)
        print(f"{c}: {len(rows)} layouts proved, at most {worst:.2f} s each (aim {AIM}): "
              f"{'met' if worst <= AIM else 'missed'}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({**machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
