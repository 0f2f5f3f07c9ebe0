"""Boxes stand where they belong; labels can be read and do not cover each other."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume import drawing
from relume.drawing import COLOURS, Edges, Label, Pixels, draw_labels, in_ascii, ink_on

Floats = npt.NDArray[np.float64]

# Machado, Oliveira, Fernandes 2009: what linear RGB becomes for eyes without one kind of cone.
SEEN_BY = {
    "everybody": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def grey(width: int, height: int) -> Pixels:
    return np.full((height, width, 3), 90, np.uint8)


def plates_of(picture: Pixels, labels: list[Label]) -> list[Edges]:
    """Draw, and return where the plates are, the last label's first."""
    plates: list[Edges] = []
    draw = drawing._draw_text
    with pytest.MonkeyPatch.context() as patch:

        def noted(drawn: Pixels, label: Label, plate: Edges, scale: float) -> None:
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Blutkörperchen 9%", "Blutkorperchen 9%"), ("weiß", "weiss"), ("血小板", "???"), ("a", "a")],
)
def test_a_letter_that_the_font_lacks_loses_its_accent_or_is_one_mark(
    text: str, shown: str
) -> None:
    box = (20, 60, 200, 180)

    assert in_ascii(text) == shown
    drawn = draw_labels(grey(400, 300), [Label(text, 0, box)])
    assert np.array_equal(drawn, draw_labels(grey(400, 300), [Label(shown, 0, box)]))


def test_a_long_label_shrinks_to_the_width_of_the_picture() -> None:
    ((left, _, right, _),) = plates_of(
        grey(300, 600), [Label("a name as long as names get " * 2, 0, (280, 20, 299, 80))]
    )

    assert left >= 0
    assert right <= 300


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_any_two_colours_are_far_apart_for_everybody(eyes: str) -> None:
    seen = [_lab(np.clip(np.array(SEEN_BY[eyes]) @ _linear(colour), 0, 1)) for colour in COLOURS]
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]

    # CIE76; 2.3 is a difference that is just noticed.
    assert min(apart) > 15


def test_of_a_red_and_a_green_the_measure_says_that_deuteranopes_see_one_colour() -> None:
    red, green = _linear((200, 40, 40)), _linear((90, 130, 20))
    eyes = np.array(SEEN_BY["deuteranopia"])

    assert np.linalg.norm(_lab(red) - _lab(green)) > 90
    assert np.linalg.norm(_lab(eyes @ red) - _lab(eyes @ green)) < 1


@pytest.mark.parametrize("colour", COLOURS)
def test_the_text_on_a_plate_can_be_read(colour: tuple[int, int, int]) -> None:
    dark, light = sorted(float(_linear(c) @ TO_XYZ[1]) for c in (colour, ink_on(colour)))

    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, level AA


TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
"""Of linear sRGB."""


def _linear(colour: tuple[int, int, int]) -> Floats:
    c = np.array(colour) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _lab(linear: Floats) -> Floats:
    """Return CIELAB of a colour in linear sRGB."""
    xyz = TO_XYZ @ linear / TO_XYZ.sum(1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array((116 * y - 16, 500 * (x - y), 200 * (y - z)))


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
