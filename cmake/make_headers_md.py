#!/usr/bin/env python3
"""make_headers_md.py [--check] ROOT: writes ROOT/README.md, one row per header, from their first lines.

With --check it writes nothing, and fails when the file is not what it would write.
"""
import pathlib
import re
import sys

FLOORS = ["core", "policy", "model", "memory", "schedule", "backend", "trainer", "io"]
LINE = re.compile(r"/// \\file  (.*?\.)(   floor \d: \w+)?$")


def table(root, title, paths):
    rows = [f"\n## {title}\n\n| header | role |\n|---|---|\n"]
    for path in paths:
        line = path.read_text().split("\n", 1)[0]
        match = LINE.match(line)
        role = match[1] if match else line
        name = path.relative_to(root)
        rows.append(f"| [{name}]({name}) | {role.replace('|', chr(92) + '|')} |\n")
    return "".join(rows) if paths else ""


def headers_under(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in (".hpp", ".cuh"))


def text(root):
    umbrellas = [path for path in headers_under(root) if path.parent == root]
    parts = [
        "# Headers\n\nMade by cmake/make_headers_md.py from line 1 of each header. "
        "A header includes its own floor and lower ones.\n",
        table(root, "Umbrellas", umbrellas),
    ]
    for number, floor in enumerate(FLOORS):
        parts.append(table(root, f"Floor {number}: {floor}", headers_under(root / floor)))
    return "".join(parts)


if __name__ == "__main__":
    check = "--check" in sys.argv
    root = pathlib.Path(sys.argv[-1])
    target = root / "README.md"
    if not check:
        target.write_text(text(root))
    elif not target.exists() or target.read_text() != text(root):
        sys.exit(f"{target} is not current: run python3 cmake/make_headers_md.py {root}")
