"""Gaussian noise as Darknet adds it, from a table, so that its bits are those of no library.

Darknet draws noise into unsigned bytes, where what is below 0 becomes 0: it only brightens,
and half of all values stay as they are.

Source:
    AlexeyAB/darknet 59596d78 src/image_opencv.cpp image_data_augmentation.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from relume.data.image import Pixels
from relume.draws import draw_words

ENTRIES = 2**16
"""Equally likely values; what is rarer than one in so many does not occur."""


def apply_noise(image: Pixels, deviation: int, seed: int) -> Pixels:
    """Return a picture with max(0, N(0, deviation)), rounded, added to every value, up to 255.

    Args:
        image: [height, width, C].
        deviation: standard deviation in levels; 0 adds nothing.
        seed: of this picture's noise.
    """
    if deviation == 0:
        return image
    words = draw_words(seed, "noise of a picture", (), -(-image.size // 4))
    draws = words.astype("<u8").view("<u2")[: image.size]
    noise = _table(deviation)[draws].reshape(image.shape)
    noisy: Pixels = cv2.add(image, noise).reshape(image.shape)
    return noisy


@lru_cache(maxsize=2)
def _table(deviation: int) -> npt.NDArray[np.uint8]:
    """Return [ENTRIES] values, each as often as the normal distribution gives it."""
    # How many lie at or below each of 0 to 254; all others are 255.
    below = [
        round(ENTRIES * (1 + math.erf((value + 0.5) / (deviation * math.sqrt(2)))) / 2)
        for value in range(255)
    ]
    counts = np.diff([0, *below, ENTRIES])
    return np.repeat(np.arange(256, dtype=np.uint8), counts)
