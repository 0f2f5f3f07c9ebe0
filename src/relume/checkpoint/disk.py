"""The system calls that change a file system, one method each.

`storage.py` makes every one of its changes through these, so that a test can record them, let
any of them fail, and work out what a power cut between them leaves. Below the folder of a run
whose lock this process holds, each is made only while the lock is in its place.
"""

import errno
import os
import stat
from pathlib import Path

from relume.checkpoint.run_lock import change
from relume.checkpoint.system_errors import as_storage_error
from relume.errors import StorageError

Buffer = bytes | memoryview
EXISTING = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""To open a file that may be there already, and may be none: a link is not followed, and nobody
waits for the other end of a pipe."""


class Disk:
    """The system calls that change a file system; tests put another one in its place.

    All raise OSError, and LockLost for a run that has lost its lock.
    """

    def create(self, path: Path, direct: bool = False) -> int:
        """Make a new file for writing; `direct` past the page cache."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with change(path) as (place, folder):
            return os.open(place, flags | (os.O_DIRECT if direct else 0), 0o666, dir_fd=folder)

    def open_to_append(self, path: Path) -> int:
        """Open a regular file of one name for writing at its end."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | EXISTING
        with change(path) as (place, folder):
            return _of_one_name(os.open(place, flags, 0o666, dir_fd=folder))

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
        with change(source) as (old, old_folder), change(target) as (new, new_folder):
            os.replace(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder)

    def link(self, source: Path, target: Path) -> None:
        """Give a file, or a symbolic link itself, a second name."""
        with change(source) as (old, old_folder), change(target) as (new, new_folder):
            os.link(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder, follow_symlinks=False)

    def symlink(self, source: Path, target: Path) -> None:
        """Make a name that leads to another."""
        with change(target) as (place, folder):
            os.symlink(source, place, dir_fd=folder)

    def unlink(self, path: Path) -> None:
        """Take a name away."""
        with change(path) as (place, folder):
            os.unlink(place, dir_fd=folder)

    def truncate(self, path: Path, length: int) -> None:
        """Cut a regular file of one name to its first `length` bytes."""
        with change(path) as (place, folder):
            descriptor = _of_one_name(os.open(place, os.O_WRONLY | EXISTING, dir_fd=folder))
            try:
                os.ftruncate(descriptor, length)
            finally:
                os.close(descriptor)

    def make_folder(self, folder: Path) -> None:
        """Create `folder` and its parents if missing."""
        with change(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def make_new_folder(self, folder: Path) -> None:
        """Create `folder`, which is not there."""
        with change(folder) as (place, above):
            os.mkdir(place, dir_fd=above)

    def fsync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        with change(folder) as (place, above):
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC, dir_fd=above)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _of_one_name(descriptor: int) -> int:
    """Return the descriptor of a regular file that has no other name; close any other.

    What is written into a hard link changes the file under its other name too.
    """
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    what = "a hard link" if stat.S_ISREG(status.st_mode) else "no regular file"
    raise OSError(errno.EINVAL, f"it is {what}")


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
