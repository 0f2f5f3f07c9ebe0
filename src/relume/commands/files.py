"""Commands on weights files and on the files of a run: partial, compare, inspect, reset, rewind."""

import os
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from relume.checkpoint import container, storage
from relume.checkpoint.evaluations import with_best
from relume.checkpoint.finished import is_finished_in
from relume.checkpoint.folder import (
    claimed_position,
    newest_good,
    run_files,
    run_names,
    run_of,
)
from relume.checkpoint.reading import not_given
from relume.checkpoint.state import TrainState, first_difference, first_difference_of_arrays
from relume.checkpoint.tensor_digests import (
    first_tensor_difference,
    is_digest_file,
    read_digest_file,
)
from relume.checkpoint.weights_file import read_weights_file
from relume.command_table import Values
from relume.commands.outputs import Outputs
from relume.commands.weights_files import WEIGHTS
from relume.errors import (
    TEMPORARY_FAILURE,
    CheckpointError,
    Damaged,
    RelumeError,
    UsageError,
    WeightsError,
)
from relume.formats.cfg import parse_cfg, read_cfg
from relume.formats.data_files import read_data_file
from relume.formats.places import open_regular
from relume.formats.sections import Cfg
from relume.formats.weights import FLOAT, Header, parse_header, parse_weights, partial_weights
from relume.screen import Screen
from relume.spec import backup_folder, run_name

SAME, DIFFERENT = 0, 1


