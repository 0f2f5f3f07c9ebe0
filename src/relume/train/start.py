"""What a start does: finds the state from which a run goes on, or makes a fresh one.

    WEIGHTS                                   the run begins
    none                                      at random, from the seed
    ends at a layer's end, seen 0; or -clear  pretrained: iteration 0
    a relume checkpoint                       where that ended, exactly
    a whole Darknet file with seen > 0        at that iteration, without momentum
    a folder, or -resume                      at the newest good checkpoint in it

If the backup folder holds a checkpoint of the same course, the run goes on from the newest
good one, whatever WEIGHTS says; nothing of another course is ever overwritten.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash

from relume.checkpoint import container, course, storage
from relume.checkpoint.course import Difference, Verdict
from relume.checkpoint.keeper import Found, Rejected, newest_good, run_files
from relume.checkpoint.state import History, Progress, RecipeRecord, TrainState
from relume.errors import (
    CheckpointError,
    Damaged,
    ImageError,
    OtherRecipe,
    RelumeError,
    WeightsError,
)
from relume.formats.sections import Cfg
from relume.formats.weights import DarknetWeights, parse_weights
from relume.model.network import Network
from relume.spec import RunSpec
from relume.train.capture import PICTURES, empty_groups, weights_of
from relume.train.optimizer import build_optimizer

RANDOM = "random"
Say = Callable[[str], None]


@dataclass(frozen=True)
class StartFlags:
    """What the command line says about the start."""

    weights: str | None = None
    clear: bool = False
    resume: bool = False
    allow_change: bool = False


@dataclass(frozen=True)
class _Weights:
    """The WEIGHTS argument, read."""

    path: Path | None
    state: TrainState | None = None
    """If it is a relume checkpoint (and not -clear)."""
    plain: DarknetWeights | None = None
    """If it is to be read as Darknet's: pretrained, or a whole checkpoint of Darknet."""
    identity: str | None = RANDOM
    """What the recipe keeps of it; None: unknown, taken from the checkpoint found."""


def starting_state(
    spec: RunSpec, flags: StartFlags, environment: dict[str, str], say: Say
) -> TrainState:
    """Return the state from which this run goes on.

    Args:
        spec: today's recipe and operation; the backup folder exists and is locked.
        flags: WEIGHTS and what else was said.
        environment: of a fresh run.
        say: takes a line for every decision a person should know about.
    Raises:
        WeightsError, Damaged: WEIGHTS cannot be used.
        OtherRecipe: the backup folder holds another course.
    """
    operation = spec.operation
    found, rejected = newest_good(operation.backup, operation.name)
    given = _read_weights(spec, flags, found)
    if found is None and rejected and given.state is None:
        raise Damaged(
            operation.backup,
            f"no checkpoint of '{operation.name}' is intact ({rejected[0].reason})",
            "one to go on from",
            "give one as WEIGHTS, or begin anew after `relume reset DATA CFG`",
        )
    _set_aside(spec, rejected, say)
    start = _chosen(found, given, flags)
    if start is None:
        if given.identity is None:
            raise CheckpointError(
                operation.backup,
                f"holds no good checkpoint of '{operation.name}'",
                "one to go on from",
                "start without -resume, or give WEIGHTS that exist",
            )
        _refuse_foreign_files(spec, flags)
        return _fresh(spec, given, environment, say)
    identity = given.identity or start.state.recipe.keys["start"]
    state = _under_todays_recipe(start, _record(spec, identity), spec, flags, say)
    if state.course != start.state.course:
        _set_newer_aside(spec, state.iteration, say)
    say(f"goes on from {start.path} (iteration {state.iteration})")
    if given.path and given.state and given.path.resolve() != start.path.resolve():
        say(f"{given.path} is an older checkpoint of this run and leads to the same bytes")
    return state


