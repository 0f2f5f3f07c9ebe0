"""How much boxes overlap, in NumPy and in Darknet's float32: for suppression and for scoring.

Not covered: the same for tensors in training (`boxes.py`).
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@np.errstate(over="ignore", invalid="ignore")
def overlap_of(a_xywh: Floats, b_xywh: Floats, exponent: float | None = None) -> Floats:
    """Return intersection over union, less a penalty for distance if there is an exponent.

    It is 0 where there is no union. Whichever of two boxes comes first, the bits are the same.
    A net that has hardly been trained finds boxes whose area is beyond float32: they overlap
    nothing, as Darknet's NaN does.

    Args:
        a_xywh, b_xywh: [4, ...] centre and size, with broadcasting behind the first axis.
        exponent: e of the penalty (d^2 / c^2)^e, d being the distance of the centres and c the
            diagonal of the enclosing box.

    Source: AlexeyAB src/box.c box_iou, box_diou, box_diounms.
    """
    half_a, half_b = a_xywh[2:] / 2, b_xywh[2:] / 2
    low_a, high_a = a_xywh[:2] - half_a, a_xywh[:2] + half_a
    low_b, high_b = b_xywh[:2] - half_b, b_xywh[:2] + half_b
    sides = np.maximum(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0)
    shared = sides[0] * sides[1]
    union = a_xywh[2] * a_xywh[3] + b_xywh[2] * b_xywh[3] - shared
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    if exponent is None:
        return iou
    diagonal = np.square(np.maximum(high_a, high_b) - np.minimum(low_a, low_b)).sum(0)
    distance = np.square(a_xywh[:2] - b_xywh[:2]).sum(0)
    ratio = np.divide(distance, diagonal, out=np.zeros_like(shared), where=diagonal > 0)
    penalized: Floats = iou - ratio**exponent
    return penalized
