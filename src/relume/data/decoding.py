"""Decode the bytes of a picture, but only if it is not too large, and memory for it is free.

What a picture costs is read from its header (formats/picture_cost.py) before it is decoded. Two
things are kept apart. That it has more pixels than `max_pixels` is a matter of its bytes: the
same on every machine, and an error, never a reason to skip it. That memory is short just now is
a matter of the moment: it must not make a good picture a bad one, which would be skipped where
another machine trains on it.
"""

import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import numpy.typing as npt

from relume.errors import ImageError, TooLarge, Unavailable
from relume.formats.picture_cost import Cost, picture_cost
from relume.memory import (
    free_memory_bytes,
    is_out_of_memory,
    release_freed_memory,
    total_memory_bytes,
)

Decoded = npt.NDArray[np.uint8]
OPENCV_MOST_PIXELS = 1 << 30
"""OpenCV decodes no larger picture, unless OPENCV_LIMIT says so."""
OPENCV_LARGEST_SIDE_PX = 1 << 20
OPENCV_LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"
SMALL_BYTES = 1 << 26
"""What may be taken without a look at the free memory, which costs 0.1 ms."""
SMALL_PIXELS = 1 << 22
"""Of a JPEG, which takes no more than SMALL_BYTES, whatever its kind."""
LEAST_TAKEN_BYTES = 1 << 20
"""Asked for to see whether memory was short, where a picture costs less."""
LOOK_AGAIN_S = 1.0


def checked_cost(content: bytes, place: str, name: str, max_pixels: int) -> Cost | None:
    """Return what decoding costs; None as decoding_cost.

    Args:
        content: of the file.
        place, name: for messages, as of read_picture.
        max_pixels: that a picture may have.
    Raises:
        TooLarge: it has more, and OpenCV would decode it.
    """
    cost = decoding_cost(content)
    if cost is not None and cost.pixels > max_pixels:
        raise too_large(cost.width_px, cost.height_px, cost.peak_bytes(), place, name, max_pixels)
    return cost


def decoding_cost(content: bytes) -> Cost | None:
    """Return what decoding costs; None if the bytes do not say it, or if OpenCV refuses the size.

    What OpenCV refuses is undecodable everywhere, however much memory there is.
    """
    cost = picture_cost(content)
    if cost is None or max(cost.width_px, cost.height_px) > OPENCV_LARGEST_SIDE_PX:
        return None
    return cost if cost.pixels <= OPENCV_MOST_PIXELS or OPENCV_LIMIT in os.environ else None


def too_large(
    width_px: int, height_px: int, peak_bytes: int, place: str, name: str, max_pixels: int
) -> TooLarge:
    """Return the error about a picture of more than `max_pixels`."""
    pixels = width_px * height_px
    return TooLarge(
        place,
        f"{name}has {width_px}x{height_px} pixels, which take {peak_bytes / 1e9:.1f} GB to decode",
        f"at most {max_pixels:,} pixels",
        f"replace it or take it off the list, or set max_pixels = {pixels}",
    )


def decode(
    content: bytes, flag: int, peak_bytes: int | None, place: str, name: str
) -> Decoded | None:
    """Return what OpenCV decodes; None: the bytes are no picture, however much memory there is.

    Args:
        content: of the file.
        flag: one of cv2.IMREAD_*.
        peak_bytes: what that takes; None: not known.
        place, name: for messages, as of read_picture.
    Raises:
        Unavailable: memory for it is short just now.
        ImageError: it takes more than there is.
    """
    try:
        with _reserved(peak_bytes or 0):
            decoded = _decoded(content, flag)
            if decoded is None:
                # A decoder that gets no memory fails as it does on damaged bytes.
                if peak_bytes is None and (cost := decoding_cost(content)) is not None:
                    peak_bytes = cost.peak_bytes()
                _try_to_take(max(peak_bytes or 0, LEAST_TAKEN_BYTES))
                if (peak_bytes or 0) > LEAST_TAKEN_BYTES:
                    decoded = _decoded(content, flag)
            return decoded
    except MemoryError as error:
        takes = "" if peak_bytes is None else f" ({peak_bytes / 1e9:.2f} GB at its peak)"
        if (peak_bytes or 0) > (total := total_memory_bytes()):
            raise ImageError(
                place,
                f"{name}cannot be decoded{takes}: there are {total / 1e9:.2f} GB of memory in all",
                "",
                "replace it or take it off the list, or use a machine with more memory",
            ) from error
        raise Unavailable(
            place,
            f"{name}cannot be decoded now{takes}: {free_memory_bytes(with_swap=True) / 1e9:.2f} GB "
            "of memory are free",
            "",
            "free some, or use fewer -workers, then give the same command again",
        ) from error


def _decoded(content: bytes, flag: int) -> Decoded | None:
    """Return what OpenCV decodes.

    Raises:
        MemoryError: it has noticed that memory is short.
    """
    try:
        decoded: Decoded | None = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flag)
    except cv2.error as error:  # for an empty file, for sizes above OpenCV's limit, without memory
        if is_out_of_memory(error):
            raise MemoryError from error
        return None
    return decoded


def _try_to_take(size_bytes: int) -> None:
    """Raise MemoryError if this process gets no such piece of memory."""
    try:
        mmap.mmap(-1, size_bytes).close()
    except OSError as error:
        raise MemoryError from error


_changed = threading.Condition()
_reserved_bytes = [0]
"""What large pictures under way will have taken at their peaks, by all threads together."""


@contextmanager
def _reserved(size_bytes: int) -> Iterator[None]:
    """Keep memory for a large picture; wait for others that are being decoded.

    Raises:
        MemoryError: it is not free, though no other is being decoded.
    """
    if size_bytes <= SMALL_BYTES:
        yield
        return
    with _changed:
        while size_bytes + _reserved_bytes[0] > free_memory_bytes(with_swap=True):
            if _reserved_bytes[0]:
                _changed.wait(LOOK_AGAIN_S)
                continue
            release_freed_memory()  # the allocator may hold what earlier pictures took
            if size_bytes > free_memory_bytes(with_swap=True):
                raise MemoryError
        _reserved_bytes[0] += size_bytes
    try:
        yield
    finally:
        with _changed:
            _reserved_bytes[0] -= size_bytes
            _changed.notify_all()
