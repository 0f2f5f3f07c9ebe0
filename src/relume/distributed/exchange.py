"""Sums of subtrees that several processes have -> the gradient tree of the iteration, in each.

The parameters, as one row of numbers, are dealt with piece by piece. Of each piece every process
gets its own part of all sums, finishes the tree for that part, and gives the result to all. So
each number is added once, in the order of the tree, and none within a collective.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from relume.distributed.group import Group
from relume.distributed.tree import Gradients, GradientTree, spans_of

PIECE = 2**22
"""Numbers that are under way at a time, of every sum: 16 MiB."""


def exchanged(
    group: Group,
    before: GradientTree,
    own: GradientTree,
    shares: Sequence[range],
    parameters: Sequence[Tensor],
    whole: bool,
) -> GradientTree:
    """Return the tree of all subdivisions that are done; both given trees are used up.

    Args:
        group: of several processes.
        before: the subdivisions that all processes have the sums of, from 0 on.
        own: those that this process has trained, `shares[group.rank]`.
        shares: the subdivisions of every process, each beginning where the one before ends.
        parameters: whose gradients they are.
        whole: whether the iteration is complete; then the tree has one sum, that of all.
    """
    known = [(leaves, _flat(sums)) for _, leaves, sums in before.subtrees()]
    mine = [sums for _, _, sums in own.subtrees()] if shares[group.rank] else []
    sent_by = [spans_of(share.start, share.stop) for share in shares]
    order = [*(leaves for leaves, _ in known), *(n for spans in sent_by for _, n in spans)]
    end = max(share.stop for share in shares)
    wanted = [(0, 1)] if whole else spans_of(0, end)  # of a whole iteration only the total
    made = mine[: len(wanted)]  # their memory is used again, behind what has been sent of it
    made += [[torch.empty_like(p) for p in parameters] for _ in wanted[len(made) :]]
    row = _Row([parameter.numel() for parameter in parameters])
    for low in range(0, row.length, PIECE):
        high = min(low + PIECE, row.length)
        part = -(-(high - low) // group.size)
        padded = part * group.size
        sent = parameters[0].new_zeros((group.size, len(mine), part))
        for number, sums in enumerate(mine):
            sent[:, number] = row.read(_flat(sums), low, high, padded).view(group.size, part)
        received = group.swap(sent, [len(spans) for spans in sent_by])
        here = slice(group.rank * part, (group.rank + 1) * part)
        held = [row.read(sums, low, high, padded)[here] for _, sums in known]
        tree = GradientTree()
        for leaves, numbers in zip(order, [*held, *received.unbind()], strict=True):
            tree.add([numbers], leaves)
        done = [tree.total()] if whole else [sums for _, _, sums in tree.subtrees()]
        collected = group.collect(torch.stack([numbers for (numbers,) in done]))
        for number, sums in enumerate(made):
            row.write(_flat(sums), low, high, collected[:, number].reshape(-1))
    result = GradientTree()
    for (_, leaves), sums in zip(wanted, made, strict=True):
        result.add(sums, leaves)
    return result


def _flat(gradients: Gradients) -> list[Tensor]:
    return [gradient.detach().view(-1) for gradient in gradients]


class _Row:
    """Tensors as one row of numbers."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._ends = list(accumulate(lengths))
        self._starts = [0, *self._ends[:-1]]
        self.length = self._ends[-1]

    def read(self, tensors: Sequence[Tensor], low: int, high: int, length: int) -> Tensor:
        """Return the numbers `low` to `high` - 1, and zeros up to `length`."""
        numbers = tensors[0].new_zeros(length)
        for number, inside, there in self._pieces(low, high):
            numbers[there] = tensors[number][inside]
        return numbers

    def write(self, tensors: Sequence[Tensor], low: int, high: int, numbers: Tensor) -> None:
        """Put the numbers `low` to `high` - 1 where they belong."""
        for number, inside, there in self._pieces(low, high):
            tensors[number][inside] = numbers[there]

    def _pieces(self, low: int, high: int) -> list[tuple[int, slice, slice]]:
        """Return (tensor, place in it, place in the piece) of every tensor with a part in it."""
        found = []
        for number, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            first, last = max(start, low), min(end, high)
            if first < last:
                inside = slice(first - start, last - start)
                found.append((number, inside, slice(first - low, last - low)))
        return found
