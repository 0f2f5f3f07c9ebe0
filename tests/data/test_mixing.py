from dataclasses import replace

from relume.data.mixing import Mixing, draw_mixing, most_pictures
from tests.data.test_augment import NET

MIXUP = replace(NET, mixup=True)


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


def test_the_most_pictures_of_a_sample_are_told() -> None:
    assert [most_pictures(net) for net in (NET, MIXUP)] == [1, 2]
