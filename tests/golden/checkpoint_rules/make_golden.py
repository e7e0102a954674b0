"""Writes traces.tsv: what Lightning's own ModelCheckpoint does in random runs, for comparison.

Needs torch, and pytorch_lightning 1.6.0 for its source only (pip install --no-deps; point PYTHONPATH
at it): the callback is run alone, because that release does not import beside a current torch.

Rows: "run", mode, top_k, every_n_train_steps (0: each epoch), save_on_train_epoch_end, filename;
then for each moment: moment (0 batch, 1 validation, 2 epoch end), epoch, step, val_acc or "-",
file written or "-", file deleted or "-".
"""
import importlib.util
import os
import pathlib
import random
import sys
import types
from unittest import mock

import numpy
import torch

numpy.Inf = numpy.inf
for name in ["pytorch_lightning", "pytorch_lightning.callbacks",
             "pytorch_lightning.callbacks.base", "pytorch_lightning.trainer",
             "pytorch_lightning.trainer.states", "pytorch_lightning.utilities",
             "pytorch_lightning.utilities.cloud_io", "pytorch_lightning.utilities.exceptions",
             "pytorch_lightning.utilities.logger", "pytorch_lightning.utilities.rank_zero",
             "pytorch_lightning.utilities.types", "pytorch_lightning.utilities.warnings"]:
    sys.modules[name] = mock.MagicMock()
sys.modules["pytorch_lightning.callbacks.base"].Callback = object
sys.modules["pytorch_lightning.utilities.exceptions"].MisconfigurationException = ValueError
sys.modules["pytorch_lightning.trainer.states"].TrainerFn = types.SimpleNamespace(FITTING="fit")
source = next(p for p in map(pathlib.Path, sys.path)
              if (p / "pytorch_lightning/callbacks/model_checkpoint.py").exists())
spec = importlib.util.spec_from_file_location(
    "model_checkpoint", source / "pytorch_lightning/callbacks/model_checkpoint.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


class Trainer:
    """As much of a trainer as the callback asks for. Files are names in a set."""
    fast_dev_run = sanity_checking = is_global_zero = False
    state = types.SimpleNamespace(fn="fit")

    def __init__(self):
        self.files, self.written, self.deleted = set(), "-", "-"
        self.callback_metrics, self.current_epoch, self.global_step = {}, 0, 0
        self.strategy = types.SimpleNamespace(
            reduce_boolean_decision=bool, broadcast=lambda x: x, remove_checkpoint=self.remove)
        self.fit_loop = types.SimpleNamespace(
            epoch_loop=types.SimpleNamespace(val_loop=types.SimpleNamespace(_has_run=False)))

    def save_checkpoint(self, path, weights_only):
        self.written = os.path.basename(path)
        self.files.add(path)

    def remove(self, path):
        self.deleted = os.path.basename(path)
        self.files.discard(path)


def run(seed, lines):
    draw = random.Random(seed)
    mode, top_k = draw.choice(["min", "max"]), draw.choice([-1, 0, 1, 2, 3])
    period, at_epoch_end = draw.choice([0, 2, 3]), draw.choice([True, False])
    filename = draw.choice(["model-{epoch:02d}-{val_acc:.1f}", "{epoch}-{step}", "m-{val_acc:.3f}",
                            "{epoch:03d}-{missing:.2f}", "{step:05d}-{val_acc:.2e}"])
    trigger = {"every_n_train_steps": period} if period else {"every_n_epochs": 1}
    callback = module.ModelCheckpoint(dirpath="/log", filename=filename, monitor="val_acc", mode=mode,
                                      save_top_k=top_k, save_on_train_epoch_end=at_epoch_end,
                                      **trigger)
    trainer = Trainer()
    callback.file_exists = lambda path, trainer: path in trainer.files
    lines.append(["run", mode, top_k, period, int(at_epoch_end), filename])
    hooks = [lambda: callback.on_train_batch_end(trainer, None, None, None, 0),
             lambda: callback.on_validation_end(trainer, None),
             lambda: callback.on_train_epoch_end(trainer, None)]

    def moment(kind):
        trainer.written = trainer.deleted = "-"
        hooks[kind]()
        value = trainer.callback_metrics.get("val_acc")
        lines.append([kind, trainer.current_epoch, trainer.global_step,
                      "-" if value is None else value.item(), trainer.written, trainer.deleted])

    for trainer.current_epoch in range(3):
        for batch in range(6):
            trainer.global_step += 1
            moment(0)
            if batch % 3 == 2:
                value = draw.choice([0.5, 0.625, 0.75, 0.875, float("nan")])
                trainer.callback_metrics["val_acc"] = torch.tensor(value)
                trainer.fit_loop.epoch_loop.val_loop._has_run = True
                moment(1)
        moment(2)


rows = []
for seed in range(24):
    run(seed, rows)
path = pathlib.Path(__file__).parent / "traces.tsv"
path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
