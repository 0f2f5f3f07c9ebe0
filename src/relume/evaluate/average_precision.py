"""Average precision of ranked records, and the counts at one threshold, as Darknet defines them.

Records are ranked by probability; equals keep their order, which is that of the pictures in the
list, in a picture that of the cells. The first record of a truth is right, every other is wrong.

What has nothing to be divided by is 0: precision where nothing is claimed, recall where there
are no truths, F1 where nothing is right.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from relume.evaluate.matching import NO_TRUTH, Integers, Records

POINTS = (0, 11, 101)
"""0: the area under the curve; else so many recall levels, as PASCAL VOC 2007 and COCO have it."""
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Counts:
    """What is right and wrong of the records above a threshold."""

    truths: int
    true_positives: int
    false_positives: int
    iou_sum: float
    """Of the true positives with their truths."""

    @property
    def false_negatives(self) -> int:
        """Truths that were not found."""
        return self.truths - self.true_positives

    @property
    def precision(self) -> float:
        """The part of the records that is right."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """The part of the truths that was found."""
        return _ratio(self.true_positives, self.truths)

    @property
    def f1_score(self) -> float:
        """The harmonic mean of precision and recall."""
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def average_iou(self) -> float:
        """As in Darknet per record, a false one counting as 0."""
        return _ratio(self.iou_sum, self.true_positives + self.false_positives)


@dataclass(frozen=True)
class ClassEvaluation:
    """How well one class is found."""

    average_precision: float
    """0 to 1; 0 without truths, as in Darknet."""
    detections: int
    """Records of any probability."""
    counts: Counts
    """Above the threshold."""


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on a list of pictures."""

    classes: tuple[ClassEvaluation, ...]
    thresh: float
    """Of the counts; average precision has none."""
    iou_thresh: float
    points: int

    @property
    def mean_average_precision(self) -> float:
        """Over all classes, those without truths counting as 0, as in Darknet."""
        return sum(one.average_precision for one in self.classes) / len(self.classes)

    @property
    def mean_over_present(self) -> float:
        """The same over the classes that have truths; 0 if none has."""
        present = [one.average_precision for one in self.classes if one.counts.truths]
        return _ratio(sum(present), len(present))

    @property
    def counts(self) -> Counts:
        """Of all classes together."""
        of_classes = [one.counts for one in self.classes]
        return Counts(
            sum(one.truths for one in of_classes),
            sum(one.true_positives for one in of_classes),
            sum(one.false_positives for one in of_classes),
            sum(one.iou_sum for one in of_classes),
        )

    @property
    def detections(self) -> int:
        """Records of any probability."""
        return sum(one.detections for one in self.classes)


def evaluate_records(
    records: Records,
    truths_per_class: Iterable[int],
    *,
    thresh: float,
    iou_thresh: float,
    points: int,
) -> Evaluation:
    """Return what records are worth.

    Args:
        records: of all pictures, in the order of the list; truths are numbered without gap.
        truths_per_class: how many there are, found or not.
        thresh: of the counts.
        iou_thresh: with which the records were matched.
        points: one of POINTS.

    Source: AlexeyAB src/detector.c validate_detector_map.
    """
    order = np.argsort(-records.probabilities, kind="stable")
    classes, truths = records.classes[order], records.truths[order]
    right = is_first(truths)
    above = records.probabilities[order] > np.float32(thresh)
    ious = records.ious[order].astype(np.float64)
    results = []
    for number, count in enumerate(truths_per_class):
        own = classes == number
        counted = right[own & above]
        counts = Counts(
            int(count),
            int(counted.sum()),
            int((~counted).sum()),
            float(ious[own & above & right].sum()),
        )
        precision = average_precision(right[own], int(count), points)
        results.append(ClassEvaluation(precision, int(own.sum()), counts))
    return Evaluation(tuple(results), thresh, iou_thresh, points)


def is_first(truths: Integers) -> Booleans:
    """Return for ranked records whether each is the first that has found its truth."""
    first = np.zeros(len(truths), bool)
    found = np.flatnonzero(truths != NO_TRUTH)
    first[found[np.unique(truths[found], return_index=True)[1]]] = True
    return first


def average_precision(right: Booleans, truths: int, points: int) -> float:
    """Return the average precision of one class, 0 to 1.

    Args:
        right: its ranked records.
        truths: how many there are.
        points: 0 adds up, for every step of recall, that step times the largest precision at
            this recall or more; N takes the mean of the largest precision at recall 0,
            1 / (N - 1), ... 1 or more.
    """
    if not truths or not len(right):
        return 0.0
    found = np.cumsum(right)
    recall = found / truths
    precision = found / np.arange(1, len(right) + 1)
    largest = np.maximum.accumulate(precision[::-1])[::-1]
    if not points:
        return float((np.diff(recall, prepend=0.0) * largest).sum())
    levels = np.arange(points) / (points - 1)
    ranks = np.searchsorted(recall, levels)
    return float(np.append(largest, 0.0)[ranks].mean())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
