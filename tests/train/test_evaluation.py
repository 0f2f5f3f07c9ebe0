"""When a run is evaluated, and what may be compared: functions of recipe and state."""

from dataclasses import replace

import numpy as np
import pytest

from relume.checkpoint import container
from relume.checkpoint.evaluations import (
    best_of,
    comparable,
    is_best,
    measure_of,
    with_best,
    without_a_better_one,
)
from relume.checkpoint.state import Measured, TrainState
from relume.formats.cfg import parse_cfg
from relume.formats.sections import Net
from relume.schedule import evaluation_interval, is_evaluated, next_evaluation
from tests.cfg_texts import small_cfg
from tests.checkpoint.states import tiny_state

DIGESTS = np.arange(1, 4, dtype=np.uint64)


def net_of(**values: object) -> Net:
    net = parse_cfg(small_cfg(max_batches=1000), "net.cfg", "train").net
    return replace(net, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "epochs", "interval"),
    [(291, 4, 100), (1600, 4, 400), (1601, 4, 400), (1605, 4, 401), (1600, 1, 100), (7, 1, 100)],
)
def test_the_interval_is_so_many_epochs_but_at_least_100_iterations(
    images: int, epochs: int, interval: int
) -> None:
    assert evaluation_interval(net_of(batch=16), images, epochs) == interval


@pytest.mark.parametrize(
    ("burn_in", "interval", "evaluated"),
    [
        (0, 300, [300, 600, 900, 1000]),
        (300, 300, [300, 600, 900, 1000]),
        (450, 300, [450, 750, 1000]),
        (0, 500, [500, 1000]),
        (0, 5000, [1000]),
        (1000, 100, [1000]),
    ],
)
def test_evaluations_begin_behind_burn_in_and_end_with_the_run(
    burn_in: int, interval: int, evaluated: list[int]
) -> None:
    net = net_of(burn_in=burn_in)

    found = [i for i in range(net.max_batches + 1) if is_evaluated(net, interval, i)]

    assert found == evaluated
    for iteration in range(net.max_batches):
        following = next(i for i in evaluated if i > iteration)
        assert next_evaluation(net, interval, iteration) == following


def with_values(*values: float, state: TrainState | None = None, measure: int = 0) -> TrainState:
    """Return a state after iteration 3 with evaluations after 1, 2, 3."""
    state = state or tiny_state()
    measure = measure or measure_of(state.recipe.keys, DIGESTS)
    done = tuple(Measured(i, value, measure) for i, value in enumerate(values, 1))
    return replace(state, history=replace(state.history, evaluations=done, valid_digests=DIGESTS))


def test_the_best_is_the_first_of_the_highest() -> None:
    state = with_values(0.25, 0.5, 0.5)

    best = best_of(comparable(state))

    assert best == state.history.evaluations[1]
    assert not is_best(state)
    assert without_a_better_one(state) == 1
    assert is_best(with_values(0.25, 0.5, 0.75))


def test_only_what_was_measured_alike_and_without_a_break_is_compared() -> None:
    state = with_values(0.9, 0.5, 0.25)
    one, two, three = state.history.evaluations
    other = replace(two, measure=7)
    broken = replace(state, history=replace(state.history, evaluations=(one, other, three)))

    assert comparable(broken) == (three,)
    assert is_best(broken)
    assert [best for _, best in with_best(broken.history.evaluations)] == [one, other, three]
    elsewhere = replace(state.history, valid_digests=DIGESTS[::-1])
    assert comparable(replace(state, history=elsewhere)) == ()


@pytest.mark.parametrize(
    ("key", "matters"),
    [
        ("map.valid", True),
        ("map.labels", True),
        ("map.iou_thresh", True),
        ("net.width", True),
        ("2.yolo.nms_kind", True),
        ("map.epochs", False),
        ("map.patience", False),
        ("net.learning_rate", False),
        ("images", False),
    ],
)
def test_what_a_value_was_measured_by(key: str, matters: bool) -> None:
    keys = tiny_state().recipe.keys

    assert (measure_of(keys, DIGESTS) != measure_of({**keys, key: "x"}, DIGESTS)) == matters


def test_a_checkpoint_holds_evaluations_and_one_without_has_no_place_for_them() -> None:
    state = with_values(0.1, 1 / 3, 0.25)
    data = container.pack(state)

    found = container.unpack(data, "x")

    assert found.history.evaluations == state.history.evaluations
    assert found.history.valid_digests.tolist() == DIGESTS.tolist()
    assert container.pack(found) == data
    assert container.read_manifest(data)["evaluations"] == 3
    assert state.digest() == tiny_state().digest()
    assert b"evaluations" not in container.pack(tiny_state())
