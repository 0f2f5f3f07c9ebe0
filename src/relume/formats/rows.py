"""A long sequence whose items are made when they are asked for, in no memory of their own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")


class Rows(Generic[T]):
    """What a function returns for 0, 1, ... up to a length."""

    def __init__(self, length: int, item: Callable[[int], T]) -> None:
        self._length = length
        self._item = item

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> T:
        if not 0 <= row < self._length:
            raise IndexError(f"row {row} of {self._length}")
        return self._item(int(row))

    def __iter__(self) -> Iterator[T]:
        return map(self._item, range(self._length))


Listed: TypeAlias = Sequence[T] | Rows[T]
"""Something that has a length and a row for every number below it."""
