"""A side file with the digest of every tensor after every iteration: it shows where two runs part.

A line of JSON per iteration, and one for the state of every start; only written when asked for.

    {"iteration":8,"tensors":{"momentum/0.biases":"<32 hex digits>", ...}}
    {"iteration":6,"start":true,"tensors":{...}}

After a restart the file may hold an iteration twice; the later line counts. That the two differ
is a finding: the same iteration, computed twice, gave two results. A line that a kill cut is
skipped; the start behind it begins a new one.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from relume.checkpoint import storage
from relume.checkpoint.state import PARTIAL, Array, TrainState, as_stored, named_arrays
from relume.checkpoint.system_errors import as_storage_error
from relume.errors import StorageError, WeightsError
from relume.formats.places import open_regular

BEGINNING = b'{"iteration":'
"""How every line begins; no weights file does."""

MOST_LINE_BYTES = 64 << 20
"""A tensor takes 60 bytes of its line."""

Tensors = Mapping[str, str]
"""Group/name of a tensor -> digest of its type, shape and bytes."""


class TensorDigests:
    """The file of one run, open for appending."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        """Open the file; a line that a kill cut is ended.

        Raises:
            StorageError: it cannot be written, or holds something else.
        """
        self._warn = warn
        self._paused = False
        with as_storage_error(path):
            _check_own(path)
        self._file = storage.AppendFile(path)
        if _is_cut(path):
            self._file.append("")

    def append(self, state: TrainState, start: bool = False) -> None:
        """Add the line of a state; if the disk refuses, say so once and train on."""
        if self._paused:
            return
        line: dict[str, Any] = {"iteration": state.iteration}
        if start:
            line["start"] = True
        line["tensors"] = digests_of(state)
        try:
            self._file.append(json.dumps(line, separators=(",", ":")))
        except StorageError as error:
            self._paused = True
            self._warn(f"the tensor digests end here, training goes on: {error}")

    def close(self) -> None:
        """Make the file durable and close it."""
        try:
            self._file.close()
        except StorageError as error:
            self._warn(f"the tensor digests may be incomplete: {error}")


def digests_of(state: TrainState) -> dict[str, str]:
    """Return the digest of every tensor of a state.

    What a state inside an iteration holds of it is left out: it belongs to the iteration after.
    """
    groups = {name: arrays for name, arrays in state.groups.items() if name != PARTIAL}
    arrays = named_arrays({"weights": state.weights, **groups})
    return {name: _digest(array) for name, array in arrays}


def _digest(array: Array) -> str:
    canonical = as_stored(array)
    hasher = xxhash.xxh3_128(f"{canonical.dtype.str} {array.shape}\n".encode())
    hasher.update(canonical.data)
    return hasher.hexdigest()


def _check_own(path: Path) -> None:
    """Raise StorageError if a file is there that holds no tensor digests."""
    try:
        with open_regular(path) as file:
            head = file.read(len(BEGINNING))
    except FileNotFoundError:
        return
    if not BEGINNING.startswith(head):
        raise StorageError(
            path,
            "is there and holds no tensor digests",
            "a new file, or one of -tensor_digests to add to",
            "give another name",
        )


def _is_cut(path: Path) -> bool:
    """Tell whether a file ends inside a line."""
    if path.stat().st_size == 0:
        return False
    with open_regular(path) as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


@dataclass(frozen=True)
class TensorDifference:
    """Where two runs, or two computations of one iteration, part."""

    iteration: int
    tensor: str
    """The first that differs: by group, then by layer."""
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class DigestFile:
    """Where the lines of a file are; the digests themselves stay on the disk."""

    path: Path
    offsets: Mapping[int, int]
    """Of the last line of every iteration."""
    repeated: TensorDifference | None
    """The first iteration that gave another result when it was computed again."""
    computed_again: int
    """Iterations that were computed although they had been before."""

    def tensors(self, iteration: int) -> Tensors:
        """Return the digests after an iteration."""
        return _tensors_at(self.path, self.offsets[iteration])


def is_digest_file(path: Path) -> bool:
    """Tell whether a file holds tensor digests.

    Raises:
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return file.read(len(BEGINNING)) == BEGINNING


def read_digest_file(path: Path) -> DigestFile:
    """Read through a file once; 100 bytes of memory per iteration.

    Raises:
        WeightsError: it holds no line of digests.
        OSError: it cannot be read.
    """
    offsets: dict[int, int] = {}
    contents: dict[int, str] = {}
    again: list[tuple[int, int, int]] = []
    computed_again = 0
    for offset, line in _lines(path):
        iteration = int(line["iteration"])
        content = xxhash.xxh3_64_hexdigest(json.dumps(line["tensors"], sort_keys=True).encode())
        if contents.get(iteration, content) != content:
            again.append((iteration, offsets[iteration], offset))
        computed_again += iteration in offsets and "start" not in line
        offsets[iteration], contents[iteration] = offset, content
    if not offsets:
        raise WeightsError(path, "holds no tensor digests", "a file of -tensor_digests")
    repeated = None
    if again:
        iteration, before, after = min(again)
        both = _tensors_at(path, before), _tensors_at(path, after)
        repeated = _difference(iteration, *both, ("the first time", "the second time"))
    return DigestFile(path, offsets, repeated, computed_again)


def first_tensor_difference(one: DigestFile, other: DigestFile) -> TensorDifference | None:
    """Return the first iteration, of those in both files, after which a tensor differs."""
    for iteration in sorted(one.offsets.keys() & other.offsets.keys()):
        both = one.tensors(iteration), other.tensors(iteration)
        if both[0] != both[1]:
            return _difference(iteration, *both, (f"in {one.path}", f"in {other.path}"))
    return None


def _difference(
    iteration: int, left: Tensors, right: Tensors, names: tuple[str, str]
) -> TensorDifference:
    every = sorted(left.keys() | right.keys(), key=_by_group_and_layer)
    differing = [name for name in every if left.get(name) != right.get(name)]
    first = differing[0]
    of_all = Counter(name.partition("/")[0] for name in every)
    groups = Counter(name.partition("/")[0] for name in differing)
    counts = ", ".join(f"{group} {count} of {of_all[group]}" for group, count in groups.items())
    if first in left and first in right:
        text = f"{first} is the first tensor that differs ({counts})"
    else:
        text = f"{first} is there only {names[0] if first in left else names[1]}"
    return TensorDifference(iteration, first, f"iteration {iteration}: {text}")


def _by_group_and_layer(name: str) -> list[str | int]:
    # re.split puts text at even places and numbers at odd ones, so like meets like.
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _tensors_at(path: Path, offset: int) -> Tensors:
    with open_regular(path) as file:
        file.seek(offset)
        tensors: Tensors = json.loads(file.readline(MOST_LINE_BYTES))["tensors"]
    return tensors


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield offset and contents of every whole line."""
    with open_regular(path) as file:
        offset = 0
        while raw := file.readline(MOST_LINE_BYTES):
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                line = None
            if _is_line(line):
                yield offset, line
            offset += len(raw)


def _is_line(line: object) -> bool:
    """Tell whether JSON is what `append` writes."""
    if not isinstance(line, dict) or type(line.get("iteration")) is not int:
        return False
    tensors = line.get("tensors")
    return isinstance(tensors, dict) and all(isinstance(digest, str) for digest in tensors.values())
