"""Which checkpoints a run keeps, and when they are written.

Two generations always exist: `NAME_last.weights` and the state before it in `NAME.backup`.
Milestones come twice, independently written: `NAME_ITER.weights` and `NAME_ITER.backup`, the
second for the newest milestone only. `NAME_best.weights`, the state of the best mAP, is durable
before any checkpoint that knows of it. At the end `_last` and `NAME.backup` both hold the final
state, and `NAME_final.weights` the plain weights.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from relume.checkpoint import container, run_lock, storage
from relume.checkpoint.contents import DIGEST_BYTES, Parts
from relume.checkpoint.evaluations import is_best, is_evaluated_state
from relume.checkpoint.file_image import FileImage
from relume.checkpoint.folder import (
    UNREADABLE,
    claimed_iteration,
    claimed_position,
    iteration_in_name,
    run_files,
)
from relume.checkpoint.hands import Hands
from relume.checkpoint.pace import Pace, pause_after
from relume.checkpoint.state import TrainState
from relume.errors import LockLost, RelumeError, StorageError
from relume.formats.places import open_regular

MOST_DUE_MILESTONES = 3
"""That a disk may refuse before the run stops: each takes as much memory as a checkpoint."""


@dataclass
class Keeper:
    """Writes the checkpoints of one run, one at a time, behind the training's back."""

    folder: Path
    name: str
    savelast: int | None
    """Iterations between two `_last`; None: as often as pace.py allows."""
    saveweights: int
    """Iterations between two milestones."""
    warn: Callable[[str], None]
    """Called with one line when a save failed and training goes on."""
    keepstate: int | None = None
    """Milestones that keep their state, the newest ones; the others become plain. None: all."""
    savebudget_gb: float = 100.0
    """Gigabytes a day, where savelast leaves the interval to the keeper."""
    clock: Callable[[], float] = time.monotonic
    """Seconds; for tests."""
    _writer: Hands = field(init=False, default_factory=lambda: Hands(1))
    """One thread, so that saves are written in turn."""
    _hands: Hands = field(init=False, default_factory=lambda: Hands(2))
    """Those that help it."""
    _copier: Hands = field(init=False, default_factory=lambda: Hands(1))
    """Copies half of a state while the training copies the other."""
    _under_way: deque[Future[None]] = field(init=False, default_factory=deque)
    """Saves that the writer has been given, whose outcome nobody has looked at yet."""
    _spare: FileImage | None = field(init=False, default_factory=FileImage)
    """Memory for a copy; None while a save under way uses it."""
    _due_milestones: dict[int, Parts] = field(init=False, default_factory=dict)
    """Milestones that the disk has not taken yet; each keeps the memory of its copy."""
    _due_best: Parts | None = field(init=False, default=None)
    """The state of the best mAP, if the disk has not taken it yet; likewise."""
    _failing: bool = field(init=False, default=False)
    _has_just_saved: bool = field(init=False, default=False)
    _durable: tuple[int, float] | None = field(init=False, default=None)
    """Iteration of the newest durable state, and when training left it."""
    _pace: Pace = field(init=False, default_factory=Pace)
    _save_from: float = field(init=False, default=0.0)
    """Time from which the next save is due, where savelast leaves that to its cost."""

    def offer(
        self, state: TrainState, digest: bytes | None = None, awaits_evaluation: bool = False
    ) -> None:
        """Save what is due at this state, in the background; the state is copied first.

        With a fixed savelast waits for the save before, so what is due is always written;
        without one a milestone is copied beside a save under way, but no third state.
        If the disk refuses, that is said and training goes on.

        Args:
            state: at the end of an iteration.
            digest: of the state, where it is known.
            awaits_evaluation: it is offered again with its mAP, and is a milestone only then.
        Raises:
            StorageError: the disk has refused more milestones than memory should be kept for.
            LockLost: of a save before; nothing is written from then on.
        """
        began = self.clock()
        # A save handed over at the last iteration's end stood beside this one, if only in part.
        if is_evaluated_state(state):
            self._pace.skip(began)
        else:
            self._pace.note(began, saving=self._has_just_saved or self._is_saving())
        self._has_just_saved = False
        milestone = state.iteration % self.saveweights == 0 and not awaits_evaluation
        best = is_best(state)
        if not (milestone or best or self._is_due(state.iteration)):
            return
        self._wait(but_for=1 if self.savelast is None else 0)
        image, self._spare = self._spare or FileImage(), None
        image.hold(state, state.digest() if digest is None else digest, self._copier)
        stall_s = self.clock() - began
        self._has_just_saved = True
        self._under_way.append(
            self._writer.start(self._save, image, state.iteration, milestone, best, began, stall_s)
        )

    def unsaved(self, iteration: int) -> tuple[int, float]:
        """Return how far back a power cut would throw the run: in iterations, and in seconds."""
        if self._durable is None:
            return iteration, 0.0
        saved, left_at = self._durable
        return max(iteration - saved, 0), max(self.clock() - left_at, 0.0)

    def _is_due(self, iteration: int) -> bool:
        if self.savelast is not None:
            return iteration % self.savelast == 0
        return not self._is_saving() and self.clock() >= self._save_from

    def _is_saving(self) -> bool:
        return any(not save.done() for save in self._under_way)

    def _save(
        self,
        image: FileImage,
        iteration: int,
        milestone: bool,
        best: bool,
        left_at: float,
        stall_s: float,
    ) -> None:
        size_bytes = 0
        began_s = time.thread_time()
        if best:
            self._due_best = [image.file(self._hands)]
        if milestone:
            self._due_milestones[iteration] = [image.file(self._hands)]
        try:
            self._save_due_files()
            pieces = image.pieces(self._hands)
            size_bytes = storage.write_stream_durably(
                self._last, pieces, self._before_last, self._hands
            )
        except StorageError as error:
            if len(self._due_milestones) > MOST_DUE_MILESTONES:
                raise
            if not self._failing:
                self.warn(
                    f"not saved at iteration {iteration}, training goes on: {error.place}: "
                    f"{error.found}; it is tried again, what was saved before is safe"
                )
            self._failing = True
        else:
            if self._failing:
                self.warn(f"saved again at iteration {iteration}")
            self._failing = False
            self._durable = (iteration, left_at)
        held = iteration in self._due_milestones or (best and self._due_best is not None)
        if not held:  # else they hold on to the copy's memory
            self._spare = image
        # Waiting for the disk costs the training nothing; the processor's time does, and
        # whatever else made its iterations longer (a disk that the pictures come from as well).
        processor_s = time.thread_time() - began_s + self._hands.taken_processor_s()
        cost_s = stall_s + max(processor_s, self._pace.taken_slowdown_s())
        self._save_from = self.clock() + pause_after(cost_s, size_bytes, self.savebudget_gb)

    def _save_due_files(self) -> None:
        """Write best and milestones first: a `_last` behind one would skip it for good."""
        if self._due_best is not None:
            self._save_best(self._due_best)
            self._due_best = None
        for iteration in sorted(self._due_milestones):
            self._save_milestone(iteration, self._due_milestones[iteration])
            del self._due_milestones[iteration]
        if self._failing:  # likewise one behind a removal that a power cut would undo
            storage.sync_folder(self.folder)

    def close(self) -> None:
        """Wait for the save under way, whatever ended the training."""
        for hands in (self._writer, self._hands, self._copier):
            hands.close()

    def _wait(self, but_for: int = 0) -> None:
        """Wait for saves until at most `but_for` are under way; raise what went wrong in one."""
        while self._under_way and (len(self._under_way) > but_for or self._under_way[0].done()):
            self._under_way.popleft().result()

    def stop(self, state: TrainState, awaits_evaluation: bool = False) -> None:
        """Make `state` durable before the process ends, and write what a kill left undone.

        Args:
            state: the last one, or the first.
            awaits_evaluation: as in `offer`.
        Raises:
            StorageError: it could not be written.
            LockLost: the folder is not the one that was locked, or was not when it was read.
        """
        self._wait()
        if self._durable is None and run_lock.covering_lock(self._last) is not None:
            self._check_newest(state)
        if state.iteration or state.subdivision:
            self._stop(state, container.packed_parts(state), awaits_evaluation)
        else:
            self._durable = (0, self.clock())  # there is nothing yet that could be lost

    def _check_newest(self, state: TrainState) -> None:
        """See to it that a run does not begin with a state older than the newest in its folder.

        That was looked for at a path, which may have led to another folder for a moment.

        Raises:
            LockLost: it would.
        """
        try:
            with run_lock.open_to_read(self._last) as file:
                newest = claimed_iteration(file, self._last)
        except LockLost:
            raise
        except (RelumeError, OSError):
            return  # there is none; one that cannot be read has been looked at by the start
        # Not the subdivisions: those of an iteration are trained again after an allowed change.
        if newest is not None and newest > state.iteration:
            found = f"is newer than {state.place}, with which this run would begin"
            if newest == UNREADABLE:
                found = "was replaced by a damaged file while this run started"
            raise LockLost(
                self._last,
                found,
                "the folder as this run found it",
                "see what changes the folder, then give the same command again",
            )

    def _stop(self, state: TrainState, data: Parts, awaits_evaluation: bool) -> None:
        self._save_due_files()
        if is_best(state):
            self._save_best(data)
        is_due = state.iteration and state.iteration % self.saveweights == 0
        if is_due and not (state.subdivision or awaits_evaluation):
            # One that is there stays: it may be that of the course before an allowed change.
            self._save_milestone(state.iteration, data, only_missing=True)
        if self._failing or not _holds_checkpoint(self._last, data):
            # Of an iteration that has begun only the newest part is kept: what another machine
            # can compare itself with is the state of an iteration before.
            same_iteration = self._holds_part_of(state.iteration)
            previous = None if same_iteration else self._before_last
            storage.write_durably(self._last, *data, previous=previous)
        self._failing = False
        self._durable = (state.iteration, self.clock())

    def finish(self, state: TrainState) -> None:
        """Write the files of a finished run; does nothing that has been done already.

        Raises:
            StorageError: one could not be written.
        """
        self._wait()
        data = container.packed_parts(state)
        self._stop(state, data, awaits_evaluation=False)
        final = self.folder / f"{self.name}_final.weights"
        for path, contents in ((self._before_last, data), (final, container.darknet_parts(state))):
            if not _holds(path, contents):
                storage.write_durably(path, *contents)

    def _holds_part_of(self, iteration: int) -> bool:
        """Tell whether `_last` stands inside the iteration behind `iteration`."""
        try:
            position = claimed_position(self._last)
        except (RelumeError, OSError):
            return False
        return position is not None and position[0] == iteration and position[1] > 0

    def _save_best(self, data: Parts) -> None:
        path = self.folder / f"{self.name}_best.weights"
        if not _holds(path, data):
            storage.write_durably(path, *data)

    def _save_milestone(self, iteration: int, data: Parts, only_missing: bool = False) -> None:
        milestone = self.folder / f"{self.name}_{iteration}.weights"
        copy = self.folder / f"{self.name}_{iteration}.backup"
        for path in (milestone, copy):
            if not (path.exists() if only_missing else _holds(path, data)):
                storage.write_durably(path, *data)
        older = [
            path
            for path in run_files(self.folder, self.name)
            if 0 < iteration_in_name(path) < iteration
        ]
        for path in older:
            if path.suffix == ".backup":
                storage.remove(path)
        if self.keepstate is not None:
            self._make_plain([path for path in older if path.suffix == ".weights"])

    def _make_plain(self, older: list[Path]) -> None:
        """Take the state out of all milestones before the newest `keepstate`."""
        kept = (self.keepstate or 1) - 1  # the newest is none of `older`
        for path in sorted(older, key=iteration_in_name)[: len(older) - kept]:
            try:
                if claimed_position(path) is None:
                    continue
                with open_regular(path) as file:
                    data = container.plain_from(file, path)
            except (RelumeError, OSError, MemoryError) as error:
                self.warn(f"keepstate: left as it is: {str(error) or 'not enough memory'}")
            else:
                storage.write_durably(path, data)

    @property
    def _last(self) -> Path:
        return self.folder / f"{self.name}_last.weights"

    @property
    def _before_last(self) -> Path:
        return self.folder / f"{self.name}.backup"


def _holds(path: Path, parts: Parts) -> bool:
    """Tell whether a file holds these bytes and no others."""
    try:
        with open_regular(path) as file:
            return all(file.read(len(part)) == part for part in parts) and not file.read(1)
    except OSError:  # missing, or one that cannot be read and is written anew
        return False


def _holds_checkpoint(path: Path, parts: Parts) -> bool:
    """Tell whether a file, verified when this run started or written by it, holds these bytes."""
    try:
        with open_regular(path) as file:
            if path.stat().st_size != sum(map(len, parts)):
                return False
            file.seek(-DIGEST_BYTES, os.SEEK_END)
            return file.read() == parts[-1]
    except OSError:
        return False
