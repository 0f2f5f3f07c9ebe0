"""How an iteration is cut into shares, and shares into complete subtrees.

Needs nothing but this checkout: python -m pytest tests/distributed/test_tree.py
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relume.distributed.tree import GradientTree, shares_of, spans_of


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 320))
def test_shares_are_all_subdivisions_in_order_and_of_one_size(
    first: int, left: int, processes: int
) -> None:
    shares = shares_of(first, first + left, processes)

    assert [n for share in shares for n in share] == list(range(first, first + left))
    assert len(shares) == processes
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(0, 300), st.integers(0, 300))
def test_spans_are_complete_subtrees_and_those_that_wait_in_the_tree(first: int, left: int) -> None:
    end = first + left
    spans = spans_of(first, end)

    assert [n for start, count in spans for n in range(start, start + count)] == [
        *range(first, end)
    ]
    assert all(count & (count - 1) == 0 and start % count == 0 for start, count in spans)
    tree = GradientTree(first)
    for _ in range(first, end):
        tree.add([torch.zeros(1)])
    assert [(start, count) for start, count, _ in tree.subtrees()] == spans


def test_a_subtree_out_of_place_is_a_mistake() -> None:
    tree = GradientTree(1)
    with pytest.raises(AssertionError, match="no subtree of 2 leaves begins at 1"):
        tree.add([torch.zeros(1)], 2)
