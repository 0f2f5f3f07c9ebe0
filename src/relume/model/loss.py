"""YOLOv3's loss in its MSE form: the gradient of one head, and the sum of its squares.

Darknet writes the gradient down instead of deriving it: truth minus prediction, without the
slope of the logistic function. The loss it prints is the sum of the squares of these numbers.

Legend: B images, N = H * W * A rows of an image, K classes, T truths, P rows with an object.

Not covered: iou_loss other than mse and the other keys that `formats/cfg.py` refuses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from relume.formats.sections import Yolo
from relume.model.boxes import decode_xywh_rel, iou_of, offsets_in_cell, rows_of
from relume.model.targets import Truths, assign_truths

__all__ = ["HeadLoss", "Truths", "head_loss"]


@dataclass(frozen=True, eq=False)
class HeadLoss:
    """Gradient and loss of one head, summed over the mini-batch."""

    delta: Tensor
    """Shape of the raw output: the NEGATIVE gradient (truth - prediction), as in Darknet."""
    box: Tensor
    """Sum of squared box deltas, a float32 scalar; likewise the next two."""
    objectness: Tensor
    classification: Tensor
    assigned: int
    """Truths for which this head answers."""


@torch.no_grad()
def head_loss(raw: Tensor, truths: Truths, head: Yolo, net_width: int, net_height: int) -> HeadLoss:
    """Return the gradient that one head sends back, and its loss.

    Every row without an object is told "nothing here", unless it overlaps a truth by more
    than ignore_thresh (whatever its class). A row with an object is told its box, "something
    here" and its classes.

    Args:
        raw: [B, A * (5 + K), H, W] as the network gives it.
        net_width, net_height: the input's size in pixels at this iteration.

    Source:
        pjreddie f6afaab src/yolo_layer.c forward_yolo_layer; iou_normalizer, obj_normalizer
        and scale_x_y as in AlexeyAB's.
    """
    images, _, height, width = raw.shape
    rows = rows_of(raw, head)
    objectness = torch.sigmoid(rows[..., 4]).flatten()
    best_iou, best_truth = _best_overlap(rows, truths, head, (height, width), net_width, net_height)
    sure = torch.where(best_iou > head.truth_thresh, best_truth, -1)
    targets = assign_truths(truths, head, (height, width), net_width, net_height, sure)

    obj_delta = torch.where(best_iou > head.ignore_thresh, 0.0, -objectness)
    obj_delta[targets.rows] = 1 - objectness[targets.rows]
    obj_delta *= head.obj_normalizer

    with_object = rows.reshape(-1, 5 + head.classes)[targets.rows]
    said = with_object[:, :4].clone()
    said[:, :2] = offsets_in_cell(said[:, :2], head.scale_x_y)
    box_delta = targets.weights * (targets.offsets - said) * head.iou_normalizer
    class_delta = torch.zeros_like(with_object[:, 5:])
    place = torch.searchsorted(targets.rows, targets.class_rows)
    # Equal values where two truths share row and class, so their order is of no matter.
    class_delta[place, targets.class_ids] = 1.0
    class_delta -= torch.sigmoid(with_object[:, 5:])

    delta = torch.zeros_like(rows, memory_format=torch.contiguous_format)
    flat = delta.view(-1, 5 + head.classes)
    flat[:, 4] = obj_delta
    flat[targets.rows, :4] = box_delta
    flat[targets.rows, 5:] = class_delta
    return HeadLoss(
        delta=delta.view(images, height, width, -1).permute(0, 3, 1, 2),
        box=box_delta.square().sum(),
        objectness=obj_delta.square().sum(),
        classification=class_delta.square().sum(),
        assigned=len(targets.class_rows),
    )


def _best_overlap(
    rows: Tensor,
    truths: Truths,
    head: Yolo,
    grid: tuple[int, int],
    net_width: int,
    net_height: int,
) -> tuple[Tensor, Tensor]:
    """Return per row, [B * N], the largest IoU with a truth and that truth (b * T + t)."""
    images, number = truths.classes.shape
    predicted = decode_xywh_rel(
        rows[..., :4].permute(2, 0, 1).contiguous(), head, grid, net_width, net_height
    )
    known = (truths.classes >= 0) & (truths.classes < head.classes)
    # A box of size 0 overlaps nothing.
    boxes = (truths.boxes_xywh_rel * known[..., None]).permute(2, 0, 1)[..., None]
    iou = iou_of(predicted[:, :, None].unbind(0), boxes.unbind(0))
    best, truth = iou.max(1)
    first = torch.arange(images, device=rows.device) * number
    return best.flatten(), (truth + first[:, None]).flatten()
