"""What decoding a picture costs, from the beginning of its file: a few bytes can say 32000x32000.

The sizes are read as OpenCV's decoders read them, also where a file is odd, and the memory is
what these were measured to take (OpenCV 4.14); where a file leaves it open, the most of it.

Not covered: OpenEXR, which OpenCV decodes only on demand. AVIF may lie about its size, but its
decoder takes no picture of more than 2^28 pixels.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

MAX_PIXELS = 1 << 28
"""Of a picture, where nobody asks for more: 16384x16384, more than any camera takes."""
HEADER = 65536
"""Bytes in which the forms that are searched say their size."""
_SHOWN = 3
"""Bytes per pixel of what is decoded, RGB; it is there twice when Python gets it."""
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])*+"
_NUMBER = rb"(\d{1,4000}+)"
_PNM = re.compile(rb"P[1-6]" + _GAP + _NUMBER + rb"." + _GAP + _NUMBER, re.DOTALL)
_PAM = re.compile(rb"(WIDTH|HEIGHT)\D{1,99}+" + _NUMBER)
_PFM = re.compile(rb"P[Ff]\s+" + _NUMBER + rb"\S*\s+" + _NUMBER)
_HDR = re.compile(rb"-Y\s*\+?" + _NUMBER + rb"\s*\+X\s*\+?" + _NUMBER)
_ISPE = re.compile(rb"ispe.{4}(.{4})(.{4})", re.DOTALL)
_SEGMENT = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
"""A marker that a length follows, or that ends all."""
_JPEG_MOST_COMPONENTS, _JPEG_MOST_SAMPLING = 10, 4
"""Of libjpeg: components, and each sampling factor of one; less than 1 it refuses, too."""
_JP2_MOST_TILES = 65535
"""Of OpenJPEG."""
_OPENCV_MOST_CHANNELS, _TIFF_MOST_BITS = 4, 64
"""Of OpenCV, in a TIFF or JPEG 2000; bits of one channel of a TIFF."""
_TIFF_TYPES = {3: ("H", 2), 4: ("I", 4), 16: ("Q", 8)}


@dataclass(frozen=True)
class Cost:
    """The size of a picture, and what decoding it takes beside the pixels."""

    width_px: int
    """As it is stored, not set upright."""
    height_px: int
    extra: float = _SHOWN
    """Bytes per pixel of the decoder's own."""
    fixed_bytes: int = 0
    """Of the decoder's own, whatever the size of the picture."""

    @property
    def pixels(self) -> int:
        """Of the whole picture."""
        return self.width_px * self.height_px

    def peak_bytes(self, reduction: int = 1) -> int:
        """Return the memory at the peak, where a JPEG is decoded at 1/`reduction` of its sides."""
        shown = _SHOWN * self.pixels / reduction**2
        # The decoder's own memory is free again when Python gets its copy.
        return int(max(2 * shown, shown + self.extra * self.pixels + self.fixed_bytes))


def picture_cost(data: bytes) -> Cost | None:
    """Return what decoding costs; None if the bytes are no picture or do not say its size.

    Args:
        data: of the file, best all of them: those of a TIFF say their size anywhere.
    """
    for at, beginning, read in _READERS:
        if data.startswith(beginning, at):
            try:
                cost = read(data)
            except (struct.error, IndexError, OverflowError):  # the bytes end before
                return None
            return cost if cost is not None and cost.pixels > 0 else None
    return None


def _jpeg(data: bytes) -> Cost | None:
    """Read it as libjpeg does, which skips what is no marker."""
    at, frame = 2, b""
    while (marker := _SEGMENT.search(data, at)) is not None:
        kind, at = marker[1][0], marker.end()
        if kind in (0xD8, 0xD9):
            return None
        (length,) = struct.unpack_from(">H", data, at)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            frame, sof = data[at + 2 : at + length], kind
        if kind == 0xDA:
            return _jpeg_frame(frame, sof, scanned=data[at + 2]) if frame else None
        at += length
    return None


