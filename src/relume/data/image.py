"""Read a picture file once: its pixels for training, its digest for the record.

Not covered: how broken a picture may be before it counts as undecodable is OpenCV's decision;
OpenCV's version belongs to a run's numeric environment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from relume.data.decoding import (
    OPENCV_MOST_PIXELS,
    SMALL_PIXELS,
    checked_cost,
    decode,
    decoding_cost,
    too_large,
)
from relume.data.patience import Patience
from relume.errors import ImageError, Undecodable
from relume.formats.picture_cost import MAX_PIXELS
from relume.formats.picture_size import HEADER_BYTES, picture_size
from relume.formats.places import open_regular

Pixels = npt.NDArray[np.uint8]
"""[height, width, channels], RGB or one grey channel."""
JPEG = b"\xff\xd8"
MOST_STORED_BYTES = 16
"""Of a pixel that is decoded as it is stored, while Python gets its copy."""
IMPATIENT = Patience()
"""Asks a disk once."""

# Parallel work is one sample per loader thread; threads within OpenCV would only compete.
cv2.setNumThreads(0)


def whole(width_px: int, height_px: int) -> int:
    """Reduce no picture."""
    return 1


@dataclass(frozen=True)
class ReadPicture:
    """A picture as it was read."""

    pixels: Pixels
    """Perhaps fewer than the file has: read at 1/2, 1/4 or 1/8 of its width and height."""
    size_px: tuple[int, int]
    """Width and height of the whole picture, set upright."""
    digest: int
    """XXH3-64 of the file's bytes."""


def read_picture(
    path: str | Path,
    channels: int,
    place: str = "",
    patience: Patience = IMPATIENT,
    reduction_of: Callable[[int, int], int] = whole,
    max_pixels: int = MAX_PIXELS,
) -> ReadPicture:
    """Return a picture; one turned by EXIF is set upright.

    A JPEG can be decoded at half, a quarter or an eighth of its size in a fraction of the time.

    Args:
        path: the picture, in any form that OpenCV decodes; 16 bits and alpha are dropped.
        channels: 3 for RGB, 1 for grey.
        place: where the picture was named ("train.txt:7"), for messages; else the path.
        patience: with a disk that does not give the file.
        reduction_of: (width, height) of the whole picture -> 1, 2, 4 or 8, the part of it that
            is enough; not asked where that would save nothing.
        max_pixels: that the whole picture may have.
    Raises:
        ImageError: the file cannot be read; its cause is the OSError.
        Undecodable: its bytes are no picture.
        TooLarge: it has more pixels; it is not decoded.
        Unavailable: the disk did not give it, however often it was asked; or memory is short.
    Source:
        AlexeyAB/darknet 59596d78 src/image_opencv.cpp load_image_mat, which decodes all of it.
    """
    if channels not in (1, 3):
        raise ValueError(f"pictures have 1 or 3 channels, not {channels}")
    place, name = (place, f"{path} ") if place else (str(path), "")
    content = patience.read_bytes(Path(path) if isinstance(path, str) else path, place, name)
    pixels, size_px = _decoded(content, channels, reduction_of, max_pixels, place, name)
    digest = xxh3_64_intdigest(content)
    if pixels is None:
        found = f"{name}cannot be decoded ({len(content)} bytes)"
        needed = "a picture such as JPEG, PNG or BMP is needed"
        bad = Undecodable(place, found, needed, "replace the file or take it off the list")
        bad.digest = digest
        raise bad
    return ReadPicture(pixels, size_px, digest)


def picture_size_px(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return a file's (width, height), upright; by its beginning if that says it, else decoded.

    Args:
        path: the picture.
        max_pixels: that it may have to be decoded.
    Raises:
        ImageError: the file cannot be read, or is no picture.
        TooLarge: it would have to be decoded, and has more pixels.
    """
    try:
        with open_regular(path) as file:
            size = picture_size(file.read(HEADER_BYTES))
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror})") from error
    if size is not None:
        return size
    width, height = read_picture(path, 1, max_pixels=max_pixels).size_px
    return width, height


def decode_picture(
    content: bytes, channels: int, place: str = "image", max_pixels: int = MAX_PIXELS
) -> Pixels | None:
    """Return the pixels that bytes hold, upright; None: they are no picture.

    Raises:
        TooLarge, Unavailable: as read_picture.
    """
    return _decoded(content, channels, whole, max_pixels, place, "")[0]


def stored_depth(content: bytes) -> tuple[int, int] | None:
    """Return channels and bits per channel of a picture as it is stored, before conversion.

    Args:
        content: that `decode_picture` decodes.
    Raises:
        Unavailable: memory is short.
    """
    cost = decoding_cost(content)
    peak_bytes = None if cost is None else cost.peak_bytes() + MOST_STORED_BYTES * cost.pixels
    decoded = decode(content, cv2.IMREAD_UNCHANGED, peak_bytes, "image", "")
    if decoded is None:
        return None
    return (decoded.shape[2] if decoded.ndim == 3 else 1), 8 * decoded.itemsize


def _decoded(
    content: bytes,
    channels: int,
    reduction_of: Callable[[int, int], int],
    max_pixels: int,
    place: str,
    name: str,
) -> tuple[Pixels | None, tuple[int, int]]:
    """Return the pixels, None if there are none, and the size of the whole picture."""
    whole_px = _jpeg_size(content)
    # Of an ordinary JPEG more need not be known; it would take 1 % of the time.
    is_small = whole_px is not None and whole_px[0] * whole_px[1] <= min(SMALL_PIXELS, max_pixels)
    cost = None if is_small else checked_cost(content, place, name, max_pixels)
    if whole_px is not None and (reduction := reduction_of(*whole_px)) > 1:
        peak_bytes = None if cost is None else cost.peak_bytes(reduction)
        decoded = decode(content, _FLAGS[channels][reduction], peak_bytes, place, name)
        if decoded is not None:
            height_px, width_px = decoded.shape[:2]
            if (width_px, height_px) == tuple(-(-side // reduction) for side in whole_px):
                return _as_rgb(decoded, channels), whole_px
        # OpenCV cannot read it, or has read its header in another way.
    peak_bytes = None if cost is None else cost.peak_bytes()
    decoded = decode(content, _FLAGS[channels][1], peak_bytes, place, name)
    if decoded is None:
        return None, (0, 0)
    height_px, width_px = decoded.shape[:2]
    if height_px * width_px > max_pixels:  # its header did not say so
        raise too_large(width_px, height_px, 6 * decoded.size // 3, place, name, max_pixels)
    return _as_rgb(decoded, channels), (width_px, height_px)


def _as_rgb(decoded: Pixels, channels: int) -> Pixels:
    """Return what OpenCV has decoded as [height, width, channels]."""
    if channels == 3:
        cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)
    return decoded.reshape(decoded.shape[0], decoded.shape[1], channels)


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a JPEG that may be read reduced; None: decode it whole."""
    if not content.startswith(JPEG):
        return None
    size_px = picture_size(content)
    # What OpenCV refuses to decode whole it must not decode in part: bad is a matter of bytes.
    is_refused = size_px is not None and size_px[0] * size_px[1] > OPENCV_MOST_PIXELS
    return None if is_refused else size_px


_FLAGS = {
    3: {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    },
    1: {
        1: cv2.IMREAD_GRAYSCALE,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    },
}
