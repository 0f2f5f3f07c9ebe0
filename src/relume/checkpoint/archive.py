"""The ZIP archive after the Darknet part of a checkpoint: its headers, written and read. No I/O.

Every entry is stored, and begins where the one before it ends; the last bytes of the file are
the archive's comment. The bytes are those that Python's zipfile writes (a test compares them),
and do not change with Python's version. The reader takes no other archive.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
END = struct.Struct("<4s4H2LH")

STORED_SINCE, ZIP64_SINCE = 20, 45
"""Versions of the format that an entry asks for."""
ON_UNIX = 3 << 8
FIRST_DAY = 33
"""1980-01-01, as MS-DOS writes it."""
ATTRIBUTES = 0o644 << 16
LARGEST = (1 << 31) - 1
"""Sizes and offsets above this are written as 64 bits."""
ZIP64_FROM = 1.05
"""An entry this much smaller than LARGEST has a local header of 64 bits already."""
IN_EXTRA = 0xFFFFFFFF
MOST_DIRECTORY_BYTES = 1 << 16
"""A checkpoint has some twelve entries."""


class Malformed(Exception):
    """The bytes are no checkpoint that this version of relume has written."""

    def __init__(self, found: str, is_newer: bool = False) -> None:
        self.is_newer = is_newer
        """Whether a later version has written them: then they are not damaged."""
        super().__init__(found)


@dataclass(frozen=True)
class Seal:
    """What a file records of one of its parts."""

    size_bytes: int
    digest: str = "0" * 32
    """XXH3-128."""
    crc: int = 0
    """CRC-32, as archives have it."""


@dataclass(frozen=True)
class Entry:
    """Where in a file the contents of an entry lie."""

    begin: int
    end: int


def local_header(name: str, seal: Seal) -> bytes:
    """Return what precedes the contents of an entry."""
    size, extra, version = seal.size_bytes, b"", STORED_SINCE
    if size * ZIP64_FROM > LARGEST:
        extra = struct.pack("<HHQQ", 1, 16, size, size)
        size, version = IN_EXTRA, ZIP64_SINCE
    text = name.encode("ascii")
    fields = (version, 0, 0, 0, FIRST_DAY, seal.crc, size, size, len(text), len(extra))
    return LOCAL.pack(b"PK\3\4", *fields) + text + extra


def directory(entries: Sequence[tuple[str, Seal, int]], begin: int, comment: bytes) -> bytes:
    """Return what follows the last entry.

    Args:
        entries: name, seal and the place of the local header, in the order of the file.
        begin: where in the file the directory begins.
        comment: of the archive.
    """
    listed = b"".join(_central_header(*entry) for entry in entries)
    count, size, end = len(entries), len(listed), begin + len(listed)
    if begin > LARGEST:
        listed += END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, begin)
        listed += LOCATOR.pack(b"PK\6\7", 0, end, 1)
    fields = (0, 0, count, count, size, min(begin, IN_EXTRA), len(comment))
    return listed + END.pack(b"PK\5\6", *fields) + comment


def _central_header(name: str, seal: Seal, offset: int) -> bytes:
    size, wide, version = seal.size_bytes, [], STORED_SINCE
    if size * ZIP64_FROM > LARGEST:
        version = ZIP64_SINCE
    if size > LARGEST:
        wide, size = [size, size], IN_EXTRA
    if offset > LARGEST:
        wide, offset, version = [*wide, offset], IN_EXTRA, ZIP64_SINCE
    extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    text = name.encode("ascii")
    return (
        CENTRAL.pack(
            *(b"PK\1\2", ON_UNIX | version, version, 0, 0, 0, FIRST_DAY, seal.crc, size, size),
            *(len(text), len(extra), 0, 0, 0, ATTRIBUTES, offset),
        )
        + text
        + extra
    )


Read = Callable[[int, int], bytes]
"""Returns the bytes of a file from one place to another."""


def entries_in(read: Read, size_bytes: int, comment_bytes: int) -> dict[str, Entry]:
    """Return where the entries of a checkpoint lie, in the order of the file.

    Only the directory is read; that the rest is as the directory has it, `container.unpack`
    finds by writing it again.

    Args:
        read: gives the bytes of the file.
        size_bytes: of the file.
        comment_bytes: of the archive's comment.
    Raises:
        Malformed: there is no such archive at the end of the file.
    """
    at = size_bytes - comment_bytes - END.size
    if at < 0:
        raise Malformed("too short for an archive")
    magic, *_, count, length, begin, _ = END.unpack(read(at, at + END.size))
    if magic != b"PK\5\6":
        raise Malformed("no end of an archive")
    if begin > LARGEST:
        at -= END64.size + LOCATOR.size
        if at < 0:
            raise Malformed("too short for an archive")
        magic, *_, count, length, begin = END64.unpack(read(at, at + END64.size))
        if magic != b"PK\6\6":
            raise Malformed("no end of an archive of 64 bits")
    if length > MOST_DIRECTORY_BYTES or begin + length != at:
        raise Malformed("the directory of the archive is not where it belongs")
    entries: dict[str, Entry] = {}
    listed, end = read(begin, at), None
    for name, offset, size in _listed(listed, count):
        if name in entries:
            raise Malformed(f"{name!a} is listed twice")
        if end not in (None, offset):
            raise Malformed(f"{name!a} does not begin where the entry before it ends")
        contents = offset + len(local_header(name, Seal(size)))
        end = contents + size
        entries[name] = Entry(contents, end)
    if end != begin:
        raise Malformed("the entries do not end where the directory begins")
    return entries


def _listed(listed: bytes, count: int) -> list[tuple[str, int, int]]:
    """Return name, offset and size of the entries in a directory."""
    found, at = [], 0
    while at < len(listed):
        try:
            fields = CENTRAL.unpack_from(listed, at)
        except struct.error:
            raise Malformed("the directory of the archive is cut") from None
        method, stored, size, named, extra_bytes, offset = (
            fields[i] for i in (4, 8, 9, 10, 11, 16)
        )
        at += CENTRAL.size
        name = listed[at : at + named]
        extra = listed[at + named : at + named + extra_bytes]
        at += named + extra_bytes
        if fields[0] != b"PK\1\2" or method != 0 or stored != size or not name.isascii():
            raise Malformed(f"{name!a} is no stored entry")
        wide = list(
            struct.unpack(f"<{len(extra[4:]) // 8}Q", extra[4 : 4 + len(extra[4:]) // 8 * 8])
        )
        if size == IN_EXTRA and len(wide) >= 2:
            size, wide = wide[0], wide[2:]
        if offset == IN_EXTRA and wide:
            offset = wide[0]
        found.append((name.decode("ascii"), offset, size))
    if at != len(listed) or len(found) != count:
        raise Malformed("the directory of the archive is cut")
    return found
