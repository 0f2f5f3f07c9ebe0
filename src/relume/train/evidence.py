"""What is kept of an iteration whose numbers are not finite: the batch, and where it began.

In `NAME.notfinite/ITER/` lies every picture of the batch as it was trained on, its boxes beside
it as Darknet writes labels, and report.json.
"""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import cv2
import torch

from relume.checkpoint import storage
from relume.checkpoint.folder import claimed_position, iteration_in_name, run_files
from relume.checkpoint.state import TrainState
from relume.data.batch import MiniBatch
from relume.data.image import Pixels
from relume.errors import NotFinite, RelumeError, StorageError
from relume.spec import RunSpec
from relume.train.batches import source_of
from relume.train.diagnosis import PARAMETERS, Cause, Diagnosis, diagnose, head_layers

MOST_TOLD = 3
"""Pictures that one message names; report.json names all."""


def with_evidence(
    error: NotFinite, spec: RunSpec, state: TrainState, device: torch.device
) -> NotFinite:
    """Save the batch that led to `error` and return the error with what was found.

    Args:
        error: of the iteration after `state`.
        spec: of the run.
        state: between two iterations.
        device: where the run trains.
    """
    operation = spec.operation
    iteration = str(state.iteration + 1)
    folder = operation.backup / f"{operation.name}.notfinite" / iteration
    try:
        diagnosis = diagnose(spec, state, device)
    except (RelumeError, RuntimeError, MemoryError) as trouble:  # no memory for a second network
        found = f"{error.found}; it could not be computed again ({trouble})"
        return NotFinite(error.place, found, "", error.remedy)
    kept = f"the batch is in {folder}"
    try:
        _write(folder, spec, diagnosis, error)
    except StorageError as trouble:
        kept = f"the batch could not be saved ({trouble})"
    found = f"{error.found}; first: {_told(spec, diagnosis)}; {kept}"
    return NotFinite(error.place, found, "", _remedy(spec, state, diagnosis, error))


def _remedy(spec: RunSpec, state: TrainState, diagnosis: Diagnosis, error: NotFinite) -> str:
    """Say how to go on. What an iteration computes does not depend on its own rate."""
    if diagnosis.cause is None:
        return "give the same command again; if this comes back, test the machine's memory"
    if diagnosis.cause.rows:
        return "look at them; to go on without, take them off the list and add -allow-change"
    operation = spec.operation
    earlier = [
        path
        for path in run_files(operation.backup, operation.name)
        if path.suffix == ".weights"
        and 0 < iteration_in_name(path) < state.iteration
        and _holds_state(path)
    ]
    if not earlier:
        return f"{error.remedy} and begin anew after `relume reset DATA CFG`"
    newest = shlex.quote(str(max(earlier, key=iteration_in_name)))
    return f"`relume rewind {newest}`, {error.remedy} and give the command with -allow-change"


def _holds_state(path: Path) -> bool:
    try:
        return claimed_position(path) is not None
    except (RelumeError, OSError):
        return False


def _told(spec: RunSpec, diagnosis: Diagnosis) -> str:
    """Say what went wrong first, and for which pictures."""
    cause = diagnosis.cause
    if cause is None:
        return "nothing, computed again all numbers are finite"
    section = spec.recipe.cfg.layers[cause.layer]
    kind = type(section).__name__.lower()
    what = f"{cause.what} of layer {cause.layer} ([{kind}], {spec.recipe.cfg.path}:{section.line})"
    if cause.what in PARAMETERS.values():
        return f"{what}, whatever the picture"
    named = [_name(picture) for picture in _named(spec, diagnosis, cause)]
    if cause.rows or len(named) == 1:
        more = f" and {len(named) - MOST_TOLD} more" if len(named) > MOST_TOLD else ""
        return f"{what}, for {', '.join(named[:MOST_TOLD])}{more}"
    of = "the batch" if cause.subdivision is None else f"subdivision {cause.subdivision + 1}"
    return f"{what}, for the {len(named)} pictures of {of} together"


