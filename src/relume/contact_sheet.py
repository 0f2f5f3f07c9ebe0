"""Many small pictures on one large one, each with its boxes and two lines of text below it.

Not covered: letters beyond ASCII, which OpenCV's font does not have.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import cv2
import numpy as np

from relume.drawing import FONT, Label, Pixels, draw_labels

LARGEST_SIDE_PX = 4000
"""Of a sheet, about; a picture is never enlarged for it."""
LEAST_TILE_PX = 160
GAP_PX = 12
LINE_PX = 18
TITLE_PX = 44
PAPER, INK, FAINT = 255, (0, 0, 0), (90, 90, 90)


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet."""

    picture: Pixels
    """[height, width, 3] RGB; all pictures of a sheet have one size."""
    labels: Sequence[Label]
    caption: tuple[str, str]
    """Below it; the second line is cut at its beginning, where a path says least."""


def contact_sheet(tiles: Sequence[Tile], title: str) -> Pixels:
    """Return the sheet [H, W, 3] RGB, its tiles in rows as wide as high, or a little wider."""
    height, width = tiles[0].picture.shape[:2]
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    side = min(max(LARGEST_SIDE_PX // columns, LEAST_TILE_PX), max(width, height))
    part = side / max(width, height)
    tile_width, tile_height = (max(1, round(length * part)) for length in (width, height))
    step_x, step_y = tile_width + GAP_PX, tile_height + 2 * LINE_PX + GAP_PX
    sheet = np.full(
        (TITLE_PX + rows * step_y + GAP_PX, columns * step_x + GAP_PX, 3), PAPER, np.uint8
    )
    _write(sheet, title, GAP_PX, 30, 0.7, INK)
    for number, tile in enumerate(tiles):
        left = GAP_PX + number % columns * step_x
        top = TITLE_PX + number // columns * step_y
        drawn = cv2.resize(
            draw_labels(tile.picture, tile.labels),
            (tile_width, tile_height),
            interpolation=cv2.INTER_AREA,
        )
        sheet[top : top + tile_height, left : left + tile_width] = drawn
        first, second = tile.caption
        _write(sheet, _beginning(first, tile_width), left, top + tile_height + 14, 0.42, INK)
        _write(sheet, _end(second, tile_width), left, top + tile_height + 31, 0.42, FAINT)
    return sheet


def format_sheet(sheet: Pixels) -> bytes:
    """Return a sheet as a PNG that says in its first chunk what it is."""
    _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    data: bytes = png.tobytes()
    return data[:_HEADER_BYTES] + _MARK + data[_HEADER_BYTES:]


def is_sheet(data: bytes) -> bool:
    """Tell whether a file that begins so is a sheet that `format_sheet` made."""
    return data.startswith(_MARK, _HEADER_BYTES)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))


_HEADER_BYTES = 33
"""Of a PNG, before its first chunk that may be any."""
_MARK = _chunk(b"tEXt", b"Software\0relume, a contact sheet")


def _write(
    sheet: Pixels, text: str, x: int, y: int, scale: float, ink: tuple[int, int, int]
) -> None:
    cv2.putText(sheet, _drawable(text), (x, y), FONT, scale, ink, 1, cv2.LINE_AA)


def _beginning(text: str, width_px: int) -> str:
    while text and _width_px(text) > width_px:
        text = text[:-1]
    return text


def _end(text: str, width_px: int) -> str:
    cut = text
    while cut and _width_px(cut) > width_px:
        text = text[1:]
        cut = f"...{text}"
    return cut


def _drawable(text: str) -> str:
    """Return text with what OpenCV cannot draw as "?"; bytes that are no UTF-8 would end it."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def _width_px(text: str) -> int:
    (width, _), _ = cv2.getTextSize(_drawable(text), FONT, 0.42, 1)
    return int(width)
