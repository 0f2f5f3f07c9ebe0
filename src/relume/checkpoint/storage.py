"""The only module that writes to the file system.

Every file that matters is written to a temporary name in its own folder, fsynced and renamed;
then the folder is fsynced. Only then is an older generation deleted. If a file cannot be fsynced,
its temporary name is deleted and nothing durable has been touched.

All of it goes through `DISK`, one method for each system call, so that a test can record the
calls, let any of them fail, and work out what a power cut between them leaves.
"""

import errno
import fcntl
import itertools
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import xxhash

from relume.checkpoint.chunks import BLOCK_BYTES, chunks_of
from relume.checkpoint.disk import Buffer, Disk, check_replaceable
from relume.checkpoint.hands import Hands, started
from relume.checkpoint.run_lock import RunLock, change, covering_lock, locked
from relume.checkpoint.system_errors import as_storage_error

__all__ = ["RunLock", "locked"]

T = TypeVar("T")
TEMPORARY = ".tmp"
DIRECT_FROM_BYTES = 1 << 20
"""Files of this size on are written past the page cache: a tenth of the processor time, and the
pictures that the loader reads again and again stay in it."""
CHUNK_BYTES = 4 << 20
ABANDONED_S = 86_400
"""Age of a temporary file, outside of runs, from which nobody is still writing it."""
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
    temporary = kept = None
    with as_storage_error(path):
        try:
            chunks = chunks_of(parts, CHUNK_BYTES)
            first = next(chunks, memoryview(b""))
            temporary, (descriptor, direct) = _with_temporary_name(
                path, lambda new: _created(new, len(first))
            )
            written_bytes = _write_whole(descriptor, direct, first, chunks, hands)
            if previous is not None and path.exists():
                kept = _kept_aside(path, previous)
            DISK.rename(temporary, path)
        except BaseException:
            for name in (temporary, kept):
                if name is not None:
                    drop(name)
            raise
        sync_folder(path.parent)
        if kept is not None and previous is not None:
            DISK.rename(kept, previous)
            sync_folder(path.parent)
    return written_bytes


