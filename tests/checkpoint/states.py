"""Small TrainStates that no training has made, for tests of files and folders."""

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from relume.checkpoint.state import RECORD, History, Mark, Progress, RecipeRecord, TrainState
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


def tiny_state(iteration: int = 3, cfg_text: str | None = None, course: str = "c0") -> TrainState:
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
        progress=Progress(seen=BATCH * iteration, average_loss=0.1 if iteration else None),
        history=history_of(iteration),
        recipe=recipe_of(text),
        course=course,
        environment={"torch": "2.13.0", "threads": "1"},
    )


def with_seen(state: TrainState, seen: int) -> TrainState:
    """Return the state with another count of images."""
    return replace(state, progress=replace(state.progress, seen=seen))


def _values(shape: tuple[int, ...], iteration: int) -> npt.NDArray[np.float32]:
    numbers = np.arange(np.prod(shape)) * 37 + 11 * iteration
    return (numbers % 101 / 101).astype(np.float32).reshape(shape)
