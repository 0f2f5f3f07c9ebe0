"""Boxes: from what a head says to relative boxes, and how much two boxes overlap.

Legend: B images, A anchors of the head, H W cells, N = H * W * A in that order (Darknet's
order of detections), K classes, T truths.

Not covered: which boxes are right (`targets.py`), which are shown (`detect.py`).
"""

import math

import torch
from torch import Tensor

from relume.formats.sections import Yolo


def rows_of(raw: Tensor, head: Yolo) -> Tensor:
    """Return [B, N, 5 + K]: one row (x, y, w, h, objectness, classes) per cell and anchor.

    Args:
        raw: [B, A * (5 + K), H, W]; a view is returned if its memory is channels_last.
    """
    return raw.permute(0, 2, 3, 1).reshape(raw.shape[0], -1, 5 + head.classes)


def anchors_of(head: Yolo, device: torch.device) -> Tensor:
    """Return [A, 2]: width and height in pixels of the anchors that the head uses."""
    return torch.tensor([head.anchors_px[n] for n in head.mask], device=device)


def offsets_in_cell(raw_xy: Tensor, scale_x_y: float) -> Tensor:
    """Return where in its cell a centre lies: s * logistic(v) - (s - 1) / 2.

    Source: AlexeyAB src/yolo_layer.c forward_yolo_layer (scal_add_cpu).
    """
    return torch.sigmoid(raw_xy) * scale_x_y - 0.5 * (scale_x_y - 1)


def decode_xywh_rel(
    raw_4BN: Tensor, head: Yolo, grid: tuple[int, int], net_width: int, net_height: int
) -> Tensor:
    """Return [4, B, N]: centre and size relative to the network's input.

    Args:
        raw_4BN: x, y, w, h of every cell and anchor, before any activation.
        grid: (H, W) cells.
        net_width, net_height: the input's size in pixels; anchors do not grow with it.

    Source: AlexeyAB src/yolo_layer.c get_yolo_box.
    """
    height, width = grid
    device = raw_4BN.device
    anchors = anchors_of(head, device)
    number = len(head.mask)
    column = torch.arange(width, dtype=torch.float32, device=device)
    row = torch.arange(height, dtype=torch.float32, device=device)
    columns = column.repeat_interleave(number).repeat(height)
    rows = row.repeat_interleave(number * width)
    widths, heights = anchors.repeat(height * width, 1).unbind(1)
    x, y = offsets_in_cell(raw_4BN[:2], head.scale_x_y)
    w, h = exponential(raw_4BN[2:])
    return torch.stack(
        (
            (columns + x) / width,
            (rows + y) / height,
            w * widths / net_width,
            h * heights / net_height,
        )
    )


def exponential(x: Tensor) -> Tensor:
    """Return e**x as float32, rounded from double, so that every processor gives the same bits.

    PyTorch leaves exp, log and sqrt to MKL, whose last bits depend on the maker of the processor
    whatever it is told (docs/decisions/0005-portable-runs.md); exp2 is PyTorch's own.
    """
    return torch.exp2(x.double() * math.log2(math.e)).float()


def logarithm(x: Tensor) -> Tensor:
    """Return ln(x) as float32 in the same way; xlogy is PyTorch's own."""
    return torch.xlogy(1.0, x.double()).float()


def iou_of(a_xywh: tuple[Tensor, ...], b_xywh: tuple[Tensor, ...]) -> Tensor:
    """Return intersection over union of boxes given as (x, y, w, h), with broadcasting.

    It is 0 where there is no union, and where the union is not a number.

    Source: pjreddie src/box.c box_iou, box_intersection, box_union.
    """
    ax, ay, aw, ah = a_xywh
    bx, by, bw, bh = b_xywh
    across = _overlap(ax, aw, bx, bw)
    intersection = across.mul_(_overlap(ay, ah, by, bh))
    union = (aw * ah + bw * bh).sub(intersection)
    return torch.where(union > 0, intersection.div_(union), 0.0)


def iou_of_shapes(a_wh: Tensor, b_wh: Tensor) -> Tensor:
    """Return [M, N]: intersection over union of boxes with a common centre.

    Args:
        a_wh, b_wh: [M, 2] and [N, 2].
    """
    shared = torch.minimum(a_wh[:, None], b_wh[None]).prod(2)
    union = a_wh.prod(1)[:, None] + b_wh.prod(1)[None] - shared
    return torch.where(union > 0, shared / union, 0.0)


def _overlap(a: Tensor, a_size: Tensor, b: Tensor, b_size: Tensor) -> Tensor:
    """Return how much two intervals (centre, size) share, at least 0; a fresh tensor."""
    left = torch.maximum(a - a_size / 2, b - b_size / 2)
    right = torch.minimum(a + a_size / 2, b + b_size / 2)
    return right.sub_(left).clamp_(min=0)
