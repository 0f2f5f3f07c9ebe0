"""Read a picture file once: its pixels for training, its digest for the record.

Not covered: how broken a picture may be before it counts as undecodable is OpenCV's decision;
OpenCV's version belongs to a run's numeric environment.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from relume.data.patience import Patience
from relume.errors import Undecodable

Pixels = npt.NDArray[np.uint8]
"""[height, width, channels], RGB or one grey channel."""
IMPATIENT = Patience()
"""Asks a disk once."""

# Parallel work is one sample per loader thread; threads within OpenCV would only compete.
cv2.setNumThreads(0)


def read_picture(
    path: str | Path, channels: int, place: str = "", patience: Patience = IMPATIENT
) -> tuple[Pixels, int]:
    """Return (pixels, XXH3-64 of the file's bytes); a turned EXIF picture is set upright.

    Args:
        path: the picture, in any form that OpenCV decodes; 16 bits and alpha are dropped.
        channels: 3 for RGB, 1 for grey.
        place: where the picture was named ("train.txt:7"), for messages; else the path.
        patience: with a disk that does not give the file.
    Raises:
        ImageError: the file cannot be read; its cause is the OSError.
        Undecodable: its bytes are no picture.
        Unavailable: the disk did not give it, however often it was asked.
    Source:
        AlexeyAB/darknet 59596d78 src/image_opencv.cpp load_image_mat.
    """
    if channels not in (1, 3):
        raise ValueError(f"pictures have 1 or 3 channels, not {channels}")
    place, name = (place, f"{path} ") if place else (str(path), "")
    content = patience.read_bytes(Path(path) if isinstance(path, str) else path, place, name)
    pixels = decode_picture(content, channels)
    if pixels is None:
        found = f"{name}cannot be decoded ({len(content)} bytes)"
        needed = "a picture such as JPEG, PNG or BMP is needed"
        bad = Undecodable(place, found, needed, "replace the file or take it off the list")
        bad.digest = xxh3_64_intdigest(content)
        raise bad
    return pixels, xxh3_64_intdigest(content)


def decode_picture(content: bytes, channels: int) -> Pixels | None:
    """Return the pixels that bytes hold, upright; None: they are no picture."""
    decoded = _decoded(content, cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    if decoded is None:
        return None
    if channels == 3:
        cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)
    return decoded.reshape(decoded.shape[0], decoded.shape[1], channels)


def stored_depth(content: bytes) -> tuple[int, int] | None:
    """Return channels and bits per channel of a picture as it is stored, before conversion."""
    decoded = _decoded(content, cv2.IMREAD_UNCHANGED)
    if decoded is None:
        return None
    return (decoded.shape[2] if decoded.ndim == 3 else 1), 8 * decoded.itemsize


def _decoded(content: bytes, flag: int) -> Pixels | None:
    try:
        decoded: Pixels | None = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flag)
    except cv2.error:  # raised for an empty file and for sizes above OpenCV's limit
        return None
    return decoded
