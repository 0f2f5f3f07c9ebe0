"""Which checkpoints a run keeps, when they are written, and which one is the newest good.

Two generations always exist: `NAME_last.weights` and the state before it in `NAME.backup`.
Milestones come twice, independently written: `NAME_ITER.weights` and `NAME_ITER.backup`, the
second for the newest milestone only. At the end `_last` and `NAME.backup` both hold the final
state, and `NAME_final.weights` the plain weights.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relume.checkpoint import container, storage
from relume.checkpoint.state import TrainState
from relume.errors import CheckpointError, RelumeError, StorageError
from relume.formats.weights import format_header, parse_header


@dataclass(frozen=True)
class Found:
    """A checkpoint that was read and verified."""

    path: Path
    state: TrainState


@dataclass(frozen=True)
class Rejected:
    """A file under a checkpoint's name that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Keeper:
    """Writes the checkpoints of one run."""

    folder: Path
    name: str
    savelast: int
    """Iterations between two `_last`."""
    saveweights: int
    """Iterations between two milestones."""
    warn: Callable[[str], None]
    """Called with one line when a save failed and training goes on."""

    def offer(self, state: TrainState) -> None:
        """Save what is due at this state; if the disk refuses, say so and go on."""
        milestone = state.iteration % self.saveweights == 0
        if not milestone and state.iteration % self.savelast:
            return
        try:
            data = container.pack(state)
            if milestone:
                self._save_milestone(state.iteration, data)
            storage.write_durably(self._last, data, previous=self._before_last)
        except StorageError as error:
            self.warn(f"not saved at iteration {state.iteration}, training goes on: {error}")

    def stop(self, state: TrainState) -> None:
        """Make `state` durable before the process ends, and write what a kill left undone.

        Raises:
            StorageError: it could not be written.
        """
        if state.iteration == 0:
            return
        data = container.pack(state)
        if state.iteration % self.saveweights == 0:
            self._save_milestone(state.iteration, data)
        if not _holds(self._last, data):
            storage.write_durably(self._last, data, previous=self._before_last)

    def finish(self, state: TrainState) -> None:
        """Write the files of a finished run; does nothing that has been done already.

        Raises:
            StorageError: one could not be written.
        """
        self.stop(state)
        data = container.pack(state)
        final = self.folder / f"{self.name}_final.weights"
        for path, contents in ((self._before_last, data), (final, plain(state))):
            if not _holds(path, contents):
                storage.write_durably(path, contents)

    def _save_milestone(self, iteration: int, data: bytes) -> None:
        milestone = self.folder / f"{self.name}_{iteration}.weights"
        copy = self.folder / f"{self.name}_{iteration}.backup"
        for path in (milestone, copy):
            if not _holds(path, data):
                storage.write_durably(path, data)
        for path in run_files(self.folder, self.name):
            if path.suffix == ".backup" and 0 < iteration_in_name(path) < iteration:
                storage.remove(path)

    @property
    def _last(self) -> Path:
        return self.folder / f"{self.name}_last.weights"

    @property
    def _before_last(self) -> Path:
        return self.folder / f"{self.name}.backup"


def plain(state: TrainState) -> bytes:
    """Return the plain Darknet weights file of a state."""
    arrays = (array.astype("<f4").tobytes() for array in state.weights.values())
    return format_header(state.progress.seen) + b"".join(arrays)


def run_files(folder: Path, name: str) -> list[Path]:
    """Return all weights files of the run `name` in `folder`, sorted by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _pattern(name).fullmatch(path.name))


def remove_temporaries(folder: Path, name: str) -> None:
    """Delete what interrupted writes of this run left behind."""
    others = {f"{name}.journal.jsonl", f"chart_{name}.png", "chart.png"}
    for path in folder.glob(f"*{storage.TEMPORARY}"):
        if path.stem in others or _pattern(name).fullmatch(path.stem):
            storage.remove(path)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(name)}(_(\d+|last|best|final)\.weights|(_\d+)?\.backup)")


def iteration_in_name(path: Path) -> int:
    """Return ITER of NAME_ITER.weights or NAME_ITER.backup, else -1."""
    match = re.search(r"_(\d+)\.(weights|backup)$", path.name)
    return int(match[1]) if match else -1


def newest_good(folder: Path, name: str) -> tuple[Found | None, list[Rejected]]:
    """Return the newest intact checkpoint of the run, and the damaged files met on the way.

    Plain weights files (`_best`, `_final`, Darknet's own) hold no state and do not count.
    `_last` is looked at in any case: the next save would let it replace `NAME.backup`.
    """
    rejected = []
    dated = []
    for path in run_files(folder, name):
        try:
            with path.open("rb") as file:
                seen = parse_header(file.read(20), str(path)).seen
        except (RelumeError, OSError) as error:
            rejected.append(Rejected(path, str(error)))
            continue
        dated.append((seen, "_last" in path.name, path))
    newest = None
    for _, is_last, path in sorted(dated, reverse=True):
        if newest is not None and not is_last:
            continue
        try:
            data = path.read_bytes()
            if container.holds_state(data, path):
                state = container.unpack(data, path)
                newest = newest or Found(path, state)
        except (CheckpointError, OSError) as error:
            rejected.append(Rejected(path, str(error)))
    return newest, rejected


def read_checkpoint(path: Path) -> TrainState:
    """Read and verify one checkpoint file.

    Raises:
        Damaged: it is not whole.
    """
    return container.unpack(path.read_bytes(), path)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False
