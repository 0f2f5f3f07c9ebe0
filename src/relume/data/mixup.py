"""Mixup: two pictures, each augmented for itself, blended half and half.

Source:
    AlexeyAB/darknet 59596d78 src/data.c load_data_detection, blend_truth and image_opencv.cpp
    blend_images_cv, which blends floats; bytes are rounded here, half to even.
"""

from collections.abc import Sequence

import numpy as np

from relume.data.image import Pixels
from relume.formats.data_files import Boxes


def blend_pixels(first: Pixels, second: Pixels) -> Pixels:
    """Return the mean of two pictures of one shape."""
    sums = first.astype(np.uint16) + second
    sums += sums >> 1 & 1  # an odd sum goes to the even neighbour
    sums >>= 1
    blended: Pixels = sums.astype(np.uint8)
    return blended


def join_truths(truths: Sequence[Boxes], max: int) -> Boxes:
    """Return the truths of both pictures, those of the first in front, at most `max`."""
    joined: Boxes = np.concatenate(truths)[:max]
    return joined
