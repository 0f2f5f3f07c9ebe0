import math

import numpy as np
import pytest
from xxhash import xxh3_64_hexdigest

from relume.data.noise import apply_noise
from tests.data.test_augment import noise


@pytest.mark.parametrize("deviation", [1, 20, 127])
def test_noise_is_the_positive_half_of_a_normal_distribution(deviation: int) -> None:
    black = np.zeros((300, 400, 3), np.uint8)

    found = np.bincount(apply_noise(black, deviation, 7).ravel(), minlength=256)

    def share_up_to(value: float) -> float:
        return (1 + math.erf((value + 0.5) / deviation / math.sqrt(2))) / 2

    assert found.sum() == black.size
    for value in (0, deviation // 2, deviation, 2 * deviation, 254):
        share = share_up_to(min(value, 254))
        # Four standard deviations of a count, and one for the table's 1 in 65536.
        bound = 4 * math.sqrt(share * (1 - share) / black.size) + 1 / 65536
        assert abs(found[: value + 1].sum() / black.size - share) <= bound


def test_noise_saturates_and_never_darkens() -> None:
    picture = noise(50, 60)
    noisy = apply_noise(picture, 40, 3)

    assert (noisy >= picture).all()
    assert (apply_noise(np.full_like(picture, 250), 40, 3) >= 250).all()
    np.testing.assert_array_equal(apply_noise(picture, 0, 3), picture)


def test_every_seed_has_its_noise_and_every_channel_too() -> None:
    grey = np.full((40, 50, 3), 90, np.uint8)
    one, other = apply_noise(grey, 20, 1), apply_noise(grey, 20, 2)

    assert (one != other).mean() > 0.5
    assert (one[..., 0] != one[..., 1]).mean() > 0.5


def test_noise_is_pinned_whatever_the_library() -> None:
    # Raise `numerics` if this must change: every run in progress would see other pictures.
    for channels, digest in ((1, "05d1f9166fc5ea95"), (3, "95e13dd29233b948")):
        picture = np.full((31, 17, channels), 128, np.uint8)
        assert xxh3_64_hexdigest(apply_noise(picture, 20, 12345).tobytes()) == digest
