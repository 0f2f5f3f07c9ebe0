"""Large pictures wait for each other's memory; what OpenCV refuses is undecodable everywhere."""

import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.data import decoding
from relume.data.image import decode_picture, read_picture
from relume.errors import ImageError, TooLarge, Undecodable


def png_that_says(width_px: int, height_px: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + bytes(100)


def png(side_px: int) -> bytes:
    picture = np.zeros((side_px, side_px, 3), np.uint8)
    return cv2.imencode(".png", picture)[1].tobytes()


def test_large_pictures_that_do_not_fit_together_are_decoded_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = png(4000)  # 96 MB
    under_way, most, lock = [0], [0], threading.Lock()
    decode = cv2.imdecode

    def counted(data: object, flag: int) -> object:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        try:
            return decode(data, flag)
        finally:
            with lock:
                under_way[0] -= 1

    monkeypatch.setattr(cv2, "imdecode", counted)
    monkeypatch.setattr(decoding, "free_memory_bytes", lambda with_swap: 150_000_000)
    shapes: list[object] = []

    def load() -> None:
        pixels = decode_picture(content, 3)
        shapes.append(pixels if pixels is None else pixels.shape)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert shapes == [(4000, 4000, 3)] * 4
    assert most == [1]


@pytest.mark.parametrize("size", [(40000, 40000), (1 << 21, 100)])
def test_what_opencv_refuses_is_undecodable_whatever_memory_there_is(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_that_says(*size))
    for name in ("free_memory_bytes", "total_memory_bytes"):
        monkeypatch.setattr(decoding, name, lambda with_swap=False: 1)

    with pytest.raises(Undecodable):
        read_picture(path, 3)


def test_what_takes_more_than_all_memory_is_an_error_and_no_matter_of_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "free_memory_bytes", lambda with_swap: 10_000_000)
    monkeypatch.setattr(decoding, "total_memory_bytes", lambda: 50_000_000)

    with pytest.raises(ImageError, match=r"there are 0\.05 GB of memory in all") as caught:
        decode_picture(png(4000), 3)
    assert not isinstance(caught.value, Undecodable | TooLarge)


def test_a_size_that_the_header_hides_is_held_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "picture_cost", lambda content: None)

    with pytest.raises(TooLarge, match="image: has 40x40 pixels"):
        decode_picture(png(40), 3, max_pixels=1599)
    assert decode_picture(png(40), 3, max_pixels=1600) is not None
