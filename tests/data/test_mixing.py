from dataclasses import replace

import numpy as np

from relume.data.mixing import Mixing, draw_mixing, most_pictures
from tests.data.test_augment import NET

MIXUP, MOSAIC = replace(NET, mixup=True), replace(NET, mosaic=True)


def test_without_mixing_a_sample_is_one_picture() -> None:
    assert {draw_mixing(NET, 64, 64, 1, position) for position in range(99)} == {Mixing()}


def test_half_of_the_samples_are_mixed() -> None:
    drawn = [draw_mixing(MIXUP, 64, 64, 4, position) for position in range(1000)]

    assert set(drawn) == {Mixing(), Mixing(pictures=2)}
    # 500 expected, standard deviation 16.
    assert 435 < sum(mixing.pictures == 2 for mixing in drawn) < 565


def test_what_a_sample_is_made_of_never_changes() -> None:
    # Raise `numerics` if this must change: every run in progress would see other pictures.
    drawn = [draw_mixing(MIXUP, 64, 64, 1, position).pictures for position in range(16)]

    assert drawn == [1, 1, 2, 1, 2, 2, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1]


def test_half_of_the_samples_are_mosaics_cut_anywhere_in_the_middle() -> None:
    drawn = [draw_mixing(MOSAIC, 416, 320, 4, position) for position in range(2000)]
    mosaics = [mixing for mixing in drawn if mixing.pictures == 4]

    # The coin is the same for every kind of mixing.
    coins = [draw_mixing(MIXUP, 416, 320, 4, position).pictures for position in range(2000)]
    assert [mixing.pictures == 4 for mixing in drawn] == [coin == 2 for coin in coins]
    for cuts, low, high in (  # .2 and .8 of the sides in float32, truncated
        ([mixing.cut_x_px for mixing in mosaics], 83, 332),
        ([mixing.cut_y_px for mixing in mosaics], 64, 256),
    ):
        assert low <= min(cuts) < low + 5
        assert high - 5 < max(cuts) <= high
        counts, _ = np.histogram(cuts, bins=10, range=(low, high + 1))
        expected = len(cuts) / 10
        # 99.9 % of chi-square with 9 degrees of freedom lie below 27.9.
        assert float(((counts - expected) ** 2 / expected).sum()) < 27.9
    across, down = ([m.cut_x_px for m in mosaics], [m.cut_y_px for m in mosaics])
    # Independent: a correlation has a standard deviation of about 1 / sqrt(1000) = .032.
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.13


def test_the_most_pictures_of_a_sample_are_told() -> None:
    assert [most_pictures(net) for net in (NET, MIXUP, MOSAIC)] == [1, 2, 4]
