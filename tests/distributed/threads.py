"""A group whose processes are threads: what they pass around goes through one list."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

from relume.distributed.group import Group

T = TypeVar("T")
LONGEST_S = 60


class ThreadGroup(Group):
    """As one of its threads sees it."""

    def __init__(self, rank: int, size: int, barrier: Barrier, table: dict[int, object]) -> None:
        super().__init__(rank, size)
        self._barrier = barrier
        self._table = table
        self.numbers_sent = 0
        """By `swap` and `collect`, to other processes."""

    def swap(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        self.numbers_sent += rows.numel() * (self.size - 1) // self.size
        parts = [given[self.rank] for given in self._all(rows)]
        assert [len(part) for part in parts] == list(counts)
        return torch.cat(parts).clone()

    def collect(self, part: Tensor) -> Tensor:
        if part.dtype == torch.float32:
            self.numbers_sent += part.numel() * (self.size - 1)
        return torch.stack(self._all(part))

    def _all(self, given: T) -> list[T]:
        self._table[self.rank] = given
        self._barrier.wait(LONGEST_S)
        taken = [self._table[rank] for rank in range(self.size)]
        self._barrier.wait(LONGEST_S)
        return taken  # type: ignore[return-value]


def in_threads(size: int, work: Callable[[ThreadGroup], T]) -> list[T]:
    """Return what `work` returns in every process of a group."""
    barrier, table = Barrier(size), dict[int, object]()
    groups = [ThreadGroup(rank, size, barrier, table) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, groups))
