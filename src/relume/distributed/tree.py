"""The tree in which the gradients of an iteration are summed, whoever has computed which.

Leaves are subdivisions by their number. Two neighbours of a level meet in one node of the next;
an odd one at the end moves up unchanged. A complete subtree is one that has all of its 2^n leaves;
it begins at a multiple of their number.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

Gradients = list[Tensor]
"""Of every trained parameter, in the order of a weights file."""
Span = tuple[int, int]
"""First leaf and number of leaves of a complete subtree."""


class GradientTree:
    """Sums the gradients of neighbouring subdivisions as far as the tree lets them meet.

    Like a binary counter it holds one buffer for every complete subtree that waits for another:
    of n leaves from 0 on at most log2(n) + 1.
    """

    def __init__(self, first: int = 0) -> None:
        """Begin at a leaf."""
        self._end = first
        self._waiting: dict[int, tuple[int, Gradients]] = {}

    @property
    def end(self) -> int:
        """The leaf behind the one that was added last."""
        return self._end

    def add(self, gradients: Gradients, leaves: int = 1, first: int | None = None) -> None:
        """Add the sum of a complete subtree; it is taken over.

        Args:
            gradients: the sum of its leaves.
            leaves: their number, a power of two of which the place is a multiple.
            first: its first leaf; without it, that behind the one before.
        """
        first = self._end if first is None else first
        assert first % leaves == 0, f"no subtree of {leaves} leaves begins at {first}"
        self._end = first + leaves
        while self._waiting.get(first ^ leaves, (0,))[0] == leaves:  # the sibling is there
            _, sibling = self._waiting.pop(first ^ leaves)
            left, right = (gradients, sibling) if first < first ^ leaves else (sibling, gradients)
            torch._foreach_add_(left, right)
            first, gradients, leaves = first & ~leaves, left, 2 * leaves
        self._waiting[first] = leaves, gradients

    def total(self) -> Gradients:
        """Return the sum of all leaves, which then are gone here."""
        sums = [gradients for _, _, gradients in self.subtrees()]
        self._waiting.clear()
        total = sums.pop()
        while sums:
            left = sums.pop()
            torch._foreach_add_(left, total)
            total = left
        return total

    def subtrees(self) -> Iterator[tuple[int, int, Gradients]]:
        """Yield (first leaf, leaves, their sum) of every complete subtree that waits, in order."""
        for first, (leaves, gradients) in sorted(self._waiting.items()):
            yield first, leaves, gradients


def spans_of(first: int, end: int) -> list[Span]:
    """Return the fewest complete subtrees whose leaves are `first` to `end` - 1, in order."""
    spans = []
    while first < end:
        leaves = first & -first or 2 ** (end - first).bit_length()
        while first + leaves > end:
            leaves //= 2
        spans.append((first, leaves))
        first += leaves
    return spans


def shares_of(first: int, end: int, processes: int) -> list[range]:
    """Return which subdivisions of `first` to `end` - 1 each process trains.

    No two shares differ by more than one; with fewer subdivisions than processes some are empty.
    """
    left = end - first
    bounds = [first + number * left // processes for number in range(processes + 1)]
    return [range(*pair) for pair in pairwise(bounds)]
