"""Is it still the same run: every difference between two recipes, and its meaning."""

from dataclasses import replace

import numpy as np
import pytest

from relume.checkpoint.course import (
    CHANGE,
    Meaning,
    differences,
    new_course,
    same_run,
    with_change,
)
from relume.checkpoint.state import Mark, RecipeRecord, TrainState
from tests.checkpoint.states import history_of, recipe_of, tiny_cfg, tiny_state

STEPS = {"policy": "steps", "steps": "50,80", "scales": ".1,.1"}


def state_under(cfg_text: str, iteration: int = 60) -> TrainState:
    return replace(tiny_state(3, cfg_text), history=history_of(iteration))


def verdicts(then: str, now: str, iteration: int = 60) -> dict[str, str]:
    found = differences(state_under(then, iteration), recipe_of(now))
    return {d.key: d.meaning.name for d in found}


def test_equal_recipes_do_not_differ() -> None:
    text = tiny_cfg()
    written_otherwise = "# a comment\r\n" + text.replace("=", " = ")

    assert verdicts(text, written_otherwise) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", 4), ("subdivisions", 2), ("width", 64), ("momentum", 0.8), ("decay", 0.1),
        ("saturation", 2), ("exposure", 2), ("hue", 0.2), ("flip", 0), ("letter_box", 1),
        ("blur", 3), ("gaussian_noise", 20), ("mixup", 1),
        ("mosaic", 1),
    ],
)  # fmt: skip
def test_what_changes_a_number_changes_the_course(key: str, value: object) -> None:
    assert verdicts(tiny_cfg(), tiny_cfg(**{key: value})) == {f"net.{key}": "COURSE"}


@pytest.mark.parametrize(
    ("line", "other", "key", "meaning"),
    [
        ("ignore_thresh=0.7", "ignore_thresh=0.5", "3.yolo.ignore_thresh", "COURSE"),
        ("anchors=10,10", "anchors=10,11", "3.yolo.anchors_px", "COURSE"),
        ("jitter=0", "jitter=0.3", "3.yolo.jitter", "COURSE"),
        ("filters=3", "filters=3\nlearning_rate=2", "0.convolutional.learning_rate", "COURSE"),
        ("jitter=0", "jitter=0\nnms_kind=diounms", "3.yolo.nms_kind", "OBSERVATION"),
        ("filters=3", "filters=5", "0.convolutional.filters", "IMPOSSIBLE"),
        ("max_batches=20", "max_batches=20\nadam=1", "net.adam", "IMPOSSIBLE"),
    ],
)
def test_every_kind_of_key_has_its_verdict(line: str, other: str, key: str, meaning: str) -> None:
    text = tiny_cfg()

    assert verdicts(text, text.replace(line, other, 1)) == {key: meaning}


def test_another_layer_is_another_network() -> None:
    text = tiny_cfg()
    longer = text.replace("[convolutional]", "[maxpool]\nsize=2\nstride=1\n\n[convolutional]", 1)

    assert "IMPOSSIBLE" in verdicts(text, longer).values()


@pytest.mark.parametrize(
    ("changes", "iteration", "meaning"),
    [
        ({"max_batches": 500}, 60, "HARMLESS"),
        ({"steps": "50,90"}, 60, "HARMLESS"),
        ({"steps": "50,61"}, 60, "HARMLESS"),
        ({"steps": "50,60"}, 60, "COURSE"),
        ({"steps": "40,80"}, 60, "COURSE"),
        ({"steps": "40,80"}, 39, "HARMLESS"),
        ({"scales": ".1,.5"}, 79, "HARMLESS"),
        ({"scales": ".1,.5"}, 80, "COURSE"),
        ({"burn_in": 1}, 60, "HARMLESS"),  # the first update has number 1 already
        ({"burn_in": 2}, 60, "COURSE"),
        ({"burn_in": 2}, 0, "HARMLESS"),
        ({"learning_rate": 0.002}, 1, "COURSE"),
        ({"learning_rate": 0.002}, 0, "HARMLESS"),
        ({"power": 2}, 60, "HARMLESS"),
        ({"resize_step": 16}, 60, "HARMLESS"),  # without random= nothing is resized
    ],
    ids=str,
)
def test_a_schedule_is_harmless_where_nothing_done_so_far_would_differ(
    changes: dict[str, object], iteration: int, meaning: str
) -> None:
    options: dict[str, object] = {"max_batches": 200, **STEPS}

    found = verdicts(tiny_cfg(**options), tiny_cfg(**(options | changes)), iteration)

    assert found.pop(f"net.{next(iter(changes))}") == meaning
    assert set(found) <= {"net.sgdr_cycle"}  # which is max_batches where the cfg says nothing


@pytest.mark.parametrize(("iteration", "meaning"), [(110, "HARMLESS"), (111, "COURSE")])
def test_the_end_of_a_multi_scale_run_cannot_move_below_what_is_done(
    iteration: int, meaning: str
) -> None:
    """The last hundred iterations have the largest size: with max_batches=200 from 111 on."""
    text = tiny_cfg(max_batches=200).replace("random=0", "random=1")
    longer = text.replace("max_batches=200", "max_batches=400")

    assert verdicts(text, longer, iteration)["net.max_batches"] == meaning


