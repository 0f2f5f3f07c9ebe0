"""Boxes and labels drawn into a picture. NumPy and OpenCV; no torch.

Not covered: the choice of what to draw, which is the caller's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

# Okabe and Ito's palette: told apart by colour-blind people too. RGB.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


@dataclass(frozen=True)
class Label:
    """One box to draw."""

    text: str
    kind: int
    """Boxes of one kind share a colour."""
    box_xyxy_px: tuple[float, float, float, float]


def draw_labels(picture: Picture, labels: Sequence[Label]) -> Picture:
    """Return a copy of `picture` [H,W,3] RGB with the boxes drawn; the last one lies on top."""
    drawn = picture.copy()
    height, width = drawn.shape[:2]
    thickness = max(2, round(min(height, width) / 300))
    scale = max(0.4, min(height, width) / 900)
    for label in labels:
        colour = COLOURS[label.kind % len(COLOURS)]
        left, top, right, bottom = (round(value) for value in label.box_xyxy_px)
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
    for label in labels:
        _draw_text(drawn, label, scale)
    return drawn


def _draw_text(drawn: Picture, label: Label, scale: float) -> None:
    """Write the text on a plate of the box's colour, above the box or inside its top."""
    font, weight = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(scale * 1.6))
    (text_width, text_height), base = cv2.getTextSize(label.text, font, scale, weight)
    pad = max(2, round(4 * scale))
    plate_height = text_height + base + pad
    left, top = round(label.box_xyxy_px[0]), round(label.box_xyxy_px[1])
    left = int(np.clip(left, 0, max(drawn.shape[1] - text_width - 2 * pad, 0)))
    upper = top - plate_height if top >= plate_height else max(top, 0)
    corner = (left + text_width + 2 * pad, upper + plate_height)
    colour = COLOURS[label.kind % len(COLOURS)]
    cv2.rectangle(drawn, (left, upper), corner, colour, cv2.FILLED)
    dark = np.dot(colour, (0.299, 0.587, 0.114)) < 128
    ink = (255, 255, 255) if dark else (0, 0, 0)
    origin = (left + pad, upper + text_height + pad)
    cv2.putText(drawn, label.text, origin, font, scale, ink, weight, cv2.LINE_AA)
