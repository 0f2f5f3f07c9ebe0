"""How many pictures a sample is made of: one, two blended (mixup), or four tiles (mosaic).

Source:
    AlexeyAB/darknet 59596d78 src/data.c load_data_detection (the first definition), which tosses
    the coin for all that a loader thread takes at once; here every sample has its own.
"""

from dataclasses import dataclass

import numpy as np

from relume.draws import draw_words
from relume.formats.sections import Net

NEAREST_CUT = np.float32(0.2)
"""Smallest part of a side that a tile of a mosaic takes."""


@dataclass(frozen=True)
class Mixing:
    """What a sample is made of."""

    pictures: int = 1
    """1, 2 (mixup) or 4 (mosaic)."""
    cut_x_px: int = 0
    """Where the tiles of a mosaic meet, in pixels of the net's input."""
    cut_y_px: int = 0


def most_pictures(net: Net) -> int:
    """Return how many pictures a sample may be made of."""
    return 4 if net.mosaic else 2 if net.mixup else 1


def draw_mixing(net: Net, width: int, height: int, seed: int, position: int) -> Mixing:
    """Return what the sample at `position` is made of.

    Args:
        net: mixup and mosaic; with either, half of the samples are still single pictures.
        width: of the net's input.
        height: of the net's input.
    """
    if not (net.mixup or net.mosaic):
        return Mixing()
    choice, cut_x, cut_y = (int(word) for word in draw_words(seed, "mixing", (position,), 3))
    if choice % 2 == 0:
        return Mixing()
    if not net.mosaic:
        return Mixing(pictures=2)
    return Mixing(4, _cut_px(width, cut_x), _cut_px(height, cut_y))


def _cut_px(side: int, word: int) -> int:
    low = int(np.float32(side) * NEAREST_CUT)
    high = int(np.float32(side) * (np.float32(1) - NEAREST_CUT))
    return low + word % (high - low + 1)
