"""Small TrainStates that no training has made, for tests of files and folders."""

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from relume.checkpoint.state import (
    PARTIAL,
    RECORD,
    Array,
    History,
    Mark,
    Progress,
    RecipeRecord,
    TrainState,
)
from relume.formats.cfg import parse_cfg, recipe_keys
from relume.formats.weights import layout
from tests.cfg_texts import convolution, head, net

BATCH = 2
IMAGES = 3


@cache
def tiny_cfg(**options: object) -> str:
    """Return a net of two convolutions and a head: 7,000 bytes in a file."""
    layers = [convolution(3), convolution(4, stride=2), *head((0,), "10,10", 1)]
    shape = {"width": 32, "height": 32, "batch": BATCH, "subdivisions": 1}
    return "\n".join([net(**(shape | options)), *layers])  # type: ignore[arg-type]


def recipe_of(cfg_text: str, seed: int = 0) -> RecipeRecord:
    """Return the record of a recipe with this cfg."""
    cfg = parse_cfg(cfg_text, "net.cfg", "train")
    keys = {**recipe_keys(cfg), "seed": str(seed), "images": "3 pictures x", "start": "random"}
    labels = np.arange(1, IMAGES + 1, dtype=np.uint64)
    return RecipeRecord(cfg_text=cfg_text, keys=keys, names=("cell",), label_digests=labels)


def history_of(iterations: int, marks: tuple[Mark, ...] = (), start: int = 0) -> History:
    """Return a history with falling losses."""
    records = np.zeros(iterations, RECORD)
    numbers = start + np.arange(1, iterations + 1)
    records["loss"] = 10 / numbers
    records["box_loss"] = 4 / numbers
    records["objectness_loss"] = 6 / numbers
    records["rate"] = 0.001
    records["width"] = records["height"] = 32
    records["seen"] = BATCH * numbers
    for record, number in zip(records, numbers, strict=True):
        record["digest"] = int(number).to_bytes(16, "big")
    return History(start=start, records=records, marks=marks)


def tiny_state(
    iteration: int = 3, cfg_text: str | None = None, course: str = "c0" * 16
) -> TrainState:
    """Return a state after `iteration` updates; another iteration has other weights."""
    text = tiny_cfg() if cfg_text is None else cfg_text
    specs = layout(parse_cfg(text, "net.cfg", "train"))
    weights = {s.name: _values(s.shape, iteration) for s in specs}
    momentum = {s.name: _values(s.shape, -iteration) for s in specs if "rolling" not in s.name}
    return TrainState(
        weights=weights,
        groups={
            "momentum": momentum,
            "pictures": {"digests": np.arange(7, 7 + IMAGES, dtype=np.uint64)},
        },
        progress=Progress(seen=BATCH * iteration, average_loss=0.125 if iteration else None),
        history=history_of(iteration),
        recipe=recipe_of(text),
        course=course,
        environment={"torch": "2.13.0", "threads": "1"},
    )


def with_batch(state: TrainState, batch: int) -> TrainState:
    """Return the state as if it had been trained with another batch."""
    records = np.array(state.history.records)
    records["seen"] = records["seen"] // BATCH * batch
    return replace(
        state,
        recipe=recipe_of(tiny_cfg(batch=batch)),
        progress=replace(state.progress, seen=state.iteration * batch),
        history=replace(state.history, records=records),
    )


def inside(state: TrainState, subdivisions: int = 4, skipped: int = 0) -> TrainState:
    """Return the state with all but one subdivision of the next iteration, of one image each."""
    state = with_batch(state, subdivisions)
    state = replace(
        state, recipe=recipe_of(tiny_cfg(batch=subdivisions, subdivisions=subdivisions))
    )
    done = subdivisions - 1
    arrays: dict[str, Array] = {
        "subdivisions": np.array([done], np.uint32),
        "losses": np.array([4, 2, 1], np.float32),
        "rows": np.arange(done, dtype=np.int64) % IMAGES,
        "digests": np.arange(done, dtype=np.uint64) + 7,
    }
    if skipped:
        arrays["skipped_rows"] = np.arange(skipped, dtype=np.int64)
        arrays["skipped_digests"] = np.arange(skipped, dtype=np.uint64)
    for name, array in state.weights.items():
        layer, _, kind = name.partition(".")
        if kind == "rolling_mean":
            for number in range(done):
                arrays[f"statistics/{number}/{layer}.mean"] = np.asarray(array, np.float32) + number
                arrays[f"statistics/{number}/{layer}.variance"] = array
    for first, count in {1: ((0, 1),), 2: ((0, 2),), 3: ((0, 2), (2, 1))}[done]:
        for name, array in state.groups["momentum"].items():
            arrays[f"gradient/{first}-{count}/{name}"] = array
    return replace(
        state,
        groups={**state.groups, PARTIAL: arrays},
        progress=replace(state.progress, seen=state.iteration * subdivisions + done),
    )


def with_adam(state: TrainState) -> TrainState:
    """Return the state as Adam would have left it."""
    groups = {name: group for name, group in state.groups.items() if name != "momentum"}
    sums = state.groups["momentum"]
    return replace(
        state,
        recipe=recipe_of(tiny_cfg(adam=1)),
        groups={**groups, "adam_m": sums, "adam_v": sums},
    )


def _values(shape: tuple[int, ...], iteration: int) -> npt.NDArray[np.float32]:
    numbers = np.arange(np.prod(shape)) * 37 + 11 * iteration
    return (numbers % 101 / 101).astype(np.float32).reshape(shape)
