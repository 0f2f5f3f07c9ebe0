"""Which cell and anchor of a head answers for which truth, and what it should say.

Legend: B images, T truths, P rows with an object, M assigned truths. A row is one cell with
one anchor of the head, counted over all images: ((b * H + row) * W + column) * A + anchor.

Not covered: what follows for the gradient (`loss.py`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from relume.formats.sections import Yolo
from relume.model.boxes import anchors_of, iou_of_shapes, logarithm


@dataclass(frozen=True, eq=False)
class Truths:
    """What is to be seen in the images of a mini-batch."""

    boxes_xywh_rel: Tensor
    """[B, T, 4] float32, relative to the network's input."""
    classes: Tensor
    """[B, T] int64; -1 fills a row up behind its last truth."""


@dataclass(frozen=True, eq=False)
class Targets:
    """The rows of a head that should find an object."""

    rows: Tensor
    """[P] int64, ascending, each once."""
    offsets: Tensor
    """[P, 4] float32: x and y within the cell, logarithm of size over anchor."""
    weights: Tensor
    """[P, 1] float32: 2 - area, so that small objects count more."""
    class_rows: Tensor
    """[M] int64: a row for every truth ..."""
    class_ids: Tensor
    """[M] int64: ... and its class; a row with several truths has several classes."""


def assign_truths(
    truths: Truths,
    head: Yolo,
    grid: tuple[int, int],
    net_width: int,
    net_height: int,
    extra_winners: Tensor | None = None,
) -> Targets:
    """Give every truth to the anchor of the nearest shape, in the cell where its centre lies.

    The nearest is sought among all anchors of the cfg; a truth whose anchor belongs to another
    head is not assigned here. Of several truths on one row the last in order gives the box,
    each gives its class.

    Args:
        grid: (H, W) cells.
        net_width, net_height: the input's size in pixels.
        extra_winners: [B * N] int64, the truth (b * T + t) that a row answers for because it
            overlaps so well already (truth_thresh), else -1; an assigned truth goes before.

    Source: pjreddie src/yolo_layer.c forward_yolo_layer, delta_yolo_box.
    """
    height, width = grid
    images, number = truths.classes.shape
    boxes = truths.boxes_xywh_rel.reshape(-1, 4)
    device = boxes.device
    size_px = torch.tensor([net_width, net_height], dtype=torch.float32, device=device)

    anchors = torch.tensor(head.anchors_px, device=device)
    best = iou_of_shapes(boxes[:, 2:], anchors / size_px).argmax(1)
    # Position of each anchor of the cfg within this head's mask; -1: another head's.
    places = [head.mask.index(n) if n in head.mask else -1 for n in range(head.num)]
    place = torch.tensor(places, device=device)[best]

    truth = torch.nonzero(_usable(truths.classes, head) & (place >= 0)).squeeze(1)
    cells = torch.tensor([width, height], device=device)
    column, row = torch.minimum((boxes[truth, :2] * cells).long(), cells - 1).unbind(1)
    image = truth // number
    class_rows = ((image * height + row) * width + column) * len(head.mask) + place[truth]

    if extra_winners is None:
        total = images * height * width * len(head.mask)
        extra_winners = torch.full((total,), -1, device=device)
    extra_rows = torch.nonzero(extra_winners >= 0).squeeze(1)
    extra_truth = extra_winners[extra_rows]
    # The largest number wins, that is the last truth, whatever the order of execution.
    winners = extra_winners.scatter_reduce(0, class_rows, truth, "amax", include_self=False)
    rows = torch.nonzero(winners >= 0).squeeze(1)
    winner = boxes[winners[rows]]
    return Targets(
        rows=rows,
        offsets=_offsets(winner, rows, head, grid, size_px),
        weights=(2 - winner[:, 2] * winner[:, 3])[:, None],
        class_rows=torch.cat((class_rows, extra_rows)),
        class_ids=truths.classes.flatten()[torch.cat((truth, extra_truth))],
    )


def _usable(classes: Tensor, head: Yolo) -> Tensor:
    """Return [B * T]: whether it is a truth of a class that the head knows."""
    return ((classes >= 0) & (classes < head.classes)).flatten()


def _offsets(
    boxes: Tensor, rows: Tensor, head: Yolo, grid: tuple[int, int], size_px: Tensor
) -> Tensor:
    """Return [P, 4]: what the rows should say to mean the boxes [P, 4]."""
    height, width = grid
    anchors = anchors_of(head, boxes.device)
    cell = rows // len(head.mask) % (height * width)
    corner = torch.stack((cell % width, cell // width), 1)
    cells = torch.tensor([width, height], device=boxes.device)
    within = boxes[:, :2] * cells - corner
    sizes = logarithm(boxes[:, 2:] * size_px / anchors[rows % len(head.mask)])
    return torch.cat((within, sizes), 1)
