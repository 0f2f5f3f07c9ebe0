"""What was found in a picture, and the forms it is told in: lines, JSON, labels, a drawing.

No torch. Not covered: finding it (detector.py), and writing it (commands/).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relume.drawing import Label, Pixels, draw_labels

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """One thing of one class; a box that is two things is two of these with the same box."""

    class_id: int
    name: str
    confidence: float
    """Objectness * class, 0 to 1."""
    box_xywh_rel: Box
    """Centre and size relative to the picture; it may reach beyond it."""
    box_xyxy_px: Box
    """Left, top, right, bottom in pixels, cut to the picture."""


def edges_px(box_xywh_rel: Box, width_px: int, height_px: int) -> Box:
    """Return left, top, right, bottom of a box, cut to a picture of this size."""
    x, y, w, h = box_xywh_rel
    left, right = ((x + side * w / 2) * width_px for side in (-1, 1))
    top, bottom = ((y + side * h / 2) * height_px for side in (-1, 1))
    return (
        min(max(left, 0.0), width_px - 1.0),
        min(max(top, 0.0), height_px - 1.0),
        min(max(right, 0.0), width_px - 1.0),
        min(max(bottom, 0.0), height_px - 1.0),
    )


def detection_line(item: Detection, size_px: tuple[int, int] | None = None) -> str:
    """Return Darknet's line about a detection; given the picture's width and height, with its box.

    Source: AlexeyAB/darknet 59596d78 src/image.c draw_detections_v3.
    """
    line = f"{item.name}: {item.confidence * 100:.0f}%"
    if size_px is None:
        return line
    (width, height), (x, y, w, h) = size_px, item.box_xywh_rel
    return (
        f"{line}\t(left_x: {(x - w / 2) * width:4.0f}   top_y: {(y - h / 2) * height:4.0f}   "
        f"width: {w * width:4.0f}   height: {h * height:4.0f})"
    )


def detection_frame(
    number: int, found: Iterable[Detection], filename: str | None = None
) -> Mapping[str, Any]:
    """Return one picture's detections in the form of Darknet's JSON, six decimals included.

    A frame of a video has no file name.

    Source: AlexeyAB/darknet 59596d78 src/network.c detection_to_json.
    """
    sides = ("center_x", "center_y", "width", "height")
    objects = [
        {
            "class_id": item.class_id,
            "name": item.name,
            "relative_coordinates": {
                side: round(value, 6) for side, value in zip(sides, item.box_xywh_rel, strict=True)
            },
            "confidence": round(item.confidence, 6),
        }
        for item in found
    ]
    named = {} if filename is None else {"filename": filename}
    return {"frame_id": number, **named, "objects": objects}


def format_labels(found: Sequence[Detection]) -> str:
    """Return a label file's text: a line for every box, with the likeliest of its classes.

    Source: AlexeyAB/darknet 59596d78 src/detector.c test_detector (save_labels).
    """
    lines = []
    for items in _by_box(found):
        best = max(items, key=lambda item: item.confidence)
        lines.append(" ".join([str(best.class_id), *(f"{v:.4f}" for v in best.box_xywh_rel)]))
    return "".join(f"{line}\n" for line in lines)


def draw_detections(picture: Pixels, found: Sequence[Detection]) -> Pixels:
    """Return a copy of a picture with boxes and labels drawn, the most confident on top.

    A box that is two things is drawn once, with both names.

    Args:
        picture: [H, W, 3] RGB or [H, W, 1] grey, uint8.
    Returns:
        [H', W', 3] RGB; a small picture is enlarged, so that the labels can be read.
    """
    rgb = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    labels = []
    for items in reversed(_by_box(sorted(found, key=lambda item: -item.confidence))):
        text = ", ".join(f"{item.name} {item.confidence * 100:.0f}%" for item in items)
        labels.append(Label(text, items[0].class_id, items[0].box_xyxy_px))
    return draw_labels(rgb, labels)


def _by_box(found: Iterable[Detection]) -> list[list[Detection]]:
    boxes: dict[Box, list[Detection]] = {}
    for item in found:
        boxes.setdefault(item.box_xywh_rel, []).append(item)
    return list(boxes.values())
