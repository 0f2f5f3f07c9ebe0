"""Is this still the same run? Compares the recipe in a checkpoint with today's, key by key.

A run is its course: the recipe at iteration 0 plus every allowed change. What differs gets a
meaning; `docs/checkpoint-format.md` says what each means.
"""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from relume.checkpoint.state import History, Mark, RecipeRecord, TrainState
from relume.formats.cfg import parse_cfg
from relume.schedule import RESIZE_EVERY, input_size, learning_rate


class Meaning(enum.Enum):
    """What a difference between two recipes means for the run."""

    OBSERVATION = "changes no weight"
    HARMLESS = "the same up to here"
    COURSE = "changes the course"
    IMPOSSIBLE = "cannot change within a run"


@dataclass(frozen=True)
class RecipeDifference:
    """One key that differs."""

    key: str
    then: str
    now: str
    meaning: Meaning
    place: str = ""
    """Where to look, for a person; a path, so no part of what is recorded."""

    def __str__(self) -> str:
        return f"{self.key}: {self.then} -> {self.now} ({self.meaning.value})"

    def told(self) -> str:
        """Return the difference as a person is told it."""
        return f"{self.place}: {self}" if self.place else str(self)


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
DETECTION = frozenset(["nms_kind", "beta_nms"])
EVALUATION = "map."
"""How the keys of `-map` begin."""
WITHOUT_EFFECT = "net.letter_box", "False"
"""Stands in every recipe and in no course: letter_box was once a key of detection only."""
ABSENT = "absent"
CHANGE = "change"
"""Kind of the marks that allowed changes leave."""


def new_course(recipe: RecipeRecord) -> str:
    """Return the course of a run that starts with this recipe.

    Schedule keys are left out: whether one of them changed the run is computed, so a run
    whose max_batches is raised stays the same run.
    """
    hasher = xxhash.xxh3_128()
    for key in sorted(recipe.keys):
        if (key, recipe.keys[key]) == WITHOUT_EFFECT:
            continue
        if not _of_schedule(key) and not _of_detection(key):  # nor the keys of -map
            hasher.update(f"{key}={recipe.keys[key]}\n".encode())
    hasher.update(np.ascontiguousarray(recipe.label_digests).data)
    return hasher.hexdigest()


def differences(
    state: TrainState, now: RecipeRecord, places: Callable[[int], str] = str
) -> tuple[RecipeDifference, ...]:
    """Return what differs between a state's recipe and today's, each with its meaning.

    Args:
        state: with the recipe it was computed under.
        now: today's recipe.
        places: names a row of today's image list, for the message about a changed label.
    """
    then = state.recipe
    keys = sorted(then.keys.keys() | now.keys.keys())
    changed = [key for key in keys if then.keys.get(key) != now.keys.get(key)]
    impossible = any(_of_shape(key) for key in changed)
    same_so_far = (
        not impossible
        and any(_of_schedule(key) for key in changed)
        and _same_schedule(then, now, _done_under_this_recipe(state))
    )
    found = []
    for key in changed:
        meaning = Meaning.COURSE
        if _of_shape(key) or key == "start":
            meaning = Meaning.IMPOSSIBLE
        elif _of_detection(key):
            meaning = Meaning.OBSERVATION
        elif _of_schedule(key) and same_so_far:
            meaning = Meaning.HARMLESS
        pair = (then.keys.get(key, ABSENT), now.keys.get(key, ABSENT))
        found.append(RecipeDifference(key, *pair, meaning))
    if "images" not in changed:
        found.extend(_changed_labels(then, now, places))
    return tuple(found)


def with_change(
    state: TrainState, now: RecipeRecord, changes: Iterable[RecipeDifference]
) -> TrainState:
    """Return the state under today's recipe, with allowed changes recorded in its course."""
    texts = [str(change) for change in changes if change.meaning is Meaning.COURSE]
    hasher = xxhash.xxh3_128(f"{state.course}\n{state.iteration}\n".encode())
    history = state.history
    for text in texts:
        hasher.update(f"{text}\n".encode())
        history = history.marked(Mark(state.iteration, CHANGE, text))
    course = hasher.hexdigest() if texts else state.course
    return replace(state, recipe=now, course=course, history=history)


