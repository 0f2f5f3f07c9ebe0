"""A file's contents in chunks that the disk can take past the page cache."""

import itertools
import mmap
from collections.abc import Iterable, Iterator

import numpy as np

from relume.checkpoint.disk import Buffer

BLOCK_BYTES = 4096
"""What direct writing asks of address and length, on every file system we know."""


def chunks_of(parts: Iterable[Buffer], chunk_bytes: int) -> Iterator[memoryview]:
    """Yield the parts in chunks, each of whole blocks but for the last.

    Memory that begins at a block goes as it is, anything else through two buffers; a chunk holds
    until the next but one is asked for.

    Args:
        parts: a file's contents, one behind the other; they may be made while it is written.
        chunk_bytes: the longest chunk, a multiple of BLOCK_BYTES.
    """
    buffers = itertools.cycle([memoryview(mmap.mmap(-1, chunk_bytes)) for _ in range(2)])
    view, filled = next(buffers), 0
    for part in parts:
        rest = memoryview(part)
        while not filled and len(rest) >= BLOCK_BYTES and _begins_at_block(rest):
            taken = min(len(rest), chunk_bytes) // BLOCK_BYTES * BLOCK_BYTES
            yield rest[:taken]
            rest = rest[taken:]
        while rest:
            taken = min(len(rest), chunk_bytes - filled)
            view[filled : filled + taken] = rest[:taken]
            rest, filled = rest[taken:], filled + taken
            if filled == chunk_bytes:
                yield view
                view, filled = next(buffers), 0
    if filled:
        yield view[:filled]


def _begins_at_block(memory: memoryview) -> bool:
    return np.frombuffer(memory, np.uint8).ctypes.data % BLOCK_BYTES == 0
