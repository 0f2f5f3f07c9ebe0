"""What decoding costs is known from the header: never less pixels or memory than OpenCV takes."""

import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.data.decoding import SMALL_BYTES, SMALL_PIXELS
from relume.formats.picture_cost import Cost, picture_cost

ENDINGS = (".jpg", ".png", ".bmp", ".tiff", ".webp", ".ppm", ".pbm", ".pgm", ".ras", ".jp2")
FLOATING = (".pfm", ".hdr")


def encoded(ending: str, width: int = 70, height: int = 64, *options: int) -> bytes:
    kind = np.float32 if ending in FLOATING else np.uint8
    channels = () if ending in (".pbm", ".pgm") else (3,)
    picture = np.full((height, width, *channels), 60, kind)
    return cv2.imencode(ending, picture, options)[1].tobytes()


SMALL = {ending: encoded(ending) for ending in (*ENDINGS, *FLOATING, ".gif", ".avif")}
SMALL["progressive"] = encoded(".jpg", 70, 64, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
SMALL["lossless"] = encoded(".webp", 70, 64, cv2.IMWRITE_WEBP_QUALITY, 101)
SMALL[".pam"] = b"P7\nWIDTH 70\nHEIGHT 64\nDEPTH 1\nMAXVAL 255\nENDHDR\n" + bytes(70 * 64)


@pytest.mark.parametrize("kind", SMALL)
def test_the_size_is_that_of_the_decoded_picture(kind: str) -> None:
    cost = picture_cost(SMALL[kind])

    assert cost is not None
    assert (cost.width_px, cost.height_px) == (70, 64)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture, some bytes of whose beginning are others, more or fewer."""
    data = bytearray(SMALL[draw(st.sampled_from(sorted(SMALL)))])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, min(len(data), 200) - 1))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=5))
        if not data:
            break
    return bytes(data)


@settings(max_examples=500)
@given(damaged())
def test_no_damage_hides_how_large_a_picture_is(data: bytes) -> None:
    cost = picture_cost(data)
    if cost is not None and cost.pixels > 1 << 22:
        return  # a size that is not to be tried
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return

    if decoded is not None:
        assert cost is not None
        assert cost.pixels >= decoded.shape[0] * decoded.shape[1]


@given(st.sampled_from([data[:12] for data in SMALL.values()]), st.binary(max_size=200))
def test_any_bytes_end_in_a_cost_or_none(begin: bytes, rest: bytes) -> None:
    cost = picture_cost(begin + rest)

    assert cost is None or (cost.pixels > 0 and cost.peak_bytes() > 0)


def test_bytes_between_the_segments_of_a_jpeg_do_not_hide_its_size() -> None:
    data = SMALL[".jpg"]
    at = data.index(b"\xff\xc0")
    for garbage in (b"\0", b"abc", b"\xff\0" * 3, b"\xff\xff", b"\xff\xd0", b"\xff\x01"):
        odd = data[:at] + garbage + data[at:]
        assert cv2.imdecode(np.frombuffer(odd, np.uint8), cv2.IMREAD_COLOR) is not None
        assert picture_cost(odd) == picture_cost(data)


def test_a_tiff_of_a_few_pixels_costs_what_its_tiles_do() -> None:
    tags = {256: 10, 257: 10, 258: 8, 277: 3, 322: 16000, 323: 16000}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    cost = picture_cost(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + rows)

    assert cost is not None
    assert cost.pixels == 100
    assert cost.peak_bytes() > 16000 * 16000 * 7


def jpeg_with(components: bytes) -> bytes:
    """Return the progressive JPEG with other components, each of three bytes."""
    data = SMALL["progressive"]
    at = data.index(b"\xff\xc2") + 2
    (length,) = struct.unpack_from(">H", data, at)
    frame = data[at + 2 : at + 7] + bytes([len(components) // 3]) + components
    return data[:at] + struct.pack(">H", 2 + len(frame)) + frame + data[at + length :]


def jp2_with(at_of_siz: int, form: str, *values: int) -> bytes:
    data = bytearray(SMALL[".jp2"])
    struct.pack_into(form, data, data.index(b"\xff\x4f\xff\x51") + at_of_siz, *values)
    return bytes(data)


REFUSED = {
    "no components": jpeg_with(b""),
    "11 components": jpeg_with(b"".join(bytes([i, 0x11, 0]) for i in range(11))),
    "255 components": jpeg_with(b"".join(bytes([i, 0xFF, 0]) for i in range(255))),
    "a sampling factor of 0": jpeg_with(bytes([1, 0x01, 0, 2, 0x11, 0, 3, 0x11, 0])),
    "a sampling factor of 5": jpeg_with(bytes([1, 0x15, 0, 2, 0x11, 0, 3, 0x11, 0])),
    "65,536 tiles": jp2_with(8, ">6I", 256, 256, 0, 0, 1, 1),
    "terabytes of tiles": jp2_with(8, ">6I", 30000, 30000, 0, 0, 1, 1),
    "the first tile on the right of all": jp2_with(32, ">I", 1 << 31),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_the_decoder_refuses_by_its_header_costs_nothing_whatever_it_asks_for(
    why: str,
) -> None:
    assert cv2.imdecode(np.frombuffer(REFUSED[why], np.uint8), cv2.IMREAD_COLOR) is None
    assert picture_cost(REFUSED[why]) is None


def test_channels_that_opencv_does_not_decode_cost_nothing_for_each_pixel() -> None:
    cost, usual = (picture_cost(jp2_with(40, ">H", count)) for count in (16384, 4))
    assert cost is not None
    assert usual is not None
    assert cost.extra == usual.extra == 21

    tags = {256: 1000, 257: 1000, 258: 65535, 277: 65535}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    cost = picture_cost(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + rows)
    assert cost is not None
    assert cost.fixed_bytes == 1000 * 1000 * (2 * 4 * 8 + 4)


def test_a_reduced_jpeg_costs_less_but_for_the_coefficients_that_are_kept() -> None:
    baseline, progressive = picture_cost(SMALL[".jpg"]), picture_cost(SMALL["progressive"])
    assert baseline is not None
    assert progressive is not None

    pixels = 70 * 64
    assert baseline.peak_bytes(1) == 3 * pixels + 28000
    assert baseline.peak_bytes(8) == 3 * pixels // 64 + 28000
    assert progressive.peak_bytes(8) > 3 * pixels
    assert Cost(1000, 1000, 0.0).peak_bytes(2) == 1_500_000


@pytest.mark.parametrize("side_px", [80, 2048, 65500])
def test_a_jpeg_of_few_pixels_takes_little_whatever_its_kind(side_px: int) -> None:
    components = bytes([4, *(byte for i in range(4) for byte in (i, 0x44 if i else 0x11, 0))])
    sides = struct.pack(">BHH", 8, SMALL_PIXELS // side_px, side_px)
    frame = b"\xff\xc2" + struct.pack(">H", 2 + len(sides + components)) + sides + components
    cost = picture_cost(b"\xff\xd8" + frame + b"\xff\xda\0\x0c\4")

    assert cost is not None
    assert SMALL_PIXELS - side_px < cost.pixels <= SMALL_PIXELS
    assert cost.peak_bytes() <= SMALL_BYTES


MEASURE = r"""
import cv2, numpy as np, re, sys
def peak(): return 1024 * int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])
cv2.setNumThreads(0)
data = np.fromfile(sys.argv[1], np.uint8)
cv2.imdecode(np.fromfile(sys.argv[2], np.uint8), cv2.IMREAD_COLOR)
before = peak()
picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture)
print(peak() - before)
"""


@pytest.mark.parametrize(
    "ending", ["progressive", ".png", ".tiff", ".webp", ".jp2", ".pfm", ".hdr"]
)
def test_decoding_takes_no_more_memory_than_was_said(ending: str, tmp_path: Path) -> None:
    options = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1) if ending == "progressive" else ()
    form = ".jpg" if ending == "progressive" else ending
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(encoded(form, 2500, 2000, *options))
    small.write_bytes(SMALL[ending])
    command = [sys.executable, "-c", MEASURE, str(large), str(small)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)

    cost = picture_cost(large.read_bytes())
    assert cost is not None
    taken_bytes, slack_bytes = int(ended.stdout), 3_000_000
    assert taken_bytes <= cost.peak_bytes() + slack_bytes
    assert cost.peak_bytes() <= 1.5 * taken_bytes + slack_bytes
