"""Where `detector test` draws and writes labels, and which files it does not replace.

What is there is somebody's work: an input is never replaced, another picture only if relume has
drawn it (its JPEGs say so), a label file only on demand, or if it holds the same.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from relume.checkpoint import storage
from relume.commands.asked_pictures import Asked
from relume.data.image import Pixels
from relume.detection import Detection, draw_detections, format_labels
from relume.errors import StorageError, UsageError
from relume.formats.data_files import label_path
from relume.formats.places import RemoteFile

JPEG_QUALITY = 92
JPEG_BEGIN = b"\xff\xd8"
DRAWN = JPEG_BEGIN + b"\xff\xfe\x00\x11drawn by relume"
"""How every drawn picture begins: with a comment of 17 bytes, its length among them."""
ONE_PICTURE = Path("predictions.jpg")
"""Darknet's name for it, replaced by every picture as there."""


class Drawings:
    """The drawn pictures of one command.

    Args of the constructor:
        folder: where they go under the names of their pictures; None: all into ONE_PICTURE.
        force: replace pictures that relume has not drawn, too.
    """

    def __init__(self, folder: Path | None, force: bool) -> None:
        self.folder = folder
        self._force = force
        self._targets: dict[Path, Path] = {}
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
        inputs = {_identity(item.path) for item in asked}
        kept = [target for item in asked if self._is_kept(target := self.target(item), inputs)]
        if kept:
            more = f" (and {len(kept) - 1} more)" if len(kept) > 1 else ""
            if _identity(kept[0]) in inputs:
                remedy = "give another folder with -out_folder"
                raise UsageError(kept[0], f"is one of the pictures to look at{more}", "", remedy)
            found = f"is there and was not drawn by relume{more}"
            raise UsageError(kept[0], found, "", "give another -out_folder, or add -force")

    def _is_kept(self, target: Path, inputs: set[Path]) -> bool:
        if not os.path.lexists(target):
            return False
        if _identity(target) in inputs:
            return True
        return self.folder is not None and not self._force and not _is_drawn(target)

    def target(self, item: Asked) -> Path:
        """Return where a picture is drawn: under its name, or that with a number behind it."""
        if self.folder is None:
            return ONE_PICTURE
        source = _identity(item.path)
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
        self.check([item])
        target = self.target(item)
        if self.folder is not None and self.count == 0:
            storage.make_folder(self.folder)
        storage.write_replaceable(target, [encoded(draw_detections(pixels, found))])
        self.count += 1


class LabelFiles:
    """The label files of one command, beside their pictures as Darknet writes them.

    One that is there is somebody's work, unless it holds what would be written: then it is of the
    same command, interrupted before.

    Args of the constructor:
        force: replace those that are there.
    """

    def __init__(self, force: bool) -> None:
        self._force = force
        self._written: set[Path] = set()

    def there(self, asked: Iterable[Asked]) -> list[Asked]:
        """Return the pictures whose label files are there, and may be somebody's work.

        Raises:
            UsageError, DataFileError: a picture beside which no labels can be written.
        """
        return [item for item in asked if self._is_there(_labels_of(item))]

    def check(self, item: Asked, found: Sequence[Detection], more: int = 0) -> None:
        """Raise UsageError if the labels of a picture would replace others.

        Args:
            item: the picture.
            found: in it.
            more: pictures whose labels are there as well, for the message.
        """
        path = _labels_of(item)
        if not self._is_there(path) or _holds(path, format_labels(found)):
            return
        others = f" (as are {more} more)" if more else ""
        what = f"is there{others} and holds other labels; -save_labels would replace them"
        raise UsageError(path, what, "", "move them away, or add -force")

    def write(self, item: Asked, found: Sequence[Detection]) -> None:
        """Write the labels of a picture; an empty file if nothing was found.

        Raises:
            StorageError: it cannot be written.
            UsageError, DataFileError: as `check` and `there`.
        """
        self.check(item, found)
        path = _labels_of(item)
        if not self._is_there(path):  # else it holds them already
            storage.write_durably(path, format_labels(found).encode())
            self._written.add(path)

    def _is_there(self, path: Path) -> bool:
        return not self._force and path not in self._written and os.path.lexists(path)


def _labels_of(item: Asked) -> Path:
    if isinstance(item.path, RemoteFile):
        place = item.place or item.name
        raise UsageError(place, "is on an object store", "a local picture for -save_labels")
    return label_path(item.path)


def _holds(path: Path, text: str) -> bool:
    with suppress(OSError):
        return path.is_file() and path.read_bytes() == text.encode()
    return False


def encoded(rgb: Pixels) -> bytes:
    """Return a drawn picture as a JPEG that says where it is from."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise StorageError("the drawn picture", "cannot be made a JPEG")
    return DRAWN + np.asarray(data, np.uint8).tobytes()[len(JPEG_BEGIN) :]


def _is_drawn(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(DRAWN)) == DRAWN
    return False


def _identity(path: Path) -> Path:
    """Return what two paths of one file have in common."""
    return path if isinstance(path, RemoteFile) else Path(os.path.realpath(path))
