"""What the bytes of a picture file say of themselves, without decoding: form, depth, wholeness.

Not covered: whether the picture can be decoded; OpenCV decides (data/image.py).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from relume.formats.picture_size import exif_orientation

FORMS_OF_ENDINGS = {
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
    ".png": "PNG",
    ".bmp": "BMP",
    ".ppm": "PPM",
    ".tiff": "TIFF",
}
_BEGINNINGS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"P6", "PPM"),
    (b"P5", "PPM"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WebP"),
)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xD8)])


@dataclass(frozen=True)
class PictureForm:
    """What a file says of the picture in it."""

    name: str = ""
    """JPEG, PNG, ...; empty if it is none that is known."""
    channels: int = 0
    """1 grey, 3 colour, 4 CMYK in a JPEG; 0 if that is not said."""
    bits: int = 8
    """Per channel."""
    orientation: int = 1
    """EXIF: 1 is upright."""
    is_whole: bool = True
    """Whether its end is there, as far as the form has one."""


def form_of(content: bytes) -> PictureForm:
    """Return what the bytes say, whatever they are."""
    name = next((name for begin, name in _BEGINNINGS if content.startswith(begin)), "")
    try:
        match name:
            case "JPEG":
                return _jpeg(content)
            case "PNG":
                return _png(content)
            case "BMP":
                (size,) = struct.unpack_from("<I", content, 2)
                return PictureForm(name, is_whole=size <= len(content))
            case "WebP":
                (size,) = struct.unpack_from("<I", content, 4)
                return PictureForm(name, is_whole=size + 8 <= len(content))
    except (struct.error, IndexError):
        return PictureForm(name, is_whole=False)
    return PictureForm(name)


def _jpeg(content: bytes) -> PictureForm:
    channels, bits, orientation, at = 0, 8, 1, 2
    while True:
        if content[at] != 0xFF:
            return PictureForm("JPEG", channels, bits, orientation, is_whole=False)
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        if marker == 0xDA:  # what follows is the picture, and in it FF D9 can only be the end
            is_whole = content.find(b"\xff\xd9", at) >= 0
            return PictureForm("JPEG", channels, bits, orientation, is_whole)
        (length,) = struct.unpack_from(">H", content, at + 2)
        if marker in _FRAMES:
            bits, _, _, channels = struct.unpack_from(">BHHB", content, at + 4)
        if marker == 0xE1 and content[at + 4 : at + 10] == b"Exif\0\0":
            orientation = exif_orientation(content[at + 10 : at + 2 + length])
        at += 2 + length


def _png(content: bytes) -> PictureForm:
    channels, bits, orientation, is_whole = 0, 8, 1, False
    for kind, data, is_right in _chunks(content):
        if not is_right:
            break
        if kind == b"IHDR":
            _, _, bits, colour = struct.unpack_from(">IIBB", data)
            channels = 1 if colour in (0, 4) else 3
        elif kind == b"eXIf":
            orientation = exif_orientation(data)
        elif kind == b"IEND":
            is_whole = True
            break
    return PictureForm("PNG", channels, bits, orientation, is_whole)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield kind and data of every chunk of a PNG, and whether its checksum is right."""
    at = 8
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        data = content[at + 8 : at + 8 + length]
        if at + 12 + length > len(content):
            return
        (checksum,) = struct.unpack_from(">I", content, at + 8 + length)
        yield kind, data, crc32(data, crc32(kind)) == checksum
        at += 12 + length
