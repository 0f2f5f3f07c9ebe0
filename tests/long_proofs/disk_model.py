"""What a power cut leaves: every state of a folder that a weak reading of POSIX allows.

`Recorder` writes down the operations of `storage.DISK`; `states_after` says what the disk may
hold if the power goes after the first n of them:

- A name is created, moved or removed by itself, whole or not at all; until its folder is
  fsynced, any subset of these changes may have happened.
- Contents are sure once the file is fsynced. Before, every block of 4 KiB is as it was, new,
  half new, or rubbish, and the length is the old one, the new one, or any block's end between.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from relume.checkpoint.disk import Buffer
from tests.checkpoint.faults import Passing

BLOCK = 4096
RUBBISH = bytes((37 * n + 11) % 251 for n in range(BLOCK))


@dataclass(frozen=True)
class Operation:
    """One operation, with everything that is needed to repeat it."""

    kind: str
    name: str = ""
    """The file's, or the folder's, relative to the folder of the run."""
    target: str = ""
    """The new name of a rename or a link."""
    file: int = -1
    """Which file is open, by a number of its own."""
    data: bytes = b""
    """What is written, at the end of the file."""
    length: int = 0
    """What is left by truncate."""
    iteration: int = 0
    """Of "offered" and "saved", which are no operations: which state."""


class Recorder(Passing):
    """A disk that does everything and writes it down once it has been done."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.operations: list[Operation] = []
        self._open: dict[int, int] = {}
        self._files = itertools.count()

    def mark(self, kind: str, iteration: int) -> None:
        """Note that a state is "offered", or "saved": promised from here on."""
        self.operations.append(Operation(kind, iteration=iteration))

    def create(self, path: Path, direct: bool = False) -> int:
        return self._opened("create", path, super().create(path, direct))

    def open_to_append(self, path: Path) -> int:
        return self._opened("open", path, super().open_to_append(path))

    def _opened(self, kind: str, path: Path, descriptor: int) -> int:
        self._open[descriptor] = next(self._files)
        self._note(kind, path, file=self._open[descriptor])
        return descriptor

    def write(self, descriptor: int, data: Buffer) -> None:
        super().write(descriptor, data)
        file = self._open[descriptor]
        self.operations.append(Operation("write", file=file, data=bytes(data)))

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        self.operations.append(Operation("fsync", file=self._open[descriptor]))

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        del self._open[descriptor]

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._note("rename", source, target=self._name(target))

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self._note("link", source, target=self._name(target))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._note("unlink", path)

    def truncate(self, path: Path, length: int) -> None:
        super().truncate(path, length)
        self._note("truncate", path, length=length)

    def fsync_folder(self, folder: Path) -> None:
        super().fsync_folder(folder)
        self._note("fsync_folder", folder)

    def _note(
        self, kind: str, path: Path, target: str = "", file: int = -1, length: int = 0
    ) -> None:
        operation = Operation(kind, self._name(path), target, file, length=length)
        self.operations.append(operation)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))


@dataclass
class Contents:
    """A file on the disk: what is sure of it, and what has been written since."""

    sure: bytes = b""
    now: bytes = b""

    def possible(self) -> "Possible":
        """Return the contents that the file may have after a power cut."""
        shorter, longer = sorted((len(self.sure), len(self.now)))
        ends = range(shorter - shorter % BLOCK + BLOCK, longer, BLOCK)
        by_length = []
        for length in sorted({shorter, longer, *ends}):
            old, new = (data[:length].ljust(length, b"\0") for data in (self.sure, self.now))
            blocks = [_possible_blocks(old, new, at) for at in range(0, length, BLOCK)]
            by_length.append(blocks)
        return Possible(by_length)


