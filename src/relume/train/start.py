"""What a start does: finds the state from which a run goes on, or makes a fresh one.

    WEIGHTS                                   the run begins
    none                                      at random, from the seed
    ends at a layer's end, seen 0; or -clear  pretrained: iteration 0
    a relume checkpoint                       where that ended, exactly
    a whole Darknet file with seen > 0        at that iteration, without momentum
    a folder, or -resume                      at the newest good checkpoint in it

If the backup folder holds a checkpoint of the same course, the run goes on from the newest
good one; nothing of another course is ever overwritten.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash

from relume.checkpoint import container, course, storage
from relume.checkpoint.course import Meaning, RecipeDifference
from relume.checkpoint.folder import (
    FoundCheckpoint,
    Rejected,
    claims_to_be_newer,
    newest_good,
    other_run,
    run_files,
    set_aside,
)
from relume.checkpoint.reading import read_bytes
from relume.checkpoint.state import PARTIAL, History, Progress, RecipeRecord, TrainState
from relume.data.patience import Patience
from relume.errors import (
    CheckpointError,
    Damaged,
    ImageError,
    OtherRecipe,
)
from relume.formats.data_files import read_labels
from relume.formats.places import read_file
from relume.lists.label_files import LabelFiles, shared_digest, shared_digests
from relume.model.network import Network
from relume.spec import RunSpec
from relume.train.batches import changed_file
from relume.train.best_file import look_after_best
from relume.train.capture import PICTURES, empty_groups, weights_of
from relume.train.evaluation import off_schedule
from relume.train.given_weights import RANDOM, Given, Say, StartFlags, read_given
from relume.train.optimizer import build_optimizer

__all__ = ["StartFlags", "in_todays_form", "starting_state"]

MOST_TOLD = 8
"""Differences that one message names; another network differs in hundreds."""


def starting_state(
    spec: RunSpec,
    flags: StartFlags,
    environment: dict[str, str],
    say: Say,
    patience: Patience | None = None,
) -> TrainState:
    """Return the state from which this run goes on.

    Args:
        spec: today's recipe and operation; the backup folder exists and is locked.
        flags: WEIGHTS and what else was said.
        environment: of a fresh run.
        say: takes a line for every decision a person should know about.
        patience: with a disk that does not give a checkpoint; None: it is asked once.
    Raises:
        WeightsError, Damaged: WEIGHTS cannot be used.
        Unavailable, CheckpointError: a checkpoint cannot be read, so nobody knows whether it is
            the one to go on from.
        OtherRecipe: the backup folder holds another course.
    """
    operation = spec.operation
    _check_name(spec)
    found, rejected = (patience or Patience()).until_available(
        lambda: newest_good(operation.backup, operation.name)
    )
    given = read_given(spec, flags, found, say)
    if found is None and rejected and given.state is None:
        raise Damaged(
            operation.backup,
            f"no checkpoint of '{operation.name}' is intact ({rejected[0].reason})",
            "one to go on from",
            "give one as WEIGHTS, or begin anew after `relume reset DATA CFG`",
        )
    if found is None and given.state is None and given.identity is None:
        raise CheckpointError(
            operation.backup,
            f"holds no good checkpoint of '{operation.name}'",
            "one to go on from",
            "start without -resume, or give WEIGHTS that exist",
        )
    if found is None:
        _keep_foreign_files(spec, given, rejected, say)
    start = _chosen(spec, flags, found, given)
    if start is None:
        return _fresh(spec, given, environment, say)
    state, differences = _under_todays_recipe(spec, flags, start, given)
    _tell_differences(spec, state, differences, say)
    _tidy_up(spec, rejected, start, state, say)
    say(f"goes on from {start.path} ({state.place})")
    if given.path and given.state and given.path.resolve() != start.path.resolve():
        say(
            f"{given.path} ({given.state.place}) is an older checkpoint of this run "
            "and leads to the same bytes"
        )
    return state


def _tell_differences(
    spec: RunSpec, state: TrainState, differences: list[RecipeDifference], say: Say
) -> None:
    for difference in differences:
        say(difference.told())
    if differences and (others := off_schedule(spec.recipe, state)):
        listed = ", ".join(map(str, others))
        say(
            f"-map: evaluated after iteration {listed}, which today's schedule leaves out; what "
            "was measured stays and is compared with"
        )


def _check_name(spec: RunSpec) -> None:
    operation = spec.operation
    if other := other_run(operation.backup, operation.name):
        raise CheckpointError(
            operation.backup,
            f"holds a run '{other}', whose files could be taken for those of '{operation.name}'",
            "a folder of its own for one of them",
            "set another backup= in the data file",
        )


def _chosen(
    spec: RunSpec, flags: StartFlags, found: FoundCheckpoint | None, given: Given
) -> FoundCheckpoint | None:
    """Return the checkpoint to go on from: the newer of the found and the given one."""
    if given.state is None or given.path is None:
        return found
    named = FoundCheckpoint(given.path, given.state)
    if found is None:
        return named
    state = given.state
    if flags.allow_change:
        state, _ = _under_todays_recipe(spec, flags, named, given)
    if course.same_run(state, found.state):
        return named if named.state.reached > found.state.reached else found
    if flags.allow_change and _may_part(given.state, found.state):
        return named
    raise OtherRecipe(
        given.path,
        f"belongs to another course of the run than {found.path}",
        "a checkpoint of the run in the backup folder",
        "`relume reset DATA CFG` moves that run aside",
    )


def _may_part(given: TrainState, found: TrainState) -> bool:
    """Tell whether a change may lead from one away from the other: they were one run before."""
    return course.same_run(given, found) or course.parted_by_change(given, found)


def _under_todays_recipe(
    spec: RunSpec, flags: StartFlags, start: FoundCheckpoint, given: Given
) -> tuple[TrainState, list[RecipeDifference]]:
    """Return the state under today's recipe, if the two agree or a change is allowed."""
    images = spec.recipe.images
    state = in_todays_form(start.state, spec)
    today = _record(spec, given.identity or state.recipe.keys["start"])
    found = list(course.differences(state, today, lambda row: f"{images.path}:{images.lines[row]}"))
    if flags.allow_change:
        state, changed = _with_todays_pictures(state, today, spec)
        found += changed
    refused = [d for d in found if d.meaning in (Meaning.COURSE, Meaning.IMPOSSIBLE)]
    impossible = any(d.meaning is Meaning.IMPOSSIBLE for d in refused)
    if impossible or (refused and not flags.allow_change):
        more = f" and {len(refused) - MOST_TOLD} more" if len(refused) > MOST_TOLD else ""
        raise OtherRecipe(
            start.path,
            "this run was begun with other settings: "
            + ", ".join(d.told() for d in refused[:MOST_TOLD])
            + more,
            "the settings of the run",
            _way_out(refused, given),
        )
    if refused and state.iteration >= spec.recipe.cfg.net.max_batches:
        raise OtherRecipe(
            start.path,
            f"the run is finished ({state.iteration} iterations); a change would train nothing",
            f"max_batches above {state.iteration} in {spec.recipe.cfg.path}",
            "raise it and give the command again, or undo the change",
        )
    if refused or not course.same_partial(state, today):
        # A recipe changes between two iterations: the iteration stays, what was seen follows.
        state = state.before_partial(spec.recipe.cfg.net.batch)
    return course.with_change(state, today, found), found


