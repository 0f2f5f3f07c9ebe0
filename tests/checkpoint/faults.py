"""Disks to put in the place of `storage.DISK`: one that passes on, and one that refuses."""

import os
from pathlib import Path

import pytest

from relume.checkpoint import storage
from relume.checkpoint.disk import Buffer, Disk


class Passing(Disk):
    """Hands every operation to another disk."""

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()

    def create(self, path: Path, direct: bool = False) -> int:
        return self.disk.create(path, direct)

    def open_to_append(self, path: Path) -> int:
        return self.disk.open_to_append(path)

    def write(self, descriptor: int, data: Buffer) -> None:
        self.disk.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self.disk.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        self.disk.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self.disk.rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        self.disk.link(source, target)

    def unlink(self, path: Path) -> None:
        self.disk.unlink(path)

    def truncate(self, path: Path, length: int) -> None:
        self.disk.truncate(path, length)

    def make_folder(self, folder: Path) -> None:
        self.disk.make_folder(folder)

    def make_new_folder(self, folder: Path) -> None:
        self.disk.make_new_folder(folder)

    def fsync_folder(self, folder: Path) -> None:
        self.disk.fsync_folder(folder)


class Faults(Passing):
    """Counts the operations that change the file system; the n-th one fails."""

    def __init__(
        self, fails_at: int, error: int, lasting: bool = False, disk: Disk | None = None
    ) -> None:
        super().__init__(disk)
        self.fails_at = fails_at
        self.error = error
        self.lasting = lasting
        self.operations: list[str] = []

    def met(self) -> bool:
        """Tell whether the fault has struck."""
        return len(self.operations) >= self.fails_at

    def count(self, operation: str) -> None:
        """Let the operation pass, or raise if it is the n-th (or, if it lasts, a later one)."""
        self.operations.append(operation)
        number = len(self.operations)
        if number == self.fails_at or (self.lasting and number > self.fails_at > 0):
            raise OSError(self.error, os.strerror(self.error))

    def create(self, path: Path, direct: bool = False) -> int:
        self.count("create")
        return super().create(path, direct)

    def open_to_append(self, path: Path) -> int:
        self.count("open_to_append")
        return super().open_to_append(path)

    def write(self, descriptor: int, data: Buffer) -> None:
        half = len(data) // 2  # a full disk takes the first part
        super().write(descriptor, data[:half])
        self.count("write")
        super().write(descriptor, data[half:])

    def fsync(self, descriptor: int) -> None:
        self.count("fsync")
        super().fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self.count("rename")
        super().rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        self.count("link")
        super().link(source, target)

    def unlink(self, path: Path) -> None:
        self.count("unlink")
        super().unlink(path)

    def truncate(self, path: Path, length: int) -> None:
        self.count("truncate")
        super().truncate(path, length)

    def make_folder(self, folder: Path) -> None:
        self.count("make_folder")
        super().make_folder(folder)

    def make_new_folder(self, folder: Path) -> None:
        self.count("make_new_folder")
        super().make_new_folder(folder)

    def fsync_folder(self, folder: Path) -> None:
        self.count("fsync_folder")
        super().fsync_folder(folder)


def strike(patch: pytest.MonkeyPatch, fails_at: int, error: int, lasting: bool = False) -> Faults:
    """Make the n-th operation of `storage` fail from here on."""
    faults = Faults(fails_at, error, lasting)
    patch.setattr(storage, "DISK", faults)
    return faults
