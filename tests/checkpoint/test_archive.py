"""The archive's headers are those of Python's zipfile, also where an entry or the file is large."""

import io
import zipfile

import pytest

from relume.checkpoint.archive import Entry, Malformed, Seal, directory, entries_in, local_header
from relume.checkpoint.contents import COMMENT

GB = 1 << 30
END = COMMENT + b"0" * 32
SIZES = [
    (3, 0, 5),
    (2 * GB - 1, 7),
    (2 * GB - 90 * 1024**2, 1),
    (2 * GB, 3, 4),
    (5 * GB, 6 * GB, 2),
]


class _Counting(io.RawIOBase):
    """A file that only counts the contents of entries and keeps the headers."""

    def __init__(self, begin: int) -> None:
        self.position, self.headers = begin, b""

    def tell(self) -> int:
        return self.position

    def write(self, data: object) -> int:
        assert isinstance(data, bytes)
        self.headers += data
        self.position += len(data)
        return len(data)

    def flush(self) -> None:
        pass

    def seek(self, position: int, whence: int = 0) -> int:
        assert position == self.position
        return position


def by_zipfile(begin: int, sizes: tuple[int, ...]) -> bytes:
    out = _Counting(begin)
    with zipfile.ZipFile(out, "w") as archive:
        archive.comment = END
        for number, size in enumerate(sizes):
            info = zipfile.ZipInfo(f"entry {number}")
            info.create_system, info.external_attr = 3, 0o644 << 16
            info.file_size = info.compress_size = size
            info.CRC, info.header_offset = number + 9, out.tell()
            out.write(info.FileHeader(size * 1.05 > zipfile.ZIP64_LIMIT))
            out.position += size
            archive.filelist.append(info)
            archive.start_dir = out.tell()
    return out.headers


def by_ours(begin: int, sizes: tuple[int, ...]) -> tuple[bytes, dict[str, Entry], int]:
    headers, listed, entries, at = b"", [], {}, begin
    for number, size in enumerate(sizes):
        name, seal = f"entry {number}", Seal(size, crc=number + 9)
        listed.append((name, seal, at))
        header = local_header(name, seal)
        entries[name] = Entry(at + len(header), at + len(header) + size)
        headers, at = headers + header, entries[name].end
    end = directory(listed, at, END)
    return headers + end, entries, at + len(end)


@pytest.mark.parametrize("begin", [0, 20, 2 * GB - 10, 9 * GB])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_headers_are_those_that_zipfile_writes(begin: int, sizes: tuple[int, ...]) -> None:
    assert by_ours(begin, sizes)[0] == by_zipfile(begin, sizes)


@pytest.mark.parametrize("begin", [0, 20, 2 * GB - 10, 9 * GB])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_entries_are_found_where_they_lie(begin: int, sizes: tuple[int, ...]) -> None:
    headers, entries, size_bytes = by_ours(begin, sizes)

    def read(start: int, stop: int) -> bytes:
        assert size_bytes - len(headers) <= start <= stop <= size_bytes
        return headers[start - size_bytes or None : stop - size_bytes or None]

    assert entries_in(read, size_bytes, len(END)) == entries


@pytest.mark.parametrize("size_bytes", [0, 1, 71, 72, 200])
def test_what_is_too_short_or_ends_otherwise_is_none(size_bytes: int) -> None:
    data = bytes(size_bytes)

    with pytest.raises(Malformed):
        entries_in(lambda start, stop: data[start:stop], size_bytes, len(END))
