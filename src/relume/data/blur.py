"""Blur as Darknet blurs: all but the objects, or the whole picture.

Source:
    AlexeyAB/darknet 59596d78 src/data.c load_data_detection, fill_truth_detection and
    image_opencv.cpp image_data_augmentation.
"""

import cv2
import numpy as np

from relume.data.image import Pixels
from relume.formats.data_files import Boxes

BACKGROUND_KERNEL_PX = 17


def apply_blur(image: Pixels, truths: Boxes, blur: int) -> Pixels:
    """Return a blurred picture.

    Args:
        image: [height, width, C], of the net's size, with its final colours.
        truths: [n, 5] of this picture alone.
        blur: 0 none; 1 all but what lies in a truth; above 1 the whole picture, with a kernel of
            so many pixels, at most an eighth of the smallest side of a truth: if that is 1, all
            but the truths, and if it is 0, or there is no truth, nothing.
    """
    if blur > 1:
        blur = min(blur, _smallest_side_px(image, truths) // 8)
    if blur == 0:
        return image
    side = BACKGROUND_KERNEL_PX if blur == 1 else blur // 2 * 2 + 1
    blurred: Pixels = cv2.GaussianBlur(image, (side, side), 0).reshape(image.shape)
    if blur == 1:
        for part in _insides(image, truths):
            blurred[part] = image[part]
    return blurred


def _smallest_side_px(image: Pixels, truths: Boxes) -> int:
    height, width = image.shape[:2]
    sides = truths[:, 3:5] * np.array([width, height], np.float32)
    return int(sides.min()) if len(truths) else 0


def _insides(image: Pixels, truths: Boxes) -> list[tuple[slice, slice]]:
    """Return rows and columns of every truth, truncated where C truncates."""
    height, width = image.shape[:2]
    starts = truths[:, 1:3].astype(np.float64) - truths[:, 3:5].astype(np.float64) / 2
    starts_px = (starts * (width, height)).astype(np.int64)
    sizes_px = (truths[:, 3:5] * np.array([width, height], np.float32)).astype(np.int64)
    parts = []
    for (left, top), (wide, high) in zip(starts_px.tolist(), sizes_px.tolist(), strict=True):
        parts.append((slice(max(top, 0), top + high), slice(max(left, 0), left + wide)))
    return parts
