#!/usr/bin/env python3
"""What a policy costs a compiler: seconds and peak memory, medians of three, per source and compiler.

bench/compile/*.cpp are whole programs around one policy; the CUDA programs of examples, tests/gpu and bench are compiled to
PTX, whose size is printed too. Peak memory is that of the largest single process, as the kernel counts it (ru_maxrss).
Wall time wants a quiet machine; processor time, of all processes of a compiler, bears some company.
"""
import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = f"-I{ROOT}/include"
COMPILERS = {
    "g++ -O2": ["g++", "-std=c++20", "-O2", INCLUDE, "-c"],
    "g++ -fsyntax-only": ["g++", "-std=c++20", INCLUDE, "-fsyntax-only"],
    "clang++ -fsyntax-only": ["clang++", "-std=c++20", INCLUDE, "-fsyntax-only"],
    "nvcc": ["nvcc", "-std=c++20", "-arch=sm_90", INCLUDE, "-x", "cu", "-c"],
}
CUDA_COMPILERS = {
    f"nvcc -ptx {card}": ["nvcc", "-std=c++20", "-O2", f"-arch={card}", INCLUDE, "-isystem", "/usr/include/eigen3",
                          "-DEIGEN_NO_CUDA", "-DFMT_USE_CONSTEXPR=1", "-ptx"]
    for card in ("sm_80", "sm_90")
}


def compilers_for(source):
    return CUDA_COMPILERS if source.suffix == ".cu" else COMPILERS


def once(command):
    """Seconds of wall time and of processor time, and MiB of the largest process."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    message = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)}\n{message}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(source, compiler, repeats):
    with tempfile.TemporaryDirectory() as scratch:
        command = compilers_for(source)[compiler] + [str(source)]
        out = pathlib.Path(scratch) / "out"
        if "-c" in command or "-ptx" in command:
            command += ["-o", str(out)]
        runs = [once(command) for _ in range(repeats)]
        ptx = {"ptx_KiB": round(out.stat().st_size / 1024)} if "-ptx" in command else {}
    return {
        "source": source.name,
        "compiler": compiler,
        "seconds": round(statistics.median(seconds for seconds, _, _ in runs), 3),
        "processor_seconds": round(statistics.median(busy for _, busy, _ in runs), 3),
        "peak_MiB": round(statistics.median(memory for _, _, memory in runs), 1),
        "all_seconds": [round(seconds, 3) for seconds, _, _ in runs],
        **ptx,
    }


def machine():
    def version(compiler):
        text = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
        return re.search(r".*\d\.\d.*", text)[0]

    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "machine": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "compilers": {name: version(name) for name in ("g++", "clang++", "nvcc") if shutil.which(name)},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("sources", nargs="*", type=pathlib.Path,
                        default=sorted((ROOT / "bench/compile").glob("*.cpp")) + sorted(
                            each for folder, names in (("examples", "*.cu"), ("tests/gpu", "*.cu"), ("bench", "*.cu"))
                            for each in (ROOT / folder).glob(names)))
    options = parser.parse_args()

    rows = []
    print(f"{'source':32} {'compiler':24} {'seconds':>8} {'busy':>8} {'peak MiB':>9} {'PTX KiB':>8}")
    for source in options.sources:
        for compiler, command in compilers_for(source).items():
            if not shutil.which(command[0]):
                continue
            row = measure(source, compiler, options.repeats)
            rows.append(row)
            print(f"{row['source']:32} {compiler:24} {row['seconds']:8.2f} {row['processor_seconds']:8.2f} "
                  f"{row['peak_MiB']:9.0f} "
                  f"{row.get('ptx_KiB', ''):>8}", flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({**machine(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
