import numpy as np

from relume.data.mixup import blend_pixels, join_truths
from tests.data.test_augment import boxes_of, noise


def test_a_blend_is_the_mean_rounded_half_to_even() -> None:
    first, second = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))

    blended = blend_pixels(first[..., None], second[..., None])

    mean = np.rint((first.astype(np.float64) + second) / 2)
    np.testing.assert_array_equal(blended[..., 0], mean.astype(np.uint8))
    assert blended.dtype == np.uint8


def test_a_blend_of_a_picture_with_itself_is_the_picture() -> None:
    picture = noise(20, 30)

    np.testing.assert_array_equal(blend_pixels(picture, picture), picture)


def test_the_truths_of_both_pictures_stand_one_behind_the_other_up_to_max() -> None:
    first = boxes_of((0, 0.5, 0.5, 0.1, 0.1), (1, 0.5, 0.5, 0.2, 0.2))
    second = boxes_of((2, 0.5, 0.5, 0.3, 0.3), (3, 0.5, 0.5, 0.4, 0.4))

    assert join_truths([first, second], 9)[:, 0].tolist() == [0, 1, 2, 3]
    assert join_truths([first, second], 3)[:, 0].tolist() == [0, 1, 2]
    assert join_truths([boxes_of(), second], 9)[:, 0].tolist() == [2, 3]
    assert join_truths([boxes_of(), boxes_of()], 9).shape == (0, 5)
