"""The only module that writes to the file system.

Every file that matters is written to a temporary name in its own folder, fsynced and renamed;
then the folder is fsynced. Only then is an older generation let go. A file that could not be
fsynced is condemned: its temporary name is deleted and nothing durable has been touched.

All of it goes through `DISK`, one method for each system call, so that a test can record the
calls, let any of them fail, and work out what a power cut between them leaves.
"""

import errno
import fcntl
import os
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from relume.checkpoint.chunks import BLOCK_BYTES, chunks_of
from relume.checkpoint.disk import Buffer, Disk, as_storage_error, check_replaceable
from relume.checkpoint.hands import Hands, started
from relume.errors import Locked, StorageError

TEMPORARY = ".tmp"
DIRECT_FROM_BYTES = 1 << 20
"""Files of this size on are written past the page cache: a tenth of the processor time, and the
pictures that the loader reads again and again stay in it."""
CHUNK_BYTES = 4 << 20
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
NO_DIRECT = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
DISK = Disk()


def write_durably(path: Path, *parts: Buffer, previous: Path | None = None) -> int:
    """Put `parts` at `path` so that after a crash it holds the old contents or the new.

    Args:
        path: the file.
        parts: its whole contents, one behind the other.
        previous: where the old contents go, if they are to be kept. What that held before is
            let go only when the new contents are durable.
    Returns:
        The bytes written.
    Raises:
        StorageError: the disk is full, the folder cannot be written, or the device failed.
    """
    return write_stream_durably(path, parts, previous)


def write_stream_durably(
    path: Path,
    parts: Iterable[Buffer],
    previous: Path | None = None,
    hands: Hands | None = None,
) -> int:
    """Do the same with parts that, given hands, are made while those before are being written."""
    check_replaceable(path)
    temporary = path.with_name(path.name + TEMPORARY)
    kept = None
    with as_storage_error(path):
        try:
            written_bytes = _write_whole(temporary, parts, hands)
            if previous is not None and path.exists():
                kept = _kept_aside(path, previous)
            DISK.rename(temporary, path)
        except BaseException:
            _drop(temporary)
            if kept is not None:
                _drop(kept)
            raise
        sync_folder(path.parent)
        if kept is not None and previous is not None:
            DISK.rename(kept, previous)
            sync_folder(path.parent)
    return written_bytes


def write_replaceable(path: Path, parts: Iterable[Buffer]) -> None:
    """Put `parts` at `path` where whoever reads them verifies them, and can have them again.

    Nothing is fsynced, so after a power cut the file may hold anything. Several processes may
    write the same path at once: each has a temporary name of its own, the last one wins.

    Raises:
        StorageError: the disk is full, the folder cannot be written, or the device failed.
    """
    mine = f".{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}{TEMPORARY}"
    check_replaceable(path)
    temporary = path.with_name(path.name + mine)
    with as_storage_error(path):
        try:
            _drop(temporary)
            descriptor = DISK.create(temporary)
            try:
                for part in parts:
                    DISK.write(descriptor, part)
            finally:
                DISK.close(descriptor)
            DISK.rename(temporary, path)
        except BaseException:
            _drop(temporary)
            raise


def _kept_aside(path: Path, previous: Path) -> Path | None:
    """Give the old contents a second name; None: there are no links here, they have moved.

    Without links the old contents stand at `previous` from here on; a crash before the next
    step leaves them under that name only.
    """
    kept = previous.with_name(previous.name + TEMPORARY)
    _drop(kept)
    try:
        DISK.link(path, kept)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        DISK.rename(path, previous)
        return None
    return kept


def _write_whole(path: Path, parts: Iterable[Buffer], hands: Hands | None) -> int:
    """Write and fsync a file that no one else knows yet; return its length.

    A chunk is filled, which may mean that its contents are computed, while the one before is on
    its way to the disk.
    """
    chunks = chunks_of(parts, CHUNK_BYTES)
    first = next(chunks, memoryview(b""))
    descriptor, direct = _created(path, len(first))
    try:
        under_way = started(hands, _write_chunk, descriptor, first, direct)
        written_bytes = len(first)
        try:
            for chunk in chunks:
                under_way.result()
                under_way = started(hands, _write_chunk, descriptor, chunk, direct)
                written_bytes += len(chunk)
        finally:
            under_way.result()  # the descriptor is in use until then
        DISK.fsync(descriptor)
    finally:
        DISK.close(descriptor)
    return written_bytes


def _created(path: Path, size_bytes: int) -> tuple[int, bool]:
    """Return the descriptor of a new file, and whether it is written past the page cache."""
    _drop(path)  # what a save left may be a second name of a file that matters
    if size_bytes >= DIRECT_FROM_BYTES and hasattr(os, "O_DIRECT"):
        try:
            return DISK.create(path, direct=True), True
        except OSError as error:
            if error.errno not in NO_DIRECT:
                raise
            _drop(path)  # it may have been made all the same
    return DISK.create(path), False


def _write_chunk(descriptor: int, chunk: memoryview, direct: bool) -> None:
    """Write a chunk; what is less than a block at the end of a file goes the usual way."""
    whole = len(chunk) - len(chunk) % BLOCK_BYTES if direct else len(chunk)
    began = os.lseek(descriptor, 0, os.SEEK_CUR) if direct else 0
    try:
        if whole:
            DISK.write(descriptor, chunk[:whole])
    except OSError as error:
        if not direct or error.errno not in NO_DIRECT:
            raise
        whole = 0  # some file systems open a file so, and refuse to write it, or its rest
        os.lseek(descriptor, began, os.SEEK_SET)
    if whole < len(chunk):
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        DISK.write(descriptor, chunk[whole:])


