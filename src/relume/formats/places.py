"""Where a file is: on a disk, or on an object store (s3://, gs://, ...) under a URL.

Of a disk only regular files are read: whoever opens a pipe waits for another to write into it.
"""

import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import cast

from relume.errors import DataFileError
from relume.formats.lexer import LONGEST_PATH_SHOWN, excerpt
from relume.memory import free_memory_bytes

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
"""Two letters at least: C:/ is a drive."""
_WITHOUT_WAITING = os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
"""For whoever writes into a pipe."""
LARGEST_BYTES = (1 << 31) - 1
"""Of a file that is read as a whole; OpenCV decodes no more."""
SOON_READ_BYTES = 64 << 20
"""Up to here nobody asks whether there is room; looking takes as long as reading 1 MB."""


class NotRegular(OSError):
    """A pipe, a socket or a device. (The system has no error of its own for it.)"""


@dataclass(frozen=True)
class RemoteFile:
    """A file on an object store; it does what a run asks of the paths in a list."""

    url: str
    read: Callable[[str], bytes] = field(repr=False, compare=False)
    """Returns the bytes behind a URL, or raises the OSError that a disk would raise."""

    def read_bytes(self) -> bytes:
        """Return all bytes.

        Raises:
            FileNotFoundError: the store says that there is no such file.
            PermissionError: the store does not let it be read.
            OSError: the store did not give it this time.
        """
        return self.read(self.url)

    def exists(self) -> bool:
        """Tell whether the store is there, which does not vanish as a mounted disk does."""
        return True

    def __str__(self) -> str:
        return self.url


def is_url(text: str) -> bool:
    """Tell whether a path means a file on an object store."""
    return _URL.match(text) is not None


def remote_path(url: str, read: Callable[[str], bytes]) -> Path:
    """Return a file on an object store where lists have paths.

    Paths of lists are only shown (str) and read (read_bytes, exists), and whatever asks more of
    one reads lists of local files. A type of both would make all those say that they do.
    """
    return cast(Path, RemoteFile(url, read))


def local_path(text: str, place: object) -> Path:
    """Return a path that must lead to a disk.

    Args:
        text: as given.
        place: where it was given, for the message.
    Raises:
        DataFileError: it means a file on an object store.
    """
    if is_url(text):
        shown = excerpt(text, LONGEST_PATH_SHOWN)
        raise DataFileError(
            place, f"{shown} is on an object store", "local files only", "copy them to a disk"
        )
    return Path(text)


def regular(path: str, flags: int = 0) -> int:
    """Open a file for reading, as an `opener` of open(); return its descriptor.

    Raises:
        OSError: as os.open; EINVAL: a pipe, a socket or a device.
    """
    return _regular_in(None, path)


def _regular_in(folder: int | None, path: str, flags: int = 0) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | _WITHOUT_WAITING, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ENXIO and not stat.S_ISREG(os.stat(path, dir_fd=folder).st_mode):
            raise _no_regular_file() from error  # a socket cannot be opened at all
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder open() says so itself
            raise _no_regular_file()
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _no_regular_file() -> OSError:
    return NotRegular(errno.EINVAL, "no regular file")


def open_regular(path: str | Path, folder: int | None = None) -> BufferedReader:
    """Open a regular file for reading: the one way to do so, which never waits for a writer.

    Args:
        path: of the file.
        folder: descriptor of the folder that the path is relative to; None: the current one.
    Raises:
        OSError: as open(); EINVAL: a pipe, a socket or a device.
    """
    opener = regular if folder is None else partial(_regular_in, folder)
    return open(path, "rb", opener=opener)


def read_regular(path: str | Path, most_bytes: int | None = None) -> bytes:
    """Return all bytes of a regular file.

    Args:
        path: of the file.
        most_bytes: that it may have; None: LARGEST_BYTES.
    Raises:
        OSError: as open(); EINVAL: a pipe, a socket or a device; EFBIG: it has more bytes;
            ENOMEM: they do not fit into memory, and none has been taken.
    """
    with open_regular(path) as file:
        return read_rest(file, most_bytes or LARGEST_BYTES)


def read_rest(file: BufferedReader, most_bytes: int = sys.maxsize) -> bytes:
    """Return the bytes of an open file from where it stands.

    Raises:
        OSError: as read_regular.
    """
    size_bytes = os.fstat(file.fileno()).st_size - file.tell()
    if size_bytes > most_bytes:
        raise OSError(errno.EFBIG, f"{os.strerror(errno.EFBIG)}: {size_bytes:,} bytes")
    check_room(size_bytes)
    try:
        data = file.read(max(size_bytes, 0))
        if more := file.read(1):  # written meanwhile, or the file system knows no sizes
            data += more + file.read(min(most_bytes - len(data), SOON_READ_BYTES))
            if len(data) > most_bytes or file.read(1):
                raise OSError(errno.EFBIG, "it grows while it is read")
    except MemoryError as error:
        raise no_room(size_bytes) from error
    return data


def check_room(size_bytes: int) -> None:
    """See to it that so many bytes fit into memory.

    Raises:
        OSError: ENOMEM.
    """
    if size_bytes > SOON_READ_BYTES and size_bytes > free_memory_bytes(with_swap=True):
        raise no_room(size_bytes)


def no_room(size_bytes: int) -> OSError:
    """Return the error of a file that does not fit into memory."""
    free = free_memory_bytes(with_swap=True)
    found = f"its {size_bytes:,} bytes need more memory than there is ({free:,} bytes are free)"
    return OSError(errno.ENOMEM, found)


def read_file(path: Path) -> bytes:
    """Return all bytes of a file wherever it is.

    Raises:
        OSError: as read_regular, or RemoteFile.read_bytes.
    """
    return path.read_bytes() if isinstance(path, RemoteFile) else read_regular(path)
