"""What is known of some thousand rows of a long list: their labels, and which are missing.

A block is one file and knows whether it is whole. It is made from the files it describes, and
made again where those have another size or time than then.
"""

import json
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from relume.checkpoint.tensors import bytes_of
from relume.errors import RelumeError
from relume.formats.data_files import Boxes, ImageList, label_path, parse_labels
from relume.formats.places import is_url
from relume.formats.text_files import read_text
from relume.lists.label_files import never_used
from relume.lists.sealed import read_sealed, write_sealed

MAGIC = b"relume labels 2\n"
RACY_NS = 2_000_000_000
"""Files younger than this when they are read may change again within a tick of their clock."""
ROW = np.dtype(
    [
        ("stamp", "<u8"),  # of sizes and times of both files; 0: look again
        ("boxes", "<u4"),
        ("found", "<u4"),  # bits, below
    ]
)
UNLABELLED, WRONG, ABSENT, REMOTE = 1, 2, 4, 8
"""Bits of `found`: no label file; it cannot be read; no picture; on an object store, not read."""


@dataclass(frozen=True)
class Tally:
    """How often something occurs, and where first."""

    count: int = 0
    first: str = ""

    def plus(self, other: "Tally") -> "Tally":
        """Return both together; `other` comes later in the list."""
        return Tally(self.count + other.count, self.first or other.first)


@dataclass(frozen=True)
class Summary:
    """What a start wants to know of labels."""

    rows: int = 0
    boxes: int = 0
    unlabelled: Tally = field(default_factory=Tally)
    """No label file: pictures without objects."""
    unused: Tally = field(default_factory=Tally)
    """Boxes that no augmentation brings into the picture."""
    wrong: Tally = field(default_factory=Tally)
    """Label files that cannot be read."""
    absent: Tally = field(default_factory=Tally)
    """Pictures that do not exist."""

    def plus(self, other: "Summary") -> "Summary":
        """Return both together; `other` comes later in the list."""
        return Summary(
            self.rows + other.rows,
            self.boxes + other.boxes,
            self.unlabelled.plus(other.unlabelled),
            self.unused.plus(other.unused),
            self.wrong.plus(other.wrong),
            self.absent.plus(other.absent),
        )

    @property
    def is_clean(self) -> bool:
        """Tell whether a run can use all that was found."""
        return not (self.wrong.count or self.absent.count)


@dataclass(frozen=True)
class Block:
    """Some rows of a list."""

    summary: Summary
    rows: npt.NDArray[np.void]
    """[n] of ROW."""
    boxes: Boxes
    """[sum of rows["boxes"], 5]: of all rows, one behind the other."""


def summary_from(said: Any) -> Summary:
    """Return a summary from what asdict made of it."""
    tallies = {name: Tally(**value) for name, value in said.items() if isinstance(value, dict)}
    return Summary(**{**said, **tallies})


def read_block(path: Path) -> Block | None:
    """Return a block; None if there is none, or it is not as it was written."""
    data = read_sealed(path)
    if data is None:
        return None
    with suppress(ValueError, KeyError, TypeError):  # whole, but written by something else
        begin = data.index(b"\n", len(MAGIC)) + 1
        said = json.loads(data[len(MAGIC) : begin])
        end = begin + said["summary"]["rows"] * ROW.itemsize
        boxes = np.frombuffer(data, "<f4", offset=end).reshape(-1, 5)
        if data.startswith(MAGIC) and len(boxes) == said["summary"]["boxes"]:
            return Block(
                summary_from(said["summary"]),
                np.frombuffer(data, ROW, said["summary"]["rows"], begin),
                boxes,
            )
    return None


def write_block(path: Path, block: Block) -> None:
    """Keep a block.

    Raises:
        StorageError: the folder cannot be written.
    """
    head = MAGIC + json.dumps({"summary": asdict(block.summary)}).encode() + b"\n"
    write_sealed(path, head, bytes_of(block.rows), bytes_of(block.boxes))


