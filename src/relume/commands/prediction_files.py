"""Where `detector test` draws and writes labels, and which files it does not replace.

Without -force only pictures are replaced that relume has drawn (its JPEGs say so), and
predictions.jpg, which Darknet replaces too.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from relume.commands.asked_pictures import Asked
from relume.commands.outputs import Kind, Outputs
from relume.data.image import Pixels
from relume.detection import Detection, draw_detections, format_labels
from relume.errors import StorageError, UsageError
from relume.formats.data_files import label_path
from relume.formats.places import RemoteFile

JPEG_QUALITY = 92
JPEG_BEGIN = b"\xff\xd8"
MARK = JPEG_BEGIN + b"\xff\xfe\x00\x11drawn by relume"
"""How every drawn picture begins: with a comment of 17 bytes, its length among them."""
ONE_PICTURE = Path("predictions.jpg")
"""Darknet's name for it, replaced by every picture as there."""
DRAWN = Kind("picture drawn by relume", lambda head: head.startswith(MARK), makes_folder=True)
ONE_DRAWN = Kind("JPEG", lambda head: not head or head.startswith(JPEG_BEGIN))
LABELS = Kind("labels", is_compared=True)


class Drawings:
    """The drawn pictures of one command.

    Args of the constructor:
        folder: where they go under the names of their pictures; None: all into ONE_PICTURE.
        outputs: of the command.
    """

    def __init__(self, folder: Path | None, outputs: Outputs) -> None:
        self.folder = folder
        self._outputs = outputs
        self._kind = ONE_DRAWN if folder is None else DRAWN
        self._targets: dict[str, Path] = {}
        """By input; every input has a target of its own."""
        self.count = 0

    @property
    def summary(self) -> str:
        """Where the drawn pictures are, for a message."""
        if self.folder is not None:
            return f"{self.count} picture{'s' * (self.count > 1)} drawn into {self.folder}"
        last = f", the last of {self.count} pictures" if self.count > 1 else ""
        return f"drawn into {ONE_PICTURE}{last}"

    def check(self, asked: Sequence[Asked]) -> None:
        """Raise UsageError, before any work is done, if a picture would be replaced unasked."""
        self._outputs.check([self.target(item) for item in asked], self._kind)

    def target(self, item: Asked) -> Path:
        """Return where a picture is drawn: under its name, or that with a number behind it."""
        if self.folder is None:
            return ONE_PICTURE
        source = os.path.realpath(str(item.path))
        if source not in self._targets:
            # Of a URL, too, which Path would take apart.
            stem = os.path.splitext(os.path.basename(str(item.path)))[0]  # noqa: PTH119, PTH122
            taken = set(self._targets.values())
            number, target = 1, self.folder / f"{stem}.jpg"
            while target in taken:
                number += 1
                target = self.folder / f"{stem}_{number}.jpg"
            self._targets[source] = target
        return self._targets[source]

    def write(self, item: Asked, pixels: Pixels, found: Sequence[Detection]) -> None:
        """Draw what was found in a picture.

        Raises:
            StorageError: it cannot be written.
            UsageError: it would replace a picture.
        """
        drawn = encoded(draw_detections(pixels, found))
        self._outputs.write_replaceable(self.target(item), self._kind, drawn)
        self.count += 1


class LabelFiles:
    """The label files of one command, beside their pictures as Darknet writes them.

    Args of the constructor:
        outputs: of the command.
    """

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    def there(self, asked: Iterable[Asked]) -> list[Asked]:
        """Return the pictures whose label files are there, and may be somebody's work.

        Raises:
            UsageError, DataFileError: a picture beside which no labels can be written.
        """
        return [item for item in asked if self._outputs.is_foreign(_labels_of(item), LABELS)]

    def check(self, item: Asked, found: Sequence[Detection]) -> None:
        """Raise UsageError if the labels of what was found in a picture would replace others."""
        self._outputs.check_contents({_labels_of(item): format_labels(found).encode()}, LABELS)

    def write(self, item: Asked, found: Sequence[Detection]) -> None:
        """Write the labels of a picture; an empty file if nothing was found.

        Raises:
            StorageError: it cannot be written.
            UsageError, DataFileError: as `check` and `there`.
        """
        self._outputs.write(_labels_of(item), LABELS, format_labels(found).encode())


def _labels_of(item: Asked) -> Path:
    if isinstance(item.path, RemoteFile):
        place = item.place or item.name
        raise UsageError(place, "is on an object store", "a local picture for -save_labels")
    return label_path(item.path)


def encoded(rgb: Pixels) -> bytes:
    """Return a drawn picture as a JPEG that says where it is from."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise StorageError("the drawn picture", "cannot be made a JPEG")
    return MARK + np.asarray(data, np.uint8).tobytes()[len(JPEG_BEGIN) :]