def _jpeg_frame(frame: bytes, kind: int, scanned: int) -> Cost | None:
    """Return the cost; where components come scan by scan their coefficients are all kept.

    None: libjpeg refuses the components before it takes memory for them.
    """
    _, height, width, count = struct.unpack_from(">BHHB", frame)
    factors = [divmod(frame[6 + 3 * i + 1], 16) for i in range(count)]
    is_allowed = all(1 <= factor <= _JPEG_MOST_SAMPLING for pair in factors for factor in pair)
    if not (1 <= count <= _JPEG_MOST_COMPONENTS and is_allowed):
        return None
    most_h, most_v = (max(pair[i] for pair in factors) for i in (0, 1))
    kept = 0
    if kind not in (0xC0, 0xC1, 0xC9) or scanned < count:
        across, down = (-(-s // (8 * m)) for s, m in ((width, most_h), (height, most_v)))
        kept = sum(128 * across * h * down * v for h, v in factors)
    return Cost(width, height, 0.0, kept + 400 * width)


def _png(data: bytes) -> Cost:
    width, height = struct.unpack_from(">II", data, 16)
    is_animated = width * height > 1 << 20 and b"acTL" in data  # else it costs little
    return Cost(width, height, 13 if is_animated else _SHOWN)


def _bmp(data: bytes) -> Cost:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return Cost(abs(width), abs(height))


def _gif(data: bytes) -> Cost:
    width, height = struct.unpack_from("<HH", data, 6)
    return Cost(width, height, 10)


def _webp(data: bytes) -> Cost | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return Cost(width, height, 9 if data[20] & 2 else 5)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Cost((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 5)
    width, height = struct.unpack_from("<HH", data, 26)
    return Cost(width & 0x3FFF, height & 0x3FFF, 5)


def _sun(data: bytes) -> Cost:
    return Cost(*struct.unpack_from(">II", data, 4))


def _pnm(data: bytes) -> Cost | None:
    if data.startswith(b"P7"):
        sides = {b"WIDTH": 0, b"HEIGHT": 0}
        for name, digits in _PAM.findall(data[:HEADER]):
            sides[name] = max(sides[name], int(digits))
        return Cost(sides[b"WIDTH"], sides[b"HEIGHT"], 13)
    match = (_PFM if data[1:2] in (b"F", b"f") else _PNM).match(data)
    return (
        Cost(int(match[1]), int(match[2]), 21 if data[1:2] in (b"F", b"f") else _SHOWN)
        if match
        else None
    )


def _hdr(data: bytes) -> Cost | None:
    return _largest([(int(w), int(h)) for h, w in _HDR.findall(data[:HEADER])], 13)


def _avif(data: bytes) -> Cost | None:
    found = _ISPE.findall(data[:HEADER])
    return _largest([tuple(int.from_bytes(s, "big") for s in pair) for pair in found], 33)


def _largest(sizes: list[tuple[int, ...]], extra: float) -> Cost | None:
    """Return the cost of the largest of the sizes that a header may mean."""
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    return Cost(width, height, extra)


def _jp2(data: bytes) -> Cost | None:
    """Find the codestream of a JPEG 2000."""
    at = 0
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        if kind == b"jp2c":
            return _codestream(data[at + head : at + head + 64])
        if length < head:
            return None
        at += length


def _codestream(data: bytes) -> Cost | None:
    if data[:4] != b"\xff\x4f\xff\x51":
        return None
    right, bottom, left, top, across, down, first_x, first_y, count = struct.unpack_from(
        ">8IH", data, 8
    )
    if not (across and down):
        return None
    tiles = -(-(right - first_x) // across) * -(-(bottom - first_y) // down)
    if not 0 < tiles <= _JP2_MOST_TILES:
        return None
    # OpenCV refuses more components, but only when OpenJPEG has taken what it needs for each tile.
    extra = 5.0 * min(count, _OPENCV_MOST_CHANNELS) + 1
    return Cost(right - left, bottom - top, extra, tiles * (6000 + 1100 * count))


def _tiff(data: bytes) -> Cost | None:
    """Return the cost of a TIFF, whose tiles may be larger than the picture."""
    order = "<" if data[:1] == b"I" else ">"
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version == 43:
        (at,) = struct.unpack_from(f"{order}Q", data, 8)
        (count,) = struct.unpack_from(f"{order}Q", data, at)
        first, step, value_at = at + 8, 20, 12
    else:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        first, step, value_at = at + 2, 12, 8
    tags = {256: 0, 257: 0, 258: 8, 277: 1, 278: 0, 322: 0, 323: 0}
    for entry in range(first, first + step * min(count, 4096), step):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag not in tags:
            continue
        letter, size = _TIFF_TYPES.get(kind, ("H", 2))
        (many,) = struct.unpack_from(f"{order}{'Q' if step == 20 else 'I'}", data, entry + 4)
        where = entry + value_at
        if many * size > step - value_at:
            (where,) = struct.unpack_from(f"{order}{'Q' if step == 20 else 'I'}", data, where)
        (value,) = struct.unpack_from(order + letter, data, where)
        tags[tag] = max(tags[tag], value)
    width, height, bits, samples, rows, tile_width, tile_height = tags.values()
    tile = max(width * min(rows or height, height), tile_width * tile_height)
    samples, bits = min(samples, _OPENCV_MOST_CHANNELS), min(bits, _TIFF_MOST_BITS)
    return Cost(width, height, 0.0, min(tile, 1 << 30) * (2 * samples * -(-bits // 8) + 4))


_READERS: tuple[tuple[int, bytes, Callable[[bytes], Cost | None]], ...] = (
    (0, b"\xff\xd8\xff", _jpeg),
    (0, b"\x89PNG\r\n\x1a\n", _png),
    (0, b"BM", _bmp),
    (0, b"GIF8", _gif),
    (0, b"RIFF", _webp),
    (0, b"P", _pnm),
    (0, b"II*\0", _tiff),
    (0, b"MM\0*", _tiff),
    (0, b"II+\0", _tiff),
    (0, b"MM\0+", _tiff),
    (0, b"#?", _hdr),
    (0, b"\xff\x4f\xff\x51", _codestream),
    (0, b"\x59\xa6\x6a\x95", _sun),
    (4, b"ftyp", _avif),
    (4, b"jP  ", _jp2),
)