def make_block(images: ImageList, first: int, end: int, classes: int, known: Block | None) -> Block:
    """Read the labels behind the rows `first` to `end` - 1 of a list.

    Args:
        images: the list.
        first: row of the list.
        end: the row behind the last one.
        classes: of the network's heads.
        known: what was found before; taken where the files are as they were.
    """
    rows = np.zeros(end - first, ROW)
    boxes = [np.zeros((0, 5), np.float32)]
    errors: list[str] = []
    ends = np.cumsum(known.rows["boxes"]) if known else np.zeros(0, np.int64)
    for i in range(end - first):
        if is_url(images.entries[first + i]):
            rows["found"][i] = REMOTE  # its labels are read when they are used
            continue
        path = images.paths[first + i]
        stamp, absent = _stamp(path)
        if known and stamp and stamp == known.rows["stamp"][i]:
            rows[i] = known.rows[i]
            boxes.append(known.boxes[int(ends[i]) - int(rows["boxes"][i]) : int(ends[i])])
        else:
            rows[i], of_row, error = _read_row(path, classes, stamp, absent)
            boxes.append(of_row)
            errors += [error] * bool(error)
    together = np.concatenate(boxes)
    return Block(_summary_of(images, first, rows, together, errors), rows, together)


def _stamp(path: Path) -> tuple[int, bool]:
    """Return what changes with picture and labels (0: they are too young), and if it is absent."""
    values, youngest, absent = [], 0, False
    files = [path]
    with suppress(RelumeError):  # an ending that has no labels: told when they are read
        files.append(label_path(path))
    for file in files:
        try:
            status = os.stat(file)  # noqa: PTH116 - half the time, millions of times
            values += [status.st_size, status.st_mtime_ns]
            youngest = max(youngest, status.st_mtime_ns)
        except (OSError, ValueError):
            values += [-1, -1]
            absent |= file is path
    if time.time_ns() - youngest < RACY_NS:
        return 0, absent
    return xxhash.xxh3_64_intdigest(struct.pack(f"<{len(values)}q", *values)) | 1, absent


def _read_row(path: Path, classes: int, stamp: int, absent: bool) -> tuple[Any, Boxes, str]:
    """Return the row of a picture, its boxes, and what is wrong with its label file."""
    boxes, found, error = np.zeros((0, 5), np.float32), ABSENT * absent, ""
    try:
        labels = label_path(path)
        data = _read(labels)
        found |= UNLABELLED * (data is None)
        boxes = parse_labels(data, classes, labels)
    except RelumeError as wrong:
        found, error = found | WRONG, str(wrong)
    except OSError as wrong:
        found, error = found | WRONG, f"{label_path(path)}: cannot be read ({wrong.strerror})"
    stamp *= not error  # what is wrong is looked at again, and told again
    return (stamp, len(boxes), found), boxes, error


def _read(path: Path) -> bytes | None:
    try:
        return read_text(path)
    except FileNotFoundError:
        return None


def _summary_of(
    images: ImageList, first: int, rows: npt.NDArray[np.void], boxes: Boxes, errors: list[str]
) -> Summary:
    def tally(bit: int, named: Callable[[int], str]) -> Tally:
        which = np.flatnonzero(rows["found"] & bit)
        return Tally(len(which), named(first + int(which[0]))) if len(which) else Tally()

    unused = np.flatnonzero(never_used(boxes))
    first_unused = ""
    if len(unused):
        begins = np.cumsum(rows["boxes"]) - rows["boxes"]
        row = int(np.searchsorted(begins, unused[0], side="right")) - 1
        number = int(unused[0] - begins[row]) + 1
        first_unused = f"{label_path(images.paths[first + row])} box {number}"
    return Summary(
        rows=len(rows),
        boxes=len(boxes),
        unlabelled=tally(UNLABELLED, lambda row: str(label_path(images.paths[row]))),
        unused=Tally(len(unused), first_unused),
        wrong=Tally(len(errors), errors[0] if errors else ""),
        absent=tally(ABSENT, lambda row: f"line {images.lines[row]}: {images.entries[row]}"),
    )
