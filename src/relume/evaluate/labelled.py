"""The pictures a network is measured on, with their truths: what `valid` and `difficult` name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relume.errors import DataFileError
from relume.formats.data_files import (
    DataFile,
    LabelFile,
    label_path,
    read_image_list,
    read_labels,
    resolve,
)

Floats = npt.NDArray[np.float32]
_NONE: Floats = np.zeros((0, 5), np.float32)


@dataclass(frozen=True, eq=False)
class LabelledPicture:
    """A picture, and what is to be found in it."""

    path: Path
    place: str
    """Where it was named ("valid.txt:7"), for messages."""
    truths: Floats
    """[T, 5] class, centre x, y and width, height relative to the picture."""
    difficult: Floats = field(default_factory=lambda: _NONE)
    """[D, 5] what may be found or not."""


def read_labelled_pictures(
    data_file: DataFile, key: str, classes: int, warn: Callable[[str], None]
) -> tuple[LabelledPicture, ...]:
    """Read the list that `key` names, its labels, and those of `difficult` if there is one.

    A picture without a label file has no objects; a line says how many there are.

    Raises:
        DataFileError: a list cannot be read, a picture is missing, the lists do not fit.
        LabelError: a label line is wrong.
    """
    images = read_image_list(resolve(data_file.text(key), data_file.path), data_file.path)
    files = [(label_path(path), read_labels(label_path(path), classes)) for path in images.paths]
    _tell_missing(files, images.path, warn)
    difficult = [_NONE] * len(files)
    if "difficult" in data_file.values:
        list_path = resolve(data_file.text("difficult"), data_file.path)
        doubtful = read_image_list(list_path, data_file.path)
        if len(doubtful.paths) != len(images.paths):
            raise DataFileError(
                doubtful.path,
                f"{len(doubtful.paths)} pictures",
                f"as many as in {images.path}, {len(images.paths)}, in the same order",
                f"correct it, or take 'difficult' out of {data_file.path}",
            )
        difficult = [read_labels(label_path(path), classes).boxes for path in doubtful.paths]
    return tuple(
        LabelledPicture(path, f"{images.path}:{line}", file.boxes, boxes)
        for path, line, (_, file), boxes in zip(
            images.paths, images.lines, files, difficult, strict=True
        )
    )


def _tell_missing(
    files: list[tuple[Path, LabelFile]], list_path: str, warn: Callable[[str], None]
) -> None:
    missing = [path for path, file in files if file.missing]
    if missing:
        warn(
            f"{list_path}: pictures without a label file: {len(missing)} of {len(files)} "
            f"(first {missing[0]}); they are taken as pictures without objects"
        )
