"""The system calls that change a file system, one method each, and what their refusals mean.

`storage.py` makes every one of its changes through these, so that a test can record them, let
any of them fail, and work out what a power cut between them leaves.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relume.errors import StorageError

Buffer = bytes | memoryview


class Disk:
    """The system calls that change a file system; tests put another one in its place."""

    def create(self, path: Path, direct: bool = False) -> int:
        """Make a new file for writing; `direct` past the page cache."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(path, flags | (os.O_DIRECT if direct else 0), 0o666)

    def open_to_append(self, path: Path) -> int:
        """Open a file for writing at its end."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def write(self, descriptor: int, data: Buffer) -> None:
        """Write all of `data`, also where the system takes it in pieces."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def fsync(self, descriptor: int) -> None:
        """Make a file's contents and length durable."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a file."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, which it takes from whatever has it."""
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        target.hardlink_to(source)

    def symlink(self, source: Path, target: Path) -> None:
        """Make a name that leads to another."""
        target.symlink_to(source)

    def unlink(self, path: Path) -> None:
        """Take a name away."""
        path.unlink()

    def truncate(self, path: Path, length: int) -> None:
        """Cut a file to its first `length` bytes."""
        os.truncate(path, length)

    def make_folder(self, folder: Path) -> None:
        """Create a folder and its parents if missing."""
        folder.mkdir(parents=True, exist_ok=True)

    def fsync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def as_storage_error(path: Path) -> Iterator[None]:
    """Tell what the system refuses at `path` as a StorageError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            path,
            f"cannot be written ({reason})",
            "a folder with space and write permission",
            _REMEDIES.get(error.errno or 0, "check the folder, then give the same command again"),
        ) from error


def check_replaceable(path: Path) -> None:
    """Raise StorageError if `path` is a device or pipe: /dev/null would be a file from then on.

    A folder is refused by the system itself.
    """
    with as_storage_error(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise StorageError(path, "is no regular file", "a file to write", "give another name")


def check_writable(folder: Path) -> None:
    """Raise StorageError, before any work is done, if nothing can be written into a folder."""
    with as_storage_error(folder):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


_REMEDIES = {
    errno.ENOSPC: "free some space, then give the same command again",
    errno.EDQUOT: "free some of the quota, then give the same command again",
    errno.EACCES: "choose a folder that can be written (for a run: backup= in the data file)",
    errno.EROFS: "choose a folder that can be written (for a run: backup= in the data file)",
}