def _name(entry: dict[str, Any]) -> str:
    """Return the pictures of an entry as a message names them."""
    parts = (entry, *entry.get("mixed_with", ()))
    return " with ".join(f"{part['listed']} {part['path']}" for part in parts)


def _named(spec: RunSpec, diagnosis: Diagnosis, cause: Cause) -> list[dict[str, Any]]:
    """Return the entries of the responsible pictures; of all that it may be, if not one is."""
    pictures = _pictures(spec, diagnosis)
    if cause.subdivision is None:
        return [picture for subdivision in pictures for picture in subdivision]
    of_one = pictures[cause.subdivision]
    return [of_one[row] for row in cause.rows] or of_one


def _pictures(spec: RunSpec, diagnosis: Diagnosis) -> list[list[dict[str, Any]]]:
    """Return an entry of report.json per picture, by subdivision."""
    source = source_of(spec)
    entries: list[list[dict[str, Any]]] = []
    number = 0
    for mini_batch in diagnosis.batch:
        of_one: list[dict[str, Any]] = []
        for row, position in enumerate(mini_batch.positions):
            first, *others = (
                {"path": str(source.image_paths[index]), "listed": source.places[index]}
                for index in mini_batch.indices[mini_batch.pictures_of(row)]
            )
            entry = {"file": f"{number:03}.png", **first, "position": position}
            of_one.append({**entry, "mixed_with": others} if others else entry)
            number += 1
        entries.append(of_one)
    return entries


def _write(folder: Path, spec: RunSpec, diagnosis: Diagnosis, error: NotFinite) -> None:
    storage.make_folder(folder)
    pictures = _pictures(spec, diagnosis)
    for entries, mini_batch in zip(pictures, diagnosis.batch, strict=True):
        for row, entry in enumerate(entries):
            path = folder / entry["file"]
            storage.write_durably(path, _png(mini_batch.images[row]))
            storage.write_durably(path.with_suffix(".txt"), _labels(mini_batch, row))
    report = _report(spec, diagnosis, error)
    text = json.dumps(report, indent=1).encode()
    storage.write_durably(folder / "report.json", text + b"\n")


def _png(image: Pixels) -> bytes:
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image
    _, data = cv2.imencode(".png", pixels)
    return bytes(data.tobytes())


def _labels(mini_batch: MiniBatch, row: int) -> bytes:
    """Return the boxes of one picture as Darknet writes labels: class, x, y, w, h."""
    lines = [
        f"{number} " + " ".join(f"{value:.9g}" for value in box)
        for number, box in zip(
            mini_batch.classes[row].tolist(), mini_batch.boxes_xywh_rel[row].tolist(), strict=True
        )
        if number >= 0
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _report(spec: RunSpec, diagnosis: Diagnosis, error: NotFinite) -> dict[str, Any]:
    cfg, cause = spec.recipe.cfg, diagnosis.cause
    first = None
    if cause is not None:
        first = {
            "what": cause.what,
            "layer": cause.layer,
            "cfg": f"{cfg.path}:{cfg.layers[cause.layer].line}",
            "subdivision": None if cause.subdivision is None else cause.subdivision + 1,
            "pictures": [
                picture["file"]
                for picture in _named(spec, diagnosis, cause)
                if cause.what not in PARAMETERS.values()
            ],
        }
    height, width = diagnosis.batch[0].images.shape[1:3]
    return {
        "iteration": diagnosis.iteration,
        "found": error.found,
        "first": first,
        "width": width,
        "height": height,
        "subdivisions": [
            {
                "heads": [
                    {"layer": layer, **dict(zip(_PARTS, map(_number, head), strict=True))}
                    for layer, head in zip(head_layers(cfg), losses.tolist(), strict=True)
                ],
                "pictures": entries,
            }
            for losses, entries in zip(diagnosis.losses, _pictures(spec, diagnosis), strict=True)
        ],
    }


_PARTS = ("box_loss", "objectness_loss", "class_loss")


def _number(value: float) -> float | str:
    """Return a number as JSON can hold it, which knows neither NaN nor infinity."""
    return value if math.isfinite(value) else str(value)
