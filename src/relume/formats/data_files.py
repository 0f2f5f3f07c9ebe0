"""Read what a training set is described by: .data, .names, image lists and label files.

Darknet's syntax with three deliberate differences: spaces inside a value stay (paths), relative
paths that do not exist in the current folder are looked for beside the .data file, and whatever
Darknet reports to bad.list or reads as something else is an error with file and line. Boxes
that lie outside their picture are none: Darknet drops them after the augmentation.

Not covered: pictures (data/image.py), and what the keys of a .data file do (spec.py).
"""

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relume.errors import DataFileError, LabelError
from relume.formats.keys import integer, words
from relume.formats.lexer import LONGEST_PATH_SHOWN, excerpt
from relume.formats.places import (
    RemoteFile,
    local_path,
    read_file,
    remote_path,
)
from relume.formats.rows import Listed
from relume.formats.text_files import LARGEST_TEXT_BYTES, read_list, read_text

KEYS = words(
    "classes train valid names backup results eval map difficult saveweights savelast keepstate "
    "savebudget patience seed sampling cache cache_gb top hier bad max_pixels"
)

_LABEL_FOLDERS = tuple(
    (f"{slash}{images}{slash}", f"{slash}{labels}{slash}")
    for slash in "/\\"
    for images, labels in (
        *((f"images{slash}{part}", f"labels{slash}{part}") for part in words("train2017 val2017")),
        *((f"images{slash}{part}", f"labels{slash}{part}") for part in words("train2014 val2014")),
        ("JPEGImages", "labels"),
    )
)
PICTURE_ENDINGS = words(".jpg .JPG .jpeg .JPEG .png .PNG .bmp .BMP .ppm .PPM .tiff .TIFF")
LONGEST_VALUE = 4096
"""Letters of a value in a data file: as many as the bytes of a path on Linux."""
LONGEST_NAME = 1000
"""Letters of the name of a class."""
ANY_CLASS = 100_000
"""More classes than there are, where nothing says how many."""

Boxes = npt.NDArray[np.float32]
"""[N, 5]: class, then centre x, y and width, height relative to the picture."""
NO_BOXES = np.zeros((0, 5), np.float32)
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class DataFile:
    """The keys of a .data file."""

    path: str
    values: Mapping[str, str]
    lines: Mapping[str, int]
    """Line of every key, for messages."""

    def text(self, key: str, default: str | None = None) -> str:
        """Return the value of `key`.

        Raises:
            DataFileError: the key is missing and there is no default.
        """
        value = self.values.get(key, default)
        if value is None:
            raise DataFileError(self.path, f"key '{key}' is missing", f"add '{key} = ...'")
        return value

    def integer(self, key: str, default: int, otherwise: str = "") -> int:
        """Return the value of `key` as an integer; `otherwise` tells what else it may be.

        Raises:
            DataFileError: the value is none.
        """
        if key not in self.values:
            return default
        try:
            return integer()(self.values[key])
        except ValueError as error:
            place, found = f"{self.path}:{self.lines[key]}", f"{key} = {excerpt(self.values[key])}"
            raise DataFileError(place, found, f"{key} needs {error}{otherwise}") from None


@dataclass(frozen=True)
class ImageList:
    """The lines of a list of pictures that are not empty."""

    path: str
    entries: Listed[str]
    """As written."""
    lines: Listed[int]
    """Line of every entry, for messages."""
    paths: Listed[Path]
    """Where the pictures are."""
    identity: str | None = None
    """Of a long list (lists/long_list.py), whose entries are not all read to find it."""
    digest: str | None = None
    """XXH3-128 of a long list's bytes."""


@dataclass(frozen=True)
class LabelFile:
    """The boxes of one picture."""

    boxes: Boxes
    missing: bool
    """There is no such file: to Darknet a picture without objects."""


Remote = Callable[[str], Path | None]


def all_local(entry: str) -> None:
    """Return None: without a cache for it no entry of a list is on an object store."""


def read_data_file(path: str | Path) -> DataFile:
    """Read a .data file: `key = value` lines, comments behind `#` or `;` at a line's beginning.

    Raises:
        DataFileError: unreadable, a line that is no option, a key that Darknet does not know.
    Source:
        AlexeyAB/darknet src/option_list.c read_data_cfg; of two equal keys the first counts.
    """
    return parse_data_file(numbered_lines(path), path)