def same_run(one: TrainState, other: TrainState) -> bool:
    """Tell whether one state lies on the way to the other: training leads from it there.

    The course leaves the schedule out, so the histories have the last word: one begins with
    the other, digest by digest.
    """
    done = min(one.iteration, other.iteration)
    return one.course == other.course and _agree_until(done, one.history, other.history)


def is_on_the_way(one: TrainState, other: TrainState) -> bool:
    """Tell whether the run of `other` was in this state, under whatever recipe."""
    count = len(one.history.evaluations)
    return (
        one.iteration <= other.iteration
        and one.history.evaluations == other.history.evaluations[:count]
        and _agree_until(one.iteration, one.history, other.history)
    )


def parted_by_change(one: TrainState, other: TrainState) -> bool:
    """Tell whether two courses were one run until an allowed change in one of them."""
    changes = [
        mark.iteration for mark in (*one.history.marks, *other.history.marks) if mark.kind == CHANGE
    ]
    done = min([one.iteration, other.iteration, *changes])
    began = done > one.history.start
    return bool(changes) and began and _agree_until(done, one.history, other.history)


def _agree_until(iteration: int, one: History, other: History) -> bool:
    count = iteration - one.start
    same = one.records[:count].tobytes() == other.records[:count].tobytes()
    return one.start == other.start and same


def _changed_labels(
    then: RecipeRecord, now: RecipeRecord, places: Callable[[int], str]
) -> list[RecipeDifference]:
    if then.label_digests.shape != now.label_digests.shape:
        return []  # a long list has none, and had them before there were indexes
    if np.array_equal(then.label_digests, now.label_digests):
        return []
    rows = np.flatnonzero(then.label_digests != now.label_digests)
    first = int(rows[0])
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    old, new = (xxhash.xxh3_64_hexdigest(r.label_digests.tobytes()) for r in (then, now))
    key = f"labels of picture {first + 1}{more}"
    return [RecipeDifference(key, old, new, Meaning.COURSE, places(first))]


def _done_under_this_recipe(state: TrainState) -> range:
    """Return the iterations that were computed under the recipe the state holds."""
    changes = [mark.iteration for mark in state.history.marks if mark.kind == CHANGE]
    return range(max([state.history.start, *changes]) + 1, state.iteration + 1)


def _same_schedule(then: RecipeRecord, now: RecipeRecord, iterations: range) -> bool:
    """Tell whether rate and input size of all these iterations are the same."""
    (old, old_seed), (new, new_seed) = (
        (parse_cfg(recipe.cfg_text, "recipe/cfg", "train"), int(recipe.keys["seed"]))
        for recipe in (then, now)
    )
    return all(learning_rate(old.net, i) == learning_rate(new.net, i) for i in iterations) and all(
        input_size(old, old_seed, i) == input_size(new, new_seed, i)
        for i in iterations
        if i == iterations[0] or i % RESIZE_EVERY == 1  # a size holds for ten iterations
    )


def same_partial(state: TrainState, now: RecipeRecord) -> bool:
    """Tell whether an iteration that has begun goes on under today's recipe.

    Said of harmless differences, which leave one thing open: the input size from here on.
    """
    if not state.subdivision:
        return True
    sizes = [
        input_size(
            parse_cfg(recipe.cfg_text, "recipe/cfg", "train"),
            int(recipe.keys["seed"]),
            state.iteration + 1,
        )
        for recipe in (state.recipe, now)
    ]
    return sizes[0] == sizes[1]


def _of_schedule(key: str) -> bool:
    section, _, name = key.rpartition(".")
    return (section == "net" and name in SCHEDULE) or key.endswith(".yolo.random")


def _of_detection(key: str) -> bool:
    """Tell whether a key changes what is found or measured, and no weight."""
    return key.rpartition(".")[2] in DETECTION or key.startswith(EVALUATION)


def _of_shape(key: str) -> bool:
    section, _, name = key.rpartition(".")
    if section == "net":
        return name in ("channels", "adam")
    if not section[:1].isdigit():
        return False  # a key of the data file
    return name not in TRAINING_OF_LAYERS and name not in DETECTION
