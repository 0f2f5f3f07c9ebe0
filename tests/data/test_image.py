import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import xxhash

from relume.data import image
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
    picture = read_picture(path, 3)
    pixels, digest = picture.pixels, picture.digest
    np.testing.assert_array_equal(pixels, red_left_green_right())
    assert digest == xxhash.xxh3_64_intdigest(path.read_bytes())


def test_one_channel_is_grey(tmp_path: Path) -> None:
    pixels = read_picture(write_picture(tmp_path / "a.png", red_left_green_right()), 1).pixels
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
    pixels = read_picture(path, 3).pixels
    assert pixels.shape == (32, 16, 3)
    assert pixels[2, 8].argmax() == 0  # red is now above
    assert pixels[30, 8].argmax() == 1


def test_depth_and_alpha_are_dropped(tmp_path: Path) -> None:
    deep = np.full((4, 5, 4), 65535, dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), deep)
    pixels = read_picture(tmp_path / "a.png", 3).pixels
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


def noisy(width: int, height: int) -> Pixels:
    picture = np.random.default_rng(1).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(cv2.resize(picture, (width, height)), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_jpeg_is_decoded_at_the_part_that_is_asked_for(
    tmp_path: Path, channels: int, reduction: int
) -> None:
    path = write_picture(tmp_path / "a.jpg", noisy(101, 67))
    asked: list[tuple[int, int]] = []

    def part(width_px: int, height_px: int) -> int:
        asked.append((width_px, height_px))
        return reduction

    picture, whole = read_picture(path, channels, reduction_of=part), read_picture(path, channels)

    assert asked == [(101, 67)]
    assert picture.size_px == whole.size_px == (101, 67)
    assert picture.digest == whole.digest
    assert picture.pixels.shape == (-(-67 // reduction), -(-101 // reduction), channels)
    assert whole.pixels.shape == (67, 101, channels)


def test_pictures_of_other_kinds_are_decoded_whole(tmp_path: Path) -> None:
    for ending in ("png", "bmp"):
        path = write_picture(tmp_path / f"a.{ending}", noisy(64, 48))
        picture = read_picture(path, 3, reduction_of=lambda width, height: 1 // 0)

        assert picture.size_px == (64, 48)
        assert picture.pixels.shape == (48, 64, 3)


def test_a_size_that_is_not_what_is_decoded_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_picture(tmp_path / "a.jpg", noisy(64, 48))
    monkeypatch.setattr(image, "picture_size", lambda content: (48, 64))

    picture = read_picture(path, 3, reduction_of=lambda width, height: 2)

    assert picture.size_px == (64, 48)
    assert picture.pixels.tobytes() == read_picture(path, 3).pixels.tobytes()
