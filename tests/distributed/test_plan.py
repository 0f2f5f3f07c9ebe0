"""How many gradients a process holds, by plan and in fact.

Needs nothing but this checkout: python -m pytest tests/distributed/test_plan.py
"""

import pytest
import torch
from torch import Tensor

from relume.distributed import exchange
from relume.distributed.plan import UNDER_WAY, Plan, plan_of
from relume.distributed.tree import GradientTree, spans_of
from tests.distributed.threads import ThreadGroup, in_threads

LAYERS = 16
PARAMETERS = [torch.zeros(60) for _ in range(LAYERS)]


def allowed(subdivisions: int) -> int:
    """log2(subdivisions) + 1, rounded up."""
    return (subdivisions - 1).bit_length() + 1


def check_all(subdivisions: int, most_processes: int) -> None:
    for processes in range(2, min(subdivisions, most_processes) + 1):
        held = plan_of(0, subdivisions, processes).most_held() + UNDER_WAY
        assert held <= allowed(subdivisions), (subdivisions, processes)


def test_no_process_holds_more_than_log2_and_one() -> None:
    for subdivisions in range(2, 65):
        check_all(subdivisions, subdivisions)
    for subdivisions in (98, 99, 128, 161, 194, 195, 256, 258):
        check_all(subdivisions, 5)


@pytest.mark.long
def test_no_process_holds_more_than_log2_and_one_up_to_300_subdivisions() -> None:
    for subdivisions in range(65, 301):
        check_all(subdivisions, subdivisions)
        plan_of.cache_clear()


def test_what_is_sent_is_all_and_of_what_fits_the_fewest_subtrees() -> None:
    for subdivisions, processes in [(8, 3), (64, 3), (98, 2), (194, 2), (195, 3), (215, 4)]:
        plan = plan_of(0, subdivisions, processes)
        fewest = [spans_of(share.start, share.stop) for share in plan.shares]

        for share, subtrees in zip(plan.shares, plan.subtrees, strict=True):
            leaves = [n for first, count in subtrees for n in range(first, first + count)]
            assert leaves == list(share)
        fits = Plan(plan.shares, fewest).most_held() + UNDER_WAY <= allowed(subdivisions)
        assert (list(plan.subtrees) == fewest) == fits
        assert fits == (subdivisions < 100)


@pytest.mark.parametrize("processes", [2, 3, 4, 5])
@pytest.mark.parametrize("subdivisions", [6, 8, 23, 64, 66, 99])
def test_a_process_holds_what_the_plan_says(
    monkeypatch: pytest.MonkeyPatch, subdivisions: int, processes: int
) -> None:
    monkeypatch.setattr(exchange, "GROUP_OF_LAYERS", 60)
    plan = plan_of(0, subdivisions, processes)
    whole = sum(parameter.numel() for parameter in PARAMETERS)

    def work(group: ThreadGroup) -> float:
        sums = exchange.Exchange(group, GradientTree(), PARAMETERS, plan)
        held = 0.0
        for _ in plan.shares[group.rank]:
            for number, indexes in enumerate(sums.groups):
                sums.add(number, [torch.ones(60) for _ in indexes])
                sums._wait()  # the courier has nothing under way, so that all can be counted
                held = max(held, numbers_of(sums) / whole)
        assert sums.end()
        return max(held, numbers_of(sums) / whole)

    most = max(in_threads(processes, work))
    # What is on its way is not counted here: once it has come, it is held by all.
    assert most <= plan.most_held() + 1 / LAYERS + 1e-9
    assert most >= plan.most_held() - 1 - 1 / LAYERS


def numbers_of(sums: exchange.Exchange) -> int:
    """Return how many numbers of memory an exchange keeps."""
    tensors: list[Tensor] = []
    for layers in sums._layers:
        tensors += layers.result
        for tree in (layers.own, layers.held):
            tensors += [tensor for _, _, kept in tree.subtrees() for tensor in kept]
    memory = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}
    return sum(tensor.untyped_storage().nbytes() // 4 for tensor in memory.values())
