"""Writes lines.tsv: progress lines as tqdm formats them (pip install tqdm), for comparison.

Columns: done, total, elapsed seconds, terminal columns (0: no bar), description, postfix, line.
"""
import pathlib

from tqdm import tqdm

CASES = [
    (1121, 9664, 438.9, 0, "Epoch 0", "loss=1.44, v_num=8"),
    (446, 4564, 179.2, 0, "Epoch 0", "loss=1.17, v_num=8"),
    (1136, 9664, 213.2, 0, "Epoch 0", "loss=0.947, v_num=107491"),
    (1000, 38924, 2751.96, 0, "Epoch 0", "loss=2.07, v_num=8"),
    (0, 9664, 0.0, 0, "Epoch 0", ""),
    (0, 9664, 3.5, 80, "Epoch 0", ""),
    (1, 9664, 0.0, 80, "Epoch 0", ""),
    (9664, 9664, 3790.0, 0, "Epoch 4", "loss=0.01, v_num=0"),
    (9664, 9664, 3790.0, 100, "Epoch 4", "loss=0.01, v_num=0"),
    (9665, 9664, 3790.0, 100, "Epoch 4", "loss=0.01, v_num=0"),
    (12, 0, 4.0, 0, "Epoch 4", "loss=0.01"),
    (12, 0, 4.0, 20, "Epoch 4", "loss=0.01"),
    (1121, 9664, 438.9, 100, "Epoch 0", "loss=1.44, v_num=8"),
    (1121, 9664, 438.9, 120, "Epoch 10", "loss=1.44, v_num=8, mfu=41.2%"),
    (1121, 9664, 438.9, 40, "Epoch 0", "loss=1.44, v_num=8"),
    (1121, 9664, 438.9, 15, "Epoch 0", "loss=1.44, v_num=8"),
    (1, 3, 1.0, 90, "Validation DataLoader 0", ""),
    (67, 135, 12.25, 90, "Validation DataLoader 0", ""),
    (1, 2, 400000.0, 61, "Sanity Checking DataLoader 0", ""),
    (250, 1000, 250.0, 80, "", ""),
]

lines = []
for done, total, elapsed, columns, description, postfix in CASES:
    line = tqdm.format_meter(done, total or None, elapsed, ncols=columns or 0,
                             prefix=description, postfix=postfix)
    lines.append("\t".join([str(done), str(total), str(elapsed), str(columns), description, postfix,
                            line]))
path = pathlib.Path(__file__).parent / "lines.tsv"
path.write_text("\n".join(lines) + "\n", encoding="utf-8")
