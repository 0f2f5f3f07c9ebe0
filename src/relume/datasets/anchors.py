"""Anchors from the boxes of a data set: k-means with Darknet's distance, 1 - IoU of shapes.

Darknet starts once from boxes drawn by the clock; here k-means++ draws the starts, from a seed,
and the best of several counts. Our own code: OpenCV's kmeans, the one at hand, knows no IoU.
Sums go box by box in double precision, so the same boxes give the same anchors on every machine.

Not covered: which boxes count; see `commands/anchors.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from relume.draws import draw_words

Shapes = npt.NDArray[np.float64]
"""[N, 2]: width and height in pixels of the network's input, above 0."""
Indices = npt.NDArray[np.intp]

RESTARTS = 10
SAMPLE = 20_000
"""Of more boxes the starts see only so many, drawn; the best start then sees them all."""
MOST_ROUNDS = 1000
"""As in Darknet; a few dozen are usual."""
PATIENCE, LEAST_GAIN = 20, 1e-6
"""So many rounds that raise the average IoU by less end a start before nothing changes at all."""


@dataclass(frozen=True)
class Clusters:
    """Anchors, and how well they fit the boxes they were made from."""

    anchors_px: Shapes
    """[K, 2], the smallest area first."""
    average_iou: float
    """Mean over the boxes of the IoU with the best anchor, as Darknet reports it."""
    assignments: Indices
    """[N]: the anchor of every box."""


def cluster_shapes(boxes_px: Shapes, count: int, seed: int) -> Clusters:
    """Return the best of RESTARTS clusterings of the boxes' shapes.

    Args:
        boxes_px: [N, 2] width and height.
        count: of anchors; at most as many as there are different shapes.
        seed: of the draws of k-means++.
    Source:
        AlexeyAB/darknet 59596d78 src/detector.c calc_anchors, src/matrix.c do_kmeans.
    """
    if not 1 <= count <= distinct_shapes(boxes_px):
        raise ValueError(f"{count} anchors of {distinct_shapes(boxes_px)} different shapes")
    seen = boxes_px
    if len(boxes_px) > SAMPLE:
        words = draw_words(seed, "anchors sample", (), len(boxes_px))
        seen = boxes_px[np.sort(np.argsort(words, kind="stable")[:SAMPLE])]
    starts = (_first_centres(seen, count, seed, restart) for restart in range(RESTARTS))
    found = [_settled(seen, centres) for centres in starts]
    best = max(found, key=lambda clusters: clusters.average_iou)  # of equal ones the first
    if seen is not boxes_px:
        best = _settled(boxes_px, best.anchors_px)
    return _in_order(best)


def distinct_shapes(boxes_px: Shapes) -> int:
    """Return how many different shapes there are."""
    return len(np.unique(boxes_px, axis=0))


def shape_iou(boxes_px: Shapes, anchor_px: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return [N]: IoU of every box with an anchor, both with one centre."""
    width, height = anchor_px
    overlap = np.minimum(boxes_px[:, 0], width) * np.minimum(boxes_px[:, 1], height)
    iou: npt.NDArray[np.float64]
    iou = overlap / (boxes_px[:, 0] * boxes_px[:, 1] + width * height - overlap)
    return iou


def nearest_anchors(boxes_px: Shapes, anchors_px: Shapes) -> Clusters:
    """Give every box the anchor of the best IoU, of equal ones the first."""
    best, assignments = np.zeros(len(boxes_px)), np.zeros(len(boxes_px), np.intp)
    for index, anchor in enumerate(anchors_px.tolist()):
        iou = shape_iou(boxes_px, anchor)
        better = iou > best
        np.copyto(best, iou, where=better)
        np.copyto(assignments, index, where=better)
    return Clusters(anchors_px, _sum(best) / len(boxes_px), assignments)


def format_anchors(anchors_px: Shapes, width: int) -> str:
    """Return the anchors in Darknet's form.

    Args:
        width: of the network's input; up to 32 the anchors are taken for cells (YOLOv2).
    Source:
        AlexeyAB/darknet 59596d78 src/detector.c calc_anchors.
    """
    form = "{:3.0f},{:3.0f}" if width > 32 else "{:2.4f},{:2.4f}"
    return ", ".join(form.format(*anchor) for anchor in anchors_px.tolist())


def _settled(boxes_px: Shapes, centres: Shapes) -> Clusters:
    """Assign boxes and move centres until nothing changes; of all rounds the best counts.

    A mean is not the shape of the largest IoU, so the last round need not be the best.
    """
    clusters = best = nearest_anchors(boxes_px, centres)
    gained_in = 0
    for number in range(1, MOST_ROUNDS + 1):
        moved = nearest_anchors(boxes_px, _means(boxes_px, clusters))
        if moved.average_iou > best.average_iou + LEAST_GAIN:
            gained_in = number
        if moved.average_iou > best.average_iou:
            best = moved
        unchanged = (moved.assignments == clusters.assignments).all()
        if unchanged or number - gained_in >= PATIENCE:
            break
        clusters = moved
    return best


def _in_order(clusters: Clusters) -> Clusters:
    order = np.argsort(clusters.anchors_px.prod(axis=1), kind="stable")
    places = np.argsort(order, kind="stable")
    return Clusters(clusters.anchors_px[order], clusters.average_iou, places[clusters.assignments])


def _means(boxes_px: Shapes, clusters: Clusters) -> Shapes:
    """Return the mean shape of every cluster; an empty one stays where it is."""
    count = len(clusters.anchors_px)
    members = np.bincount(clusters.assignments, minlength=count)
    sums = [np.bincount(clusters.assignments, boxes_px[:, i], minlength=count) for i in range(2)]
    means = np.stack(sums, axis=1) / np.maximum(members, 1)[:, None]
    return np.where(members[:, None] > 0, means, clusters.anchors_px)


def _first_centres(boxes_px: Shapes, count: int, seed: int, restart: int) -> Shapes:
    """Draw boxes as centres by k-means++: each with a chance that grows with its distance.

    Source:
        Arthur and Vassilvitskii, k-means++ (2007); the share of a box in what is minimised is
        its 1 - IoU here, where theirs is a squared distance.
    """
    words = draw_words(seed, "anchors", (restart,), count)
    uniforms = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    chances = np.ones(len(boxes_px))
    chosen: list[int] = []
    for uniform in uniforms.tolist():
        heights = np.cumsum(chances)
        place = int(np.searchsorted(heights, uniform * heights[-1], side="right"))
        chosen.append(min(place, len(heights) - 1))  # a product may be rounded up to the end
        distance = 1 - shape_iou(boxes_px, boxes_px[chosen[-1]].tolist())
        chances = np.minimum(chances, distance)
    return boxes_px[chosen]


def _sum(values: npt.NDArray[np.float64]) -> float:
    """Add one by one, in order; NumPy's own sum depends on the processor in the last bits."""
    return float(np.bincount(np.zeros(len(values), np.intp), values)[0])