def parse_data_file(numbered: Iterable[tuple[int, str]], path: str | Path) -> DataFile:
    """Make a DataFile of numbered lines.

    Raises:
        DataFileError: the first line that is no option, or whose key Darknet does not know.
    """
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, written in numbered:
        text = written.strip(" \t")
        if text.startswith(("#", ";")):
            continue
        key, _, value = (part.strip(" \t") for part in text.partition("="))
        if text.startswith("[") and text.endswith("]"):
            found = f"'{excerpt(text)}' begins a section, as in a cfg"
            remedy = "the data file stands before the cfg"
            raise DataFileError(f"{path}:{line}", found, "a data file has none", remedy)
        if not (key and value):
            place, found = f"{path}:{line}", f"'{excerpt(text)}' has no value"
            raise DataFileError(place, found, "an option is written key = value")
        if len(value) > LONGEST_VALUE:
            found = f"{excerpt(key)} has {len(value):,} letters"
            raise DataFileError(f"{path}:{line}", found, f"at most {LONGEST_VALUE:,}")
        if key not in KEYS:
            near = difflib.get_close_matches(key[:60], KEYS, n=1)
            remedy = f"did you mean '{near[0]}'?" if near else f"the keys are {', '.join(KEYS)}"
            raise DataFileError(f"{path}:{line}", f"there is no key '{excerpt(key)}'", remedy)
        values.setdefault(key, value)
        lines.setdefault(key, line)
    return DataFile(str(path), values, lines)


def resolve(path_text: str, data_file_path: str | Path) -> Path:
    r"""Return where a path of a .data file leads: from the current folder, else from the file's.

    `a\b.jpg` is also tried as `a/b.jpg`. A path that exists nowhere belongs beside the .data file.

    Raises:
        DataFileError: it means a file on an object store.
    """
    local_path(path_text, data_file_path)
    folder = str(Path(data_file_path).parent)
    candidates = list(candidate_paths(path_text, folder))
    found = next(filter(os.path.exists, candidates), candidates[-1])
    return Path(found)


def read_names(path: str | Path) -> tuple[str, ...]:
    """Return the class names, one a line; blank lines count except at the end.

    Raises:
        DataFileError: unreadable, no text, no name, or a name of more than LONGEST_NAME letters.
    Source:
        AlexeyAB/darknet src/data.c get_labels.
    """
    names = [line.strip() for line in _text_lines(path, read_text, errors="replace")]
    if any("\0" in name for name in names):  # a picture or weights, by a slip of the hand
        raise DataFileError(path, "is no text", "one class name a line is needed")
    for line, name in enumerate(names, 1):
        if len(name) > LONGEST_NAME:
            found = f"a name of {len(name):,} letters"
            raise DataFileError(f"{path}:{line}", found, f"at most {LONGEST_NAME:,}")
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataFileError(path, "holds no name", "one class name a line is needed")
    return tuple(names)


def read_image_list(
    path: str | Path, data_file_path: str | Path, remote: Remote = all_local
) -> ImageList:
    """Read a list of pictures, one path a line, and find every one of them.

    Args:
        path: of the list.
        data_file_path: for entries that are relative to its folder.
        remote: returns the file on an object store that an entry means, or None.
    Raises:
        DataFileError: unreadable, empty, or a picture does not exist, or is on an object store
            that `remote` does not know.
    """
    numbered = listed_entries(path)
    folder = str(Path(data_file_path).parent)
    found: list[Path] = []
    missing: list[tuple[int, str]] = []
    way = 0
    for line, entry in numbered:
        if far := remote(entry):
            found.append(far)
            continue
        candidates = list(candidate_paths(entry, folder))
        # What led to the last picture nearly always leads to this one.
        candidates.insert(0, candidates[min(way, len(candidates) - 1)])
        existing = next(filter(os.path.exists, candidates), None)
        if existing is None:
            local_path(entry, f"{path}:{line}")
            missing.append((line, entry))
        else:
            way = candidates.index(existing, 1) - 1
            found.append(Path(existing))
    if missing:
        line, entry = missing[0]
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        names_all = "; `relume check DATA CFG` names all" if more else ""
        raise DataFileError(
            f"{path}:{line}",
            f"{excerpt(entry, LONGEST_PATH_SHOWN)} does not exist{more}",
            "a path from the current folder, or from that of the data file",
            f"correct the line or remove it{names_all}",
        )
    lines, entries = zip(*numbered, strict=True)
    return ImageList(str(path), entries, lines, tuple(found))


def listed_entries(path: str | Path) -> list[tuple[int, str]]:
    """Return number and text of the lines of a list that are not empty.

    Raises:
        DataFileError: unreadable, or no such line.
    """
    lines = enumerate(_text_lines(path, read_list), 1)
    numbered = [(line, text) for line, text in lines if text.strip()]
    if not numbered:
        raise DataFileError(path, "lists no picture", "one path a line is needed")
    return numbered


