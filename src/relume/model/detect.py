"""From what the heads say to detections: decoding, non-maximum suppression, letterboxing.

Detections come in Darknet's order (head, cell row by row, anchor), which decides between
equals and in which order things are printed.

Not covered: drawing, printing, and scoring detections against truths (`relume/evaluate/`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from relume.formats.sections import Yolo
from relume.model.boxes import decode_xywh_rel, rows_of
from relume.model.network import Network
from relume.model.overlap import overlap_of

Floats = npt.NDArray[np.float32]
Booleans = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.intp]
Picture = npt.NDArray[np.uint8]
NmsKind = Literal["default", "greedynms", "diounms"]

GREEDY_EXPONENT = 0.6
"""Darknet's exponent on the distance term, where the cfg's beta_nms does not replace it."""
AT_ONCE = 512
"""Boxes up to which all overlaps are computed, whether they are needed or not."""
MUCH_LARGER = 4
"""A picture of so many times the pixels of the network's input: it is not worth a pass over all."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image; N rows in Darknet's order."""

    boxes_xywh_rel: Floats
    """[N, 4] centre and size relative to the network's input, or to the picture."""
    objectness: Floats
    """[N], all above the threshold."""
    probabilities: Floats
    """[N, K] objectness * class; 0 where not above the threshold, or suppressed."""


@torch.no_grad()
def decode(
    raws: Sequence[Tensor],
    heads: Sequence[Yolo],
    net_width: int,
    net_height: int,
    thresh: float,
) -> list[Detections]:
    """Return per image the boxes whose objectness is above `thresh`, before suppression.

    Args:
        raws: per head [B, A * (5 + K), H, W].
        net_width, net_height: size of the network's input in pixels.

    Source: AlexeyAB src/yolo_layer.c get_yolo_detections.
    """
    parts = [
        _decode_head(raw, head, net_width, net_height, thresh)
        for raw, head in zip(raws, heads, strict=True)
    ]
    return [
        Detections(*(np.concatenate(arrays) for arrays in zip(*of_image, strict=True)))
        for of_image in zip(*parts, strict=True)
    ]


def _decode_head(
    raw: Tensor, head: Yolo, net_width: int, net_height: int, thresh: float
) -> list[tuple[Floats, Floats, Floats]]:
    """Return per image boxes [N, 4], objectness [N], probabilities [N, K]."""
    rows = rows_of(raw, head)
    objectness = torch.sigmoid(rows[..., 4])
    image, row = torch.nonzero(objectness > thresh, as_tuple=True)
    raw_boxes = rows[..., :4].permute(2, 0, 1).contiguous()
    grid = (raw.shape[2], raw.shape[3])
    boxes = decode_xywh_rel(raw_boxes, head, grid, net_width, net_height)[:, image, row].T
    # A net that has hardly been trained says e^100 at times; that is no box.
    finite = torch.isfinite(boxes).all(1)
    boxes, image, row = boxes[finite], image[finite], row[finite]
    found = objectness[image, row]
    probabilities = torch.sigmoid(rows[image, row, 5:]) * found[:, None]
    probabilities = torch.where(probabilities > thresh, probabilities, 0.0)
    counts = torch.bincount(image, minlength=raw.shape[0]).tolist()
    columns = [torch.split(part.cpu(), counts) for part in (boxes, found, probabilities)]
    return [
        (b.contiguous().numpy(), o.numpy(), p.numpy()) for b, o, p in zip(*columns, strict=True)
    ]


