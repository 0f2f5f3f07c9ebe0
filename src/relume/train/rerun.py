"""Does a run that was computed elsewhere go on exactly here? Trained again, its past tells.

Versions, processors and threads are names; whether they change a bit is seen only by training.
So the iterations between two checkpoints of the run are done again, writing nothing, and each
must leave the record that the newer one's history holds: the losses and the state's digest.

Not covered: what can be re-created instead (`environment.py` and `kernels.py`).
"""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from relume.checkpoint import course
from relume.checkpoint.folder import FoundCheckpoint, candidates
from relume.checkpoint.reading import not_given, read_checkpoint
from relume.checkpoint.state import Mark, TrainState
from relume.distributed.group import ALONE, Group
from relume.errors import Damaged, NotFinite, OtherEnvironment, UsageError, WeightsError
from relume.kernels import PORTABLE
from relume.spec import RunSpec
from relume.train.environment import differences
from relume.train.evaluation import is_finished
from relume.train.loop import Stop, begin, iterations
from relume.train.one_start import shared_state

Say = Callable[[str], None]
"""Takes one line of text."""

ENVIRONMENT = "environment"
"""Kind of the mark that another environment leaves."""
SAY_EVERY_S = 60.0


@dataclass(frozen=True)
class Wishes:
    """What the command line says about environments."""

    exact: bool = False
    portable: bool = False
    allow_change: bool = False


def in_this_environment(
    spec: RunSpec,
    start: TrainState,
    here: Mapping[str, str],
    wishes: Wishes,
    stop: Stop,
    device: torch.device,
    say: Say,
    group: Group = ALONE,
) -> TrainState | None:
    """Return the state from which the run goes on here, or None if a stop was requested.

    Where the environment is another, a rerun decides: the state as it is if that gives the
    same bits, else with a mark in its history.

    Args:
        spec: today's recipe and operation.
        start: what the start found.
        here: the environment of this process.
        wishes: -exact, -portable, -allow-change.
        stop: ends the rerun.
        device: where to compute.
        say: takes a line for every decision a person should know about.
        group: the processes, which do this together.
    Raises:
        OtherEnvironment: the bits differ, or may differ, and -exact was given; or -portable
            was, and the run is none.
        UsageError: -max_time is too short for the rerun.
        Unavailable, CheckpointError: a checkpoint to compare with cannot be read.
    """
    _check_portable(start, here, wishes)
    found = differences(start.environment, here)
    if not found or is_finished(spec.recipe, start):
        return start
    text = ", ".join(found)
    begins_portable = wishes.portable and start.environment.get("kernels") != PORTABLE
    reason = "portable from here on" if begins_portable else "no older checkpoint to try it with"
    if older := None if begins_portable else _shared_older(group, spec, start):
        first = f"iterations {older.state.iteration + 1} to {start.iteration}"
        say(f"computed elsewhere ({text}); does {first} again, from {older.path}, to compare")
        last, same = compared(spec, older.state, start, stop, device, say, group)
        if same and last < start.iteration:
            _check_time(stop, last, start.iteration)
            return None
        if same:
            say(f"exact: {first} gave the same bits here")
            return start
        reason = f"iteration {last} gave other bits here"
    if wishes.exact:
        raise OtherEnvironment(
            start.place,
            f"this run was computed elsewhere ({text}); {reason}",
            "the same bits, since -exact was given",
            "leave -exact out to go on with other last bits",
        )
    say(f"not exact from here on: {text} ({reason}); marked in the history")
    history = start.history.marked(Mark(start.iteration, ENVIRONMENT, text))
    return replace(start, history=history, environment=here)


def _check_time(stop: Stop, done: int, iterations: int) -> None:
    """See to it that no loop gives the command again and again for nothing."""
    if not stop.requested:
        raise UsageError(
            "-max_time",
            f"is over, and the comparison has come to iteration {done} of {iterations}",
            "time for all of it, since it begins anew at every start",
            "give more, or leave -max_time out",
        )


def compared(
    spec: RunSpec,
    older: TrainState,
    newer: TrainState,
    stop: Stop,
    device: torch.device,
    say: Say,
    group: Group = ALONE,
) -> tuple[int, bool]:
    """Train from `older` up to `newer`, writing nothing, and compare iteration by iteration.

    Args:
        spec: the recipe of both.
        older: of the same run; its history begins that of `newer`.
        newer: with the records to compare with.
        stop: ends it early.
        device: where to compute.
        say: hears once a minute how far it has come.
        group: the processes, which do this together.
    Returns:
        The last iteration that was compared, and whether its losses and state are the same:
        false at the first that differs, true at the last or at a stop.
    """
    done, spoke_s = older.iteration, time.monotonic()
    spec = replace(spec, recipe=replace(spec.recipe, evaluations=None))
    with closing(iterations(spec, begin(spec, older, device, group), stop, say)) as steps:
        while done < newer.iteration:
            try:
                step = next(steps, None)
            except NotFinite:  # the run itself got through this iteration
                return done + 1, False
            if step is None:
                break
            history = step[0].history
            if history.iteration == done:
                continue  # stopped inside an iteration
            done = history.iteration
            row = done - newer.history.start - 1
            if history.records[row].tobytes() != newer.history.records[row].tobytes():
                return done, False
            if time.monotonic() - spoke_s > SAY_EVERY_S:
                spoke_s = time.monotonic()
                say(f"the same so far: iteration {done} of {newer.iteration}")
    return done, True


def _shared_older(group: Group, spec: RunSpec, start: TrainState) -> FoundCheckpoint | None:
    """Return in every process what the leader finds in its folder."""
    found = _older(spec, start) if group.leads else None
    state = shared_state(group, found.state if found else None)
    return found or (None if state is None else FoundCheckpoint(Path("process 0"), state))


def _older(spec: RunSpec, start: TrainState) -> FoundCheckpoint | None:
    """Return the newest older checkpoint that was computed as `start` was."""
    operation = spec.operation
    files = candidates(operation.backup, operation.name)
    for item in files.unreadable:
        if item.unread is not None:
            raise item.unread
    for path in files.ordered:
        try:
            state = read_checkpoint(path)
        except (Damaged, WeightsError):
            continue  # the start has said what is damaged
        except OSError as error:
            if unread := not_given(path, error):
                raise unread from error
            continue
        same = state.environment == start.environment and course.same_run(state, start)
        # Digests of another form, as a long list had them before there were indexes, differ.
        same &= state.recipe.label_digests.shape == start.recipe.label_digests.shape
        if same and state.iteration < start.iteration:
            return FoundCheckpoint(path, state)
    return None


def _check_portable(start: TrainState, here: Mapping[str, str], wishes: Wishes) -> None:
    """See to it that -portable is no empty word.

    Raises:
        OtherEnvironment: it was given, and the run or this process is not portable.
    """
    if not wishes.portable or (start.environment.get("kernels") == PORTABLE == here["kernels"]):
        return
    if start.environment.get("kernels") != PORTABLE and start.iteration and not wishes.allow_change:
        raise OtherEnvironment(
            "-portable",
            "this run was begun without it",
            "a run that is portable from its first iteration",
            "leave it out, or go on portable with other last bits by -allow-change, or begin anew "
            "after `relume reset DATA CFG`",
        )
    if here["kernels"] != PORTABLE:
        raise OtherEnvironment(
            "-portable",
            f"the libraries of this process were loaded for other kernels ({here['kernels']})",
            "a process of its own on an x86-64 processor, computing on the CPU",
            "give the command to a shell; with a GPU add -nogpu",
        )