def label_path(image_path: Path) -> Path:
    """Return the label file that belongs to a picture.

    It lies beside the picture; in a folder `labels` if the picture's is `JPEGImages`, or
    `images` above COCO's `train2017`, `val2017`, `train2014`, `val2014`.

    Raises:
        DataFileError: an ending that is none of Darknet's pictures.
    Source:
        AlexeyAB/darknet src/utils.c replace_image_to_label.
    """
    text = str(image_path)
    for images, labels in _LABEL_FOLDERS:
        text = text.replace(images, labels, 1)
    text = text.strip()
    stem, dot, ending = text.rpartition(".")
    if dot + ending not in PICTURE_ENDINGS:
        needed = f"one of {' '.join(PICTURE_ENDINGS)} is needed to find its labels"
        raise DataFileError(image_path, f"ends in '{dot + ending}'", needed)
    labels = stem + ".txt"
    if isinstance(image_path, RemoteFile):
        return remote_path(labels, image_path.read)
    return Path(labels)


def read_labels(path: Path, classes: int) -> LabelFile:
    """Read the boxes of a label file, one `class x y width height` a line.

    A class written as 2.0 is 2 (Darknet would read .0 as x).

    Args:
        classes: of the network's heads.
    Raises:
        LabelError: `file:line`: not five finite numbers, or no class of 0..classes - 1.
    Source:
        AlexeyAB/darknet src/data.c read_boxes, which stops in silence at what is no number.
    """
    lines = label_lines(path)
    if lines is None:
        return LabelFile(NO_BOXES, missing=True)
    return LabelFile(_boxes(lines, classes, path), missing=False)


def parse_labels(data: bytes | None, classes: int, path: Path) -> Boxes:
    """Return the boxes in the bytes of a label file; None stands for a file that is missing.

    Raises:
        LabelError: as read_labels.
    """
    return NO_BOXES if data is None else _boxes(_label_words(data, path), classes, path)


def _boxes(lines: list[tuple[int, list[bytes]]], classes: int, path: Path) -> Boxes:
    rows = [parse_box(texts, classes, path, number) for number, texts in lines]
    return np.array(rows, np.float32) if rows else NO_BOXES


def label_lines(path: Path) -> list[tuple[int, list[bytes]]] | None:
    """Return number and words of a label file's lines that are not empty; None: no such file.

    Raises:
        LabelError: it cannot be read.
    """
    try:
        data = read_file(path) if isinstance(path, RemoteFile) else read_text(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LabelError(path, f"cannot be read ({_reason(error)})") from error
    return _label_words(data, path)


def _label_words(data: bytes, path: Path) -> list[tuple[int, list[bytes]]]:
    if len(data) > LARGEST_TEXT_BYTES:
        found = f"{len(data):,} bytes"
        raise LabelError(path, found, f"a label file has at most {LARGEST_TEXT_BYTES:,}")
    lines = enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1)
    return [(number, texts) for number, line in lines if (texts := line.split())]


def parse_box(texts: list[bytes], classes: int, path: Path, line: int) -> list[float]:
    """Return class, x, y, width, height of a label line's words.

    Raises:
        LabelError: not five finite numbers, or no class of 0..classes - 1.
    """
    if len(texts) != 5:
        needed = "a box is: class x y width height"
        raise LabelError(f"{path}:{line}", f"{len(texts)} columns", needed)
    try:
        box = [float(text) for text in texts]
        valid = all(-_LARGEST_FLOAT32 <= value <= _LARGEST_FLOAT32 for value in box)
    except ValueError:
        valid = False
    if not valid or b"_" in b"".join(texts):
        shown = excerpt(b" ".join(texts).decode(errors="replace"))
        raise LabelError(f"{path}:{line}", f"'{shown}'", "five finite numbers are needed")
    if not (box[0].is_integer() and 0 <= box[0] < classes):
        found = f"class {excerpt(texts[0].decode())}"
        raise LabelError(f"{path}:{line}", found, f"the cfg's classes are 0..{classes - 1}")
    return box


def candidate_paths(text: str, folder: str) -> Iterator[str]:
    """Yield the places a relative path may mean, in the order they are tried."""
    for form in dict.fromkeys((text, text.replace("\\", "/"))):
        yield form
        yield os.path.join(folder, form)  # noqa: PTH118 - a tenth of the time, 100,000 times


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines of a data file that are not empty."""
    for number, line in enumerate(_text_lines(path, read_text), 1):
        if line:
            yield number, line


def _text_lines(
    path: str | Path, read: Callable[[str | Path], bytes], errors: str = "surrogateescape"
) -> list[str]:
    """Return all lines; by default bytes that are no UTF-8 stay what the file system knows."""
    try:
        data = read(path)
    except (OSError, ValueError) as error:
        raise DataFileError(path, f"cannot be read ({_reason(error)})") from error
    lines = data.removeprefix(b"\xef\xbb\xbf").splitlines()
    return [line.decode("utf-8", errors) for line in lines]


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
