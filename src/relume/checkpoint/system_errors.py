"""What the refusals of a file system mean to a user."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from relume.errors import StorageError


@contextmanager
def as_storage_error(path: Path) -> Iterator[None]:
    """Raise an OSError of the file system at `path` as a StorageError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.EACCES, errno.EPERM) and (owner := _other_owner(path)):
            raise StorageError(
                path,
                f"belongs to {owner} ({reason})",
                "a file of your own",
                f"give the command as {owner}, or make the files yours (chown)",
            ) from error
        raise StorageError(
            path,
            f"cannot be written ({reason})",
            "a folder with space and write permission",
            _REMEDIES.get(error.errno or 0, "check the folder, then give the same command again"),
        ) from error


def _other_owner(path: Path) -> str | None:
    """Return who owns the file at `path`, if that is another user: "user 'NAME'"."""
    try:
        owner = path.lstat().st_uid
    except OSError:
        return None
    if os.geteuid() in (0, owner):  # root may write what belongs to others
        return None
    with suppress(ImportError, KeyError):
        import pwd  # not on Windows

        return f"user '{pwd.getpwuid(owner).pw_name}'"
    return f"user {owner}"


_REMEDIES = {
    errno.ENOSPC: "free some space, then give the same command again",
    errno.EDQUOT: "free some of the quota, then give the same command again",
    errno.EACCES: "choose a folder that can be written (for a run: backup= in the data file)",
    errno.EBUSY: "see which process uses the folder (fuser), then give the same command again",
    errno.EROFS: "choose a folder that can be written (for a run: backup= in the data file)",
}
