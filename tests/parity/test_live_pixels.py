"""Pixels as the original Darknet hands them to a network, read out through what it detects.

A network of one 1x1 convolution over all pixels, with a [yolo] behind it, detects every pixel of
its input: the place is that of the cell, and the probability of class c says what channel c is.
"""

import shutil
import struct
import subprocess
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from relume.model.detect import letterbox_size, prepare_image

DARKNET = shutil.which("darknet")
SIDE_PX = 64
CFG = f"""[net]
batch=1
subdivisions=1
width={SIDE_PX}
height={SIDE_PX}
channels=3
[convolutional]
filters=8
size=1
stride=1
pad=0
activation=linear
[yolo]
mask=0
anchors=.01,.01
classes=3
num=1
"""
STEEPNESS, SURELY = 4.0, 20.0
"""A class's probability is the logistic function of 4p - 2, for a pixel p from 0 to 1."""

PRINTED = 1.5e-6
"""Six decimals are printed, and the function is never flatter than .42."""

SIZES = {"shrunk": (400, 200), "grown": (32, 48), "tall": (96, 256), "square": (200, 200)}
"""Width and height; each leaves an even number of rows or columns to fill."""
Floats = npt.NDArray[np.float64]


def weights() -> bytes:
    """Return Darknet's weights file of the network: x, y, w and h say nothing."""
    biases = np.array([0, 0, 0, 0, SURELY, *3 * [-STEEPNESS / 2]], "<f4")
    rows = np.zeros((8, 3), "<f4")
    rows[5:] = STEEPNESS * np.eye(3)
    return struct.pack("<iiiQ", 0, 2, 0, 0) + biases.tobytes() + rows.tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of noise, and what Darknet says of their pixels."""
    folder = tmp_path_factory.mktemp("pixels")
    (folder / "results").mkdir()
    noise = np.random.Generator(np.random.Philox(5))
    for name, (width, height) in SIZES.items():
        picture = noise.integers(0, 256, (height, width, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{name}.png"), picture)
    (folder / "valid.txt").write_text("".join(f"{name}.png\n" for name in SIZES))
    (folder / "obj.names").write_text("red\ngreen\nblue\n")
    (folder / "obj.data").write_text("classes=3\nvalid=valid.txt\nnames=obj.names\n")
    (folder / "net.cfg").write_text(CFG)
    (folder / "net.weights").write_bytes(weights())
    subprocess.run(
        [str(DARKNET), "detector", "valid", "obj.data", "net.cfg", "net.weights"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


def said_pixels(folder: Path, name: str) -> Floats:
    """Return [3, SIDE_PX, SIDE_PX] pixels as Darknet detected them; NaN where it named no place.

    It cuts boxes to the picture, so that those in the grey, and some at the edges, are lost.
    """
    width, height = SIZES[name]
    inner_width, inner_height = letterbox_size(width, height, SIDE_PX, SIDE_PX)
    said = np.full((3, SIDE_PX, SIDE_PX), np.nan)
    for channel, colour in enumerate(("red", "green", "blue")):
        for line in (folder / "results" / f"comp4_det_test_{colour}.txt").read_text().splitlines():
            of, *words = line.split()
            if of != name:
                continue
            probability, left, top, right, bottom = map(float, words)
            if left <= 1 or top <= 1 or right >= width or bottom >= height:
                continue
            # Darknet counts pixels from 1.
            x = ((left + right) / 2 - 1) / width * inner_width + (SIDE_PX - inner_width) // 2
            y = ((top + bottom) / 2 - 1) / height * inner_height + (SIDE_PX - inner_height) // 2
            said[channel, int(y), int(x)] = (
                np.log(probability / (1 - probability)) / STEEPNESS + 0.5
            )
    return said


def last_row_is_lost(name: str) -> bool:
    """Tell whether Darknet, for want of a bit, leaves the last row of this picture black.

    It takes the last row for one that needs no row below it, but if its place in float32 is just
    above that row, nearly all of it is of the row below.

    Source: pjreddie src/image.c resize_image.
    """
    height = SIZES[name][1]
    inner_height = letterbox_size(*SIZES[name], SIDE_PX, SIDE_PX)[1]
    scale = np.float32(height - 1) / np.float32(inner_height - 1)
    return bool(np.float32(inner_height - 1) * scale < height - 1)


def our_pixels(folder: Path, name: str) -> Floats:
    picture = cv2.imread(str(folder / f"{name}.png"))
    assert picture is not None
    rgb = np.ascontiguousarray(picture[:, :, ::-1])
    return prepare_image(rgb, SIDE_PX, SIDE_PX, letter_box=True)[0].double().numpy()


@pytest.mark.darknet
@pytest.mark.skipif(DARKNET is None, reason="needs Debian's package darknet")
@pytest.mark.parametrize("name", SIZES)
def test_every_pixel_of_a_resized_and_letterboxed_picture_is_darknets(
    folder: Path, name: str
) -> None:
    said, ours = said_pixels(folder, name), our_pixels(folder, name)
    known = np.isfinite(said)
    inner_width, inner_height = letterbox_size(*SIZES[name], SIDE_PX, SIDE_PX)

    assert known.sum() > 0.9 * 3 * inner_width * inner_height
    if last_row_is_lost(name):
        last = (SIDE_PX + inner_height) // 2 - 1
        assert np.nanmax(said[:, last]) < 1e-4
        known[:, last] = False
    np.testing.assert_allclose(ours[known], said[known], rtol=0, atol=PRINTED)
    assert last_row_is_lost("tall")
    # Pixels of noise differ from their neighbours': no other place or rule would pass.
    assert np.abs(np.roll(ours, 1, 2) - ours)[known].mean() > 0.05
