"""Sizes are those of the decoded pictures, or not known."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relume.formats.picture_size import picture_size


def encoded(ending: str, width: int = 37, height: int = 21) -> bytes:
    return cv2.imencode(ending, np.zeros((height, width, 3), np.uint8))[1].tobytes()


def exif(orientation: int) -> bytes:
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)


def turned_jpeg(orientation: int) -> bytes:
    content, data = b"Exif\0\0" + exif(orientation), encoded(".jpg")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp"])
def test_the_size_is_that_of_the_decoded_picture(ending: str) -> None:
    data = encoded(ending)

    assert picture_size(data) == (37, 21)
    assert picture_size(data[:20]) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_has_the_size_it_is_trained_with(orientation: int) -> None:
    data = turned_jpeg(orientation)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    height, width, _ = decoded.shape

    assert picture_size(data) == (width, height)


def test_an_unknown_form_has_no_size() -> None:
    assert picture_size(encoded(".tiff")) is None
    assert picture_size(b"") is None


@given(
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", turned_jpeg(6)]), st.binary()
)
def test_any_bytes_end_in_a_size_or_none(begin: bytes, rest: bytes) -> None:
    size = picture_size(begin[: len(begin) - len(rest)] + rest)

    assert size is None or min(size) > 0
