"""Is this still the same run? Compares the recipe in a checkpoint with today's, key by key.

A run is its course: the recipe at iteration 0 plus every allowed change. What differs gets a
verdict; `docs/checkpoint-format.md` says what each means.
"""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from relume.checkpoint.state import Mark, RecipeRecord, TrainState
from relume.formats.cfg import parse_cfg
from relume.formats.sections import Cfg
from relume.schedule import input_size, learning_rate


class Verdict(enum.Enum):
    """What a difference between two recipes means for the run."""

    OBSERVATION = "changes no weight"
    HARMLESS = "the same up to here"
    COURSE = "changes the course"
    IMPOSSIBLE = "another network"


@dataclass(frozen=True)
class Difference:
    """One key that differs."""

    key: str
    then: str
    now: str
    verdict: Verdict

    def __str__(self) -> str:
        return f"{self.key}: {self.then} -> {self.now} ({self.verdict.value})"


SCHEDULE = frozenset(
    {
        "learning_rate",
        "learning_rate_min",
        "burn_in",
        "power",
        "policy",
        "step",
        "scale",
        "steps",
        "scales",
        "gamma",
        "sgdr_cycle",
        "sgdr_mult",
        "max_batches",
        "resize_step",
    }
)
TRAINING_OF_LAYERS = frozenset(
    {
        "learning_rate",
        "probability",
        "anchors_px",
        "max",
        "jitter",
        "resize",
        "ignore_thresh",
        "truth_thresh",
        "random",
        "iou_normalizer",
        "obj_normalizer",
        "scale_x_y",
    }
)
"""Keys of layers that steer the training and leave the network's shape alone."""
DETECTION = frozenset(["nms_kind", "beta_nms", "letter_box"])
ABSENT = "absent"


def new_course(recipe: RecipeRecord) -> str:
    """Return the course of a run that starts with this recipe.

    Schedule keys are left out: whether one of them changed the run is computed, so a run
    whose max_batches is raised stays the same run.
    """
    hasher = xxhash.xxh3_128()
    for key in sorted(recipe.keys):
        if not _of_schedule(key) and not _of_detection(key):
            hasher.update(f"{key}={recipe.keys[key]}\n".encode())
    hasher.update(np.ascontiguousarray(recipe.label_digests).data)
    return hasher.hexdigest()


def differences(
    then: RecipeRecord, now: RecipeRecord, iterations: int, places: Callable[[int], str] = str
) -> tuple[Difference, ...]:
    """Return what differs between two recipes after `iterations` updates, each with its verdict.

    Args:
        then: the recipe in the checkpoint.
        now: today's recipe.
        iterations: updates done under `then`.
        places: names a line of today's image list, for the message about a changed label.
    """
    keys = sorted(then.keys.keys() | now.keys.keys())
    changed = [key for key in keys if then.keys.get(key) != now.keys.get(key)]
    impossible = any(_of_shape(key) for key in changed)
    same_so_far = (
        not impossible
        and any(_of_schedule(key) for key in changed)
        and _same_schedule(_cfg(then), _cfg(now), then, now, iterations)
    )
    found = []
    for key in changed:
        verdict = Verdict.COURSE
        if _of_shape(key):
            verdict = Verdict.IMPOSSIBLE
        elif _of_detection(key):
            verdict = Verdict.OBSERVATION
        elif _of_schedule(key) and same_so_far:
            verdict = Verdict.HARMLESS
        pair = (then.keys.get(key, ABSENT), now.keys.get(key, ABSENT))
        found.append(Difference(key, *pair, verdict))
    if "images" not in changed:
        found.extend(_changed_labels(then, now, places))
    return tuple(found)


def with_change(state: TrainState, now: RecipeRecord, changes: Iterable[Difference]) -> TrainState:
    """Return the state under today's recipe, with allowed changes recorded in its course."""
    texts = [str(change) for change in changes if change.verdict is Verdict.COURSE]
    hasher = xxhash.xxh3_128(f"{state.course}\n{state.iteration}\n".encode())
    history = state.history
    for text in texts:
        hasher.update(f"{text}\n".encode())
        history = history.marked(Mark(state.iteration, "change", text))
    course = hasher.hexdigest() if texts else state.course
    return replace(state, recipe=now, course=course, history=history)


def _changed_labels(
    then: RecipeRecord, now: RecipeRecord, places: Callable[[int], str]
) -> list[Difference]:
    if np.array_equal(then.label_digests, now.label_digests):
        return []
    rows = np.flatnonzero(then.label_digests != now.label_digests)
    first = int(rows[0])
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    pair = (f"{int(then.label_digests[first]):016x}", f"{int(now.label_digests[first]):016x}")
    return [Difference(f"labels of {places(first)}{more}", *pair, Verdict.COURSE)]


def _same_schedule(
    old: Cfg, new: Cfg, then: RecipeRecord, now: RecipeRecord, iterations: int
) -> bool:
    seeds = int(then.keys["seed"]), int(now.keys["seed"])
    return all(
        learning_rate(old.net, i) == learning_rate(new.net, i)
        and input_size(old, seeds[0], i) == input_size(new, seeds[1], i)
        for i in range(1, iterations + 1)
    )


def _cfg(recipe: RecipeRecord) -> Cfg:
    return parse_cfg(recipe.cfg_text, "recipe/cfg", "train")


def _of_schedule(key: str) -> bool:
    section, _, name = key.rpartition(".")
    return (section == "net" and name in SCHEDULE) or key.endswith(".yolo.random")


def _of_detection(key: str) -> bool:
    return key.rpartition(".")[2] in DETECTION


def _of_shape(key: str) -> bool:
    section, _, name = key.rpartition(".")
    if section == "net":
        return name in ("channels", "adam")
    if not section[:1].isdigit():
        return False  # a key of the data file
    return name not in TRAINING_OF_LAYERS and name not in DETECTION
