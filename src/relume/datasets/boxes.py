"""The pictures that a data set lists, with their boxes, and the text of lists and labels.

A picture is a path; where its labels lie is Darknet's rule (`formats/data_files.py`).
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relume.errors import DataFileError
from relume.formats.data_files import (
    ANY_CLASS,
    PICTURE_ENDINGS,
    Boxes,
    DataFile,
    label_path,
    read_data_file,
    read_image_list,
    read_labels,
    read_names,
    resolve,
)


@dataclass(frozen=True)
class Labelled:
    """A picture and its boxes."""

    path: Path
    boxes: Boxes


def classes_of(data_file: DataFile) -> int | None:
    """Return how many classes a data file says there are, or names; None: it does not say.

    Raises:
        DataFileError: the two do not agree, or the names cannot be read.
    """
    named = None
    if "names" in data_file.values:
        names_path = resolve(data_file.text("names"), data_file.path)
        named = len(read_names(names_path))
    classes = data_file.integer("classes", named or 0) or None
    if named is not None and classes != named:
        place = f"{data_file.path}:{data_file.lines['classes']}"
        raise DataFileError(place, f"classes={classes}", f"{named}, the names in {names_path}")
    return classes


def list_pictures(source: str) -> list[Path]:
    """Return the pictures of a data file (train, and valid if that is there), a folder, or a list.

    Raises:
        DataFileError: unreadable, no picture, or one that is listed and does not exist.
    """
    if Path(source).is_dir():
        return pictures_below(Path(source))
    if not source.endswith(".data"):
        return list(read_image_list(source, source).paths)
    data_file = read_data_file(source)
    lists = [resolve(data_file.text("train"), source)]
    valid = resolve(data_file.text("valid", data_file.text("train")), source)
    if valid.exists() and valid not in lists:
        lists.append(valid)
    images = [read_image_list(path, source) for path in lists]
    return list(dict.fromkeys(path for part in images for path in part.paths))


def pictures_below(folder: Path) -> list[Path]:
    """Return the pictures in a folder and all below it, by name.

    Raises:
        DataFileError: there is none.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix in PICTURE_ENDINGS and p.is_file())
    if not found:
        needed = f"pictures that end in {' '.join(PICTURE_ENDINGS)}"
        raise DataFileError(folder, "holds no picture", needed)
    return found


def read_labelled(paths: Iterable[Path], classes: int = ANY_CLASS) -> list[Labelled]:
    """Return the pictures with the boxes of their label files; a missing file holds none.

    Raises:
        DataFileError: a picture has an ending that none of Darknet's has.
        LabelError: a label file cannot be understood, or has a class beyond `classes`.
    """
    return [Labelled(path, read_labels(label_path(path), classes).boxes) for path in paths]


def pictures_per_class(labels: Sequence[Boxes], classes: int) -> npt.NDArray[np.int64]:
    """Return in how many pictures every class occurs."""
    present = [np.unique(boxes[:, 0].astype(np.int64)) for boxes in labels]
    return np.bincount(np.concatenate([*present, _NO_CLASS]), minlength=classes)


def boxes_per_class(labels: Sequence[Boxes], classes: int) -> npt.NDArray[np.int64]:
    """Return how many boxes every class has."""
    found = [boxes[:, 0].astype(np.int64) for boxes in labels]
    return np.bincount(np.concatenate([*found, _NO_CLASS]), minlength=classes)


_NO_CLASS = np.zeros(0, np.int64)


def format_labels(boxes: Boxes) -> bytes:
    """Return the text of a label file, with the fewest digits that read back as these numbers."""
    return b"".join(
        f"{int(box[0])} {' '.join(_digits(value) for value in box[1:])}\n".encode() for box in boxes
    )


def _digits(value: np.float32) -> str:
    return np.format_float_positional(value, unique=True, trim="-")


def format_list(paths: Iterable[Path], folder: Path) -> bytes:
    """Return the text of a list that lies in `folder`; each path as `seen_from` there."""
    return b"".join(os.fsencode(seen_from(folder, path)) + b"\n" for path in paths)


def seen_from(folder: Path, path: Path) -> str:
    """Return how a file in `folder`, which need not be the current one, is to name `path`.

    What lies below the folder is named as seen from there, so that a data set can be moved as a
    whole; all else by its whole path.

    Raises:
        DataFileError: a path that no list can hold, since it has a line break.
    """
    home, whole = (Path(os.path.abspath(place)) for place in (folder, path))
    entry = str(whole.relative_to(home) if whole.is_relative_to(home) else whole)
    if len(entry.splitlines()) != 1 or entry != entry.strip():
        needed = "no line break in it, no space at its ends"
        raise DataFileError(repr(entry), "a list has one path a line", needed)
    return entry