def _drop(path: Path) -> None:
    """Delete a temporary name, if that can be done; a start does it otherwise."""
    with suppress(OSError):
        if os.path.lexists(path):
            DISK.unlink(path)


def remove(path: Path) -> None:
    """Delete a file if it is there."""
    with as_storage_error(path), suppress(FileNotFoundError):
        DISK.unlink(path)


def link_to(path: Path, target: Path) -> None:
    """Make `path` lead to `target`."""
    with as_storage_error(path):
        DISK.symlink(target, path)


def truncate(path: Path, length: int) -> None:
    """Cut a file to its first `length` bytes."""
    with as_storage_error(path):
        DISK.truncate(path, length)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents if missing."""
    with as_storage_error(folder):
        DISK.make_folder(folder)
        sync_folder(folder.parent)


def rename(path: Path, name: Path) -> None:
    """Give a file or folder another name, durably."""
    with as_storage_error(name):
        DISK.rename(path, name)
        sync_folder(name.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder and all in it, which is no run's; links are deleted, not followed."""
    with as_storage_error(folder):
        shutil.rmtree(folder)


def move_aside(paths: list[Path], aside: Path) -> Path:
    """Move files into the first free numbered folder below `aside` and return it."""
    number = 1
    while (aside / str(number)).exists():
        number += 1
    target = aside / str(number)
    with as_storage_error(target):
        DISK.make_folder(target)
        for path in paths:
            DISK.rename(path, target / path.name)
        for folder in (target, aside, aside.parent):
            sync_folder(folder)
    return target


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, where the file system can; some mounts cannot."""
    with as_storage_error(folder):
        try:
            DISK.fsync_folder(folder)
        except OSError as error:
            if error.errno not in NO_FOLDER_SYNC:
                raise


class AppendFile:
    """A text file that only grows; what it holds can be rebuilt, so a line is not fsynced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with as_storage_error(path):
            self._descriptor = DISK.open_to_append(path)

    def append(self, line: str) -> None:
        """Add one line; when this returns, it survives the death of the process."""
        self.append_bytes(line.encode("utf-8", "surrogateescape") + b"\n")

    def append_bytes(self, data: bytes) -> None:
        """Add bytes that are whole lines."""
        with as_storage_error(self.path):
            DISK.write(self._descriptor, data)

    def close(self) -> None:
        """Make the file durable and close it, once: its number may be another file's by then."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor == -1:
            return
        with as_storage_error(self.path):
            try:
                DISK.fsync(descriptor)
            finally:
                DISK.close(descriptor)

    def is_at_its_path(self) -> bool:
        """Tell whether the open file still has its name: a folder may vanish and come back."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return False


@contextmanager
def locked(folder: Path, name: str) -> Iterator[bool]:
    """Hold the one lock of the run `name` in `folder`; its text only informs.

    `lockf` belongs to the process: a dead one's lock is gone, and no child inherits it.

    Yields:
        False where the file system has no locks; the run goes on without.
    Raises:
        Locked: another process holds it.
    """
    path = folder / f"{name}.lock"
    with as_storage_error(path):
        file = path.open("a+b", buffering=0)
    with file:
        held = True
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
            held = False
        with suppress(OSError):  # the text only informs; a full disk is met soon enough
            file.truncate(0)
            file.write(_lock_text())
        yield held


@dataclass(frozen=True)
class Home:
    """A folder as a run found it; a disk that is taken away leaves an empty one in its place."""

    folder: Path
    name: str
    """Of the run, whose lock stands in the folder."""
    device: int

    def check(self) -> None:
        """Raise StorageError if the folder is on another disk now, where nobody would look."""
        with as_storage_error(self.folder):
            if self.folder.stat().st_dev == self.device or self._holds_our_lock():
                return
        raise StorageError(
            self.folder,
            "is on another disk than when this run began",
            "the disk that holds the run",
            "mount it again",
        )

    def _holds_our_lock(self) -> bool:
        try:
            return (self.folder / f"{self.name}.lock").read_bytes() == _lock_text()
        except OSError:
            return False


def home(folder: Path, name: str) -> Home:
    """Return the folder as it is now."""
    with as_storage_error(folder):
        return Home(folder, name, folder.stat().st_dev)


def missing_guarantees(folder: Path, name: str, lock_held: bool) -> list[str]:
    """Return what the file system of `folder` cannot do, a sentence each.

    Drive mounts and some network file systems lack one or another; the files are written as
    well as can be.
    """
    missing = []
    if not lock_held:
        missing.append("has no locks, so a second run in this folder would not be noticed")
    try:
        DISK.fsync_folder(folder)
    except OSError as error:
        if error.errno in NO_FOLDER_SYNC:
            missing.append("cannot make names durable, so a power cut may undo the newest saves")
    probe = folder / f"{name}.backup{TEMPORARY}"
    try:
        DISK.link(folder / f"{name}.lock", probe)
        DISK.unlink(probe)
    except OSError as error:
        if error.errno in NO_LINKS:
            missing.append("has no hard links, so only one generation stands during a save")
    return missing


def _lock_text() -> bytes:
    return f"process {os.getpid()}\n".encode()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(100).decode(errors="replace").strip()
