"""Commands on weights files and on the files of a run: partial, compare, inspect, reset, rewind."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from relume.checkpoint import container, storage
from relume.checkpoint.keeper import run_files
from relume.checkpoint.state import first_difference, first_difference_of_arrays
from relume.errors import CheckpointError, Damaged, UsageError, WeightsError
from relume.formats.cfg import parse_cfg, read_cfg
from relume.formats.data_files import read_data_file
from relume.formats.sections import Cfg
from relume.formats.weights import parse_header, parse_weights, partial_weights
from relume.screen import Screen
from relume.spec import backup_folder, run_name

Values = Mapping[str, str | int | float | bool]
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
    cfg = read_cfg(cfg_path, "detect")
    if not 1 <= layers <= len(cfg.layers):
        raise UsageError("N", number, f"1 to {len(cfg.layers)}, the layers of {cfg_path}")
    data = partial_weights(_read(weights), cfg, layers, weights)
    storage.write_durably(Path(out), data)
    screen.line(f"{out}: layers 0 to {layers - 1}, {len(data):,} bytes")
    return 0


def compare(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Compare two files; tell the first tensor, index and both values that differ."""
    one, other = (_read(path) for path in arguments)
    if one == other:
        screen.line(f"same: {len(one):,} bytes")
        return SAME
    difference = _difference(one, other, arguments)
    screen.line(f"different: {difference}")
    return DIFFERENT


def inspect(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Say what a weights file holds and whether it is intact."""
    path = arguments[0]
    data = _read(path)
    header = parse_header(data, path)
    screen.line(f"{path}: {len(data):,} bytes")
    screen.line(
        f"header {header.major}.{header.minor}.{header.revision}, "
        f"{8 * (header.size_bytes - 12)}-bit seen, seen {header.seen}"
    )
    if container.holds_state(data, path):
        _inspect_checkpoint(data, path, screen)
    elif len(arguments) > 1:
        _inspect_plain(data, path, read_cfg(arguments[1], "detect"), screen)
    else:
        screen.line("no training state; give the CFG to see which layers it fills")
    return 0


def reset(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Move the files of a run aside."""
    folder, name = backup_folder(read_data_file(arguments[0])), run_name(arguments[1])
    if not folder.is_dir():
        raise CheckpointError(folder, "no such folder", f"the files of a run of '{name}'")
    with storage.locked(folder, name):
        others = [folder / f"{name}.journal.jsonl", folder / f"chart_{name}.png"]
        others += [folder / "chart.png", folder / f"{name}.log"]
        files = [*run_files(folder, name), *(path for path in others if path.exists())]
        if not run_files(folder, name):
            raise CheckpointError(folder, f"no files of '{name}'", "the checkpoints of a run")
        target = storage.move_aside(files, folder / f"{name}.aside")
    screen.line(f"moved {len(files)} files to {target}")
    return 0


def rewind(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Make an older checkpoint the newest of its run."""
    path = Path(arguments[0])
    match = re.fullmatch(r"(.+?)(_\d+\.weights|_last\.weights|(_\d+)?\.backup)", path.name)
    if match is None:
        raise UsageError(path, "not a checkpoint's name", "NAME_ITER.weights or NAME.backup")
    folder, name = path.parent, match[1]
    data = _read(path)
    if not container.holds_state(data, path):
        raise WeightsError(path, "holds no training state", "a checkpoint of relume")
    state = container.unpack(data, path)
    with storage.locked(folder, name):
        newer = [file for file in run_files(folder, name) if _is_newer(file, state.progress.seen)]
        if newer:
            target = storage.move_aside(newer, folder / f"{name}.aside")
            screen.line(f"moved {len(newer)} newer files to {target}")
        storage.write_durably(folder / f"{name}_last.weights", data)
    screen.line(f"the run '{name}' goes on from iteration {state.iteration}")
    return 0


def _is_newer(path: Path, seen: int) -> bool:
    try:
        with path.open("rb") as file:
            return parse_header(file.read(20), str(path)).seen > seen
    except WeightsError:
        return True  # damaged: out of the way with it


def _difference(one: bytes, other: bytes, paths: list[str]) -> str:
    """Name the first difference of two files that are not the same."""
    states = [
        container.unpack(data, path) if container.holds_state(data, path) else None
        for data, path in zip((one, other), paths, strict=True)
    ]
    if states[0] is not None and states[1] is not None:
        tensors = first_difference(states[0], states[1])
        if tensors is not None:
            return tensors
        if states[0].progress != states[1].progress:
            return f"progress: {states[0].progress}, {states[1].progress}"
        return "all tensors and counters are the same; recipe, history or environment differ"
    known = next((state for state in states if state is not None), None)
    headers = [parse_header(data, path) for data, path in zip((one, other), paths, strict=True)]
    if known is not None:
        cfg = parse_cfg(known.recipe.cfg_text, "recipe/cfg", "detect")
        arrays = [
            parse_weights(data, cfg, path).arrays
            for data, path in zip((one, other), paths, strict=True)
        ]
        for name in arrays[0].keys() & arrays[1].keys():
            text = first_difference_of_arrays(arrays[0][name], arrays[1][name])
            if text is not None:
                return f"{name}{text}"
        return "the weights are the same; only one of the files holds training state"
    if headers[0] != headers[1]:
        return f"header: {headers[0]}, {headers[1]}"
    if len(one) != len(other):
        return f"length: {len(one):,}, {len(other):,} bytes"
    start = headers[0].size_bytes
    floats = [np.frombuffer(data, "<f4", (len(data) - start) // 4, start) for data in (one, other)]
    return f"float {first_difference_of_arrays(floats[0], floats[1])}"


def _inspect_checkpoint(data: bytes, path: str, screen: Screen) -> None:
    state = container.unpack(data, path)
    progress = state.progress
    screen.line(f"iteration {state.iteration}, average loss {progress.average_loss}")
    groups = ", ".join(f"{name} ({len(arrays)})" for name, arrays in sorted(state.groups.items()))
    screen.line(f"training state: {groups}")
    screen.line(f"{len(state.weights)} arrays of weights, all layers filled")
    screen.line(f"course {state.course}, state {state.digest().hex()}")
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
        screen.line(f"fills all {len(cfg.layers)} layers")
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


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WeightsError(path, f"cannot be read ({error.strerror})", "a weights file") from error
