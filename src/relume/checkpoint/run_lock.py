"""The lock of a run, and the check before every change that it is still in the run's folder.

A lock is held on an open file; a change is made at a path. The two part when somebody removes the
lock file, or moves the folder away and makes another. So every change below the folder of a held
lock goes through `change`: it compares the lock file at the path with the open one, and gives the
place relative to the folder that was locked, so that a folder put in its place meanwhile gets
nothing.

While a change is made, the folder carries a shared flock; who takes a run's lock needs that for
itself. So no process can become the second writer between the check and the change.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedReader
from pathlib import Path

from relume.checkpoint import file_lock
from relume.checkpoint.system_errors import as_storage_error
from relume.errors import CheckpointError, Locked, LockLost
from relume.formats.places import open_regular

OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NO_REGULAR_FILE = {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EMLINK}
"""What the system answers for a link, a folder, a socket; EMLINK for a link on BSD."""
OUR_TEXT = re.compile(rb"\0*|process \d+\n?(token [0-9a-f]*\n?)?")
"""What relume writes into a lock file; a power cut may leave zeros."""
LONGEST_TEXT = 200
TRIES = 10
"""To find the lock file still at its path after it was locked."""
LONGEST_CHANGE_S = 60.0
"""For which a start waits for a process that is changing the folder, and may be suspended."""
LONGEST_START_S = 1.0
"""For which a process waits for another that is taking a lock in the folder."""
POLL_S = 0.005


@dataclass
class RunLock:
    """The lock of the run `name` in `folder`, held by this process."""

    folder: Path
    name: str
    is_exclusive: bool = False
    """Whether the system keeps other processes from locking it; some file systems have no locks."""
    has_stable_inodes: bool = True
    """Whether the file is known by device and inode; else by a token in its text."""
    _descriptor: int = -1
    _folder_descriptor: int = -1
    _absolute: str = ""
    """Of the folder; links are not resolved."""
    _text: bytes = b""
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _changes: int = 0
    """How many threads are making a change."""
    _is_flock_abused: bool = False
    """Whether another process held the folder's flock for longer than any start does."""

    @cached_property
    def path(self) -> Path:
        """The path of the lock file."""
        return self.folder / f"{self.name}.lock"

    def relative(self, absolute: str) -> str | None:
        """Return a path relative to the folder; None: it is not below it."""
        if absolute == self._absolute:
            return "."
        inside = absolute.startswith(self._absolute.rstrip("/") + "/")
        return absolute[len(self._absolute) :].lstrip("/") if inside else None

    @contextmanager
    def change(self) -> Iterator[int]:
        """Check that the lock is still in its place, for one change; give the folder's descriptor.

        Raises:
            LockLost: it is not.
            OSError: that cannot be known.
        """
        with self._guard:
            if self._changes == 0:
                self._announce_change()
            self._changes += 1
        try:
            if not self.is_in_its_place():
                raise self._loss()
            yield self._folder_descriptor
        finally:
            with self._guard:
                self._changes -= 1
                if self._changes == 0:
                    with suppress(OSError):
                        fcntl.flock(self._folder_descriptor, fcntl.LOCK_UN)

    def _announce_change(self) -> None:
        """Take the folder's shared flock, or go on without it.

        Whoever may read the folder can hold its flock, for as long as they like. That must not
        hold up a training: the check alone then leaves a gap of microseconds.
        """
        wait_s = 0.0 if self._is_flock_abused else LONGEST_START_S
        self._is_flock_abused = not _lock_folder(self._folder_descriptor, fcntl.LOCK_SH, wait_s)

    def is_in_its_place(self) -> bool:
        """Tell whether the path of the lock file leads to the file that is locked.

        Raises:
            OSError: that cannot be known.
        """
        try:
            there = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if os.path.samestat(there, os.fstat(self._descriptor)):
            return True
        return not self.has_stable_inodes and self._has_our_text()

    def _has_our_text(self) -> bool:
        """Tell whether the file at the path holds the text with our token."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self.path, flags)
        except OSError:
            return False
        try:
            return os.read(descriptor, LONGEST_TEXT) == self._text
        finally:
            os.close(descriptor)
            if not file_lock.HAS_OFD_LOCKS:  # closing has released it
                self.take()

    def _loss(self) -> LockLost:
        """Return the error that says what lies at the path now."""
        needed = "the folder and the lock file with which this run began"
        remedy = (
            f"nothing was written there since; see that no other training of '{self.name}' uses "
            "the folder, put it back if it was moved, then give the same command again"
        )
        try:
            now, then = self.folder.stat(), os.fstat(self._folder_descriptor)
        except OSError:
            return LockLost(self.folder, "is gone: renamed, removed or unmounted", needed, remedy)
        if now.st_dev != then.st_dev:
            return LockLost(
                self.folder, "is on another disk than when this run began", needed, remedy
            )
        if not os.path.samestat(now, then) and self.has_stable_inodes:
            found = "is another folder than when this run began: renamed, or replaced by a copy"
            return LockLost(self.folder, found, needed, remedy)
        if not os.path.lexists(self.path):
            return LockLost(self.path, "was removed while this run held it", needed, remedy)
        return LockLost(self.path, "was replaced while this run held it", needed, remedy)

    def is_taken(self, may_use_token: bool) -> bool:
        """Open the file and lock it; False: another file has taken its place, try again.

        Args:
            may_use_token: the inodes of one file seem to differ; know it by its text.
        Raises:
            Locked: another process holds it.
            CheckpointError: no regular file lies there.
            OSError: it cannot be opened.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._folder_descriptor = os.open(self.folder, flags)
        _wait_for_changes(self._folder_descriptor)
        self._open()
        self.take()
        if os.fstat(self._descriptor).st_nlink > 1:
            # A copy made of hard links, maybe. The other name keeps that file.
            if self.is_in_its_place():
                os.unlink(self.path.name, dir_fd=self._folder_descriptor)
            return False
        token = ""
        if not self.is_in_its_place():
            if not may_use_token:
                return False
            self.has_stable_inodes = False
            token = f"token {secrets.token_hex(16)}\n"
        written = self._write_text(token)
        # Once more: this process may have been suspended, and another have begun meanwhile.
        if (token and not written) or not self.is_in_its_place():
            return False
        with suppress(OSError):
            fcntl.flock(self._folder_descriptor, fcntl.LOCK_UN)
        return True

    def _open(self) -> None:
        name = self.path.name
        try:
            self._descriptor = os.open(name, OPEN_FLAGS, 0o666, dir_fd=self._folder_descriptor)
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        except OSError as error:
            if error.errno not in NO_REGULAR_FILE:
                raise
            raise CheckpointError(
                self.path,
                "is a link, a folder or a pipe",
                "a regular file, which relume makes itself",
                "move it away, then give the same command again",
            ) from error

    def take(self) -> None:
        """Lock the open file.

        Raises:
            Locked: another process holds it.
        """
        try:
            file_lock.lock_file(self._descriptor)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise self._locked() from None
            self.is_exclusive = False  # no locks here
        else:
            self.is_exclusive = True

    def _locked(self) -> Locked:
        first_line = os.pread(self._descriptor, 100, 0).partition(b"\n")[0]
        holder = first_line if OUR_TEXT.fullmatch(first_line) else b""
        return Locked(
            self.path,
            f"{holder.decode().strip(chr(0)) or 'another process'} trains '{self.name}' in this "
            "folder",
            "one run per name and folder",
            "wait for it, stop it, or set another backup= in the data file",
        )

    def _write_text(self, token: str) -> bool:
        """Write who holds the lock, unless the file holds a text that is not relume's."""
        if not OUR_TEXT.fullmatch(os.pread(self._descriptor, LONGEST_TEXT + 1, 0)):
            return False
        self._text = f"process {os.getpid()}\n{token}".encode()
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, self._text, 0)
        except OSError:  # the text only informs; a full disk is met soon enough
            return False
        return True

    def close(self) -> None:
        """Release the lock; the file stays."""
        descriptors = self._descriptor, self._folder_descriptor
        self._descriptor = self._folder_descriptor = -1
        for descriptor in descriptors:
            if descriptor != -1:
                os.close(descriptor)


