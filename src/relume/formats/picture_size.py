"""Width and height of a picture from the first bytes of its file, without decoding it.

Not covered: TIFF, whose sizes may stand anywhere, and whatever else OpenCV decodes.
"""

import struct

HEADER_BYTES = 65536
"""How much of a file to give first: nearly always enough."""
_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TURNED = range(5, 9)
"""EXIF orientations that exchange width and height."""


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) in pixels of a picture set upright; None if `data` does not say.

    Args:
        data: beginning of a JPEG, PNG or BMP file.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg_size(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _png_size(data)
        if data[:2] == b"BM":
            width, height = struct.unpack_from("<ii", data, 18)
            return _size(width, abs(height))
    except struct.error:  # the bytes end before
        pass
    return None


def _size(width: int, height: int) -> tuple[int, int] | None:
    return (width, height) if width > 0 and height > 0 else None


def _png_size(data: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from(">II", data, 16)
    at, kind = 8, b""
    while kind != b"IDAT":
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf" and exif_orientation(data[at + 8 : at + 8 + length]) in _TURNED:
            return _size(height, width)
        at += 12 + length
    return _size(width, height)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at, turned = 2, False
    while True:
        mark, kind = struct.unpack_from(">BB", data, at)
        if mark != 0xFF:
            return None
        if kind == 0xFF:  # filling
            at += 1
            continue
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # markers without contents
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if kind in _SIZE_MARKERS:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return _size(height, width) if turned else _size(width, height)
        if kind == 0xDA:  # the picture itself
            return None
        if kind == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            turned = exif_orientation(data[at + 10 : at + 2 + length]) in _TURNED
        at += 2 + length


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, in a block of EXIF, which is a TIFF; 1 if there is none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for field in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * field)
            if tag == 0x0112:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