def nms_sort(
    detections: Detections,
    thresh: float = 0.45,
    kind: NmsKind = "default",
    beta_nms: float = GREEDY_EXPONENT,
) -> Detections:
    """Suppress, class by class, what overlaps a more probable detection by more than `thresh`.

    Rows stay where they are; only probabilities become 0. Equal probabilities keep their
    order (Darknet's qsort leaves it open).

    Args:
        kind: default measures by IoU; greedynms and diounms by IoU - (d^2 / c^2)^e, d being
            the distance of the centres, c the diagonal of the enclosing box and e .6 for
            greedynms, `beta_nms` for diounms.

    Source: AlexeyAB src/box.c do_nms_sort, diounms_sort, box_diou, box_diounms.
    """
    exponent = {"default": None, "greedynms": GREEDY_EXPONENT, "diounms": beta_nms}[kind]
    probabilities = detections.probabilities.copy()
    claimed = np.flatnonzero(probabilities.any(1))
    suppressed_by = _suppressed_by(detections.boxes_xywh_rel[claimed], thresh, exponent)
    for column, of_class in enumerate(probabilities[claimed].T):
        candidates = np.flatnonzero(of_class)
        if len(candidates) > 1:
            order = candidates[np.argsort(-of_class[candidates], kind="stable")]
            probabilities[claimed[_dropped(order, len(claimed), suppressed_by)], column] = 0
    return replace(detections, probabilities=probabilities)


def nms_obj(detections: Detections, thresh: float) -> Detections:
    """Return the boxes that overlap none of greater objectness by more than `thresh`.

    They stay in their order; of equal objectness the first in order counts as greater.

    Source: AlexeyAB src/box.c do_nms_obj.
    """
    boxes, objectness = detections.boxes_xywh_rel, detections.objectness
    order = np.argsort(-objectness, kind="stable")
    kept = ~_dropped(order, len(boxes), _suppressed_by(boxes, thresh, None))
    return Detections(boxes[kept], objectness[kept], detections.probabilities[kept])


def _dropped(order: Integers, count: int, suppressed_by: Callable[[int], Booleans]) -> Booleans:
    """Return [count]: which boxes are dropped by one that comes before them in order."""
    dropped = np.zeros(count, bool)
    flags = memoryview(dropped.data)
    for best in order.tolist():
        if not flags[best]:
            # Those before it that are left do not overlap it, or they had dropped it.
            dropped |= suppressed_by(best)
            flags[best] = False
    return dropped


def _suppressed_by(
    boxes_xywh: Floats, thresh: float, exponent: float | None
) -> Callable[[int], Booleans]:
    """Return what tells of a box which of all, [N], overlap it too much, itself among them.

    Of few boxes all is computed at once, of many what is asked for: most are dropped unasked.
    """
    xywh = np.ascontiguousarray(boxes_xywh.T)
    if len(boxes_xywh) <= AT_ONCE:
        table = overlap_of(xywh[:, :, None], xywh[:, None, :], exponent) > thresh
        return lambda row: table[row]
    return cache(lambda row: overlap_of(xywh[:, row, None], xywh, exponent) > thresh)


def prepare_image(picture: Picture, net_width: int, net_height: int, letter_box: bool) -> Tensor:
    """Return [1, C, net_height, net_width] float32 in 0..1, as the network wants it.

    Args:
        picture: [H, W, C] RGB.
        letter_box: keep the picture's shape and fill the rest with grey; else stretch.

    Source: pjreddie src/image.c letterbox_image, resize_image (bilinear, corners on corners).
    """
    height, width, channels = picture.shape
    if not letter_box:
        return _resized(picture, net_width, net_height)
    inner_width, inner_height = letterbox_size(width, height, net_width, net_height)
    left, top = (net_width - inner_width) // 2, (net_height - inner_height) // 2
    canvas = torch.full((1, channels, net_height, net_width), 0.5)
    inner = _resized(picture, inner_width, inner_height)
    canvas[:, :, top : top + inner_height, left : left + inner_width] = inner
    return canvas


