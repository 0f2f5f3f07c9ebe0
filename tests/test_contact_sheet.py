"""Tiles on a sheet: all of them, none over another, and captions that fit."""

import numpy as np
import pytest

from relume.contact_sheet import GAP_PX, LARGEST_SIDE_PX, Tile, contact_sheet
from relume.drawing import Label, Pixels


def tiles(count: int, width: int, height: int) -> list[Tile]:
    """Return plain tiles, each of another colour that no letter has."""
    return [
        Tile(np.full((height, width, 3), colour(number), np.uint8), (), ("first", "second"))
        for number in range(count)
    ]


def colour(number: int) -> tuple[int, int, int]:
    return 10 + number, 200, 30


@pytest.mark.parametrize(
    ("count", "width", "height"), [(1, 32, 32), (2, 608, 608), (7, 320, 192), (64, 96, 96)]
)
def test_every_picture_is_there_whole_and_the_sheet_is_no_larger_than_it_may_be(
    count: int, width: int, height: int
) -> None:
    sheet = contact_sheet(tiles(count, width, height), "title")

    areas = [int((sheet == colour(number)).all(axis=2).sum()) for number in range(count)]
    assert len(set(areas)) == 1
    assert areas[0] >= 32 * 32
    assert max(sheet.shape) <= LARGEST_SIDE_PX * 1.4  # texts and gaps come on top
    assert abs(np.sqrt(areas[0] * height / width) - round(np.sqrt(areas[0] * height / width))) < 1


def test_a_long_caption_stays_below_its_picture() -> None:
    blank = contact_sheet([Tile(t.picture, (), ("", "")) for t in tiles(2, 200, 200)], "")
    long = Tile(tiles(1, 200, 200)[0].picture, (), ("x" * 99, "folder/" * 20 + "name.jpg"))
    sheet = contact_sheet([long, Tile(tiles(2, 200, 200)[1].picture, (), ("", ""))], "")

    changed = np.flatnonzero((sheet != blank).any(axis=(0, 2)))
    assert changed.min() >= GAP_PX
    assert changed.max() < GAP_PX + 200 + GAP_PX


def test_boxes_are_drawn_into_their_own_picture_only() -> None:
    plain, boxed = tiles(2, 200, 200), tiles(2, 200, 200)
    boxed[1] = Tile(boxed[1].picture, (Label("cell", 0, (50, 60, 150, 160)),), boxed[1].caption)
    changed = (contact_sheet(plain, "t") != contact_sheet(boxed, "t")).any(axis=2)

    rows, columns = np.nonzero(changed)
    assert columns.min() >= 2 * GAP_PX + 200 + 40
    assert rows.max() < 44 + 170


def test_a_name_that_is_no_text_is_drawn_with_question_marks() -> None:
    """OpenCV ends the process where it is given a byte that is no UTF-8."""
    picture = np.zeros((32, 32, 3), np.uint8)

    def drawn(name: str) -> Pixels:
        return contact_sheet([Tile(picture, [], (name, name))], name)

    assert np.array_equal(drawn("lat\udce9n ü\n"), drawn("lat?n ??"))
