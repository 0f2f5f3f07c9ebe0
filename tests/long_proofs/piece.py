"""A piece of a proof, and what came out of it."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """What was done, counted, and every place where the promise was broken."""

    counts: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[str, ...] = ()

    def __add__(self, other: "Outcome") -> "Outcome":
        names = [*self.counts, *(name for name in other.counts if name not in self.counts)]
        sums = {name: self.counts.get(name, 0) + other.counts.get(name, 0) for name in names}
        return Outcome(sums, self.failures + other.failures)


@dataclass(frozen=True)
class Piece:
    """A part of the proof that is done in one go, in a folder of its own, on one processor."""

    part: str
    name: str
    prove: Callable[..., Outcome]
    """Called with the folder and the arguments; a function at the top of a module."""
    arguments: tuple[Any, ...] = ()


def draws_of(seed: int, *address: int) -> np.random.Generator:
    """Return the random numbers of one piece: a function of the seed and an address."""
    key = np.random.SeedSequence([seed, *address]).generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


_in_memory: set[Path] = set()


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Give a folder that is deleted afterwards, in memory where the system has such folders."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="relume-", dir=memory if memory.is_dir() else None))
    _in_memory.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        _in_memory.remove(folder)


def leave() -> None:
    """End this process in the middle of a piece."""
    for folder in _in_memory:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