def in_todays_form(state: TrainState, spec: RunSpec) -> TrainState:
    """Return a state with the digests of a long list in the form that they have today.

    Before there were indexes, the labels of every list stood in the recipe, and the digests of
    pictures had all their bits.
    """
    labels, rows = state.recipe.label_digests, len(spec.recipe.images.paths)
    if not isinstance(spec.recipe.labels, LabelFiles) or len(labels) != rows:
        return state
    pictures = np.array(state.groups[PICTURES]["digests"], np.uint64)
    groups = {**state.groups, PICTURES: {"digests": shared_digests(pictures, labels)}}
    if state.subdivision:
        partial = state.groups[PARTIAL]
        of_rows = shared_digests(
            np.array(partial["digests"], np.uint64), labels[np.array(partial["rows"], np.int64)]
        )
        groups[PARTIAL] = {**partial, "digests": of_rows}
    recipe = replace(state.recipe, label_digests=np.zeros(0, np.uint64))
    return replace(state, groups=groups, recipe=recipe)


def _way_out(refused: list[RecipeDifference], given: Given) -> str:
    """Say what can be done about settings that a run cannot take."""
    if [d.key for d in refused] == ["start"] and given.path is None:
        return "name the WEIGHTS it began with, or add -resume"
    if any(d.meaning is Meaning.IMPOSSIBLE for d in refused):
        return "`relume reset DATA CFG` moves the run aside for a new one"
    return (
        "undo the change, or go on with it by -allow-change, or begin anew after "
        "`relume reset DATA CFG`"
    )


def _with_todays_pictures(
    state: TrainState, today: RecipeRecord, spec: RunSpec
) -> tuple[TrainState, list[RecipeDifference]]:
    """Compare all pictures used so far with today's, and forget those that changed."""
    images = spec.recipe.images
    digests = np.array(state.groups[PICTURES]["digests"], np.uint64)
    used = np.array(digests)
    if state.subdivision:
        partial = state.groups[PARTIAL]
        used[partial["rows"]] = partial["digests"]
        if "skipped_rows" in partial:
            used[partial["skipped_rows"]] = partial["skipped_digests"]
    if today.keys["images"] != state.recipe.keys["images"]:  # a difference of its own
        digests, used = (np.zeros(len(images.paths), np.uint64) for _ in range(2))
    changed = []
    for row in np.flatnonzero(used).tolist():
        digest = _digest_of(spec, row)
        if digest != used[row]:
            pair = (f"{used[row]:016x}", f"{digest:016x}")
            what, place = changed_file(spec.recipe, row, np.uint64(digest) ^ used[row])
            changed.append(RecipeDifference(f"{what} {row + 1}", *pair, Meaning.COURSE, str(place)))
            digests[row] = 0
    groups = {**state.groups, PICTURES: {"digests": digests}}
    skipped = tuple(row for row in state.progress.skipped if digests[row])
    progress = replace(state.progress, skipped=skipped)
    return replace(state, groups=groups, progress=progress), changed


