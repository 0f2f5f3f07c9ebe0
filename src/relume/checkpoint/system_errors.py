"""What the refusals of a file system mean to a user."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relume.errors import StorageError


@contextmanager
def as_storage_error(path: Path) -> Iterator[None]:
    """Raise an OSError of the file system at `path` as a StorageError."""
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
