import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import xxhash

from relume.data.image import Pixels, read_picture
from relume.errors import ImageError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def write_picture(path: Path, rgb: Pixels) -> Path:
    assert cv2.imwrite(str(path), rgb[:, :, ::-1])
    return path


def red_left_green_right() -> Pixels:
    picture = np.full((16, 32, 3), RED, dtype=np.uint8)
    picture[:, 16:] = GREEN
    return picture


def test_pixels_are_rgb_and_the_digest_is_of_the_file(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", red_left_green_right())
    pixels, digest = read_picture(path, 3)
    np.testing.assert_array_equal(pixels, red_left_green_right())
    assert digest == xxhash.xxh3_64_intdigest(path.read_bytes())


def test_one_channel_is_grey(tmp_path: Path) -> None:
    pixels, _ = read_picture(write_picture(tmp_path / "a.png", red_left_green_right()), 1)
    assert pixels.shape == (16, 32, 1)
    assert set(np.unique(pixels)) == {76, 149}  # .299 and .587 of 255, truncated by libpng


def test_an_exif_picture_is_turned_upright(tmp_path: Path) -> None:
    _, encoded = cv2.imencode(".jpg", red_left_green_right()[:, :, ::-1])
    # One IFD entry: Orientation (0x112), SHORT, 1 value, 6 = turn by 90 degrees clockwise.
    tiff = b"II*\0" + struct.pack("<IHHHIIi", 8, 1, 0x112, 3, 1, 6, 0)
    app1 = b"Exif\0\0" + tiff
    jpeg = encoded.tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + jpeg[2:])
    pixels, _ = read_picture(path, 3)
    assert pixels.shape == (32, 16, 3)
    assert pixels[2, 8].argmax() == 0  # red is now above
    assert pixels[30, 8].argmax() == 1


def test_depth_and_alpha_are_dropped(tmp_path: Path) -> None:
    deep = np.full((4, 5, 4), 65535, dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), deep)
    pixels, _ = read_picture(tmp_path / "a.png", 3)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 5, 3)
    assert pixels.min() == 255


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"not a picture", bytes(1000)])
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_picture(path, 3, "train.txt:7")
    assert str(caught.value) == (
        f"train.txt:7: {path} cannot be decoded ({len(content)} bytes); "
        "a picture such as JPEG, PNG or BMP is needed; replace the file or take it off the list"
    )
    assert caught.value.__cause__ is None


def test_a_disk_error_is_told_from_a_bad_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read: No such file") as caught:
        read_picture(tmp_path / "none.jpg", 3)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.place == str(tmp_path / "none.jpg")