def _digest_of(spec: RunSpec, row: int) -> int:
    """Return the digest of a picture as it is today; with a long list its labels share it."""
    path, labels = spec.recipe.images.paths[row], spec.recipe.labels
    try:
        digest = xxhash.xxh3_64_intdigest(read_file(path))
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror})", "a picture") from error
    if not isinstance(labels, LabelFiles):
        return digest
    return shared_digest(digest, read_labels(labels.path(row), labels.classes).boxes)


def _fresh(spec: RunSpec, given: Given, environment: dict[str, str], say: Say) -> TrainState:
    """Return a state in which nothing has been trained by this run."""
    cfg = spec.recipe.cfg
    network = Network(cfg, spec.recipe.seed)
    optimizer = build_optimizer(network.trained_parameters(), cfg.net)
    weights = dict(weights_of(network))
    iteration = given.iterations(cfg.net.batch)
    if given.plain is not None:
        weights.update(given.plain.arrays)
        whole = given.plain.end == "whole"
        filled = "all layers" if whole else f"layers 0 to {given.plain.layers_filled - 1}"
        say(f"{given.path}: fills {filled} of {len(cfg.layers)}")
    if iteration:
        say(
            f"{given.path}: goes on at iteration {iteration}; a Darknet file holds no momentum, "
            "which restarts at zero, so this is not an exact resume"
        )
    record = _record(spec, given.identity or RANDOM)
    return TrainState(
        weights=weights,
        groups=empty_groups(network, optimizer, len(spec.recipe.labels)),
        progress=Progress(seen=iteration * cfg.net.batch),
        history=History(start=iteration),
        recipe=record,
        course=course.new_course(record),
        environment=environment,
    )


def _record(spec: RunSpec, start: str) -> RecipeRecord:
    recipe = spec.recipe
    return RecipeRecord(
        cfg_text=recipe.cfg.text,
        keys={**recipe.keys(), "start": start},
        names=recipe.names,
        label_digests=recipe.label_digests(),
    )


def _keep_foreign_files(spec: RunSpec, given: Given, rejected: list[Rejected], say: Say) -> None:
    """See to it that a run does not overwrite what another program or run left.

    Raises:
        OtherRecipe: files of this name that WEIGHTS says nothing about.
    """
    operation = spec.operation
    damaged = [item.path for item in rejected]
    foreign = [p for p in run_files(operation.backup, operation.name) if p not in damaged]
    if not foreign:
        return
    named = [p for p in foreign if given.path and p.resolve() == given.path.resolve()]
    if not named:
        raise OtherRecipe(
            operation.backup,
            f"holds {foreign[0].name} without training state, from another program or run",
            "an empty folder for a new run",
            f"give {foreign[0]} as WEIGHTS to go on from it, or move the files aside with "
            "`relume reset DATA CFG`",
        )
    # The one that WEIGHTS names stays until this run's own first save takes its place.
    target = _aside(spec, [path for path in foreign if path not in named], say)
    for path in named:
        storage.write_durably(target / path.name, read_bytes(path))
        say(f"copied to {target}: {path.name}")


def _tidy_up(
    spec: RunSpec, rejected: list[Rejected], start: FoundCheckpoint, state: TrainState, say: Say
) -> None:
    """Move damaged files out of the way, and those of a course that has been left."""
    for item in rejected:
        say(f"{item.reason}; the newest good checkpoint is {start.path}")
    if rejected:
        _aside(spec, [item.path for item in rejected], say)
    if state.course != start.state.course:
        _set_newer_aside(spec, start, state, say)
    if spec.recipe.evaluations is not None:
        look_after_best(spec.operation.backup, spec.operation.name, state, start.path, say)


def _set_newer_aside(spec: RunSpec, start: FoundCheckpoint, state: TrainState, say: Say) -> None:
    """Move the files of the old course aside that are newer than the change."""
    operation = spec.operation
    files = run_files(operation.backup, operation.name)
    newer = [path for path in files if claims_to_be_newer(path, state.reached)]
    if not newer:
        return
    begun = [path for path in newer if path.resolve() == start.path.resolve()]
    target = _aside(spec, [path for path in newer if path not in begun], say)
    for path in begun:
        # The change goes back to the beginning of an iteration. What led into it is the newest
        # there is, so it goes only when the state of the new course is durable.
        last = operation.backup / f"{operation.name}_last.weights"
        storage.write_durably(target / path.name, read_bytes(path))
        storage.write_durably(last, *container.packed_parts(state))
        if path != last:
            storage.remove(path)
        say(f"moved to {target}: {path.name}")


def _aside(spec: RunSpec, paths: list[Path], say: Say) -> Path:
    return set_aside(paths, spec.operation.backup, spec.operation.name, say)