def _read_weights(spec: RunSpec, flags: StartFlags, found: Found | None) -> _Weights:
    """Read WEIGHTS; decide what kind of file it is."""
    if flags.weights is None:
        return _Weights(None, identity=None if flags.resume else RANDOM)
    path = Path(flags.weights)
    if path.is_dir():
        folder_found, _ = newest_good(path, spec.operation.name)
        if folder_found is None:
            raise CheckpointError(
                path, f"holds no good checkpoint of '{spec.operation.name}'", "at least one"
            )
        identity = folder_found.state.recipe.keys["start"]
        return _Weights(folder_found.path, state=folder_found.state, identity=identity)
    try:
        data = path.read_bytes()
    except OSError as error:
        if found is not None and isinstance(error, FileNotFoundError) and not flags.clear:
            return _Weights(None, identity=None)
        raise WeightsError(path, f"cannot be read ({error.strerror})", "a weights file") from error
    digest = xxhash.xxh3_128_hexdigest(data)
    if not container.holds_state(data, path):
        plain = parse_weights(data, spec.recipe.cfg, str(path))
        _check_plain(plain, path, spec.recipe.cfg, flags, found)
        return _Weights(path, plain=plain, identity=f"clear {digest}" if flags.clear else digest)
    try:
        state = container.unpack(data, path)
    except CheckpointError as error:
        if flags.resume and found is not None:
            return _Weights(None, identity=None)
        raise _with_earlier(error, found) from error
    if not flags.clear:
        return _Weights(path, state=state, identity=state.recipe.keys["start"])
    darknet = data[: container.read_manifest(data)["darknet"]["bytes"]]
    plain = parse_weights(darknet, spec.recipe.cfg, str(path))
    _check_plain(plain, path, spec.recipe.cfg, flags, found)
    return _Weights(path, plain=plain, identity=f"clear {digest}")


def _check_plain(
    plain: DarknetWeights, path: Path, cfg: Cfg, flags: StartFlags, found: Found | None
) -> None:
    """Refuse a Darknet file that does not fit the cfg, or that is cut."""
    if plain.end == "whole" and plain.trailing:
        raise WeightsError(
            path,
            f"{plain.trailing:,} bytes follow the last layer of {cfg.path}",
            f"{plain.end_offset:,} bytes",
            "weights of another net? `relume partial` cuts the layers that fit",
        )
    early = plain.end == "layer" and plain.header.seen > 0 and not flags.clear
    if plain.end != "inside" and not early:
        return
    where = f"inside layer {plain.partial_layer}"
    if early:
        where = f"after layer {plain.layers_filled - 1} though trained (seen {plain.header.seen})"
    error = WeightsError(
        path,
        f"ends {where}, at byte {plain.end_offset + plain.trailing:,}",
        f"the {len(cfg.layers)} layers of {cfg.path}, or a file cut between layers with seen 0",
        "damaged, or weights of another net; -clear takes the layers it has"
        if early
        else "damaged, or weights of another net",
    )
    raise _with_earlier(error, found)


def _with_earlier(error: RelumeError, found: Found | None) -> RelumeError:
    if found is None:
        return error
    remedy = f"a good checkpoint is {found.path}; -resume takes it"
    return type(error)(error.place, error.found, error.needed, remedy)


def _chosen(found: Found | None, given: _Weights, flags: StartFlags) -> Found | None:
    """Return the checkpoint to go on from: the newer of the found and the given one."""
    if given.state is None or given.path is None:
        return found
    named = Found(given.path, given.state)
    if found is None or flags.allow_change:
        return named
    if given.state.course != found.state.course:
        raise OtherRecipe(
            given.path,
            f"belongs to another course of the run than {found.path}",
            "a checkpoint of the run in the backup folder",
            "`relume reset` moves that run aside",
        )
    return named if given.state.iteration > found.state.iteration else found


