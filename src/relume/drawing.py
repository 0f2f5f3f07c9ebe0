"""Boxes and labels drawn into a picture. NumPy and OpenCV; no torch.

A label stands on a plate of its box's colour. Plates avoid each other and the small boxes of
others as far as there is room; the last label, the most important one, chooses first. A small
picture is enlarged, so that the labels can be read.

Not covered: the choice of what to draw, which is the caller's; letters that OpenCV's font does
not have, which is all beyond ASCII: they lose their accents, or become a question mark.
"""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Edges = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

# Okabe and Ito's palette: told apart by colour-blind people too, as a test computes. RGB.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
LEAST_SIDE_PX = 300
"""A picture whose shorter side has less is enlarged by a whole number, as far as there is room."""
LARGEST_SIDE_PX = 65500
"""Of an enlarged picture: a JPEG has no longer side."""
MOST_ENLARGED_PIXELS = 1 << 24


@dataclass(frozen=True)
class Label:
    """One box to draw."""

    text: str
    kind: int
    """Boxes of one kind share a colour."""
    box_xyxy_px: tuple[float, float, float, float]


def draw_labels(picture: Pixels, labels: Sequence[Label]) -> Pixels:
    """Return a copy of `picture` [H,W,3] RGB with the boxes drawn; the last one lies on top."""
    labels = [replace(label, text=in_ascii(label.text)) for label in labels]
    factor = _factor(*picture.shape[:2])
    drawn = _enlarged(picture, factor)
    height, width = drawn.shape[:2]
    thickness = max(2, round(min(height, width) / 300))
    boxes = [_edges(label, factor) for label in labels]
    for label, (left, top, right, bottom) in zip(labels, boxes, strict=True):
        for colour, line in ((BLACK, thickness + 2), (_colour(label), thickness)):
            cv2.rectangle(drawn, (left, top), (right, bottom), colour, line, cv2.LINE_AA)
    plates: list[Edges] = []
    for label, box in reversed(list(zip(labels, boxes, strict=True))):
        scale, size = _text_size(label.text, width, height)
        small = [b for b in boxes if b != box and _area(b) < 2 * size[0] * size[1]]
        plate = _best_place(box, size, (width, height), plates, small)
        plates.append(plate)
        _draw_text(drawn, label, plate, scale)
    return drawn


def in_ascii(text: str) -> str:
    """Return a text as OpenCV's font can write it: a letter without its accent, else one '?'."""
    if text.isascii() and text.isprintable():
        return text
    parts = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    letters = (part for part in parts if not unicodedata.combining(part))
    return "".join(letter if " " <= letter <= "~" else "?" for letter in letters)


def _best_place(
    box: Edges,
    size: tuple[int, int],
    picture: tuple[int, int],
    plates: list[Edges],
    small: list[Edges],
) -> Edges:
    """Return the first place for a plate that covers least of other plates and small boxes."""

    def covered(plate: Edges) -> int:
        return sum(4 * _overlap(plate, p) for p in plates) + sum(_overlap(plate, b) for b in small)

    return min(_places(box, size, picture), key=covered)


def _places(box: Edges, size: tuple[int, int], picture: tuple[int, int]) -> Iterator[Edges]:
    """Yield places for a plate within the picture, the usual ones first."""
    left, top, right, bottom = box
    width, height = size
    above, below, inside = top - height, bottom, bottom - height
    for y in (above, below, top, inside, above - height, below + height, above - 2 * height):
        for x in (left, right - width):
            x_px = min(max(x, 0), max(picture[0] - width, 0))
            y_px = min(max(y, 0), max(picture[1] - height, 0))
            yield x_px, y_px, x_px + width, y_px + height


def _text_size(text: str, width: int, height: int) -> tuple[float, tuple[int, int]]:
    """Return the scale of a text in a picture of this size, and the size of its plate."""
    scale = max(0.45, min(height, width) / 1100)
    (text_width, _), _ = cv2.getTextSize(text, FONT, scale, _weight(scale))
    scale *= min(1.0, (width - 2 * _pad(scale) - 2) / max(text_width, 1))
    (text_width, text_height), below = cv2.getTextSize(text, FONT, scale, _weight(scale))
    pad = _pad(scale)
    return scale, (text_width + 2 * pad, text_height + below + pad)


def _draw_text(drawn: Pixels, label: Label, plate: Edges, scale: float) -> None:
    """Write the text on its plate, dark on light colours and light on dark ones."""
    left, top, right, bottom = plate
    _, below = cv2.getTextSize(label.text, FONT, scale, _weight(scale))
    cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), _colour(label), cv2.FILLED)
    cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), BLACK, 1)
    ink = ink_on(_colour(label))
    origin = (left + _pad(scale), bottom - below)
    cv2.putText(drawn, label.text, origin, FONT, scale, ink, _weight(scale), cv2.LINE_AA)


def ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever is in greater contrast to a colour (WCAG 2.2)."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 3294.6 for c in colour]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return BLACK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else WHITE


def _factor(height: int, width: int) -> int:
    """Return by how much a picture is enlarged: a long and narrow one not without bound."""
    wanted = -(-LEAST_SIDE_PX // min(height, width))
    most = math.isqrt(MOST_ENLARGED_PIXELS // (height * width))
    return max(1, min(wanted, most, LARGEST_SIDE_PX // max(height, width)))


def _enlarged(picture: Pixels, factor: int) -> Pixels:
    """Return a copy, its sides so many times as long."""
    if factor == 1:
        return np.array(picture, order="C")
    height, width = picture.shape[:2]
    size = (width * factor, height * factor)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _edges(label: Label, factor: int) -> Edges:
    left, top, right, bottom = (round(value * factor) for value in label.box_xyxy_px)
    return left, top, right, bottom


def _overlap(a: Edges, b: Edges) -> int:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def _area(box: Edges) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _colour(label: Label) -> tuple[int, int, int]:
    return COLOURS[label.kind % len(COLOURS)]


def _weight(scale: float) -> int:
    return max(1, round(scale * 2))


def _pad(scale: float) -> int:
    return max(2, round(5 * scale))
