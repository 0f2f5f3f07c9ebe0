"""Power cuts: whatever a save has brought to the disk, the run goes on, and ends the same.

A keeper saves a few states while its operations are recorded. For every state of the folder
that a power cut may leave then or in between, the newest good checkpoint must be the one that
was promised last or the one being saved, and the run that goes on from it must leave the files
of an undisturbed one.
"""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xxhash

from relume.checkpoint import container, storage
from relume.checkpoint.disk import Buffer, Disk
from relume.checkpoint.folder import newest_good
from relume.checkpoint.keeper import Keeper
from relume.checkpoint.own_files import remove_temporaries
from relume.checkpoint.state import TrainState
from relume.errors import RelumeError
from tests.checkpoint.faults import Faults, Passing
from tests.checkpoint.states import tiny_state
from tests.long_proofs.disk_model import Operation, Recorder, folder_holding
from tests.long_proofs.piece import Outcome, Piece, draws_of, folder_in_memory

END = 7
"""Iterations of the run; it has milestones at 3 and 6."""
SAVEWEIGHTS = 3
PICTURES = 1500
"""So many that a checkpoint has five blocks."""
MOST, MOST_FAILING = 4000, 40
"""States of the contents for every state of the names, in the long form."""
MOST_FAILURES = 20

Wrap = Callable[[Recorder], Disk]
"""Puts a broken disk in front of the recorder: the negative controls."""


@cache
def state_of(iteration: int) -> TrainState:
    """Return the state of the run after so many iterations."""
    state = tiny_state(iteration)
    digests = np.arange(PICTURES, dtype=np.uint64) * 0x9E3779B97F4A7C15 + iteration
    keys = {**state.recipe.keys, "images": f"{PICTURES} pictures x"}
    recipe = replace(state.recipe, keys=keys, label_digests=np.zeros(0, np.uint64))
    return replace(state, groups={**state.groups, "pictures": {"digests": digests}}, recipe=recipe)


@cache
def packed(iteration: int) -> bytes:
    """Return the checkpoint of this iteration."""
    return container.pack(state_of(iteration))


def go_on(
    folder: Path,
    begun: int,
    keepstate: int | None = None,
    recorder: Recorder | None = None,
    said: list[str] | None = None,
) -> list[str]:
    """Save from a state on as training does, to the end; return what was said.

    Args:
        folder: of the run.
        begun: the iteration to go on from.
        keepstate: of the keeper.
        recorder: is told which state is offered and which is saved.
        said: what is said is added here, also if the end is an error.
    """
    said = [] if said is None else said
    keeper = Keeper(folder, "net", 1, SAVEWEIGHTS, said.append, keepstate)
    keeper.stop(state_of(begun))
    for iteration in range(begun + 1, END + 1):
        if recorder is not None:
            recorder.mark("offered", iteration)
        keeper.offer(state_of(iteration))
        keeper._wait()
        if recorder is not None and not keeper._failing:
            recorder.mark("saved", iteration)
    keeper.finish(state_of(END))
    keeper.close()
    return said


@cache
def undisturbed(keepstate: int | None) -> Mapping[str, bytes]:
    """Return what the run leaves when nothing goes wrong."""
    with folder_in_memory() as folder:
        go_on(folder, 0, keepstate)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


