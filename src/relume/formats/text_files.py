"""Read the text files that people write, with a bound on what a file may cost.

A cfg, a data file, class names and the labels of one picture are read as a whole, so their size is
looked at first. A list of pictures may be of any length: only its lines have a longest length.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from relume.errors import DataFileError
from relume.formats.places import check_room, open_regular, read_regular

LARGEST_TEXT_BYTES = 16 << 20
"""Of a cfg, a data file, names or labels: a hundred times what the largest known ones have."""
LONGEST_LINE_BYTES = 1 << 20
"""Of a list of pictures; a path has at most 4,096 bytes on Linux."""
CHUNK_BYTES = 1 << 20


def read_text(path: str | Path) -> bytes:
    """Return all bytes of a cfg, a data file, a file of names or a label file.

    Raises:
        OSError: as read_regular; EFBIG: it has more than LARGEST_TEXT_BYTES.
    """
    try:
        return read_regular(path, LARGEST_TEXT_BYTES)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        needed = f"{error.strerror}; a file of this kind has at most {LARGEST_TEXT_BYTES:,}"
        raise OSError(errno.EFBIG, needed) from error


def read_list(path: str | Path) -> bytes:
    """Return all bytes of a list of pictures.

    Raises:
        OSError: as read_regular.
        DataFileError: a line is longer than LONGEST_LINE_BYTES.
    """
    with open_regular(path) as file:
        check_room(os.fstat(file.fileno()).st_size)
        return b"".join(checked_lines(iter(lambda: file.read(CHUNK_BYTES), b""), path))


def checked_lines(chunks: Iterable[bytes], path: str | Path) -> Iterator[bytes]:
    """Yield the chunks of a list as they are.

    Raises:
        DataFileError: a line is longer than LONGEST_LINE_BYTES, and than a chunk.
    """
    line, length_bytes = 1, 0
    for chunk in chunks:
        ends = chunk.find(b"\n"), chunk.find(b"\r")
        first = min((end for end in ends if end >= 0), default=len(chunk))
        if length_bytes + first > LONGEST_LINE_BYTES:
            found = f"a line of more than {LONGEST_LINE_BYTES:,} bytes"
            remedy = "is it a list of pictures?"
            raise DataFileError(f"{path}:{line}", found, "one path a line is needed", remedy)
        yield chunk
        line += chunk.count(b"\n") or chunk.count(b"\r")
        last = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
        length_bytes = length_bytes + len(chunk) if last < 0 else len(chunk) - last - 1
