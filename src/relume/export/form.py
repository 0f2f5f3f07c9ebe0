"""What an exported model takes and gives. Needs no package of the extra `export`."""

from dataclasses import dataclass

OLDEST_OPSET = 18
"""Mish, and Pad and Split as they are used here, came with it."""
NEWEST_OPSET = 28


@dataclass(frozen=True)
class Suppression:
    """Non-maximum suppression as a part of the model."""

    thresh: float
    """A probability that is not above it is none."""
    nms: float
    """Overlap (IoU) above which the less probable is dropped."""
    largest: int | None = None
    """Detections of a class in a picture, at most; None: all."""


@dataclass(frozen=True)
class Form:
    """What the model takes and gives."""

    batch: int | None = 1
    """Pictures at once; None: any number."""
    raw: bool = False
    """Give what the heads see, as it is."""
    suppression: Suppression | None = None
    """Give detections; None: boxes and probabilities of every cell and anchor."""
    opset: int = NEWEST_OPSET