@dataclass(frozen=True)
class Course:
    """What happened before the power went."""

    name: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What the folder held, all of it sure."""
    begun: int = 0
    """The state from which the run goes on."""
    fails_at: int = 0
    """Which operation fails, if any: with EIO, once."""
    keepstate: int | None = None
    """Milestones that keep their state."""
    direct: bool = False
    """Files are written past the page cache."""


def generations(last: int) -> dict[str, bytes]:
    """Return the files of the run after the save of this iteration."""
    files = {"net_last.weights": packed(last), "net.backup": packed(last - 1)}
    for iteration in range(SAVEWEIGHTS, last + 1, SAVEWEIGHTS):
        files[f"net_{iteration}.weights"] = packed(iteration)
    newest = last - last % SAVEWEIGHTS
    return files | ({f"net_{newest}.backup": packed(newest)} if newest else {})


def courses() -> list[Course]:
    """Return the courses that are recorded, but for those with a failed operation."""
    cut = {"net.backup.tmp": packed(4), "net_last.weights.tmp": packed(6)[:5000]}
    milestone = {"net_3.weights": packed(3)}
    milestone_only = {"net_6.weights": packed(6), **generations(5)}
    return [
        Course("a whole run"),
        Course("a whole run, written directly", direct=True),
        Course("a whole run with keepstate", keepstate=1),
        Course("a start after a cut", generations(5) | cut, begun=5),
        Course("a start after a cut at a milestone", milestone_only, begun=6),
        Course(
            "a start from the last alone", {**milestone, "net_last.weights": packed(5)}, begun=5
        ),
        Course("a start from a milestone", {**milestone, "net_6.weights": packed(6)}, begun=6),
    ]


def failing_courses(keepstate: int | None) -> list[Course]:
    """Return a course for every operation from iteration 4 on that may fail.

    Of the writes of one file the first and the last.
    """
    with folder_in_memory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, data in generations(4).items():
            (folder / name).write_bytes(data)
        faults = Faults(fails_at=0, error=errno.EIO)
        patch.setattr(storage, "DISK", faults)
        with storage.locked(folder, "net"):
            go_on(folder, 4, keepstate)
    kinds = faults.operations
    return [
        Course(
            f"{kind} {number} fails, keepstate {keepstate}", generations(4), 4, number, keepstate
        )
        for number, kind in enumerate(kinds, start=1)
        if kind != "write" or kinds[number - 2] != kind or kinds[number] != kind
    ]


def recorded(course: Course, wrap: Wrap) -> list[Operation]:
    """Return the operations of a course."""
    with folder_in_memory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, data in course.files.items():
            (folder / name).write_bytes(data)
        recorder = Recorder(folder)
        recorder.mark("offered", course.begun)
        recorder.mark("saved", course.begun)
        disk = Faults(course.fails_at, errno.EIO, disk=wrap(recorder))
        patch.setattr(storage, "DISK", disk)
        if course.direct:
            patch.setattr(storage, "DIRECT_FROM_BYTES", 0)
        try:
            with storage.locked(folder, "net"):
                remove_temporaries(folder, "net", pytest.fail)
                go_on(folder, course.begun, course.keepstate, recorder)
        except RelumeError:
            if not course.fails_at:
                raise
            # The command ends with an error; what it has promised stays promised.
        return recorder.operations


class Bench:
    """A folder into which one state after the other is put, and looked at as a start does."""

    def __init__(self, folder: Path, keepstate: int | None) -> None:
        self._folder = folder
        self._keepstate = keepstate
        self._present: dict[str, bytes] = {}
        self._gone_on: dict[frozenset[tuple[str, bytes]], str | None] = {}

    def put(self, files: Mapping[str, bytes]) -> None:
        """Make the folder hold these files and no others."""
        for name in self._present.keys() - files.keys():
            (self._folder / name).unlink()
        for name, data in files.items():
            if self._present.get(name) != data:
                (self._folder / name).write_bytes(data)
        self._present = dict(files)

    def lost(self, promised: int, offered: int) -> str | None:
        """Return what has been lost in this state of the folder, or None.

        Args:
            promised: the state of this iteration had been saved.
            offered: that of this one was perhaps being saved.
        """
        remove_temporaries(self._folder, "net", pytest.fail)
        kept = {name: data for name, data in self._present.items() if not name.endswith(".tmp")}
        self._present = kept
        found, rejected = newest_good(self._folder, "net")
        if rejected:
            return f"damaged: {', '.join(item.path.name for item in rejected)}"
        iteration = found.state.iteration if found else 0
        if not promised <= iteration <= offered:
            return f"goes on from iteration {iteration}, not from {promised} to {offered}"
        if found and kept[found.path.name] != packed(iteration):
            return f"{found.path.name} holds other bytes"
        key = frozenset(kept.items())
        if key not in self._gone_on:
            self._gone_on[key] = self._difference_at_the_end(iteration)
        return self._gone_on[key]

    def _difference_at_the_end(self, begun: int) -> str | None:
        """Go on to the end; return in which files that differs from an undisturbed run."""
        said = go_on(self._folder, begun, self._keepstate)
        files = {path.name: path.read_bytes() for path in self._folder.iterdir()}
        self._present = files
        expected = undisturbed(self._keepstate)
        names = sorted(files.keys() | expected.keys())
        different = [name for name in names if files.get(name) != expected.get(name)]
        if different or said:
            return f"gone on from {begun}: {', '.join(different)} differ; said {said}"
        return None

    @property
    def gone_on(self) -> int:
        """How many different folders the run has gone on from."""
        return len(self._gone_on)


def prove(folder: Path, seed: int, course: Course, most: int, wrap: Wrap = Passing) -> Outcome:
    """Look at all states that power cuts may leave in this course.

    Args:
        folder: not used; the states are made in memory.
        seed: of the draws where there are too many states.
        course: what happens before.
        most: states of the files' contents to look at, for every state of the names.
        wrap: breaks the disk, for the negative controls.
    """
    operations = recorded(course, wrap)
    draws = draws_of(seed, 4, xxhash.xxh32_intdigest(course.name.encode()))
    model = folder_holding(course.files)
    promised = offered = 0
    seen: set[bytes] = set()
    checked: set[tuple[bytes, int]] = set()
    failures: list[str] = []
    unpack = container.unpack
    states: dict[bytes, TrainState] = {}

    def unpack_once(data: Buffer, place: object) -> TrainState:
        digest = xxhash.xxh3_128_digest(data)
        if digest not in states:
            states[digest] = unpack(data, place)
        return states[digest]

    with folder_in_memory() as memory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "unpack", unpack_once)
        bench = Bench(memory, course.keepstate)
        for number, operation in enumerate(operations, start=1):
            if operation.kind == "offered":
                offered = operation.iteration
            elif operation.kind == "saved":
                promised = operation.iteration
            else:
                model.apply(operation)
            for files in model.possible(most, draws):
                digest = _digest(files)
                seen.add(digest)
                if (digest, promised) not in checked:
                    checked.add((digest, promised))
                    bench.put(files)
                    if lost := bench.lost(promised, offered):
                        failures.append(f"{course.name}, operation {number}: {lost}")
                if len(failures) == MOST_FAILURES:
                    return Outcome({"states": len(seen)}, tuple(failures))
        counts = {"states": len(seen), "runs gone on": bench.gone_on, "courses": 1}
        return Outcome(counts, tuple(failures))


def _digest(files: Mapping[str, bytes]) -> bytes:
    """Return the digest of what a folder holds."""
    hasher = xxhash.xxh3_128()
    for name in sorted(files):
        hasher.update(f"{name}\n{len(files[name])}\n".encode())
        hasher.update(files[name])
    return hasher.digest()


def pieces(seed: int) -> list[Piece]:
    """Return the long form."""
    failing = failing_courses(None) + failing_courses(1)
    return [
        *(Piece("power cuts", c.name, prove, (seed, c, MOST)) for c in courses()),
        *(Piece("power cuts", c.name, prove, (seed, c, MOST_FAILING)) for c in failing),
    ]
