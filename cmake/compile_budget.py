#!/usr/bin/env python3
"""compile_budget.py PATH...: every source that states a compile budget keeps it.

A budget is a line of the source, with any of the three limits:

    // BUDGET: specializations <= 900, longest symbol <= 400, object <= 200

specializations: class template specialisations clang makes; longest symbol: characters of the
longest name in the object that g++ -O2 writes; object: its size in units of 1000 bytes. Counts, not
seconds: they are the same on every machine.
"""
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

BUDGET = re.compile(r"^// BUDGET: (.*)$", re.M)
LIMIT = re.compile(r"(specializations|longest symbol|object) <= (\d+)$")
FLAGS = ["-std=c++20", "-Iinclude"] + shlex.split(
    os.environ.get("HOST_FLAGS", "-isystem /usr/include/eigen3 -fopenmp"))
GXX = os.environ.get("GXX") or "g++"
CLANGXX = os.environ.get("CLANGXX") or "clang++"


def run(*command):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stdout}")
    return done.stdout


def specializations(source):
    stats = run(CLANGXX, *FLAGS, "-fsyntax-only", "-Xclang", "-print-stats", source)
    match = re.search(r"(\d+) ClassTemplateSpecialization decls", stats)
    return int(match[1]) if match else 0


def object_facts(source):
    with tempfile.TemporaryDirectory() as scratch:
        target = f"{scratch}/out.o"
        run(GXX, *FLAGS, "-O2", "-c", source, "-o", target)
        symbols = [line.split()[-1] for line in run("nm", target).splitlines() if line]
        return max(map(len, symbols), default=0), -(-os.path.getsize(target) // 1000)


def check(source, budget):
    limits = {}
    for part in budget.split(", "):
        match = LIMIT.match(part)
        if not match:
            print(f"{source}: cannot read the budget '{part}'")
            return False
        limits[match[1]] = int(match[2])
    found = {}
    if "specializations" in limits:
        found["specializations"] = specializations(source)
    if limits.keys() - {"specializations"}:
        found["longest symbol"], found["object"] = object_facts(source)
    kept = True
    for name, limit in limits.items():
        over = found[name] > limit
        kept = kept and not over
        print(f"{source}: {name} {found[name]} <= {limit}{'  EXCEEDED' if over else ''}")
    return kept


def sources(paths):
    for path in map(pathlib.Path, paths):
        files = [path] if path.is_file() else sorted(path.rglob("*.[hc]pp"))
        for file in files:
            if match := BUDGET.search(file.read_text()):
                yield str(file), match[1]


if __name__ == "__main__":
    results = [check(*each) for each in sources(sys.argv[1:])]
    sys.exit(not all(results))
