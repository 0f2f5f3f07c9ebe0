import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.data.order import drawn_index, index_at, permuted_index, rows_for


def permutation(seed: int, epoch: int, size: int) -> list[int]:
    return [permuted_index(seed, epoch, size, i) for i in range(size)]


def test_every_size_up_to_300_is_permuted() -> None:
    for size in range(1, 301):
        assert sorted(permutation(7, size % 5, size)) == list(range(size))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**64), st.integers(0, 2**40), st.integers(300, 5000))
def test_any_seed_and_epoch_permute_any_size(seed: int, epoch: int, size: int) -> None:
    assert sorted(permutation(seed, epoch, size)) == list(range(size))


def test_the_order_of_a_run_never_changes() -> None:
    # Raise `numerics` if this must change: every run in progress would see other pictures.
    assert permutation(0, 0, 12) == [0, 9, 5, 7, 6, 8, 1, 3, 2, 10, 4, 11]
    assert permutation(1, 2, 7) == [3, 1, 4, 6, 2, 5, 0]
    assert permuted_index(42, 3, 117_266, 99_999) == 84_101


def test_every_epoch_shows_each_picture_once_in_another_order() -> None:
    epochs = [[index_at(5, epoch * 50 + i, 50) for i in range(50)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_every_picture_of_a_sample_has_an_order_of_its_own() -> None:
    # Raise `numerics` if the numbers must change.
    orders = [[permuted_index(1, 2, 7, i, picture) for i in range(7)] for picture in range(4)]
    assert orders == [
        [3, 1, 4, 6, 2, 5, 0],
        [0, 5, 2, 1, 6, 4, 3],
        [2, 0, 6, 5, 3, 1, 4],
        [0, 6, 3, 4, 2, 1, 5],
    ]
    assert index_at(1, 2 * 7 + 5, 7, 3) == orders[3][5]
    pairs = [(index_at(5, p, 500), index_at(5, p, 500, 1)) for p in range(500)]
    rows, partners = zip(*pairs, strict=True)
    assert sorted(rows) == sorted(partners) == list(range(500))
    # Independent: a correlation has a standard deviation of 1 / sqrt(500) = .045.
    assert abs(np.corrcoef(rows, partners)[0, 1]) < 0.18


def test_seed_and_epoch_are_not_added_up() -> None:
    assert permutation(3, 4, 100) != permutation(4, 3, 100)


def test_a_far_position_is_reached_at_once() -> None:
    size, position = 117_266, 10**15 + 1
    assert index_at(1, position, size) == permuted_index(1, position // size, size, position % size)


@pytest.mark.parametrize(("size", "seeds"), [(2, 1500), (3, 1500), (5, 3000)])
def test_ordered_pairs_of_pictures_are_equally_likely(size: int, seeds: int) -> None:
    counts = np.zeros((size, size))
    for seed in range(seeds):
        counts[permuted_index(seed, 0, size, 0), permuted_index(seed, 0, size, 1)] += 1
    assert not counts.diagonal().any()
    seen = counts[~np.eye(size, dtype=bool)]
    expected = seeds / (size * (size - 1))
    chi_square = float(((seen - expected) ** 2 / expected).sum())
    freedom = size * (size - 1) - 1
    # The 99.99 % quantile of chi-square lies below freedom + 4 sqrt(2 freedom) + 11 here.
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5 + 11


def test_neighbours_in_the_list_end_up_anywhere() -> None:
    size = 1000
    order = np.array(permutation(11, 0, size))
    steps = (np.diff(order) % size).astype(float)
    # Uniform steps have the mean 500 and a standard error of 289 / sqrt(999) = 9.
    assert abs(steps.mean() - 500) < 5 * 9.2
    assert (order == np.arange(size)).sum() < 8  # fixed points are Poisson(1)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_every_row_stands_in_once_and_evenly(size: int) -> None:
    firsts, seconds = [], []
    for position in range(size):
        rows = list(rows_for(5, position, size))
        assert sorted(rows) == list(range(size))
        assert rows[0] == index_at(5, position, size)
        firsts.append(rows[0])
        seconds += rows[1:2]
    assert sorted(firsts) == list(range(size))
    # A picture stands in for at most one other of an epoch, but where it would for itself.
    assert all(seconds.count(row) <= 2 for row in seconds)


def test_pictures_drawn_with_replacement_are_equally_likely_and_independent() -> None:
    size, count = 20, 4000
    rows = [drawn_index(3, position, size) for position in range(count)]

    # 99.99 % of chi-square with 19, and with 399, degrees of freedom lie below 50.8, and 513.
    seen = np.bincount(rows, minlength=size)
    assert float(((seen - count / size) ** 2 / (count / size)).sum()) < 50.8
    pairs = np.zeros((size, size))
    np.add.at(pairs, (rows[:-1], rows[1:]), 1)
    expected = (count - 1) / size**2
    assert float(((pairs - expected) ** 2 / expected).sum()) < 513
    # Of n pictures about n / e go unseen among n draws: 368 of 1000, standard deviation below 10.
    unseen = 1000 - len({drawn_index(3, position, 1000) for position in range(1000)})
    assert 328 < unseen < 408


def test_what_is_drawn_with_replacement_never_changes() -> None:
    # Raise `numerics` if this must change: every run in progress would see other pictures.
    assert [drawn_index(1, position, 100) for position in range(8)] == [
        42,
        18,
        99,
        2,
        52,
        14,
        13,
        1,
    ]
    assert [drawn_index(1, 10**15, 100, picture) for picture in range(4)] == [11, 31, 1, 64]


@pytest.mark.parametrize("picture", [0, 3])
def test_others_stand_in_for_one_that_was_drawn_too(picture: int) -> None:
    for position in range(30):
        rows = list(rows_for(5, position, 7, picture, with_replacement=True))
        assert rows[0] == drawn_index(5, position, 7, picture)
        assert sorted(rows) == list(range(7))
