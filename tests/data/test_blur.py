import numpy as np
import pytest

from relume.data.blur import apply_blur
from relume.data.image import Pixels
from tests.data.test_augment import boxes_of, noise

SMALL_KERNELS = {3: (1.0, 2, 1), 5: (1.0, 4, 6, 4, 1), 9: (4.0, 13, 30, 51, 60, 51, 30, 13, 4)}
"""What OpenCV takes for the Gaussian."""


def gaussian(picture: Pixels, side: int) -> Pixels:
    """Blur in double precision; what lies outside is the picture mirrored at its border pixels."""
    half = side // 2
    sigma = 0.3 * ((side - 1) * 0.5 - 1) + 0.8
    kernel = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * sigma**2))
    kernel = np.array(SMALL_KERNELS.get(side, kernel))
    kernel /= kernel.sum()
    padded = np.pad(picture.astype(np.float64), ((half, half), (half, half), (0, 0)), "reflect")
    rows = sum(k * padded[i : i + picture.shape[0]] for i, k in enumerate(kernel))
    blurred = sum(k * rows[:, i : i + picture.shape[1]] for i, k in enumerate(kernel))
    rounded: Pixels = np.rint(blurred).astype(np.uint8)
    return rounded


def assert_nearly_same(found: Pixels, expected: Pixels) -> None:
    # OpenCV computes in fixed point.
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_the_background_is_blurred_and_the_objects_are_not(channels: int) -> None:
    picture = noise(60, 80, channels)
    truths = boxes_of((0, 0.25, 0.5, 0.25, 0.375), (1, 0.9375, 0.875, 0.25, 0.5))

    found = apply_blur(picture, truths, 1)

    expected = gaussian(picture, 17)
    insides = [(slice(18, 40), slice(10, 30)), (slice(37, 60), slice(65, 80))]  # truncated
    for part in insides:
        expected[part] = picture[part]
        np.testing.assert_array_equal(found[part], picture[part])
    assert found.shape == picture.shape
    assert_nearly_same(found, expected)


@pytest.mark.parametrize(("blur", "side"), [(2, 3), (3, 3), (4, 5), (5, 5), (9, 9)])
def test_the_whole_picture_is_blurred_with_an_odd_kernel(blur: int, side: int) -> None:
    picture = noise(80, 80)
    large = boxes_of((0, 0.5, 0.5, 0.95, 0.95))  # an eighth of it: 9 pixels

    assert_nearly_same(apply_blur(picture, large, blur), gaussian(picture, side))


def test_a_small_object_narrows_the_kernel_and_a_tiny_one_switches_the_blur_off() -> None:
    picture = noise(64, 128)
    small = boxes_of((0, 0.5, 0.5, 0.5, 0.5), (0, 0.2, 0.5, 0.2, 0.4))  # 25 pixels: kernel 3
    smaller = boxes_of((0, 0.2, 0.5, 0.2, 0.125))  # 8 pixels: the background only
    tiny = boxes_of((0, 0.2, 0.5, 0.05, 0.5))  # 6 pixels

    np.testing.assert_array_equal(apply_blur(picture, small, 9), apply_blur(picture, small, 3))
    np.testing.assert_array_equal(apply_blur(picture, smaller, 9), apply_blur(picture, smaller, 1))
    np.testing.assert_array_equal(apply_blur(picture, tiny, 9), picture)
    np.testing.assert_array_equal(apply_blur(picture, boxes_of(), 9), picture)


def test_without_objects_all_of_it_is_background() -> None:
    picture = noise(40, 40)

    assert_nearly_same(apply_blur(picture, boxes_of(), 1), gaussian(picture, 17))
    np.testing.assert_array_equal(apply_blur(picture, boxes_of(), 0), picture)


def test_the_picture_itself_is_left_as_it_was() -> None:
    picture = noise(40, 40)
    before = picture.copy()

    apply_blur(picture, boxes_of((0, 0.5, 0.5, 0.9, 0.9)), 1)

    np.testing.assert_array_equal(picture, before)