def test_iterations_before_an_allowed_change_do_not_count() -> None:
    options: dict[str, object] = {"max_batches": 200, **STEPS}
    then, now = tiny_cfg(**options), tiny_cfg(**{**options, "burn_in": 30})
    marks = (Mark(40, CHANGE, "x"), Mark(55, "environment", "y"))
    state = replace(state_under(then), history=history_of(60, marks))

    (found,) = differences(state, recipe_of(now))

    assert found.meaning is Meaning.HARMLESS


def test_iterations_that_darknet_did_do_not_count() -> None:
    options: dict[str, object] = {"max_batches": 200, **STEPS}
    then, now = tiny_cfg(**options), tiny_cfg(**{**options, "burn_in": 30})
    state = replace(state_under(then), history=history_of(20, start=40))

    (found,) = differences(state, recipe_of(now))

    assert found.meaning is Meaning.HARMLESS


def with_labels(recipe: RecipeRecord, *digests: int) -> RecipeRecord:
    return replace(recipe, label_digests=np.array(digests, np.uint64))


def test_changed_labels_are_named_by_picture_and_told_with_their_place() -> None:
    now = with_labels(recipe_of(tiny_cfg()), 1, 9, 3)

    (one,) = differences(tiny_state(), now, lambda row: f"train.txt:{row + 5}")
    (two,) = differences(tiny_state(), with_labels(now, 1, 9, 9))

    assert one.key == "labels of picture 2"
    assert one.told().startswith("train.txt:6: labels of picture 2: ")
    assert "train.txt" not in str(one)
    assert two.key == "labels of picture 2 and 1 more"
    assert one.meaning is two.meaning is Meaning.COURSE
    assert one.now != two.now


def test_another_image_list_is_one_difference_not_one_per_label() -> None:
    recipe = recipe_of(tiny_cfg())
    now = with_labels(replace(recipe, keys={**recipe.keys, "images": "2 pictures y"}), 4, 5)

    (found,) = differences(tiny_state(), now)

    assert str(found) == "images: 3 pictures x -> 2 pictures y (changes the course)"


def test_other_start_weights_cannot_be_allowed() -> None:
    recipe = recipe_of(tiny_cfg())
    now = replace(recipe, keys={**recipe.keys, "start": "123"})

    (found,) = differences(tiny_state(), now)

    assert str(found) == "start: random -> 123 (cannot change within a run)"


def test_a_course_is_that_of_the_recipe_but_for_schedule_and_detection() -> None:
    course = new_course(recipe_of(tiny_cfg()))
    longer = new_course(recipe_of(tiny_cfg(max_batches=99)))
    others = [
        new_course(recipe_of(tiny_cfg(), seed=1)),
        new_course(recipe_of(tiny_cfg(batch=4))),
        new_course(with_labels(recipe_of(tiny_cfg()), 1, 2, 4)),
    ]

    assert longer == course
    assert len({course, *others}) == 4


@pytest.mark.parametrize(
    "keys",
    [{"blur": 0, "gaussian_noise": 0, "mixup": 0, "cutmix": 1, "mosaic": 0}, {"mosaic_bound": 1}],
    ids=str,
)
def test_kinds_of_augmentation_that_are_off_leave_the_recipe_as_it_was(
    keys: dict[str, object],
) -> None:
    recipe = recipe_of(tiny_cfg(**keys))

    assert recipe.keys == recipe_of(tiny_cfg()).keys
    assert recipe.keys["net.letter_box"] == "False"
    assert not any(name in key for key in recipe.keys for name in keys)
    without = {key: value for key, value in recipe.keys.items() if key != "net.letter_box"}
    assert new_course(replace(recipe, keys=without)) == new_course(recipe)


def test_an_allowed_change_enters_marks_and_course() -> None:
    state, now = tiny_state(), recipe_of(tiny_cfg(batch=4, momentum=0.8))
    found = differences(state, now)

    changed = with_change(state, now, found)

    assert changed.course != state.course
    assert changed.recipe is now
    assert changed.history.marks == (
        Mark(3, CHANGE, "net.batch: 2 -> 4 (changes the course)"),
        Mark(3, CHANGE, "net.momentum: 0.9 -> 0.8 (changes the course)"),
    )
    assert with_change(state, now, found).course == changed.course
    assert with_change(tiny_state(4), now, found).course != changed.course


def test_a_harmless_change_leaves_no_mark() -> None:
    state, now = tiny_state(), recipe_of(tiny_cfg(max_batches=21))

    changed = with_change(state, now, differences(state, now))

    assert (changed.course, changed.history) == (state.course, state.history)
    assert changed.recipe is now


def test_a_run_is_the_same_where_one_history_begins_with_the_other() -> None:
    three, five = tiny_state(3), tiny_state(5)
    records = five.history.records.copy()
    records[1]["digest"] = bytes(16)
    diverged = replace(five, history=replace(five.history, records=records))

    assert same_run(three, five)
    assert same_run(five, three)
    assert not same_run(three, diverged)
    assert not same_run(three, replace(five, course="c1"))
    assert not same_run(three, replace(five, history=history_of(5, start=1)))
