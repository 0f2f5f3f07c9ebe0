"""Boxes stand where they belong; labels can be read and do not cover each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume import drawing
from relume.drawing import COLOURS, Edges, Label, Picture, draw_labels


def grey(width: int, height: int) -> Picture:
    return np.full((height, width, 3), 90, np.uint8)


def plates_of(picture: Picture, labels: list[Label]) -> list[Edges]:
    """Draw, and return where the plates are, the last label's first."""
    plates: list[Edges] = []
    draw = drawing._draw_text
    with pytest.MonkeyPatch.context() as patch:

        def noted(drawn: Picture, label: Label, plate: Edges, scale: float) -> None:
            plates.append(plate)
            draw(drawn, label, plate, scale)

        patch.setattr(drawing, "_draw_text", noted)
        draw_labels(picture, labels)
    return plates


def test_the_picture_given_is_not_touched() -> None:
    picture = grey(400, 300)
    draw_labels(picture, [Label("dog 81%", 0, (50, 60, 200, 250))])

    np.testing.assert_array_equal(picture, grey(400, 300))


def test_without_labels_a_large_picture_stays_as_it_is() -> None:
    picture = np.random.Generator(np.random.Philox(0)).integers(0, 256, (300, 400, 3), np.uint8)

    np.testing.assert_array_equal(draw_labels(picture, []), picture)


def test_a_box_has_its_colour_at_its_edges_and_leaves_its_inside_alone() -> None:
    drawn = draw_labels(grey(400, 300), [Label("dog 81%", 2, (50, 60, 200, 250))])

    for x, y in ((50, 150), (200, 150), (120, 250), (180, 60)):
        assert tuple(drawn[y, x]) == COLOURS[2]
    np.testing.assert_array_equal(drawn[70:240, 60:190], grey(130, 170))


def test_the_last_of_two_boxes_lies_on_top() -> None:
    box = (50, 60, 200, 250)
    drawn = draw_labels(grey(400, 300), [Label("a", 0, box), Label("b", 1, box)])

    assert tuple(drawn[150, 50]) == COLOURS[1]


@pytest.mark.parametrize("side_px", [1, 7, 64, 299])
def test_a_small_picture_is_enlarged_until_a_label_can_be_read(side_px: int) -> None:
    drawn = draw_labels(grey(2 * side_px, side_px), [Label("dog 81%", 0, (0, 0, side_px, side_px))])

    height, width = drawn.shape[:2]
    assert 300 <= height <= 2 * 300
    assert width == 2 * height


@pytest.mark.parametrize("size", [(300, 300), (640, 480), (4000, 3000), (3000, 301)])
def test_a_label_is_large_enough_to_read_and_small_enough_to_leave_the_picture(
    size: tuple[int, int],
) -> None:
    ((left, top, right, bottom),) = plates_of(
        grey(*size), [Label("dog 81%", 0, (100, 100, 200, 200))]
    )

    assert bottom - top >= 14
    assert bottom - top <= size[1] / 15
    assert right - left <= size[0] / 3


def test_labels_of_boxes_in_one_place_do_not_cover_each_other() -> None:
    box = (200, 150, 330, 260)
    labels = [Label(f"thing {i} 50%", i, (box[0] + i, *box[1:])) for i in range(6)]

    assert _covered(plates_of(grey(640, 480), labels)) == 0


def test_a_label_keeps_off_a_small_box_beside_its_own() -> None:
    large, small = (100, 130, 400, 400), (110, 105, 135, 125)
    labels = [Label("bird 30%", 0, small), Label("horse 90%", 1, large)]
    horse, _ = plates_of(grey(640, 480), labels)

    assert drawing._overlap(horse, small) == 0


def test_a_long_label_shrinks_to_the_width_of_the_picture() -> None:
    ((left, _, right, _),) = plates_of(
        grey(300, 600), [Label("a name as long as names get " * 2, 0, (280, 20, 299, 80))]
    )

    assert left >= 0
    assert right <= 300


coordinate = st.floats(-100, 900, width=32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.lists(
        st.tuples(st.text(max_size=30), st.integers(0, 300), st.tuples(*[coordinate] * 4)),
        max_size=5,
    ),
)
def test_any_labels_can_be_drawn_and_plates_stay_inside(
    width: int, height: int, parts: list[tuple[str, int, tuple[float, float, float, float]]]
) -> None:
    labels = [Label(text, kind, box) for text, kind, box in parts]
    drawn = draw_labels(grey(width, height), labels)

    for left, top, right, bottom in plates_of(grey(width, height), labels):
        assert 0 <= left <= right <= drawn.shape[1]
        assert 0 <= top <= bottom <= drawn.shape[0]


def _covered(plates: list[Edges]) -> int:
    return sum(drawing._overlap(a, b) for i, a in enumerate(plates) for b in plates[:i])
