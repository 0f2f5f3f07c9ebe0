"""Where a file is: on a disk, or on an object store (s3://, gs://, ...) under a URL.

Of a disk only regular files are read: whoever opens a pipe waits for another to write into it.
"""

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import cast

from relume.errors import DataFileError
from relume.formats.lexer import LONGEST_PATH_SHOWN, excerpt

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
"""Two letters at least: C:/ is a drive."""
_WITHOUT_WAITING = os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
"""For whoever writes into a pipe."""
LARGEST_BYTES = (1 << 31) - 1
"""Of a file that is read as a whole; OpenCV decodes no more."""


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
    descriptor = os.open(path, os.O_RDONLY | _WITHOUT_WAITING)
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder open() says so itself
            raise OSError(errno.EINVAL, "no regular file")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: str | Path) -> FileIO:
    """Open a regular file for reading.

    Raises:
        OSError: as open(); EINVAL: a pipe, a socket or a device.
    """
    return open(path, "rb", buffering=0, opener=regular)


def read_regular(path: str | Path, most_bytes: int | None = None) -> bytes:
    """Return all bytes of a regular file.

    Args:
        path: of the file.
        most_bytes: that it may have; None: LARGEST_BYTES.
    Raises:
        OSError: as open(); EINVAL: a pipe, a socket or a device; EFBIG: it has more.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > (most_bytes or LARGEST_BYTES):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return file.read()


def read_file(path: Path) -> bytes:
    """Return all bytes of a file wherever it is.

    Raises:
        OSError: as read_regular, or RemoteFile.read_bytes.
    """
    return path.read_bytes() if isinstance(path, RemoteFile) else read_regular(path)
