from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.data.augment import Plan, apply_to_pixels, apply_to_truths, draw_plan
from relume.data.image import Pixels
from relume.data.mixing import Mixing
from relume.data.mosaic import MosaicTile, join_pixels, join_tiles_truths, moved_to_corner, tile_of
from relume.formats.data_files import Boxes
from relume.formats.sections import Yolo
from tests.data.test_augment import CUTS, NET, boxes_of, noise

WIDTH, HEIGHT = 96, 64
INPUT_PX = (WIDTH, HEIGHT)
PICTURE_PX = (120, 90)
MIXINGS = st.builds(Mixing, st.just(4), st.integers(19, 76), st.integers(12, 51))
FOUR = st.lists(CUTS, min_size=4, max_size=4)


def tiles_of(mixing: Mixing, plans: list[Plan]) -> list[MosaicTile]:
    return [tile_of(mixing, n, plan, PICTURE_PX, INPUT_PX) for n, plan in enumerate(plans)]


def darknet_pixel(mixing: Mixing, plans: list[Plan], x: int, y: int) -> tuple[int, int, int]:
    """Return tile and place in its picture of one pixel of the mosaic, by Darknet's indices."""
    cut_x, cut_y = mixing.cut_x_px, mixing.cut_y_px
    number = (x >= cut_x) + 2 * (y >= cut_y)
    plan = plans[number]
    pleft, pright = (plan.pright, plan.pleft) if plan.flip else (plan.pleft, plan.pright)
    left_shift = min(cut_x, max(0, -pleft) * WIDTH // 120)
    right_shift = min(WIDTH - cut_x, max(0, -pright) * WIDTH // 120)
    top_shift = min(cut_y, max(0, -plan.ptop) * HEIGHT // 90)
    bot_shift = min(HEIGHT - cut_y, max(0, -plan.pbot) * HEIGHT // 90)
    from_x = left_shift + x - cut_x if number % 2 else WIDTH - cut_x - right_shift + x
    from_y = top_shift + y - cut_y if number // 2 else HEIGHT - cut_y - bot_shift + y
    return number, from_x, from_y


@settings(deadline=None, max_examples=50)
@given(MIXINGS, FOUR)
def test_every_pixel_comes_from_where_darknet_takes_it(mixing: Mixing, plans: list[Plan]) -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    images = [
        np.stack([np.full_like(rows, n), columns, rows], axis=2).astype(np.uint8) for n in range(4)
    ]

    found = join_pixels(images, tiles_of(mixing, plans))

    for x in (0, mixing.cut_x_px - 1, mixing.cut_x_px, WIDTH - 1):
        for y in (0, mixing.cut_y_px - 1, mixing.cut_y_px, HEIGHT - 1):
            assert tuple(found[y, x].tolist()) == darknet_pixel(mixing, plans, x, y)


@given(MIXINGS, FOUR)
def test_tiles_cover_the_mosaic_and_lie_in_their_pictures(
    mixing: Mixing, plans: list[Plan]
) -> None:
    covered = np.zeros((HEIGHT, WIDTH), int)
    for tile in tiles_of(mixing, plans):
        assert 0 <= tile.from_x_px <= WIDTH - tile.width_px
        assert 0 <= tile.from_y_px <= HEIGHT - tile.height_px
        rows = slice(tile.y_px, tile.y_px + tile.height_px)
        covered[rows, tile.x_px : tile.x_px + tile.width_px] += 1
    assert (covered == 1).all()


def darknet_truths(boxes: Boxes, tile: MosaicTile, bound: bool) -> list[list[float]]:
    """Darknet's blend_truth_mosaic for one picture, box by box and number by number."""
    kept = []
    f = np.float32
    for label, *numbers in boxes:
        xb, yb, wb, hb = (f(number) for number in numbers)
        xb = xb + f(tile.x_px - tile.from_x_px) / f(WIDTH)
        yb = yb + f(tile.y_px - tile.from_y_px) / f(HEIGHT)
        left, right = int((xb - wb / f(2)) * f(WIDTH)), int((xb + wb / f(2)) * f(WIDTH))
        top, bot = int((yb - hb / f(2)) * f(HEIGHT)), int((yb + hb / f(2)) * f(HEIGHT))
        if bound:
            left, right = max(left, tile.x_px), min(right, tile.x_px + tile.width_px)
            top, bot = max(top, tile.y_px), min(bot, tile.y_px + tile.height_px)
            xb, wb = f(right + left) / f(2) / f(WIDTH), f(right - left) / f(WIDTH)
            yb, hb = f(bot + top) / f(2) / f(HEIGHT), f(bot - top) / f(HEIGHT)
        else:
            if left < 0:
                xb, wb = xb - f(left) / f(WIDTH) / f(2), wb + f(left) / f(WIDTH)
            if right > WIDTH:
                diff = f(right - WIDTH) / f(WIDTH)
                xb, wb = xb - diff / f(2), wb - diff
            if top < 0:
                yb, hb = yb - f(top) / f(HEIGHT) / f(2), hb + f(top) / f(HEIGHT)
            if bot > HEIGHT:
                diff = f(bot - HEIGHT) / f(HEIGHT)
                yb, hb = yb - diff / f(2), hb - diff
            left, right = int((xb - wb / f(2)) * f(WIDTH)), int((xb + wb / f(2)) * f(WIDTH))
            top, bot = int((yb - hb / f(2)) * f(HEIGHT)), int((yb + hb / f(2)) * f(HEIGHT))
        is_inside = left >= 0 and right <= WIDTH and top >= 0 and bot <= HEIGHT
        is_inside = is_inside and all(0 < number < 1 for number in (xb, yb, wb, hb))
        if is_inside and wb > f(1) / f(WIDTH) and hb > f(1) / f(HEIGHT):
            kept.append([float(number) for number in (label, xb, yb, wb, hb)])
    return kept


PARTS = st.floats(0.0078125, 1, width=32)
BOXES = st.lists(st.tuples(st.integers(0, 9).map(float), PARTS, PARTS, PARTS, PARTS), max_size=4)


@settings(deadline=None)
@given(MIXINGS, FOUR, st.lists(BOXES, min_size=4, max_size=4), st.booleans(), st.integers(1, 12))
def test_truths_are_darknets_and_stay_inside(
    mixing: Mixing,
    plans: list[Plan],
    rows: list[list[tuple[float, float, float, float, float]]],
    bound: bool,
    most: int,
) -> None:
    truths, tiles = [boxes_of(*four) for four in rows], tiles_of(mixing, plans)

    found = join_tiles_truths(truths, tiles, INPUT_PX, bound, most)

    expected: list[list[float]] = []
    for boxes, tile in zip(truths, tiles, strict=True):
        room = most - len(expected)  # what is dropped counts towards it, within its picture
        expected += darknet_truths(boxes[:room], tile, bound)
    assert found.tolist() == expected
    assert found.dtype == np.float32
    assert len(found) <= most
    starts, ends = found[:, 1:3] - found[:, 3:5] / 2, found[:, 1:3] + found[:, 3:5] / 2
    # Edges are truncated to pixels before they are compared with the border, so that without
    # mosaic_bound a box may reach over it by less than a pixel.
    assert (starts * INPUT_PX > (-1e-4 if bound else -1)).all()
    assert ((1 - ends) * INPUT_PX > (-1e-4 if bound else -1)).all()


@settings(deadline=None, max_examples=40)
@given(MIXINGS, FOUR, st.lists(BOXES, min_size=4, max_size=4))
def test_with_mosaic_bound_a_box_stays_in_its_tile(
    mixing: Mixing, plans: list[Plan], rows: list[list[tuple[float, float, float, float, float]]]
) -> None:
    for number, tile in enumerate(tiles_of(mixing, plans)):
        four = [boxes_of(*rows[n]) if n == number else boxes_of() for n in range(4)]
        found = join_tiles_truths(four, tiles_of(mixing, plans), INPUT_PX, True, 9)
        starts = (found[:, 1:3] - found[:, 3:5] / 2) * INPUT_PX
        ends = (found[:, 1:3] + found[:, 3:5] / 2) * INPUT_PX
        assert (starts >= (tile.x_px - 0.001, tile.y_px - 0.001)).all()
        far = (tile.x_px + tile.width_px, tile.y_px + tile.height_px)
        assert (ends <= np.add(far, 0.001)).all()


@settings(deadline=None, max_examples=60)
@given(MIXINGS, CUTS, st.integers(0, 3), st.tuples(*[st.integers(8, 30)] * 2), st.data())
def test_boxes_follow_the_pixels(
    mixing: Mixing, plan: Plan, number: int, size: tuple[int, int], data: st.DataObject
) -> None:
    wide, high = size
    left, top = data.draw(st.integers(0, 120 - wide)), data.draw(st.integers(0, 90 - high))
    picture: Pixels = np.zeros((90, 120, 3), np.uint8)
    picture[top : top + high, left : left + wide] = 255
    box = boxes_of((0, (left + wide / 2) / 120, (top + high / 2) / 90, wide / 120, high / 90))
    tile = tile_of(mixing, number, plan, PICTURE_PX, INPUT_PX)
    images = [np.zeros((HEIGHT, WIDTH, 3), np.uint8) for _ in range(4)]
    images[number] = apply_to_pixels(picture, plan, *INPUT_PX)
    truths = [boxes_of() for _ in range(4)]
    truths[number] = apply_to_truths(box, plan, *PICTURE_PX, *INPUT_PX, 9)
    plans = [plan if n == number else Plan() for n in range(4)]

    seen = join_pixels(images, tiles_of(mixing, plans))[:, :, 0] > 160
    found = join_tiles_truths(truths, tiles_of(mixing, plans), INPUT_PX, True, 9)

    assert tile == tiles_of(mixing, plans)[number]
    rows, columns = np.nonzero(seen)
    if len(rows) == 0:
        # Two pixels may be lost by truncation on either side, and a border is blurred.
        assert len(found) == 0 or (found[:, 3:5] * INPUT_PX).min() < 3
    elif len(found) == 0:
        assert min(np.ptp(rows), np.ptp(columns)) < 3
    else:
        x, y, w, h = found[0, 1:] * np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
        told = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # A pixel of truncation, one of the blurred border, and one where a border is skipped.
        np.testing.assert_allclose(told, edges, atol=2.6)


def test_a_picture_moved_to_the_corner_shows_its_part_there() -> None:
    plan = Plan(pleft=30, pright=-10, ptop=-8, pbot=20)
    moved = {
        (number, flip): plans.pop()
        for number in range(4)
        for flip in (False, True)
        if (
            plans := {
                moved_to_corner(replace(plan, flip=flip), number, 1, position)
                for position in range(20)
            }
            - {replace(plan, flip=flip)}
        )
    }

    def cuts(number: int, flip: bool) -> tuple[int, ...]:
        found = moved[number, flip]
        return found.pleft, found.pright, found.ptop, found.pbot

    assert [cuts(number, False) for number in range(4)] == [
        *((0, 20, 0, 12), (20, 0, 0, 12), (0, 20, 12, 0), (20, 0, 12, 0)),
    ]
    assert [cuts(number, True) for number in range(4)] == [
        *((20, 0, 0, 12), (0, 20, 0, 12), (20, 0, 12, 0), (0, 20, 12, 0)),
    ]


@pytest.mark.parametrize("number", range(4))
def test_half_of_the_pictures_are_moved_to_the_corner(number: int) -> None:
    head = Yolo(line=2, jitter=0.3)
    moved = 0
    for position in range(600):
        plan = draw_plan(NET, head, (640, 480), (64, 64), 5, position, number)
        again = moved_to_corner(plan, number, 5, position)
        moved += again != plan
        assert again.pleft + again.pright == plan.pleft + plan.pright
        assert again.ptop + again.pbot == plan.ptop + plan.pbot
    assert 240 < moved < 360  # 300 expected, standard deviation 12


def test_a_mosaic_is_pinned() -> None:
    mixing = Mixing(4, 40, 30)
    plans = [Plan(pleft=-20, flip=True), Plan(pright=-9), Plan(ptop=-30), Plan(pbot=12)]
    tiles = tiles_of(mixing, plans)

    assert tiles == [
        MosaicTile(0, 0, 40, 30, 40, 34),
        MosaicTile(40, 0, 56, 30, 0, 34),
        MosaicTile(0, 30, 40, 34, 56, 21),
        MosaicTile(40, 30, 56, 34, 0, 0),
    ]
    images = [noise(HEIGHT, WIDTH) for _ in range(4)]
    mosaic = join_pixels(images, tiles)
    np.testing.assert_array_equal(mosaic[:30, :40], images[0][34:64, 40:80])
    np.testing.assert_array_equal(mosaic[30:, :40], images[2][21:55, 56:96])
