"""Mosaic: four pictures, each augmented for itself, side by side.

A tile shows the part of its picture that lies nearest to where the four meet, but for a border
that the augmentation has added there.

Source:
    AlexeyAB/darknet 59596d78 src/data.c load_data_detection (the first definition) and
    blend_truth_mosaic. Arithmetic is float32 and truncates where C truncates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from relume.data.augment import Plan
from relume.data.image import Pixels
from relume.data.mixing import Mixing
from relume.draws import draw_words
from relume.formats.data_files import NO_BOXES, Boxes

Edges = npt.NDArray[np.int64]

ONE, TWO = np.float32(1), np.float32(2)


@dataclass(frozen=True)
class MosaicTile:
    """A part of an augmented picture and where it stands in the mosaic, in pixels."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int
    from_x_px: int
    from_y_px: int


def moved_to_corner(plan: Plan, number: int, seed: int, position: int) -> Plan:
    """Return the plan of a tile's picture: half of them are moved so that most of it is seen.

    Args:
        plan: of the picture alone.
        number: of the tile: left above, right above, left below, right below.
    """
    if int(draw_words(seed, "corner", (position, number), 1)[0]) % 2 == 0:
        return plan
    across, down = plan.pleft + plan.pright, plan.ptop + plan.pbot
    is_right, is_below = number % 2 == 1, number // 2 == 1
    pleft, pright = (across, 0) if is_right != plan.flip else (0, across)
    ptop, pbot = (down, 0) if is_below else (0, down)
    return replace(plan, pleft=pleft, pright=pright, ptop=ptop, pbot=pbot)


def tile_of(
    mixing: Mixing, number: int, plan: Plan, picture_px: tuple[int, int], input_px: tuple[int, int]
) -> MosaicTile:
    """Return which part of a picture a tile shows.

    Args:
        mixing: where the tiles meet.
        number: of the tile: left above, right above, left below, right below.
        plan: of the picture in it.
        picture_px: width and height of the picture as it was read.
        input_px: width and height of the net's input.
    """
    pleft, pright = (plan.pright, plan.pleft) if plan.flip else (plan.pleft, plan.pright)
    (width_px, height_px), (width, height) = picture_px, input_px
    x_px, wide, from_x_px = _span(
        mixing.cut_x_px,
        number % 2 == 1,
        width,
        _border(pleft, width, width_px),
        _border(pright, width, width_px),
    )
    y_px, high, from_y_px = _span(
        mixing.cut_y_px,
        number // 2 == 1,
        height,
        _border(plan.ptop, height, height_px),
        _border(plan.pbot, height, height_px),
    )
    return MosaicTile(x_px, y_px, wide, high, from_x_px, from_y_px)


def join_pixels(images: Sequence[Pixels], tiles: Sequence[MosaicTile]) -> Pixels:
    """Return the mosaic of four pictures of the net's size."""
    mosaic = np.empty_like(images[0])
    for image, tile in zip(images, tiles, strict=True):
        x, y = tile.from_x_px, tile.from_y_px
        mosaic[tile.y_px : tile.y_px + tile.height_px, tile.x_px : tile.x_px + tile.width_px] = (
            image[y : y + tile.height_px, x : x + tile.width_px]
        )
    return mosaic


def join_tiles_truths(
    truths: Sequence[Boxes],
    tiles: Sequence[MosaicTile],
    input_px: tuple[int, int],
    bound: bool,
    max: int,
) -> Boxes:
    """Return the truths of the mosaic, at most `max`.

    Args:
        truths: of every picture, in tile order.
        tiles: of every picture.
        input_px: width and height of the net's input.
        bound: clip boxes to their tile (mosaic_bound=1); else to the mosaic.
        max: of the mosaic; truths that are dropped count towards it within their picture.
    """
    joined = NO_BOXES
    for boxes, tile in zip(truths, tiles, strict=True):
        moved = _moved_boxes(boxes[: max - len(joined)], tile, input_px, bound)
        joined = np.concatenate([joined, moved])
    return joined


def _border(cut_px: int, side: int, side_px: int) -> int:
    """Return how wide a border that was added is in the net's input."""
    return max(0, -cut_px) * side // side_px


def _span(
    cut_px: int, is_behind: bool, side: int, border_before: int, border_behind: int
) -> tuple[int, int, int]:
    """Return start and length of a tile along one side, and where it begins in its picture."""
    if is_behind:
        return cut_px, side - cut_px, min(cut_px, border_before)
    return 0, cut_px, side - cut_px - min(side - cut_px, border_behind)


def _moved_boxes(boxes: Boxes, tile: MosaicTile, input_px: tuple[int, int], bound: bool) -> Boxes:
    """Return the boxes of a tile's picture that stay, relative to the mosaic."""
    classes, x, y, w, h = boxes.T
    x, w, is_inside_x = _moved_side(
        x, w, input_px[0], tile.x_px - tile.from_x_px, (tile.x_px, tile.width_px) if bound else None
    )
    y, h, is_inside_y = _moved_side(
        y,
        h,
        input_px[1],
        tile.y_px - tile.from_y_px,
        (tile.y_px, tile.height_px) if bound else None,
    )
    kept: Boxes = np.stack([classes, x, y, w, h], axis=1)[is_inside_x & is_inside_y]
    return kept


def _moved_side(
    centre: Boxes, size: Boxes, side: int, shift_px: int, span_px: tuple[int, int] | None
) -> tuple[Boxes, Boxes, npt.NDArray[np.bool_]]:
    """Move boxes along one side of the net's input and clip them.

    Args:
        centre: [n] relative to the picture.
        size: [n] relative to the picture.
        side: of the net's input, in pixels.
        shift_px: by how much the picture is moved.
        span_px: start and length of the tile if boxes are clipped to it.
    Returns:
        Centre and size relative to the mosaic, and which boxes stay.
    """
    length = np.float32(side)
    centre = centre + np.float32(shift_px) / length
    start, end = _edges_px(centre, size, length)
    if span_px is not None:
        start, end = np.maximum(start, span_px[0]), np.minimum(end, span_px[0] + span_px[1])
        centre = (start + end).astype(np.float32) / TWO / length
        size = (end - start).astype(np.float32) / length
    else:
        before = np.minimum(start, 0).astype(np.float32) / length
        behind = np.maximum(end - side, 0).astype(np.float32) / length
        centre = centre - before / TWO - behind / TWO
        size = size + before - behind
        start, end = _edges_px(centre, size, length)
    is_inside = (start >= 0) & (end <= side) & (centre > 0) & (centre < 1)
    return centre, size, is_inside & (size > ONE / length) & (size < 1)


def _edges_px(centre: Boxes, size: Boxes, length: np.float32) -> tuple[Edges, Edges]:
    """Return where boxes begin and end, truncated towards 0."""
    half = size / TWO
    return ((centre - half) * length).astype(np.int64), ((centre + half) * length).astype(np.int64)
