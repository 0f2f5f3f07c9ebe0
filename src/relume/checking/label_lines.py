"""Label files, every line of them: the boxes that can be read, and what is wrong with the rest."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relume.checking.findings import Finding, Verdict
from relume.errors import LabelError, RelumeError
from relume.formats.data_files import ANY_CLASS, NO_BOXES, Boxes, label_lines, label_path, parse_box
from relume.formats.places import RemoteFile

ERROR, WARNING, NOTE = Verdict


@dataclass(frozen=True)
class LabelLines:
    """The boxes of one picture, as far as they can be read."""

    path: Path
    boxes: Boxes = field(default_factory=lambda: NO_BOXES)
    """[N, 5]: class, x, y, width, height relative to the picture."""
    lines: tuple[int, ...] = ()
    """Of every box."""
    missing: bool = False
    unreadable: bool = False
    """The file, or a line of it: not all objects of the picture are known."""


def read_all_lines(picture: Path, classes: int | None) -> tuple[LabelLines, list[Finding]]:
    """Read the label file of a picture.

    Args:
        picture: with an ending that Darknet knows.
        classes: of the net; None if that is not known.
    """
    path = label_path(picture)
    try:
        numbered = label_lines(path)
    except RelumeError as error:  # a file that is none, or a store there is no way to
        what = "a label file cannot be read"
        return LabelLines(path, unreadable=True), [Finding(ERROR, what, str(path), error.found)]
    if numbered is None:
        return LabelLines(path, missing=True), [_missing(path, picture)]
    if not numbered:
        what = "a label file is empty: a picture without objects"
        return LabelLines(path), [Finding(NOTE, what, str(path))]
    findings, rows, lines = [], [], []
    for number, texts in numbered:
        try:
            rows.append(parse_box(texts, ANY_CLASS if classes is None else classes, path, number))
        except LabelError as error:
            findings.append(_unreadable(error))
        else:
            lines.append(number)
    boxes = np.array(rows, np.float32) if rows else NO_BOXES
    return LabelLines(path, boxes, tuple(lines), unreadable=bool(findings)), findings


def _missing(path: Path, picture: Path) -> Finding:
    what = "a picture has no label file, and is trained on as one without objects"
    remedy = "label it; or, if nothing is to be found in it, give it an empty label file"
    if isinstance(path, RemoteFile):
        return Finding(WARNING, what, str(path), "", remedy)
    others = [path.with_suffix(".TXT"), path.with_name(picture.name + ".txt")]
    parts = list(path.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        others.append(Path(*parts))
    other = next((other for other in others if os.path.exists(other)), None)
    detail = f"not there, but there is {other}" if other else ""
    return Finding(WARNING, what, str(path), detail, remedy)


def _unreadable(error: LabelError) -> Finding:
    if error.found.startswith("class "):
        what, remedy = "a class is out of range", f"correct the line: {error.needed}"
    else:
        what, remedy = "a line of a label file is no box", "a box is: class x y width height"
    return Finding(ERROR, what, error.place, error.found, remedy)


@dataclass(frozen=True)
class BoxSet:
    """The boxes of many pictures in one array."""

    boxes: Boxes
    """[M, 5]."""
    owners: npt.NDArray[np.int64]
    """[M]: number of the picture of every box."""
    pictures: int
    lines: npt.NDArray[np.int64]
    """[M]: line of every box in its file; or, where only boxes are known, its number."""
    paths: Sequence[Path]
    """Of the pictures."""
    word: str = ":"
    """Between file and line in messages."""

    def place(self, row: int) -> str:
        """Return where a box stands."""
        return f"{label_path(self.paths[self.owners[row]])}{self.word}{self.lines[row]}"


def box_set(labels: Sequence[LabelLines], paths: Sequence[Path]) -> BoxSet:
    """Put the boxes of all pictures together."""
    lines = [line for one in labels for line in one.lines]
    return _box_set([one.boxes for one in labels], lines, paths, ":")


def box_set_of_arrays(boxes: Sequence[Boxes], paths: Sequence[Path]) -> BoxSet:
    """Do the same with boxes whose lines are not known."""
    lines = [number for one in boxes for number in range(1, len(one) + 1)]
    return _box_set(boxes, lines, paths, " box ")


def _box_set(boxes: Sequence[Boxes], lines: list[int], paths: Sequence[Path], word: str) -> BoxSet:
    counts = [len(one) for one in boxes]
    return BoxSet(
        boxes=np.concatenate([NO_BOXES, *boxes]),
        owners=np.repeat(np.arange(len(boxes)), counts),
        pictures=len(boxes),
        lines=np.array(lines, np.int64),
        paths=paths,
        word=word,
    )