_held: list[RunLock] = []
"""The locks that this process holds."""


@contextmanager
def locked(folder: Path, name: str) -> Iterator[RunLock]:
    """Hold the one lock of the run `name` in `folder`.

    The lock ends with the process, however that ends; the file stays. Processes of earlier
    versions, which lock it with lockf, are kept out too.

    Raises:
        Locked: another process holds it.
        CheckpointError: a link, a folder or a pipe is in its place.
        StorageError: it cannot be made.
    """
    path = folder / f"{name}.lock"
    with as_storage_error(path):
        lock = _taken(folder, name)
    _held.append(lock)
    try:
        yield lock
    finally:
        if lock in _held:  # not in a process that was forked meanwhile
            _held.remove(lock)
        lock.close()


@contextmanager
def change(path: Path) -> Iterator[tuple[str, int | None]]:
    """Allow one change at `path`: create, rename, remove, append.

    Yields:
        The path, and the descriptor of the folder that it is relative to; None where this
        process holds no lock of a folder above it.
    Raises:
        LockLost: the lock is not in its place any more.
        OSError: that cannot be known.
    """
    covering = covering_lock(path)
    if covering is None:
        yield os.fspath(path), None
        return
    lock, relative = covering
    with lock.change() as descriptor:
        yield relative, descriptor