def letterbox_size(width: int, height: int, net_width: int, net_height: int) -> tuple[int, int]:
    """Return (width, height) in pixels of a picture that just fits into the network's input.

    Neither is less than 1, however long and thin the picture.

    Source: pjreddie src/image.c letterbox_image (integer division).
    """
    if net_width * height < net_height * width:
        return net_width, max(1, height * net_width // width)
    return max(1, width * net_height // height), net_height


@np.errstate(over="ignore")
def correct_boxes(
    detections: Detections, width: int, height: int, net_width: int, net_height: int
) -> Detections:
    """Return detections relative to the picture instead of the letterboxed input.

    Args:
        width, height: of the picture in pixels.

    Source: pjreddie src/yolo_layer.c correct_yolo_boxes.
    """
    inner = np.array(letterbox_size(width, height, net_width, net_height), np.float32)
    net = np.array((net_width, net_height), np.float32)
    boxes = detections.boxes_xywh_rel
    centres, sizes = boxes[:, :2], boxes[:, 2:]
    # Half a pixel may hide in the offset; Darknet ignores it here, though not when embedding.
    moved = (centres - (net - inner) / 2 / net) / (inner / net)
    return replace(
        detections, boxes_xywh_rel=np.concatenate((moved, sizes * (net / inner)), axis=1)
    )


@torch.no_grad()
def detect_image(
    network: Network, picture: Picture, thresh: float, nms: float = 0.45, letter_box: bool = False
) -> Detections:
    """Return what the network finds in one picture, relative to the picture.

    Args:
        network: in eval mode; the cfg gives the input's size and the kind of suppression.
        picture: [H, W, C] uint8 RGB.
        thresh: for objectness, and for objectness * class.
        nms: overlap above which the less probable is dropped.
    """
    net, heads = network.cfg.net, network.cfg.heads
    height, width, _ = picture.shape
    device = next(network.parameters()).device
    images = prepare_image(picture, net.width, net.height, letter_box).to(device)
    (found,) = decode(network(images), heads, net.width, net.height, thresh)
    if letter_box:
        found = correct_boxes(found, width, height, net.width, net.height)
    return nms_sort(found, nms, nms_kind(heads), heads[-1].beta_nms)


def nms_kind(heads: Sequence[Yolo]) -> NmsKind:
    """Return the kind of suppression that the last head asks for, as in Darknet."""
    match heads[-1].nms_kind:
        case "greedynms":
            return "greedynms"
        case "diounms":
            return "diounms"
        case _:
            return "default"


def _resized(picture: Picture, width: int, height: int) -> Tensor:
    """Return [1, C, height, width] float32 in 0..1: bilinear, corners on corners."""
    if picture.shape[0] * picture.shape[1] > MUCH_LARGER * width * height:
        sampled = _sampled(picture, width, height)
        return torch.from_numpy(sampled).permute(2, 0, 1)[None]
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    if pixels.shape[2:] != (height, width):
        pixels = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=True)
    return pixels.div_(255)


def _sampled(picture: Picture, width: int, height: int) -> Floats:
    """Return [height, width, C] in 0..1, taking only those pixels that count.

    Of a large photograph these are one in a hundred; the others are not even made floats.
    """
    (above, below, down), (left, right, across) = (
        _between(size, wanted)
        for size, wanted in zip(picture.shape[:2], (height, width), strict=True)
    )

    def row(lines: Integers) -> Floats:
        of_lines = picture[lines]
        first = of_lines.take(left, 1).astype(np.float32)
        second = of_lines.take(right, 1).astype(np.float32)
        second -= first
        second *= across[None, :, None]
        first += second
        return first

    blended, lower = row(above), row(below)
    lower -= blended
    lower *= down[:, None, None]
    blended += lower
    blended /= np.float32(255)
    return blended


def _between(size: int, wanted: int) -> tuple[Integers, Integers, Floats]:
    """Return per wanted pixel the two it lies between, and how far it is from the first."""
    step = np.float32((size - 1) / max(wanted - 1, 1))
    position = np.arange(wanted, dtype=np.float32) * step
    first = np.minimum(position.astype(np.intp), size - 1)
    part: Floats = position - first.astype(np.float32)
    return first, np.minimum(first + 1, size - 1), part
