"""How many of the truths some box covers, whatever its class: what `detector recall` counts."""

from dataclasses import dataclass

import numpy as np

from relume.evaluate.matching import Floats
from relume.model.overlap import overlap_of


@dataclass(frozen=True)
class Covered:
    """The count over the pictures so far."""

    pictures: int = 0
    proposals: int = 0
    """Boxes."""
    truths: int = 0
    correct: int = 0
    """Truths that a box overlaps by more than the threshold."""
    iou_sum: float = 0.0
    """Of every truth with the box that overlaps it most."""

    @property
    def proposals_per_picture(self) -> float:
        """Darknet's RPs/Img."""
        return self.proposals / self.pictures if self.pictures else 0.0

    @property
    def average_iou(self) -> float:
        """Per truth; 0 without truths."""
        return self.iou_sum / self.truths if self.truths else 0.0

    @property
    def recall(self) -> float:
        """The part of the truths that is covered; 0 without truths."""
        return self.correct / self.truths if self.truths else 0.0


def with_picture(so_far: Covered, boxes_xywh_rel: Floats, truths: Floats, iou: float) -> Covered:
    """Return the count with one more picture.

    Args:
        boxes_xywh_rel: [D, 4] what was found in it.
        truths: [T, 5] class, centre and size.
        iou: overlap above which a truth is covered.

    Source: AlexeyAB src/detector.c validate_detector_recall.
    """
    overlaps = overlap_of(boxes_xywh_rel.T[:, :, None], truths[:, 1:].T[:, None, :])
    best = overlaps.max(0, initial=np.float32(0))
    return Covered(
        so_far.pictures + 1,
        so_far.proposals + len(boxes_xywh_rel),
        so_far.truths + len(truths),
        so_far.correct + int((best > np.float32(iou)).sum()),
        so_far.iou_sum + float(best.sum(dtype=np.float64)),
    )
