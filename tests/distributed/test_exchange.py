"""Sums over processes are those of one process, by bits, for every number of them.

Needs nothing but this checkout: python -m pytest tests/distributed/test_exchange.py
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch

from relume.distributed import exchange
from relume.distributed.group import Group
from relume.distributed.plan import Plan, plan_of
from relume.distributed.tree import Gradients, GradientTree
from tests.distributed.threads import ThreadGroup, in_threads

SHAPES = ((3,), (2, 3, 2, 2), (1,), (7, 1))
PARAMETERS = [torch.zeros(shape) for shape in SHAPES]


def gradients(subdivision: int) -> Gradients:
    """Made-up gradients: their sums depend on the order."""
    draw = np.random.Generator(np.random.PCG64(subdivision))
    return [torch.from_numpy(draw.normal(size=s).astype(np.float32) * 1e3) for s in SHAPES]


def tree_of(subdivisions: range) -> GradientTree:
    tree = GradientTree(subdivisions.start)
    for number in subdivisions:
        tree.add(gradients(number))
    return tree


def bits(sums: Gradients) -> bytes:
    return b"".join(part.numpy().tobytes() for part in sums)


def waiting(tree: GradientTree) -> list[tuple[int, int, bytes]]:
    return [(first, leaves, bits(sums)) for first, leaves, sums in tree.subtrees()]


def exchanged(
    group: Group, begun: int, plan: Plan, done: Sequence[range] | None = None
) -> GradientTree:
    """Return the tree that a process has after it has trained what is done of its share."""
    before = tree_of(range(begun))
    sums = exchange.Exchange(group, before, PARAMETERS, plan)
    for subdivision in (done or plan.shares)[group.rank]:
        given = gradients(subdivision)
        for number, indexes in enumerate(sums.groups):
            sums.add(number, [given[index] for index in indexes])
    is_whole = sums.end()
    assert is_whole == (done is None)
    assert waiting(before) == waiting(tree_of(range(begun)))
    return sums.prefix(done) if done else sums.total()


@pytest.mark.parametrize("group_of_layers", [1, 5, 1000])
@pytest.mark.parametrize("subdivisions", [1, 2, 3, 6, 7, 8, 12])
def test_the_total_is_that_of_one_process(
    monkeypatch: pytest.MonkeyPatch, subdivisions: int, group_of_layers: int
) -> None:
    monkeypatch.setattr(exchange, "GROUP_OF_LAYERS", group_of_layers)
    expected = bits(tree_of(range(subdivisions)).total())
    for processes in range(2, subdivisions + 1):
        for begun in {0, 1, subdivisions // 2, subdivisions - 1}:
            plan = plan_of(begun, subdivisions, processes)
            for tree in in_threads(processes, partial(exchanged, begun=begun, plan=plan)):
                assert bits(tree.total()) == expected


@pytest.mark.parametrize(
    ("begun", "end"), [(0, 1), (0, 3), (0, 5), (0, 7), (1, 6), (3, 7), (5, 6), (4, 7)]
)
def test_what_is_kept_of_an_iteration_is_that_of_one_process(begun: int, end: int) -> None:
    expected = waiting(tree_of(range(end)))
    for processes in range(2, 8):
        plan = plan_of(begun, 8, processes)
        done = [range(min(share.start, end), min(share.stop, end)) for share in plan.shares]
        work = partial(exchanged, begun=begun, plan=plan, done=done)
        for tree in in_threads(processes, work):
            assert waiting(tree) == expected


def test_what_others_have_done_behind_a_process_that_stopped_is_left_out() -> None:
    plan = plan_of(0, 16, 4)
    trained = [range(4), range(4, 7), range(8, 12), range(12, 13)]
    kept = [range(4), range(4, 7), range(7, 7), range(7, 7)]

    def work(group: ThreadGroup) -> GradientTree:
        sums = exchange.Exchange(group, GradientTree(), PARAMETERS, plan)
        for subdivision in trained[group.rank]:
            sums.add(0, gradients(subdivision)[::-1])
        assert not sums.end()
        return sums.prefix(kept)

    for tree in in_threads(4, work):
        assert waiting(tree) == waiting(tree_of(range(7)))


def test_another_order_gives_other_bits() -> None:
    """The negative control: what is compared here does depend on the order."""
    one_by_one = gradients(0)
    for number in range(1, 8):
        for total, part in zip(one_by_one, gradients(number), strict=True):
            total += part

    assert bits(one_by_one) != bits(tree_of(range(8)).total())


def test_as_much_is_sent_as_by_a_ring_all_reduce() -> None:
    length = sum(parameter.numel() for parameter in PARAMETERS)
    for processes in (2, 4, 8):
        plan = plan_of(0, 8, processes)

        def work(group: ThreadGroup, plan: Plan = plan) -> int:
            exchanged(group, 0, plan)
            return group.numbers_sent

        padded = -(-length // processes) * processes
        ring = 2 * padded * (processes - 1) // processes
        assert in_threads(processes, work) == [ring] * processes
