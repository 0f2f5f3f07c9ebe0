"""The pictures that a command line names: by path or URL, in lists, in folders, one by one.

Not covered: what is done with them.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from relume.data.image import Pixels, read_picture
from relume.errors import DataFileError, ImageError, UsageError
from relume.formats.data_files import (
    PICTURE_ENDINGS,
    candidate_paths,
    listed_entries,
    read_data_file,
)
from relume.formats.places import is_url, remote_path
from relume.lists.store import Store, entries_on
from relume.screen import Screen
from relume.spec import cache_folder, cache_gigabytes

AHEAD = 2
"""Pictures that are read while the network works on the one before."""
LIST_ENDING = ".txt"


@dataclass(frozen=True)
class Asked:
    """A picture to look at."""

    name: str
    """As it was written."""
    path: Path
    """Perhaps of a file on an object store."""
    place: str = ""
    """The line of a list where it stands, for messages."""


def asked_pictures(words: Iterable[str], data: str, warn: Callable[[str], None]) -> list[Asked]:
    """Return the pictures that words mean: a folder all in it, a *.txt file all it lists.

    An entry of a list is looked for from the current folder, from that of the data file, and
    from that of the list. One that exists nowhere is among them: reading it is an error then.

    Raises:
        DataFileError: a list cannot be read, or has no entry.
        ImageError: a folder holds no picture.
    """
    store = cache(lambda: _store(data, warn))
    found: list[Asked] = []
    for word in words:
        if word.lower().endswith(LIST_ENDING):
            found += _listed(word, data, store)
        elif is_url(word):
            found.append(Asked(word, remote_path(word, store().read)))
        elif os.path.isdir(word):  # noqa: PTH112 - never an error, whatever the name
            found += _in_folder(Path(word))
        else:
            found.append(Asked(word, Path(word)))
    return found


def _listed(word: str, data: str, store: Callable[[], Store]) -> list[Asked]:
    if is_url(word):
        remote, local = entries_on(store(), word), _copy_of_list(store(), word)
    else:
        remote, local = (lambda entry: entries_on(store())(entry) if is_url(entry) else None), word
    folders = tuple(dict.fromkeys(str(Path(path).parent) for path in (data, word)))
    found = []
    for line, entry in listed_entries(local):
        places = [place for folder in folders for place in candidate_paths(entry, folder)]
        path = remote(entry) or Path(next(filter(os.path.exists, places), entry))
        found.append(Asked(entry, path, f"{word}:{line}"))
    return found


def _copy_of_list(store: Store, url: str) -> str:
    try:
        return str(store.copy_of_list(url))
    except OSError as error:
        found = f"cannot be read ({error.strerror or error})"
        raise DataFileError(url, found, "a list of pictures") from error


def _in_folder(folder: Path) -> list[Asked]:
    endings = {ending.lower() for ending in PICTURE_ENDINGS}
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)
    except OSError as error:
        raise ImageError(folder, f"cannot be read: {error.strerror or error}") from error
    if not paths:
        raise ImageError(folder, "holds no picture", f"files in it that end in {_one_of(endings)}")
    return [Asked(str(path), path) for path in paths]


def _store(data: str, warn: Callable[[str], None]) -> Store:
    data_file = read_data_file(data)
    limit_bytes = int(cache_gigabytes(data_file) * 1e9)
    return Store(cache_folder(data_file) / "store", limit_bytes, warn)


def _one_of(endings: set[str]) -> str:
    *most, last = sorted(endings)
    return f"{', '.join(most)} or {last}"


def pictures_from_standard_input(screen: Screen) -> Iterator[Asked]:
    """Yield the pictures whose paths come, one a line; ask for them on a terminal.

    Raises:
        UsageError: none comes, and nobody was asked.
    """
    asks, is_empty = sys.stdin.isatty(), True
    while True:
        if asks:
            screen.line("Enter Image Path:")
        line = sys.stdin.readline()
        if not line and is_empty and not asks:
            remedy = "or give IMAGE behind WEIGHTS"
            raise UsageError("standard input", "names no picture", "paths, one a line", remedy)
        if not line:
            return
        if line.strip():
            is_empty = False
            yield Asked(line.strip(), Path(line.strip()))


def read_ahead(
    asked: Iterable[Asked], channels: int, max_pixels: int
) -> Iterator[tuple[Asked, Future[Pixels]]]:
    """Yield the pictures in order, each with its pixels or what was raised when it was read."""

    def read(item: Asked) -> Pixels:
        return read_picture(item.path, channels, item.place, max_pixels=max_pixels).pixels

    with ThreadPoolExecutor(1, "relume-read") as reader:
        begun: deque[tuple[Asked, Future[Pixels]]] = deque()
        for item in asked:
            begun.append((item, reader.submit(read, item)))
            if len(begun) > AHEAD:
                yield begun.popleft()
        yield from begun


def read_at_once(
    asked: Iterable[Asked], channels: int, max_pixels: int
) -> Iterator[tuple[Asked, Future[Pixels]]]:
    """Do the same where the next picture is not known before this one is done."""
    for item in asked:
        yield from read_ahead([item], channels, max_pixels)
