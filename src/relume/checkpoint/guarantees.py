"""What the file system of a backup folder cannot do, of what a run relies on."""

from relume.checkpoint import storage
from relume.checkpoint.run_lock import RunLock


def missing_guarantees(lock: RunLock) -> list[str]:
    """Return what the file system of a run's folder cannot do, a sentence each.

    Drive mounts and some network file systems lack one or another; the files are written as
    well as can be.
    """
    missing = []
    if not lock.is_exclusive:
        missing.append("has no locks, so a second run in this folder would not be noticed")
    if not lock.has_stable_inodes:
        missing.append(
            "has no lasting inode numbers, so a copy of this folder in its place would not be "
            "noticed"
        )
    try:
        storage.DISK.fsync_folder(lock.folder)
    except OSError as error:
        if error.errno in storage.NO_FOLDER_SYNC:
            missing.append("cannot make names durable, so a power cut may undo the newest saves")
    probe, second = (storage.temporary_of(lock.folder / name) for name in ("probe", "link"))
    try:
        storage.drop(probe)
        storage.DISK.close(storage.DISK.create(probe))
        storage.drop(second)
        storage.DISK.link(probe, second)
    except OSError as error:
        if error.errno in storage.NO_LINKS:
            missing.append("has no hard links, so only one generation stands during a save")
    for path in (second, probe):
        storage.drop(path)
    return missing