def open_to_read(path: Path) -> BufferedReader:
    """Open a regular file in the folder that is locked, whatever folder is at its path by then.

    Raises:
        LockLost: the lock is not in its place any more.
        OSError: there is no such file, or it cannot be opened.
    """
    with change(path) as (place, folder):
        return open_regular(place, folder)


def covering_lock(path: Path) -> tuple[RunLock, str] | None:
    """Return the held lock of the innermost folder above `path`, and the path relative to that."""
    if not _held:
        return None
    absolute = os.path.abspath(path)
    found = [(lock, inside) for lock in _held if (inside := lock.relative(absolute)) is not None]
    return min(found, key=lambda pair: len(pair[1]), default=None)


def _taken(folder: Path, name: str) -> RunLock:
    """Return a lock that is held, and in its place."""
    for attempt in range(1, TRIES + 1):
        lock = RunLock(folder, name, _absolute=os.path.abspath(folder))
        try:
            if lock.is_taken(may_use_token=attempt == TRIES):
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()
    raise Locked(
        folder / f"{name}.lock",
        f"was replaced {TRIES} times while it was being locked",
        "one run per name and folder",
        "see what replaces it, then give the same command again",
    )


def _lock_folder(descriptor: int, kind: int, wait_s: float) -> bool:
    """Take the flock of a folder; False: another process still has it after so long.

    True also where the file system has none.
    """
    ends_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                return True
        else:
            return True
        if time.monotonic() > ends_s:
            return False
        time.sleep(POLL_S)


def _wait_for_changes(descriptor: int) -> None:
    """Take the exclusive flock of a folder, so that no other process is changing it.

    A run that changes the folder holds a shared flock. A start holds an exclusive one for a
    moment; if it lasts, it is the user's (`flock FOLDER relume ...`, a backup job) and excludes no
    change, since runs then go on without theirs.

    Raises:
        OSError: a process has been changing the folder for longer than any change takes.
    """
    began_s = time.monotonic()
    while not _lock_folder(descriptor, fcntl.LOCK_EX, LONGEST_START_S):
        if not _lock_folder(descriptor, fcntl.LOCK_SH, 0.0):
            return
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        if time.monotonic() > began_s + LONGEST_CHANGE_S:
            raise OSError(errno.EBUSY, "another process is changing this folder; is it suspended?")


def _leave_to_the_parent() -> None:
    """Close, in a forked process, the locks of the one it came from, which may end before it."""
    for lock in _held:
        lock.close()
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)
