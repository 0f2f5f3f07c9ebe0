"""Where a file is: on a disk, or on an object store (s3://, gs://, ...) under a URL."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
"""Two letters at least: C:/ is a drive."""


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
