#!/usr/bin/env python3
"""What the compiler made of the hot kernels: registers, spills, and 16-byte accesses.

Compiles bench/kernels/hot.cu for sm_80 and sm_90 with nvcc and asks ptxas (-v) about each kernel;
where cuobjdump is found (on PATH, or named by CUOBJDUMP) it also counts the global loads and stores
in the machine code and how many of them move 16 bytes. Needs no card.

    bench/kernels.py           prints the table that bench/kernels/table.md holds
    bench/kernels.py --check   fails where a kernel spills, or the table names other kernels; with
                               cuobjdump also where a number differs
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "bench/kernels/hot.cu"
TABLE = ROOT / "bench/kernels/table.md"
CARDS = ("sm_80", "sm_90")
COLUMNS = ("kernel", "card", "registers", "spilled bytes", "stack", "loads of 16 bytes", "stores of 16 bytes")


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def name_of(symbol):
    """Attend<bf16, 64, true> of the mangled name of enter<Attend<...>>."""
    text = run(["c++filt", symbol])
    match = re.search(r"enter<(.*)>\(", text)
    name = re.sub(r"\(ctrain::(Activation|OptimizerKind)\)", r"\1 ", match[1])
    return re.sub(r"ctrain::(cuda::)?", "", name).strip()


def compile_for(nvcc, card, scratch):
    cubin = f"{scratch}/{card}.cubin"
    said = run([nvcc, "-std=c++20", "-O3", f"-arch={card}", f"-I{ROOT}/include", "-cubin",
                "-Xptxas=-v", str(SOURCE), "-o", cubin])
    rows = {}
    for part in said.split("Compiling entry function '")[1:]:
        symbol = part.split("'", 1)[0]
        spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        rows[symbol] = {"registers": int(registers[1]), "stack": int(spills[1]),
                        "spilled bytes": int(spills[2]) + int(spills[3])}
    return cubin, rows


def add_accesses(cuobjdump, cubin, rows):
    """"12 of 14": how many of a kernel's global loads (stores) move 16 bytes."""
    for part in run([cuobjdump, "-sass", cubin]).split("Function : ")[1:]:
        symbol = part.split(None, 1)[0]
        for kind, column in (("LDG", "loads of 16 bytes"), ("STG", "stores of 16 bytes")):
            found = re.findall(rf"\b{kind}\.([\w.]+)", part)
            rows[symbol][column] = f"{sum('128' in each for each in found)} of {len(found)}"


def measure(nvcc, cuobjdump):
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for card in CARDS:
            cubin, found = compile_for(nvcc, card, scratch)
            if cuobjdump:
                add_accesses(cuobjdump, cubin, found)
            rows += [{"kernel": f"`{name_of(symbol)}`", "card": card, **row} for symbol, row in found.items()]
    return sorted(rows, key=lambda row: (row["kernel"], row["card"]))


def render(rows, nvcc):
    version = re.search(r"release ([\d.]+)", run([nvcc, "--version"]))[1]
    text = [f"What nvcc {version} makes of the hot kernels: written by bench/kernels.py.", "",
            "| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
    for row in rows:
        text.append("| " + " | ".join(str(row.get(column, "?")) for column in COLUMNS) + " |")
    return "\n".join(text) + "\n"


def faults(rows, nvcc, with_accesses):
    for row in rows:
        if row["spilled bytes"]:
            yield f"{row['kernel']} spills {row['spilled bytes']} bytes on {row['card']}"
    stated = TABLE.read_text()
    if with_accesses and f"nvcc {re.search(r'release ([0-9.]+)', run([nvcc, '--version']))[1]} " in stated:
        if render(rows, nvcc) != stated:
            yield f"{TABLE.name} is out of date: bench/kernels.py >bench/kernels/table.md"
    elif {row["kernel"] for row in rows} != set(re.findall(r"^\| (`.*?`)", stated, re.M)):
        yield f"{TABLE.name} names other kernels: bench/kernels.py >bench/kernels/table.md"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    nvcc = os.environ.get("NVCC") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not shutil.which(nvcc):
        print("no nvcc: skipped")
        sys.exit(77)
    cuobjdump = os.environ.get("CUOBJDUMP") or shutil.which("cuobjdump")
    rows = measure(nvcc, cuobjdump)
    if not options.check:
        print(render(rows, nvcc), end="")
        return
    found = list(faults(rows, nvcc, bool(cuobjdump)))
    print("\n".join(found) or f"{len(rows)} kernels, none spills")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
