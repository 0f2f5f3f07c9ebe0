"""Detections of one picture against its truths: which truth, if any, a detection has found.

Not covered: which of several detections of a truth counts (`average_precision.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from relume.model.overlap import overlap_of

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

NO_TRUTH = -1


@dataclass(frozen=True, eq=False)
class Records:
    """What was claimed: one row per detection and class, N in all."""

    probabilities: Floats
    """[N], above 0."""
    classes: Integers
    """[N]."""
    truths: Integers
    """[N] number of the truth that was found, NO_TRUTH if none."""
    ious: Floats
    """[N] overlap with that truth; 0 if none."""


def match_detections(
    boxes_xywh_rel: Floats,
    probabilities: Floats,
    truths: Floats,
    difficult: Floats,
    iou_thresh: float,
    first_truth: int = 0,
) -> Records:
    """Return a record for every probability above 0, row by row, class by class.

    A record has found the truth of its class that overlaps it most (of equals the first), if by
    more than `iou_thresh`. One that has found none but so overlaps a difficult box of its class
    is left out: it is neither right nor wrong.

    Args:
        boxes_xywh_rel: [D, 4] relative to the picture.
        probabilities: [D, K]; 0 where nothing is claimed.
        truths, difficult: [T, 5] class, centre and size.
        first_truth: the number of the picture's first truth; the others follow.

    Source: AlexeyAB src/detector.c validate_detector_map.
    """
    rows, classes = np.nonzero(probabilities)
    boxes = boxes_xywh_rel[rows]
    ious = _ious_of_one_class(boxes, classes, truths)
    found, most = np.full(len(rows), NO_TRUTH), np.zeros(len(rows), np.float32)
    if ious.size:
        best = ious.argmax(1)
        most = ious[np.arange(len(rows)), best]
        found = np.where(most > np.float32(iou_thresh), best + first_truth, NO_TRUTH)
        most = np.where(found == NO_TRUTH, np.float32(0), most)
    doubtful = _ious_of_one_class(boxes, classes, difficult) > np.float32(iou_thresh)
    counts = (found != NO_TRUTH) | ~doubtful.any(1)
    return Records(
        probabilities[rows, classes][counts],
        classes[counts].astype(np.int64),
        found[counts].astype(np.int64),
        most[counts],
    )


def _ious_of_one_class(boxes_xywh_rel: Floats, classes: Integers, truths: Floats) -> Floats:
    """Return [N, T]: overlap of boxes [N, 4] with truths [T, 5]; 0 with those of other classes."""
    ious = overlap_of(boxes_xywh_rel.T[:, :, None], truths[:, 1:].T[:, None, :])
    return np.where(classes[:, None] == truths[None, :, 0], ious, np.float32(0))


def joined(parts: Sequence[Records]) -> Records:
    """Return the records of several pictures, one behind the other."""
    if not parts:
        integers = np.zeros(0, np.int64)
        return Records(np.zeros(0, np.float32), integers, integers, np.zeros(0, np.float32))
    return Records(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("probabilities", "classes", "truths", "ious")
        )
    )
