"""A file system that refuses its n-th operation."""

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest


class Faults:
    """Counts opens, writes, fsyncs and renames; the n-th one fails."""

    def __init__(self, fails_at: int, error: int) -> None:
        self.fails_at = fails_at
        self.error = error
        self.operations: list[str] = []

    def met(self) -> bool:
        """Tell whether the fault has struck."""
        return len(self.operations) >= self.fails_at

    def count(self, operation: str) -> None:
        """Let the operation pass, or raise if it is the n-th."""
        self.operations.append(operation)
        if len(self.operations) == self.fails_at:
            raise OSError(self.error, os.strerror(self.error))


class _File:
    def __init__(self, file: Any, faults: Faults) -> None:
        self._file = file
        self._faults = faults

    def write(self, data: Any) -> int:
        half = len(data) // 2  # a full disk takes the first part
        self._file.write(data[:half])
        self._faults.count("write")
        return half + int(self._file.write(data[half:]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()


def strike(patch: pytest.MonkeyPatch, fails_at: int, error: int) -> Faults:
    """Make the n-th operation on files that are written fail from here on."""
    faults = Faults(fails_at, error)
    plain_open, plain_fsync, plain_replace = Path.open, os.fsync, Path.replace

    def open_(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "w" not in mode and "a" not in mode:
            return plain_open(path, mode, *args, **options)
        faults.count("open")
        return _File(plain_open(path, mode, *args, **options), faults)

    def counted(operation: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            faults.count(operation)
            return plain(*args)

        return call

    patch.setattr(Path, "open", open_)
    patch.setattr(Path, "replace", counted("rename", plain_replace))
    patch.setattr(os, "fsync", counted("fsync", plain_fsync))
    return faults
