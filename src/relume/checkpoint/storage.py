"""The only module that writes to the file system.

Every file that matters is written to a temporary name in its own folder, flushed, fsynced and
renamed; then the folder is fsynced. A file that could not be fsynced is condemned: its
temporary name is deleted and nothing durable has been touched.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from relume.errors import Locked, StorageError

TEMPORARY = ".tmp"


def write_durably(path: Path, *parts: bytes | memoryview, previous: Path | None = None) -> None:
    """Put `parts` at `path` so that after a crash it holds the old contents or the new.

    Args:
        path: the file.
        parts: its whole contents, one behind the other.
        previous: where the old contents go, if they are to be kept. A crash may leave them
            under that name only; the new contents are then lost.
    Raises:
        StorageError: the disk is full, the folder cannot be written, or the device failed.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    with _as_storage_error(path):
        try:
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            if previous is not None and path.exists():
                path.replace(previous)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file if it is there."""
    with _as_storage_error(path):
        path.unlink(missing_ok=True)


def truncate(path: Path, length: int) -> None:
    """Cut a file to its first `length` bytes."""
    with _as_storage_error(path):
        os.truncate(path, length)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents if missing."""
    with _as_storage_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)


def move_aside(paths: list[Path], aside: Path) -> Path:
    """Move files into the first free numbered folder below `aside` and return it."""
    number = 1
    while (aside / str(number)).exists():
        number += 1
    target = aside / str(number)
    with _as_storage_error(target):
        target.mkdir(parents=True)
        for path in paths:
            shutil.move(path, target / path.name)
        for folder in (target, aside, aside.parent):
            sync_folder(folder)
    return target


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Drive mounts and some network file systems cannot fsync a folder; the file itself is safe.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


class AppendFile:
    """A text file that only grows; what it holds can be rebuilt, so a line is not fsynced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _as_storage_error(path):
            self._file: IO[bytes] = path.open("ab", buffering=0)

    def append(self, line: str) -> None:
        """Add one line; when this returns, it survives the death of the process."""
        with _as_storage_error(self.path):
            rest = line.encode("utf-8", "surrogateescape") + b"\n"
            while rest:  # a disk that is nearly full takes a part, and refuses the next
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Make the file durable and close it."""
        with _as_storage_error(self.path):
            os.fsync(self._file.fileno())
            self._file.close()


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold the one lock of the run `name` in `folder`; its text only informs.

    `lockf` belongs to the process: a dead one's lock is gone, and no child inherits it.

    Raises:
        Locked: another process holds it.
    """
    path = folder / f"{name}.lock"
    with _as_storage_error(path):
        file = path.open("a+b", buffering=0)
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise Locked(
                    path,
                    f"{_text(file) or 'another process'} trains '{name}' in this folder",
                    "one run per name and folder",
                    "wait for it, stop it, or set another backup= in the data file",
                ) from None
            # No locking on this file system: go on, as without a lock.
        with suppress(OSError):  # the text only informs; a full disk is met soon enough
            file.truncate(0)
            file.write(f"process {os.getpid()}\n".encode())
        yield


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(100).decode(errors="replace").strip()


@contextmanager
def _as_storage_error(path: Path) -> Iterator[None]:
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


_REMEDIES = {
    errno.ENOSPC: "free some space, then give the same command again",
    errno.EDQUOT: "free some of the quota, then give the same command again",
    errno.EACCES: "choose a folder that can be written (for a run: backup= in the data file)",
    errno.EROFS: "choose a folder that can be written (for a run: backup= in the data file)",
}