def _under_todays_recipe(
    start: Found, today: RecipeRecord, spec: RunSpec, flags: StartFlags, say: Say
) -> TrainState:
    """Return the state under today's recipe, if the two agree or a change is allowed."""
    state = start.state
    images = spec.recipe.images
    found = list(
        course.differences(
            state.recipe, today, state.iteration, lambda row: f"{images.path}:{images.lines[row]}"
        )
    )
    if flags.allow_change:
        state, changed = _with_todays_pictures(state, spec)
        found += changed
    refused = [d for d in found if d.verdict in (Verdict.COURSE, Verdict.IMPOSSIBLE)]
    impossible = any(d.verdict is Verdict.IMPOSSIBLE for d in refused)
    if impossible or (refused and not flags.allow_change):
        raise OtherRecipe(
            start.path,
            "this run was begun with other settings: " + ", ".join(map(str, refused)),
            "the settings of the run",
            "`relume reset DATA CFG` moves the run aside for a new one"
            if impossible
            else "undo the change, or go on with it by -allow-change, or begin anew after "
            "`relume reset DATA CFG`",
        )
    for difference in found:
        say(str(difference))
    if refused and spec.recipe.cfg.net.batch * state.iteration != state.progress.seen:
        seen = spec.recipe.cfg.net.batch * state.iteration
        state = replace(state, progress=replace(state.progress, seen=seen))
    return course.with_change(state, today, found)


def _with_todays_pictures(state: TrainState, spec: RunSpec) -> tuple[TrainState, list[Difference]]:
    """Compare all pictures used so far with today's, and forget those that changed."""
    images = spec.recipe.images
    digests = np.array(state.groups[PICTURES]["digests"])
    if len(digests) != len(images.paths):  # another list, a difference of its own
        digests = np.zeros(len(images.paths), np.uint64)
    changed = []
    for row in np.flatnonzero(digests):
        today = _file_digest(images.paths[row])
        if today != digests[row]:
            pair = (f"{digests[row]:016x}", f"{today:016x}")
            changed.append(Difference(f"picture {images.entries[row]}", *pair, Verdict.COURSE))
            digests[row] = 0
    groups = {**state.groups, PICTURES: {"digests": digests}}
    return replace(state, groups=groups), changed


def _file_digest(path: Path) -> int:
    try:
        return xxhash.xxh3_64_intdigest(path.read_bytes())
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror})", "a picture") from error


def _fresh(spec: RunSpec, given: _Weights, environment: dict[str, str], say: Say) -> TrainState:
    """Return a state in which nothing has been trained by this run."""
    cfg = spec.recipe.cfg
    network = Network(cfg, spec.recipe.seed)
    optimizer = build_optimizer(network.trained_parameters(), cfg.net)
    weights = dict(weights_of(network))
    iteration = 0
    if given.plain is not None:
        weights.update(given.plain.arrays)
        whole = given.plain.end == "whole"
        seen = (
            0
            if given.identity is None or given.identity.startswith("clear ")
            else (given.plain.header.seen)
        )
        iteration = seen // cfg.net.batch if whole else 0
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


def _refuse_foreign_files(spec: RunSpec, flags: StartFlags) -> None:
    """Stop before files that are not ours would be overwritten."""
    operation = spec.operation
    given = Path(flags.weights).resolve() if flags.weights else None
    foreign = [p for p in run_files(operation.backup, operation.name) if p.resolve() != given]
    if foreign and (given is None or given.parent != operation.backup.resolve()):
        raise OtherRecipe(
            operation.backup,
            f"holds {foreign[0].name} without training state, from another program or run",
            "an empty folder for a new run",
            f"give {foreign[0]} as WEIGHTS to go on from it, or move the files aside with "
            "`relume reset DATA CFG`",
        )


def _set_aside(spec: RunSpec, rejected: list[Rejected], say: Say) -> None:
    """Move damaged files out of the way, so that none replaces a good one."""
    for item in rejected:
        say(f"{item.reason}; an earlier good checkpoint is looked for")
    if rejected:
        _aside(spec, [item.path for item in rejected], say)


def _set_newer_aside(spec: RunSpec, iteration: int, say: Say) -> None:
    operation = spec.operation
    newer = []
    for path in run_files(operation.backup, operation.name):
        data = path.read_bytes()
        plain = not container.holds_state(data, path)
        if plain or container.unpack(data, path).iteration > iteration:
            newer.append(path)
    if newer:
        _aside(spec, newer, say)


def _aside(spec: RunSpec, paths: list[Path], say: Say) -> None:
    operation = spec.operation
    target = storage.move_aside(paths, operation.backup / f"{operation.name}.aside")
    say(f"moved to {target}: {', '.join(path.name for path in paths)}")
