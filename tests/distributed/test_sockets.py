"""Socket pairs between processes: what arrives, and what is noticed when one is gone."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch

from relume.distributed.sockets import Sockets, pair

T = TypeVar("T")
LONGEST_S = 60.0


def connected(size: int, timeout_s: float = LONGEST_S) -> list[Sockets]:
    """Return the sockets of each process of a group."""
    ends: list[dict[int, socket.socket]] = [{} for _ in range(size)]
    for rank in range(size):
        for other in range(rank + 1, size):
            ends[rank][other], ends[other][rank] = pair()
    return [Sockets(rank, own, timeout_s) for rank, own in enumerate(ends)]


def in_each(groups: list[Sockets], work: Callable[[Sockets, int], T]) -> list[T]:
    with ThreadPoolExecutor(len(groups)) as pool:
        results = list(pool.map(work, groups, range(len(groups))))
    for sockets in groups:
        sockets.close()
    return results


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_each_process_gets_its_part_of_the_rows_of_all_in_their_order(
    size: int, dtype: torch.dtype
) -> None:
    counts = [(rank * 2) % 3 for rank in range(size)]  # some have none

    def work(sockets: Sockets, rank: int) -> torch.Tensor:
        rows = [[[10 * rank + to, row] for row in range(counts[rank])] for to in range(size)]
        sent = torch.tensor(rows, dtype=dtype).reshape(size, counts[rank], 2)
        return sockets.swap(sent, counts)

    for to, received in enumerate(in_each(connected(size), work)):
        expected = [[10 * rank + to, row] for rank in range(size) for row in range(counts[rank])]
        assert received.dtype == dtype
        assert received.tolist() == torch.tensor(expected, dtype=dtype).reshape(-1, 2).tolist()


def test_more_than_the_system_holds_is_passed_in_both_directions_at_once() -> None:
    numbers = 5_000_000

    def work(sockets: Sockets, rank: int) -> torch.Tensor:
        return sockets.swap(torch.full((3, 1, numbers), rank, dtype=torch.float32), [1, 1, 1])

    for received in in_each(connected(3), work):
        for rank in range(3):
            assert bool((received[rank] == rank).all())


def test_one_process_gives_to_all_others() -> None:
    def work(sockets: Sockets, rank: int) -> list[int]:
        numbers = torch.arange(1000) * (rank == 1)
        sockets.broadcast(numbers, 1)
        return [int(number) for number in numbers]

    assert in_each(connected(3), work) == [list(range(1000))] * 3


def test_what_was_sent_arrives_though_the_sender_has_ended_meanwhile() -> None:
    one, other = connected(2)
    one.broadcast(torch.arange(10), 0)
    one.close()

    numbers = torch.zeros(10, dtype=torch.int64)
    other.broadcast(numbers, 0)
    other.close()

    assert numbers.tolist() == list(range(10))


@pytest.mark.parametrize("sends", [True, False])
def test_a_process_that_has_ended_is_noticed_at_once(sends: bool) -> None:
    one, other = connected(2)
    other.close()

    with pytest.raises(ConnectionError, match="process 1"):
        one.broadcast(torch.zeros(10), 0 if sends else 1)
    one.close()


def test_a_process_that_does_not_answer_is_lost_after_a_time() -> None:
    one, other = connected(2, timeout_s=0.01)

    with pytest.raises(TimeoutError, match="no answer for 0 seconds"):
        one.broadcast(torch.zeros(10), 1)
    one.close()
    other.close()
