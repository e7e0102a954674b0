#!/usr/bin/env python3
"""check_floors.py ROOT: includes point down, never up, and line 1 of a header names its floor.

ROOT is include/ctrain. Headers directly under it are umbrellas: they may include everything and
belong to no floor, but line 1 says their role too.
"""
import pathlib
import re
import sys

FLOORS = ["core", "policy", "model", "memory", "schedule", "backend", "trainer", "io"]
HOST_ONLY = FLOORS[:5]  # plain C++: the standard library and single Boost.Hana headers
PLAIN = re.compile(r"(ctrain/.*|boost/hana/.*|(?!iostream$)[a-z_]+)$")
ROLE = re.compile(r"/// \\file  (\S.*\.)$")
FLOOR = re.compile(r"(/// \\file  \S.*\.)   floor (\d): (\w+)$")
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)')


def first_line_fault(line, floor):
    if floor is None:
        return None if ROLE.match(line) else "line 1 should read '/// \\file  <role>.'"
    match = FLOOR.match(line)
    expected = (str(FLOORS.index(floor)), floor)
    if match and match.groups()[1:] == expected and ROLE.match(match[1]):
        return None
    return "line 1 should read '/// \\file  <role>.   floor %s: %s'" % expected


def include_fault(bracket, name, floor, root):
    if bracket == '"':
        return f'write #include <{root}/...> instead of "{name}"'
    if floor is None:
        return None
    parts = name.split("/")
    if parts[0] == root and (len(parts) < 3 or parts[1] not in FLOORS):
        return f"floor '{floor}' includes <{name}>, which is no header of a floor"
    if parts[0] == root and FLOORS.index(parts[1]) > FLOORS.index(floor):
        return f"floor '{floor}' includes '{parts[1]}', which is above it"
    if floor in HOST_ONLY and not PLAIN.match(name):
        return f"floor '{floor}' is plain C++, but includes <{name}>"
    return None


def faults(root):
    for path in sorted(root.rglob("*")):
        if path.suffix not in (".hpp", ".cuh"):
            continue
        floor = path.relative_to(root).parts[0] if path.parent != root else None
        if floor is not None and floor not in FLOORS:
            yield f"{path}: '{floor}' is no floor; the floors are {', '.join(FLOORS)}"
            continue
        lines = path.read_text().splitlines() or [""]
        if fault := first_line_fault(lines[0], floor):
            yield f"{path}:1: {fault}"
        for number, line in enumerate(lines, 1):
            if match := INCLUDE.match(line):
                if fault := include_fault(match[1], match[2], floor, root.name):
                    yield f"{path}:{number}: {fault}"


if __name__ == "__main__":
    found = list(faults(pathlib.Path(sys.argv[1])))
    print("\n".join(found))
    sys.exit(bool(found))
