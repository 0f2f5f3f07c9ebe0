"""The journal: a line of JSON per iteration, made from the history alone.

Because every line follows from the history in the checkpoint, a journal that is missing or
damaged is simply made again; one that is longer than the state is cut back to it, and a shorter
one is added to. A long one is not read line by line when the run goes on: only its end is
compared then, and all of it when the run is finished.
"""

import json
import mmap
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relume.checkpoint import storage
from relume.checkpoint.evaluations import with_best
from relume.checkpoint.own_files import begins_a_journal, keep_foreign_aside, replace_own
from relume.checkpoint.state import RECORD, History, Mark, Measured, Progress
from relume.errors import StorageError
from relume.formats.places import open_regular
from relume.train.step import Report, updated_average

SUFFIX = ".journal.jsonl"
FULLY_CHECKED = 10_000
"""Iterations up to which the whole journal is compared when a run goes on (0.1 s)."""


class Journal:
    """The journal of one run, open for appending."""

    def __init__(self, path: Path, history: History, warn: Callable[[str], None]) -> None:
        """Bring the file to what `history` says, and open it.

        A file of that name that is no journal is moved aside.
        """
        self._path = path
        self._history = history
        self._warn = warn
        self._paused = False
        self._keep_foreign_aside()
        if history.iteration - history.start <= FULLY_CHECKED:
            text = _text(history)
            if not _cut_back(path, text):
                self._write(text)
            rest = b""
        else:
            found = _brought_up_to(path, history)
            rest = found or b""
            if found is None:
                self._write(_text(history))
        self._file = storage.AppendFile(path)
        if rest:
            self._file.append_bytes(rest)

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

    def append_evaluation(self, history: History) -> None:
        """Add the line of the newest evaluation, likewise."""
        self._history = history
        if self._paused:
            return
        try:
            *_, line = evaluation_lines(history.evaluations)
            self._file.append(line)
        except StorageError as error:
            self._paused = True
            self._warn(f"the journal pauses, training goes on: {error}")

    def finish(self, history: History) -> None:
        """Compare the whole journal of a finished run with its history, and mend it if need be."""
        self._history = history
        if self._paused or not _holds(self._file.path, _text(history)):
            self._make_again()

    def close(self) -> None:
        """Make the journal durable and close it; make it again if it had to pause or is gone.

        If the disk refuses, say so: the next start makes the journal from the checkpoint.
        """
        try:
            try:
                if self._paused or not self._file.is_at_its_path():
                    self._make_again()
            finally:
                self._file.close()
        except StorageError as error:
            self._warn(f"the journal is not whole, the next start mends it: {error}")

    def _keep_foreign_aside(self) -> None:
        name = self._path.name.removesuffix(SUFFIX)
        keep_foreign_aside(self._path, name, begins_a_journal, self._warn)

    def _write(self, text: bytes) -> None:
        name = self._path.name.removesuffix(SUFFIX)
        replace_own(self._path, name, text, begins_a_journal, self._warn)

    def _make_again(self) -> None:
        self._write(_text(self._history))
        with suppress(StorageError):  # it may lie on a disk that has gone and come back
            self._file.close()
        self._file = storage.AppendFile(self._file.path)
        self._paused = False


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


def lines(
    history: History, after: int | None = None, average: float | None = None
) -> Iterator[str]:
    """Yield the lines of a journal: behind an iteration its marks, then its evaluation.

    Args:
        history: of the run.
        after: leave out the lines up to that of this iteration; None: all lines.
        average: average loss after iteration `after`.
    """
    first = history.start if after is None else after
    between = [(mark.iteration, mark_line(mark)) for mark in history.marks]
    measured = zip(history.evaluations, evaluation_lines(history.evaluations), strict=True)
    between += [(one.iteration, line) for one, line in measured]
    between = [pair for pair in between if after is None or pair[0] >= after]
    waiting = deque(sorted(between, key=lambda pair: pair[0]))  # marks stay in front
    records = history.records[first - history.start :]
    for number, record in enumerate(records, start=first + 1):
        while waiting and waiting[0][0] < number:
            yield waiting.popleft()[1]
        average = updated_average(average, float(record["loss"]))
        yield line_of(record, number, average)
    yield from (line for _, line in waiting)


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


def evaluation_lines(evaluations: Iterable[Measured]) -> Iterator[str]:
    """Yield the journal's lines of evaluations, each with the best up to it."""
    for last, best in with_best(evaluations):
        values = {
            "map": last.map,
            "after_iteration": last.iteration,
            "best_map": best.map,
            "best_iteration": best.iteration,
        }
        yield json.dumps(values, separators=(",", ":"))


def mark_line(mark: Mark) -> str:
    """Return the journal's line of a mark."""
    return json.dumps(
        {"mark": mark.kind, "after_iteration": mark.iteration, "text": mark.text},
        separators=(",", ":"),
    )


def _cut_back(path: Path, text: bytes) -> bool:
    """Cut a journal that begins with `text` to its length; False where it begins otherwise."""
    try:
        if not path.is_file() or path.stat().st_size < len(text):
            return False
        with open_regular(path) as file:
            if file.read(len(text)) != text:
                return False
    except OSError:  # it cannot be read, and is made again
        return False
    storage.truncate(path, len(text))
    return True


def _holds(path: Path, text: bytes) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(len(text) + 1) == text
    except OSError:
        return False


def _brought_up_to(path: Path, history: History) -> bytes | None:
    """Cut a long journal after the newest line that `history` knows; return what comes next.

    A power cut leaves pages of zeros where lines were not durable yet; None: make all again.
    """
    try:
        found = _newest_known_line(path, history)
    except OSError:  # it cannot be read
        found = None
    if found is None:
        return None
    end, iteration, average = found
    storage.truncate(path, end)
    return b"".join(line.encode() + b"\n" for line in lines(history, iteration, average))


def _newest_known_line(path: Path, history: History) -> tuple[int, int, float] | None:
    """Return offset behind it, iteration and average loss of the newest line to go on from."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        end = len(text)
        if text.find(b"\0") != -1:
            return None
        start = text.rfind(b'{"iteration":%d,' % history.iteration)
        if start == -1:  # shorter than the state: the last whole line of an iteration
            end = text.rfind(b"\n") + 1
            start = text.rfind(b'{"iteration":', 0, end)
        end = text.find(b"\n", start) + 1
        if start == -1 or end == 0:
            return None
        line = text[start : end - 1]
    try:
        said = json.loads(line)
        iteration, average = int(said["iteration"]), float(said["average_loss"])
    except (ValueError, KeyError, TypeError):
        return None
    if not history.start < iteration <= history.iteration:
        return None
    known = line_of(history.records[iteration - history.start - 1], iteration, average)
    return (end, iteration, average) if known.encode() == line else None
