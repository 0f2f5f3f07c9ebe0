"""Clusters of box shapes: known cases, what holds for all, and the same bits every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.datasets import anchors
from relume.datasets.anchors import Shapes, cluster_shapes, format_anchors, shape_iou
from relume.datasets.anchors_chart import draw_clusters
from relume.draws import draw_uniforms

TWO_KINDS = np.array([(10, 10), (110, 90), (12, 12), (100, 100), (11, 11), (90, 110)], np.float64)
"""Two clusters whose means are boxes of their own: every mean by hand is 11x11 or 100x100."""


def random_shapes(count: int, seed: int = 0) -> Shapes:
    uniforms = draw_uniforms(seed, "test", (), 2 * count).astype(np.float64)
    return 5 + 200 * uniforms.reshape(count, 2) ** 3


def test_two_kinds_of_boxes_give_the_anchors_computed_by_hand() -> None:
    found = cluster_shapes(TWO_KINDS, 2, seed=0)

    assert found.anchors_px.tolist() == [[11, 11], [100, 100]]
    assert found.assignments.tolist() == [0, 1, 0, 1, 0, 1]
    small, large = 100 / 121 + 1 + 121 / 144, 1 + 2 * 9000 / (9900 + 10000 - 9000)
    assert found.average_iou == pytest.approx((small + large) / 6, rel=1e-12)  # order of a sum


def test_the_iou_of_shapes_is_that_of_boxes_with_one_centre() -> None:
    boxes = np.array([[20.0, 10], [10, 20], [5, 40]])

    assert shape_iou(boxes, (10, 20)).tolist() == [100 / 300, 1.0, 100 / 300]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.tuples(*[st.floats(0.01, 1e4)] * 2), min_size=1, max_size=30),
    count=st.integers(1, 5),
    seed=st.integers(0, 2**64),
)
def test_every_box_has_its_best_anchor_and_the_average_is_theirs(
    sizes: list[tuple[float, float]], count: int, seed: int
) -> None:
    boxes = np.array(sizes)
    count = min(count, len(np.unique(boxes, axis=0)))

    found = cluster_shapes(boxes, count, seed)

    iou = np.stack([shape_iou(boxes, anchor) for anchor in found.anchors_px.tolist()], axis=1)
    best = iou[np.arange(len(boxes)), found.assignments]
    assert (best == iou.max(axis=1)).all()
    assert found.average_iou == pytest.approx(best.mean(), rel=1e-9)  # order of a sum
    assert (np.diff(found.anchors_px.prod(axis=1)) >= 0).all()
    assert found.anchors_px.shape == (count, 2)


def test_as_many_anchors_as_shapes_fit_exactly() -> None:
    boxes = np.repeat(random_shapes(7), 3, axis=0)

    assert cluster_shapes(boxes, 7, seed=3).average_iou == 1


def test_more_anchors_than_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="4 anchors of 3 different shapes"):
        cluster_shapes(np.repeat(random_shapes(3), 5, axis=0), 4, seed=0)


def test_the_seed_alone_decides_and_every_start_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = random_shapes(300)
    one, again, other = (cluster_shapes(boxes, 6, seed) for seed in (1, 1, 2))
    monkeypatch.setattr(anchors, "RESTARTS", 1)
    single = [cluster_shapes(boxes, 6, seed) for seed in (1, 2)]

    assert one.anchors_px.tobytes() == again.anchors_px.tobytes()
    assert one.anchors_px.tobytes() != other.anchors_px.tobytes()
    assert one.average_iou > single[0].average_iou or other.average_iou > single[1].average_iou


def test_of_many_boxes_the_starts_see_a_sample_and_the_end_sees_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boxes = random_shapes(600)
    whole = cluster_shapes(boxes, 4, seed=0)
    monkeypatch.setattr(anchors, "SAMPLE", 200)

    sampled, again = (cluster_shapes(boxes, 4, seed=0) for _ in range(2))

    assert len(sampled.assignments) == 600
    assert sampled.anchors_px.tobytes() == again.anchors_px.tobytes()
    assert sampled.average_iou == pytest.approx(whole.average_iou, abs=0.01)  # another optimum


def test_known_anchors_of_a_seed_stay_what_they_are() -> None:
    found = cluster_shapes(random_shapes(300), 5, seed=7)

    assert format_anchors(found.anchors_px, 416) == "  9,  7,   5, 30,  78,  6,  11, 88,  83, 70"


@pytest.mark.parametrize(
    ("width", "text"), [(416, " 10, 14, 344,320"), (13, "10.4000,13.6000, 344.0000,319.5100")]
)
def test_anchors_are_written_as_darknet_does(width: int, text: str) -> None:
    assert format_anchors(np.array([(10.4, 13.6), (344, 319.51)]), width) == text


def test_the_picture_is_the_same_bytes_every_time_and_holds_many_anchors() -> None:
    boxes = random_shapes(200)
    for count in (1, 30):
        found = cluster_shapes(boxes, count, seed=0)
        one, again = (draw_clusters(boxes, found, "train.txt $x$ \udc80") for _ in range(2))

        assert one == again
        assert one.startswith(b"\x89PNG")
