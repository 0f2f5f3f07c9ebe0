"""A checkpoint's file in memory, laid out as it will stand on disk.

The arrays of a live state are copied once, to where they stand in the file; everything else is
done there, behind the training's back: digests are computed over that memory, and it is written
to the disk without being copied again.
"""

import mmap
from collections.abc import Generator
from concurrent.futures import Future

import numpy as np
import xxhash

from relume.checkpoint import container
from relume.checkpoint.archive import Seal
from relume.checkpoint.container import Contents
from relume.checkpoint.contents import DARKNET, DIGEST_BYTES, Parts
from relume.checkpoint.disk import Buffer
from relume.checkpoint.hands import Hands, started
from relume.checkpoint.state import TrainState

PIECE_BYTES = 4 << 20
"""What is digested, then written while the next is digested."""
PAGE_BYTES = 2 << 20
"""The memory is asked for in large pages: those are faster to copy to and to write from."""


class FileImage:
    """Memory for one file, used again and again, so that copying finds it warm."""

    def __init__(self) -> None:
        self._memory = memoryview(b"")
        self._contents = Contents({}, {})
        self._size_bytes = 0
        self._is_complete = False
        self._sealing: Future[None] | None = None

    def hold(self, state: TrainState, digest: bytes, hands: Hands | None = None) -> None:
        """Copy a state; it may change as soon as this returns.

        Args:
            state: what the file is to hold.
            digest: of the state.
            hands: copy the second half.
        """
        if self._sealing is not None:
            self._sealing.result()  # a file that nobody completed, since the disk refused it
        contents = container.contents_of(state, digest)
        hollow = {name: Seal(sum(map(len, parts))) for name, parts in contents.entries.items()}
        parts, begins = container.file_parts(contents, hollow)
        self._make_room(sum(map(len, parts)) + DIGEST_BYTES)
        first, second = _halves(parts)
        other = started(hands, _copy, second, self._memory[sum(map(len, first)) :])
        _copy(first, self._memory)
        other.result()
        entries = {
            name: [self._memory[begins[name] : begins[name] + seal.size_bytes]]
            for name, seal in hollow.items()
        }
        self._contents = Contents(contents.manifest, entries)
        self._is_complete = False

    def pieces(self, hands: Hands | None = None) -> Generator[memoryview]:
        """Complete the file and yield it in pieces: those of the weights while hands do the rest.

        A piece does not change any more, until the next state is held.
        """
        end_bytes = self._size_bytes - DIGEST_BYTES
        weights_bytes = len(self._contents.entries[DARKNET][0])
        whole = xxhash.xxh3_128()
        if not self._is_complete:
            self._sealing = started(hands, self._put_seals_in)
        for begin in range(0, self._size_bytes, PIECE_BYTES):
            end = min(begin + PIECE_BYTES, self._size_bytes)
            if not self._is_complete:
                if end > weights_bytes and self._sealing is not None:
                    self._sealing.result()
                whole.update(self._memory[begin : min(end, end_bytes)])
                if end >= end_bytes:
                    self._memory[end_bytes : self._size_bytes] = whole.hexdigest().encode()
                    self._is_complete = True
            yield self._memory[begin:end]

    def file(self, hands: Hands | None = None) -> memoryview:
        """Return the whole file, completed."""
        for _ in self.pieces(hands):
            pass
        return self._memory[: self._size_bytes]

    def _make_room(self, size_bytes: int) -> None:
        if size_bytes > len(self._memory):
            # The old memory goes first: there may not be room for both.
            self._memory, self._contents = memoryview(b""), Contents({}, {})
            pages = -(-size_bytes // PAGE_BYTES)
            memory = mmap.mmap(-1, pages * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                memory.madvise(mmap.MADV_HUGEPAGE)
            self._memory = memoryview(memory)
        self._size_bytes = size_bytes

    def _put_seals_in(self) -> None:
        """Compute what the file says of its parts, and put that in its places."""
        parts, _ = container.file_parts(self._contents, container.seals_of(self._contents))
        position = 0
        for part in parts:
            if isinstance(part, bytes):  # the entries stand there already
                self._memory[position : position + len(part)] = part
            position += len(part)


def _halves(parts: Parts) -> tuple[list[Buffer], list[Buffer]]:
    """Cut a list of parts in the middle of its bytes."""
    room = sum(map(len, parts)) // 2
    first: list[Buffer] = []
    for number, part in enumerate(parts):
        if len(part) > room:
            view = memoryview(part)
            return [*first, view[:room]], [view[room:], *parts[number + 1 :]]
        first.append(part)
        room -= len(part)
    return first, []


def _copy(parts: Parts, memory: memoryview) -> None:
    """Copy parts to memory, one behind the other."""
    target, position = np.frombuffer(memory, np.uint8), 0
    for part in parts:  # with NumPy: a memoryview would not let other threads work meanwhile
        target[position : position + len(part)] = np.frombuffer(part, np.uint8)
        position += len(part)