def write_new_durably(path: Path, data: Buffer) -> bool:
    """Put `data` at `path` if nothing is there; return whether it is there now.

    Raises:
        StorageError: the disk is full, the folder cannot be written, or the device failed.
    """
    with as_storage_error(path):
        if os.path.lexists(path):
            return False
        temporary, descriptor = _with_temporary_name(path, DISK.create)
        try:
            try:
                DISK.write(descriptor, data)
                DISK.fsync(descriptor)
            finally:
                DISK.close(descriptor)
            try:
                DISK.link(temporary, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                DISK.rename(temporary, path)
        finally:
            drop(temporary)
        sync_folder(path.parent)
    return True


def write_replaceable(path: Path, parts: Iterable[Buffer]) -> None:
    """Put `parts` at `path` where whoever reads them verifies them, and can have them again.

    Nothing is fsynced, so after a power cut the file may hold anything. Several processes may
    write the same path at once: each has a temporary name of its own, the last one wins.

    Raises:
        StorageError: the disk is full, the folder cannot be written, or the device failed.
    """
    mine = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    check_replaceable(path)
    temporary = None
    with as_storage_error(path):
        try:
            temporary, descriptor = _with_temporary_name(path, DISK.create, mine)
            try:
                for part in parts:
                    DISK.write(descriptor, part)
            finally:
                DISK.close(descriptor)
            DISK.rename(temporary, path)
        except BaseException:
            if temporary is not None:
                drop(temporary)
            raise


def temporary_prefix(owner: str) -> str:
    """Return the beginning of the temporary names of a run, or of a file that is no run's.

    Digests instead of names, so that one is neither too long nor a name that a user would give.
    """
    return f".relume-{xxhash.xxh3_64_hexdigest(os.fsencode(owner))}-"


def temporary_name(owner: str, file: str, maker: str = "", number: int = 0) -> str:
    """Return a temporary name for a file.

    Args:
        owner: the run, or the file itself.
        file: the name of the file that is to be written.
        maker: who writes it, where several may at once.
        number: of another name, where there is a file of this one.
    """
    of = xxhash.xxh3_64_hexdigest(os.fsencode(f"{file}\0{maker}"))
    return f"{temporary_prefix(owner)}{of}{f'-{number}' if number else ''}{TEMPORARY}"


def temporary_of(path: Path, maker: str = "", number: int = 0) -> Path:
    """Return a temporary name for `path`, beside it; it belongs to the run locked there, if any."""
    covering = covering_lock(path)
    owner = path.name if covering is None else covering[0].name
    return path.with_name(temporary_name(owner, path.name, maker, number))


def _with_temporary_name(path: Path, make: Callable[[Path], T], maker: str = "") -> tuple[Path, T]:
    """Make a file under a temporary name that nothing has; return that, and what `make` returns.

    A run that holds the lock of its folder deletes what a save of its own has left under the name
    first: it may be a second name of a file that matters. What no run has left is deleted after a
    day, in which no file is still being written.
    """
    is_locked = covering_lock(path) is not None
    for number in itertools.count():
        temporary = temporary_of(path, maker, number)
        if (is_locked and not number) or _is_abandoned(temporary):
            drop(temporary)
        with suppress(FileExistsError):
            return temporary, make(temporary)
    raise AssertionError


def _is_abandoned(temporary: Path) -> bool:
    """Tell whether a file under a temporary name has not been written to for a day."""
    try:
        return time.time() - temporary.lstat().st_mtime > ABANDONED_S
    except OSError:
        return False


def _kept_aside(path: Path, previous: Path) -> Path | None:
    """Give the old contents a second name; None: there are no links here, they have moved.

    Without links the old contents stand at `previous` from here on; a crash before the next
    step leaves them under that name only.
    """
    try:
        kept, _ = _with_temporary_name(previous, lambda new: DISK.link(path, new))
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        DISK.rename(path, previous)
        return None
    return kept


def _write_whole(
    descriptor: int,
    direct: bool,
    first: memoryview,
    chunks: Iterable[memoryview],
    hands: Hands | None,
) -> int:
    """Write, fsync and close a file that no one else knows yet; return its length.

    A chunk is filled, which may mean that its contents are computed, while the one before is on
    its way to the disk.
    """
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
    if size_bytes >= DIRECT_FROM_BYTES and hasattr(os, "O_DIRECT"):
        try:
            return DISK.create(path, direct=True), True
        except OSError as error:
            if error.errno not in NO_DIRECT:
                raise
            drop(path)  # it may have been made all the same
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


def drop(path: Path) -> None:
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


def make_temporary_folder(folder: Path) -> Path:
    """Create a folder beside `folder`, under a name that nothing has, and return it."""
    with as_storage_error(folder):
        temporary, _ = _with_temporary_name(folder, DISK.make_new_folder)
        return temporary


def rename(path: Path, name: Path) -> None:
    """Give a file or folder another name, durably."""
    with as_storage_error(name):
        DISK.rename(path, name)
        sync_folder(name.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder and all in it, which is no run's; links are deleted, not followed."""
    with as_storage_error(folder), change(folder):
        shutil.rmtree(folder)


def move_aside(paths: list[Path], aside: Path) -> Path:
    """Move files into the first free numbered folder below `aside` and return it."""
    number = 1
    while os.path.lexists(aside / str(number)):
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
    """A text file that only grows; what it holds can be rebuilt, so a line is not fsynced.

    It is a regular file of one name: a link would have another file grow.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with as_storage_error(path):
            self._descriptor = DISK.open_to_append(path)

    def append(self, line: str) -> None:
        """Add one line; when this returns, it survives the death of the process."""
        self.append_bytes(line.encode("utf-8", "surrogateescape") + b"\n")

    def append_bytes(self, data: bytes) -> None:
        """Add bytes that are whole lines."""
        with as_storage_error(self.path), change(self.path):
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
