"""The pictures a network is measured on, with their truths: what `valid` and `difficult` name.

Not covered: the pictures' pixels, which are read when they are measured.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from relume.errors import DataFileError
from relume.formats.data_files import DataFile, ImageList
from relume.training_set import label_files, read_images

Boxes = npt.NDArray[np.float32]
_NONE: Boxes = np.zeros((0, 5), np.float32)
Warn = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class LabelledPicture:
    """A picture, and what is to be found in it."""

    path: Path
    place: str
    """Where it was named ("valid.txt:7"), for messages."""
    truths: Boxes
    """[T, 5] class, centre x, y and width, height relative to the picture."""
    difficult: Boxes = field(default_factory=lambda: _NONE)
    """[D, 5] what may be found or not."""

    def label_digest(self) -> int:
        """Return XXH3-64 of the numbers in its label files."""
        return xxh3_64_intdigest(self.truths.tobytes() + b"/" + self.difficult.tobytes())


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """A list of pictures with their truths."""

    images: ImageList
    pictures: tuple[LabelledPicture, ...]
    difficult: ImageList | None = None
    """The list that `difficult` names."""

    def label_digest(self) -> str:
        """Return XXH3-128 over the digests of all pictures' labels."""
        digests = np.array([one.label_digest() for one in self.pictures], "<u8")
        return xxh3_128_hexdigest(digests.tobytes())


def read_validation_set(
    data_file: DataFile, key: str, classes: int, cache: Path, cache_gb: float, warn: Warn
) -> ValidationSet:
    """Read the list that `key` names, its labels, and those of `difficult` if there is one.

    A picture without a label file has no objects; a line says how many there are.

    Args:
        data_file: with that key.
        key: valid, or train.
        classes: of the network's heads.
        cache: folder of what can be had again.
        cache_gb: gigabytes of remote files that are kept there.
        warn: takes a line about what a person should know.
    Raises:
        DataFileError: a list cannot be read, a picture is missing, the lists do not fit.
        LabelError: a label line is wrong.
        Unavailable: an object store does not give them.
    """
    images = read_images(data_file, cache, cache_gb, warn, key)
    if images.identity is not None:
        raise DataFileError(
            images.path,
            f"lists {len(images.paths):,} pictures to measure on",
            "at most 100,000",
            f"name a shorter list: add 'valid = ...' to {data_file.path}",
        )
    truths = _labels(images, classes, warn)
    boxes, doubtful = (_NONE,) * len(truths), None
    if "difficult" in data_file.values:
        doubtful = read_images(data_file, cache, cache_gb, warn, "difficult")
        if len(doubtful.paths) != len(images.paths):
            raise DataFileError(
                doubtful.path,
                f"{len(doubtful.paths)} pictures",
                f"as many as in {images.path}, {len(images.paths)}, in the same order",
                f"correct it, or take 'difficult' out of {data_file.path}",
            )
        boxes = _labels(doubtful, classes, lambda text: None)
    return ValidationSet(
        images,
        tuple(
            LabelledPicture(path, f"{images.path}:{line}", own, difficult)
            for path, line, own, difficult in zip(
                images.paths, images.lines, truths, boxes, strict=True
            )
        ),
        doubtful,
    )


def _labels(images: ImageList, classes: int, warn: Warn) -> tuple[Boxes, ...]:
    boxes, missing = [], []
    for path, read in label_files(images, classes, warn):
        boxes.append(read.boxes)
        if read.missing:
            missing.append(path)
    if missing:
        warn(
            f"{images.path}: pictures without a label file: {len(missing)} of {len(boxes)} "
            f"(first {missing[0]}); they are taken as pictures without objects"
        )
    return tuple(boxes)
