"""Reads the pictures and labels that a run is trained on, from a disk or an object store.

Not covered: what is read when it is used, and not before: pictures, and labels of long lists.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from relume.data.patience import PAUSES_S, Patience
from relume.errors import DataFileError, LabelError
from relume.formats.data_files import (
    Boxes,
    DataFile,
    ImageList,
    LabelFile,
    Remote,
    label_path,
    parse_labels,
    read_labels,
    resolve,
)
from relume.formats.places import RemoteFile, is_url, remote_path
from relume.lists.label_block import Summary, Tally
from relume.lists.label_files import never_used
from relume.lists.long_list import read_list
from relume.lists.store import Store, entries_on

REMOTE_READERS = 32
"""Label files on an object store that are read at once: each is waited for, not worked for."""

Warn = Callable[[str], None]


def read_images(
    data_file: DataFile, cache: Path, cache_gb: float, warn: Warn, key: str = "train"
) -> ImageList:
    """Read the list of pictures that a key of the data file names, perhaps on an object store.

    Args:
        data_file: that names it.
        cache: folder of what can be had again.
        cache_gb: gigabytes of remote files that are kept there.
        warn: takes a line about what a person should know.
        key: train, or another that names a list.
    Raises:
        DataFileError: the list cannot be read, or a picture does not exist.
        Unavailable: a store does not give it.
    """
    path, remote = list_on_disk(key, data_file, cache, cache_gb, warn)
    images = read_list(path, data_file.path, cache, warn, remote)
    text = data_file.text(key)
    return replace(images, path=text) if is_url(text) else images


def list_on_disk(
    key: str, data_file: DataFile, cache: Path, cache_gb: float, warn: Warn
) -> tuple[Path, Remote]:
    """Return where the list that `key` names can be read, and what finds its remote entries.

    Raises:
        DataFileError: there is no such list.
        Unavailable: a store does not give it.
    """
    text = data_file.text(key)
    store = Store(cache / "store", int(cache_gb * 1e9), warn)
    if not is_url(text):
        return resolve(text, data_file.path), entries_on(store)
    # What comes by this way is the name of a local copy.
    copied = remote_path(text, lambda url: os.fsencode(store.copy_of_list(url)))
    name = Patience(PAUSES_S, say=warn).read_if_there(copied, data_file.path)
    if name is None:
        raise DataFileError(text, "does not exist", "a list of pictures")
    return Path(os.fsdecode(name)), entries_on(store, text)


def read_all_labels(images: ImageList, classes: int, warn: Warn) -> tuple[Boxes, ...]:
    """Read the labels of a list, and tell what is odd about them.

    Raises:
        LabelError, DataFileError: what cannot be trained on.
        Unavailable: a store does not give them.
    """
    labels = []
    missing: list[Path] = []
    useless: list[str] = []
    for path, read in label_files(images, classes, warn):
        labels.append(read.boxes)
        useless += [f"{path} box {row + 1}" for row in np.flatnonzero(never_used(read.boxes))]
        if read.missing:
            missing.append(path)
    found = Summary(
        rows=len(labels),
        boxes=sum(map(len, labels)),
        unlabelled=Tally(len(missing), str(missing[0]) if missing else ""),
        unused=Tally(len(useless), useless[0] if useless else ""),
    )
    check_labels(images, found, warn)
    return tuple(labels)


def label_files(images: ImageList, classes: int, warn: Warn) -> Iterator[tuple[Path, LabelFile]]:
    """Yield path and contents of the label files of a list; many at once from an object store."""
    paths = [label_path(image) for image in images.paths]
    if not any(isinstance(path, RemoteFile) for path in paths):
        yield from ((path, read_labels(path, classes)) for path in paths)
        return
    patience = Patience(PAUSES_S, say=warn)

    def read(path: Path) -> LabelFile:
        data = patience.read_if_there(path, images.path)
        return LabelFile(parse_labels(data, classes, path), data is None)

    with ThreadPoolExecutor(REMOTE_READERS) as readers:
        yield from zip(paths, readers.map(read, paths), strict=True)


def check_labels(images: ImageList, found: Summary, warn: Warn) -> None:
    """Tell what is odd about the labels of a list.

    Raises:
        LabelError, DataFileError: what cannot be trained on.
    """
    if found.wrong.count:
        more = f" (and {found.wrong.count - 1} more label files)" * (found.wrong.count > 1)
        raise LabelError(images.path, f"{found.wrong.first}{more}", "", "correct them")
    if found.absent.count:
        more = f" (and {found.absent.count - 1} more)" * (found.absent.count > 1)
        needed = "a path from the current folder, or from that of the data file"
        raise DataFileError(
            images.path, f"{found.absent.first} does not exist{more}", needed, "correct the list"
        )
    if found.unlabelled.count:
        warn(
            f"{images.path}: pictures without a label file: {found.unlabelled.count} of "
            f"{found.rows} (first {found.unlabelled.first}); they are trained on as pictures "
            "without objects"
        )
    if found.unused.count:
        warn(
            f"{images.path}: boxes outside their picture or without a size: {found.unused.count} "
            f"(first {found.unused.first}); they are left out, as in Darknet; a label line is "
            "'class x y width height', relative to the picture, centre first"
        )
    if not found.boxes:
        raise DataFileError(
            images.path,
            "no picture has a label with a box",
            "labels as .txt beside the pictures, or in labels/ for pictures in images/train2017",
        )
