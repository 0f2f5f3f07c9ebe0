"""Darknet's [yolo] layer as its C code walks it: cell by cell, anchor by anchor, in float32.

Slow and plain, so that the vectorised code has something to be compared with.
Source: pjreddie/darknet f6afaab src/yolo_layer.c, src/box.c; the keys iou_normalizer,
obj_normalizer and scale_x_y as in AlexeyAB's.
"""

import numpy as np
import numpy.typing as npt

from relume.formats.sections import Yolo

F = np.float32
Floats = npt.NDArray[np.float32]


def logistic(x: Floats) -> Floats:
    """Return 1 / (1 + e^-x) in float32."""
    y: Floats = (1 / (1 + np.exp(-x.astype(np.float64)))).astype(F)
    return y


def overlap(x1: np.float32, w1: np.float32, x2: np.float32, w2: np.float32) -> np.float32:
    """Return how much two intervals share; negative if they do not touch."""
    return min(x1 + w1 / F(2), x2 + w2 / F(2)) - max(x1 - w1 / F(2), x2 - w2 / F(2))


def box_iou(a: Floats, b: Floats) -> np.float32:
    """Return intersection over union of two boxes (x, y, w, h)."""
    w, h = overlap(a[0], a[2], b[0], b[2]), overlap(a[1], a[3], b[1], b[3])
    shared = F(0) if w < 0 or h < 0 else w * h
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union > 0 else F(0)


def yolo_delta(
    raw: Floats, boxes: Floats, classes: npt.NDArray[np.int64], head: Yolo, net: tuple[int, int]
) -> Floats:
    """Return l.delta of one image.

    Args:
        raw: [A, 5 + K, H, W] before activation.
        boxes, classes: [T, 4] and [T]; a negative class is skipped.
        net: width and height of the input in pixels.
    """
    anchors, _, height, width = raw.shape
    out = raw.copy()
    out[:, 4:] = logistic(raw[:, 4:])
    s = F(head.scale_x_y)
    out[:, :2] = logistic(raw[:, :2]) * s - F(0.5) * (s - F(1))
    delta = np.zeros_like(raw)
    shapes = np.array(head.anchors_px, F)
    truths = [(b, c) for b, c in zip(boxes, classes, strict=True) if 0 <= c < head.classes]

    def tell(n: int, j: int, i: int, box: Floats, kind: int) -> None:
        anchor = shapes[head.mask[n]]
        target = np.array(
            [
                box[0] * F(width) - F(i),
                box[1] * F(height) - F(j),
                np.log(box[2] * F(net[0]) / anchor[0]),
                np.log(box[3] * F(net[1]) / anchor[1]),
            ],
            F,
        )
        scale = (F(2) - box[2] * box[3]) * F(head.iou_normalizer)
        delta[n, :4, j, i] = scale * (target - out[n, :4, j, i])
        delta[n, 4, j, i] = F(head.obj_normalizer) * (F(1) - out[n, 4, j, i])
        if delta[n, 5, j, i]:
            delta[n, 5 + kind, j, i] = F(1) - out[n, 5 + kind, j, i]
        else:
            hot = np.arange(head.classes) == kind
            delta[n, 5:, j, i] = hot.astype(F) - out[n, 5:, j, i]

    for j in range(height):
        for i in range(width):
            for n in range(anchors):
                anchor = shapes[head.mask[n]]
                x, y, w, h = out[n, :4, j, i]
                guess = np.array(
                    [
                        (F(i) + x) / F(width),
                        (F(j) + y) / F(height),
                        np.exp(w) * anchor[0] / F(net[0]),
                        np.exp(h) * anchor[1] / F(net[1]),
                    ],
                    F,
                )
                ious = [box_iou(guess, box) for box, _ in truths]
                best = max(ious, default=F(0))
                delta[n, 4, j, i] = F(head.obj_normalizer) * (F(0) - out[n, 4, j, i])
                if best > F(head.ignore_thresh):
                    delta[n, 4, j, i] = 0
                if best > F(head.truth_thresh):
                    box, kind = truths[ious.index(best)]
                    tell(n, j, i, box, int(kind))
    for box, kind in truths:
        i = min(int(box[0] * F(width)), width - 1)
        j = min(int(box[1] * F(height)), height - 1)
        centred = np.array([0, 0, box[2], box[3]], F)
        fits = [
            box_iou(np.array([0, 0, w / F(net[0]), h / F(net[1])], F), centred) for w, h in shapes
        ]
        best_n = int(np.argmax(fits))
        if best_n in head.mask:
            tell(head.mask.index(best_n), j, i, box, int(kind))
    return delta