@dataclass(frozen=True)
class Possible:
    """The contents that a file may have: for every length, the choices for every block."""

    by_length: Sequence[Sequence[Sequence[bytes]]]

    def __len__(self) -> int:
        return sum(math.prod(map(len, blocks)) for blocks in self.by_length)

    def __getitem__(self, number: int) -> bytes:
        for blocks in self.by_length:
            count = math.prod(map(len, blocks))
            if number < count:
                break
            number -= count
        chosen = []
        for choices in blocks:
            number, index = divmod(number, len(choices))
            chosen.append(choices[index])
        return b"".join(chosen)


def _possible_blocks(old: bytes, new: bytes, start: int) -> list[bytes]:
    before, after = old[start : start + BLOCK], new[start : start + BLOCK]
    if before == after:
        return [after]
    half = len(after) // 2
    choices = (after, before, after[:half] + before[half:], RUBBISH[: len(after)])
    return list(dict.fromkeys(choices))


Change = Mapping[str, int | None]
"""Which file a name stands for from then on; None: no file."""


@dataclass
class Folder:
    """The names and files of a folder after some operations, sure or not."""

    files: dict[int, Contents] = field(default_factory=dict)
    sure: dict[str, int] = field(default_factory=dict)
    now: dict[str, int] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)
    """Changes of names that are not sure yet, in their order."""

    def apply(self, operation: Operation) -> None:
        """Carry out one operation."""
        name, target = operation.name, operation.target
        match operation.kind:
            case "create" | "open" if name in self.now:  # the same file, under one more number
                self.files[operation.file] = self.files[self.now[name]]
                if operation.kind == "create":
                    self.files[operation.file].now = b""
            case "create" | "open":
                self.files[operation.file] = Contents()
                self._change({name: operation.file})
            case "write":
                self.files[operation.file].now += operation.data
            case "fsync":
                contents = self.files[operation.file]
                contents.sure = contents.now
            case "truncate":
                contents = self.files[self.now[name]]
                contents.now = contents.now[: operation.length]
            case "rename":
                self._change({target: self.now[name], name: None})
            case "link":
                self._change({target: self.now[name]})
            case "unlink":
                self._change({name: None})
            case "fsync_folder":
                self.sure = dict(self.now)
                self.pending = []

    def _change(self, change: Change) -> None:
        self.pending.append(change)
        self.now = _changed(self.now, change)

    def possible_names(self) -> Iterator[dict[str, int]]:
        """Yield what the names may stand for, every result once."""
        seen = set()
        for chosen in itertools.product((True, False), repeat=len(self.pending)):
            names = self.sure
            for change in itertools.compress(self.pending, chosen):
                names = _changed(names, change)
            key = frozenset(names.items())
            if key not in seen:
                seen.add(key)
                yield names

    def possible(self, most: int, draws: np.random.Generator) -> Iterator[dict[str, bytes]]:
        """Yield what the folder may hold after a power cut.

        Args:
            most: where the contents of the files have more combinations, draw so many.
            draws: for that.
        """
        for names in self.possible_names():
            numbers = sorted(set(names.values()))
            contents = [self.files[number].possible() for number in numbers]
            for chosen in _combinations([len(files) for files in contents], most, draws):
                pairs = zip(contents, chosen, strict=True)
                of = dict(zip(numbers, (files[i] for files, i in pairs), strict=True))
                yield {name: of[number] for name, number in names.items()}


def _combinations(
    counts: list[int], most: int, draws: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    if math.prod(counts) <= most:
        yield from itertools.product(*map(range, counts))
    else:
        for _ in range(most):
            yield tuple(int(draws.integers(count)) for count in counts)


def _changed(names: Mapping[str, int], change: Change) -> dict[str, int]:
    merged = {**names, **change}
    return {name: number for name, number in merged.items() if number is not None}


def folder_holding(files: Mapping[str, bytes]) -> Folder:
    """Return a folder in which everything is sure."""
    folder = Folder()
    for number, (name, data) in enumerate(files.items()):
        folder.files[-1 - number] = Contents(data, data)
        folder.sure[name] = folder.now[name] = -1 - number
    return folder
