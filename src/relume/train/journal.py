"""The journal: a line of JSON per iteration, made from the history alone.

Because every line follows from the history in the checkpoint, a journal that is missing,
longer than the state or damaged is simply made again when the run goes on.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relume.checkpoint import storage
from relume.checkpoint.state import RECORD, History, Mark, Progress
from relume.errors import StorageError
from relume.train.step import Report, updated_average


class Journal:
    """The journal of one run, open for appending."""

    def __init__(self, path: Path, history: History, warn: Callable[[str], None]) -> None:
        """Cut the file back to `history`, or make it again, and open it."""
        self._history = history
        self._warn = warn
        self._paused = False
        text = _text(history)
        if not _cut_back(path, text):
            storage.write_durably(path, text)
        self._file = storage.AppendFile(path)

    def append(self, history: History, average_loss: float) -> None:
        """Add the line of the newest iteration; if the disk refuses, say so and go on."""
        self._history = history
        if self._paused:
            return
        try:
            self._file.append(line_of(history.records[-1], history.iteration, average_loss))
        except StorageError as error:
            self._paused = True
            self._warn(f"the journal pauses, training goes on: {error}")

    def close(self) -> None:
        """Make the journal durable and close it; make it again if it had to pause."""
        self._file.close()
        if self._paused:
            storage.write_durably(self._file.path, _text(self._history))


def record_of(report: Report, progress: Progress, digest: bytes) -> npt.NDArray[np.void]:
    """Return the history's record of one iteration, an array of length 1.

    Args:
        report: of the iteration.
        progress: the counters after it.
        digest: of the state after it.
    """
    values = (
        report.loss,
        report.box_loss,
        report.objectness_loss,
        report.class_loss,
        report.rate,
        report.width,
        report.height,
        progress.seen,
        digest,
    )
    return np.array([values], RECORD)


def _text(history: History) -> bytes:
    return b"".join(line.encode() + b"\n" for line in lines(history))


def lines(history: History) -> Iterator[str]:
    """Yield the lines of a journal, marks in front of the iteration that follows them."""
    marks = list(history.marks)
    average: float | None = None
    for number, record in enumerate(history.records, start=history.start + 1):
        while marks and marks[0].iteration < number:
            yield mark_line(marks.pop(0))
        average = updated_average(average, float(record["loss"]))
        yield line_of(record, number, average)
    yield from map(mark_line, marks)


def line_of(record: Any, iteration: int, average_loss: float) -> str:
    """Return the journal's line of one iteration."""
    values = {
        "iteration": iteration,
        "seen": int(record["seen"]),
        "loss": float(record["loss"]),
        "average_loss": average_loss,
        "box_loss": float(record["box_loss"]),
        "objectness_loss": float(record["objectness_loss"]),
        "class_loss": float(record["class_loss"]),
        "rate": float(record["rate"]),
        "width": int(record["width"]),
        "height": int(record["height"]),
        "digest": record["digest"].tobytes().hex(),
    }
    return json.dumps(values, separators=(",", ":"))


def mark_line(mark: Mark) -> str:
    """Return the journal's line of a mark."""
    return json.dumps(
        {"mark": mark.kind, "after_iteration": mark.iteration, "text": mark.text},
        separators=(",", ":"),
    )


def _cut_back(path: Path, text: bytes) -> bool:
    """Cut a journal that begins with `text` to its length; False where it begins otherwise."""
    if not path.is_file() or path.stat().st_size < len(text):
        return False
    with path.open("rb") as file:
        if file.read(len(text)) != text:
            return False
    storage.truncate(path, len(text))
    return True