def partial(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Write the first N layers of a weights file."""
    cfg_path, weights, out, number = arguments
    try:
        layers = int(number)
    except ValueError:
        raise UsageError(
            "N", f"'{number}'", "a number of layers", "see relume partial -h"
        ) from None
    outputs = Outputs([cfg_path, weights], flags)
    outputs.check(Path(out), WEIGHTS)
    cfg = read_cfg(cfg_path, "detect")
    if not 1 <= layers <= len(cfg.layers):
        raise UsageError("N", number, f"1 to {len(cfg.layers)}, the layers of {cfg_path}")
    whole = read_weights_file(weights)
    if container.holds_state(whole, weights):
        container.unpack(whole, weights)
    data = partial_weights(whole, cfg, layers, weights)
    outputs.write(Path(out), WEIGHTS, data)
    screen.line(f"{out}: layers 0 to {layers - 1}, {len(data):,} bytes")
    return 0


def compare(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Compare two files; tell the first tensor, index and both values that differ.

    Of two files of tensor digests: the first iteration and tensor.
    """
    paths = arguments[:2]
    hold_digests = [_holds_digests(path) for path in paths]
    if any(hold_digests):
        return _compare_digests(Path(paths[0]), Path(paths[1]), screen)
    one, other = (read_weights_file(path) for path in paths)
    if one == other:
        screen.line(f"same: {len(one):,} bytes")
        return SAME
    cfg = read_cfg(arguments[2], "detect") if len(arguments) > 2 else None
    difference = _difference(_opened(one, paths[0]), _opened(other, paths[1]), cfg)
    screen.line("different: " + difference)
    return DIFFERENT


def inspect(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Say what a weights file holds and whether it is intact, or whether a run is finished."""
    path = arguments[0]
    if flags.get("-finished"):
        return _tell_whether_finished(Path(path), arguments[1:], screen)
    if Path(path).is_dir():
        remedy = "`relume verify` looks at all in a folder, -finished tells whether its run is"
        raise UsageError(path, "is a folder", "a weights file", remedy)
    data = read_weights_file(path)
    header = parse_header(data, path)
    screen.line(f"{path}: {len(data):,} bytes")
    screen.line(
        f"header {header.major}.{header.minor}.{header.revision}, "
        f"{8 * (header.size_bytes - 12)}-bit seen, seen {header.seen}"
    )
    if container.holds_state(data, path):
        try:
            _inspect_checkpoint(data, path, screen)
        except Damaged as error:
            raise _with_good_one(error, Path(path)) from error
    elif len(arguments) > 1:
        _inspect_plain(data, path, read_cfg(arguments[1], "detect"), screen)
    else:
        screen.line("no training state; give the CFG to see which layers it fills")
    return 0


def _tell_whether_finished(folder: Path, cfg: list[str], screen: Screen) -> int:
    """Say whether a run has come to its end; by the exit status too."""
    names = [run_name(path) for path in cfg] or run_names(folder)
    if len(names) > 1:
        raise UsageError(folder, f"holds runs {', '.join(names)}", "one", "name its CFG")
    if folder.exists() and not folder.is_dir():
        raise UsageError(folder, "is no folder", "the backup folder of a run")
    finished = bool(names) and is_finished_in(folder, names[0])
    what = f"'{names[0]}'" if names else "the run"
    screen.line(f"{folder}: {what} is {'' if finished else 'not '}finished")
    return SAME if finished else TEMPORARY_FAILURE


def reset(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Move the files of a run aside."""
    folder, name = backup_folder(read_data_file(arguments[0])), run_name(arguments[1])
    if not folder.is_dir():
        raise CheckpointError(folder, "no such folder", f"the files of a run of '{name}'")
    with storage.locked(folder, name):
        others = [folder / f"{name}.journal.jsonl", folder / f"chart_{name}.png"]
        others += [folder / "chart.png", folder / f"{name}.log", folder / f"{name}.notfinite"]
        files = [*run_files(folder, name), *(path for path in others if os.path.lexists(path))]
        if not run_files(folder, name):
            raise CheckpointError(folder, f"no files of '{name}'", "the checkpoints of a run")
        target = storage.move_aside(files, folder / f"{name}.aside")
    screen.line(f"moved {len(files)} files to {target}")
    return 0


def rewind(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Make an older checkpoint the newest of its run."""
    path = Path(arguments[0])
    folder, name = path.parent, run_of(path)
    if name is None:
        raise UsageError(path, "not a checkpoint's name", "NAME_ITER.weights or NAME.backup")
    if folder.parent.name == f"{name}.aside":
        raise UsageError(
            path,
            "was moved aside and belongs to no run",
            "a checkpoint in the backup folder of its run",
            f"mv {shlex.quote(str(path))} {shlex.quote(str(folder.parent.parent))}, then rewind",
        )
    data = read_weights_file(path)
    if not container.holds_state(data, path):
        raise WeightsError(path, "holds no training state", "a checkpoint of relume")
    state = container.unpack(data, path)
    with storage.locked(folder, name):
        newer = [file for file in run_files(folder, name) if _is_newer(file, state)]
        if newer:
            target = storage.move_aside(newer, folder / f"{name}.aside")
            screen.line(f"moved {len(newer)} newer files to {target}")
        storage.write_durably(folder / f"{name}_last.weights", data)
    screen.line(f"the run '{name}' goes on from {state.place}")
    return 0


def _is_newer(path: Path, state: TrainState) -> bool:
    """Tell whether a file may be newer than a state.

    Raises:
        Unavailable, CheckpointError: nobody knows.
    """
    try:
        position = claimed_position(path)
        if position is not None:
            return position > state.reached
        with open_regular(path) as file:  # plain weights
            return parse_header(file.read(20), str(path)).seen > state.progress.seen
    except WeightsError:
        return True  # damaged: out of the way with it
    except OSError as error:
        if unread := not_given(path, error):
            raise unread from error
        return True  # no file at all


def _holds_digests(path: str) -> bool:
    try:
        return is_digest_file(Path(path))
    except OSError as error:
        raise WeightsError(path, f"cannot be read ({error.strerror})", "a weights file") from error


def _compare_digests(one: Path, other: Path, screen: Screen) -> int:
    """Compare two files of -tensor_digests in the iterations that both hold."""
    files = [read_digest_file(path) for path in (one, other)]
    shared = sorted(files[0].offsets.keys() & files[1].offsets.keys())
    if not shared:
        raise WeightsError(other, f"holds no iteration that {one} holds", "two parts of one run")
    found = [f"{file.path}, computed twice: {file.repeated}" for file in files if file.repeated]
    if difference := first_tensor_difference(*files):
        found.insert(0, str(difference))
    for text in found:
        screen.line(f"different: {text}")
    said = f"{len(shared)} states, iterations {shared[0]} to {shared[-1]}"
    if not found:
        screen.line(f"same: the tensors of {said}")
    for file in files:
        if rest := len(file.offsets.keys() - set(shared)):
            screen.line(f"not compared: {rest} states that only {file.path} holds")
    return DIFFERENT if found else SAME


@dataclass(frozen=True)
class _File:
    """One side of a comparison; damaged files do not get this far."""

    path: str
    data: bytes
    header: Header
    state: TrainState | None


def _opened(data: bytes, path: str) -> _File:
    state = container.unpack(data, path) if container.holds_state(data, path) else None
    return _File(path, data, parse_header(data, path), state)


def _difference(one: _File, other: _File, cfg: Cfg | None) -> str:
    """Name the first difference of two files that are not the same."""
    if one.state is not None and other.state is not None:
        return _difference_of_states(one.state, other.state)
    known = one.state or other.state
    if known is not None:
        cfg = parse_cfg(known.recipe.cfg_text, "recipe/cfg", "detect")
    tensor = _difference_of_floats(one, other) if cfg is None else _tensor(one, other, cfg)
    if tensor is not None:
        return tensor
    if known is not None:
        return f"the weights are the same; only {(one if one.state else other).path} holds a state"
    if one.header != other.header:
        headers = [
            f"{header.major}.{header.minor}.{header.revision} with seen {header.seen}"
            for header in (one.header, other.header)
        ]
        return f"the weights are the same; header {headers[0]}, {headers[1]}"
    return f"length: {len(one.data):,}, {len(other.data):,} bytes"


def _difference_of_states(one: TrainState, other: TrainState) -> str:
    tensor = first_difference(one, other)
    if tensor is not None:
        places = "" if one.place == other.place else f" ({one.place}, {other.place})"
        return tensor + places
    for field in fields(one.progress):
        values = [getattr(state.progress, field.name) for state in (one, other)]
        if values[0] != values[1]:
            return f"{field.name}: {values[0]}, {values[1]}"
    return "all tensors and counters are the same; recipe, history or environment differ"


def _tensor(one: _File, other: _File, cfg: Cfg) -> str | None:
    """Name the first tensor, in the order of the file, that differs or is in one file only."""
    left, right = (parse_weights(file.data, cfg, file.path).arrays for file in (one, other))
    for name in left | right:
        if name not in left or name not in right:
            return f"{name} is in {(one if name in left else other).path} only"
        text = first_difference_of_arrays(left[name], right[name])
        if text is not None:
            return f"{name}{text}"
    return None


def _difference_of_floats(one: _File, other: _File) -> str | None:
    """Return the first float that differs; which tensor it belongs to only a cfg could tell."""
    bodies = [file.data[file.header.size_bytes :] for file in (one, other)]
    count = min(map(len, bodies)) // FLOAT.itemsize
    floats = [np.frombuffer(body, FLOAT, count) for body in bodies]
    text = first_difference_of_arrays(floats[0], floats[1])
    return text and f"float {text} (give the CFG to name the tensor)"


def _with_good_one(error: Damaged, path: Path) -> Damaged:
    """Add to the message where an intact checkpoint of the same run lies."""
    name = run_of(path)
    try:
        found, _ = newest_good(path.parent, name) if name else (None, [])
    except RelumeError:
        return error
    if found is None:
        return error
    remedy = f"the newest good one beside it is {found.path} ({found.state.place})"
    return Damaged(error.place, error.found, error.needed, remedy)


def _inspect_checkpoint(data: bytes, path: str, screen: Screen) -> None:
    state = container.unpack(data, path)
    progress = state.progress
    screen.line(f"{state.place}, average loss {progress.average_loss}")
    groups = ", ".join(f"{name} ({len(arrays)})" for name, arrays in sorted(state.groups.items()))
    screen.line(f"training state: {groups}")
    if progress.skipped:
        lines = ", ".join(str(row + 1) for row in progress.skipped)
        screen.line(f"skipped pictures, counted in the list: {lines}")
    screen.line(f"{len(state.weights)} arrays of weights, all layers filled")
    screen.line(f"course {state.course}, state {state.digest().hex()}")
    if state.history.evaluations:
        *_, (last, best) = with_best(state.history.evaluations)
        screen.line(
            f"evaluations: {len(state.history.evaluations)}, mAP {100 * last.map:.2f} % after "
            f"iteration {last.iteration}, best {100 * best.map:.2f} % after {best.iteration}"
        )
    for mark in state.history.marks:
        screen.line(f"mark after iteration {mark.iteration}: {mark.kind}: {mark.text}")
    for key, value in sorted(state.environment.items()):
        screen.line(f"environment {key}: {value}")
    screen.line("intact")


def _inspect_plain(data: bytes, path: str, cfg: Cfg, screen: Screen) -> None:
    weights = parse_weights(data, cfg, path)
    iteration = weights.header.seen // cfg.net.batch
    screen.line(f"iteration {iteration} at batch={cfg.net.batch}; no training state")
    if weights.end == "whole" and not weights.trailing:
        screen.line(f"fills all {len(cfg.layers)} layers; a plain file has no digest to check")
        return
    if weights.end == "layer":
        screen.line(f"fills layers 0 to {weights.layers_filled - 1} of {len(cfg.layers)}")
        return
    raise Damaged(
        path,
        f"{weights.trailing:,} bytes follow the last layer"
        if weights.end == "whole"
        else f"ends inside layer {weights.partial_layer}",
        f"the layers of {cfg.path}",
        "damaged, or weights of another net",
    )
