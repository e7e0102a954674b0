"""Writes events.bin with TensorBoard's own writer (pip install tensorboard), for comparison."""
import pathlib

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


def scalars(step, wall_time, **values):
    summary = summary_pb2.Summary(
        value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)
               for tag, value in values.items()])
    return event_pb2.Event(wall_time=wall_time, step=step, summary=summary)


events = [
    event_pb2.Event(wall_time=1650000000.25, file_version="brain.Event:2"),
    scalars(0, 1650000001.5, train_loss=0.75),
    scalars(50, 1650000002.5, train_loss=0.6931471805599453, train_acc=0.0),
    scalars(1 << 40, 1650000003.5, val_acc=float("nan"), **{"相似/f1": -1e-30}),
]
with (pathlib.Path(__file__).parent / "events.bin").open("wb") as file:
    writer = RecordWriter(file)
    for event in events:
        writer.write(event.SerializeToString())
    writer.flush()
