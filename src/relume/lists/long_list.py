"""An image list of any length: a long one is an index into the file's bytes.

Of a list with more than COMPARED_AT_START entries nothing is kept but where every 16th begins;
an entry is read from the file when it is asked for. Where they begin, and what
identifies the list, is found once and kept in a file that is named after the digest of the
list's bytes. Those are read at every start, so a list that has changed has another index; an
index that is damaged is made again.

Not covered: what stands behind the entries (label_files.py), and lists that are short, which
formats/data_files.py reads as a whole.
"""

import json
import os
import weakref
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from relume.checkpoint import storage
from relume.checkpoint.tensors import bytes_of
from relume.errors import DataFileError, StorageError, Unavailable
from relume.formats.data_files import ImageList, Remote, all_local, candidate_paths, read_image_list
from relume.formats.lexer import LONGEST_PATH_SHOWN, excerpt
from relume.formats.places import regular
from relume.formats.rows import Rows
from relume.formats.text_files import CHUNK_BYTES, checked_lines
from relume.lists.identity import common_folder, identity_of
from relume.lists.sealed import read_sealed, write_sealed

COMPARED_AT_START = 100_000
"""Entries up to which all pictures are looked for, and all labels read, at every start."""
EVERY = 16
"""Entries from one known beginning to the next: half a byte of memory each, and as fast."""
MAGIC = b"relume list 1\n"
BOM = b"\xef\xbb\xbf"
_MAY_BE_BLANK = frozenset(b"\t\v\f\x1c\x1d\x1e\x1f ") | {0xC2, 0xE1, 0xE2, 0xE3}
"""First bytes of the characters that str.strip takes away, in UTF-8."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class ListIndex:
    """What is known of a list's bytes."""

    digest: str
    """XXH3-128 of all of them."""
    size_bytes: int
    identity: str
    """As list_identity returns it."""
    count: int
    """Entries."""
    starts: npt.NDArray[np.uint64]
    """[count / EVERY, rounded up]: where in the file every 16th entry begins."""
    skipped: npt.NDArray[np.uint64]
    """[lines that are no entries]: how many entries stand before each."""


def read_list(
    path: Path, data_file_path: str | Path, folder: Path, say: Say, remote: Remote = all_local
) -> ImageList:
    """Read an image list of any length.

    Args:
        path: of the list.
        data_file_path: for entries that are relative to its folder.
        folder: where indexes of long lists are kept; it need not exist.
        say: takes a line about an index that cannot be kept.
        remote: returns the file on an object store that an entry means, or None.
    Raises:
        DataFileError: unreadable, empty, or a picture does not exist (of a long list only the
            first is looked for).
    """
    try:
        file = ListFile(path)
        digest, breaks = file.digest()
    except (OSError, ValueError):  # told by the plain reader, whose words are the known ones
        return read_image_list(path, data_file_path, remote)
    if breaks < COMPARED_AT_START:
        return read_image_list(path, data_file_path, remote)
    index = _kept_index(file, digest, folder, say)
    if index.count <= COMPARED_AT_START:
        return read_image_list(path, data_file_path, remote)
    return image_list(file, index, data_file_path, remote)


class ListFile:
    """A list that stays open: an editor that puts another file in its place changes nothing."""

    def __init__(self, path: Path) -> None:
        """Open the list.

        Raises:
            OSError: it cannot be opened.
        """
        self.path = path
        self._descriptor = regular(str(path))
        weakref.finalize(self, os.close, self._descriptor)
        self._seen = self._stamp()

    def digest(self) -> tuple[str, int]:
        """Return XXH3-128 of all bytes, and how many line breaks there are at most.

        Raises:
            DataFileError: a line is longer than any path.
        """
        hasher, breaks = xxhash.xxh3_128(), 0
        for chunk in self._chunks():
            hasher.update(chunk)
            breaks += chunk.count(b"\n")
            if returns := chunk.count(b"\r"):
                breaks += returns - chunk.count(b"\r\n")
        return hasher.hexdigest(), breaks

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield (where it begins, bytes) of pieces that end where a line ends."""
        begin, rest = 0, b""
        for chunk in self._chunks():
            rest += chunk
            # A \r at the end may be the first half of a line break.
            end = max(rest.rfind(b"\n"), rest.rfind(b"\r", 0, len(rest) - 1)) + 1
            if end:
                yield begin, rest[:end]
                begin, rest = begin + end, rest[end:]
        if rest:
            yield begin, rest

    def read(self, begin: int, end: int) -> bytes:
        """Return some bytes of the list as it was when it was opened.

        Raises:
            DataFileError: it has been written to since.
            Unavailable: the disk does not give it.
        """
        try:
            data = os.pread(self._descriptor, end - begin, begin)
            is_same = self._stamp() == self._seen
        except OSError as error:
            found = f"cannot be read ({error.strerror})"
            again = "see that the disk answers, then give the same command again"
            raise Unavailable(self.path, found, "", again) from error
        if not is_same or len(data) != end - begin:
            raise DataFileError(
                self.path,
                "has been changed while it is in use",
                "the list as it was at the start",
                "give the same command again, which compares the lists",
            )
        return data

    def _chunks(self) -> Iterator[bytes]:
        return checked_lines(self._pieces(), self.path)

    def _pieces(self) -> Iterator[bytes]:
        offset = 0
        while chunk := os.pread(self._descriptor, CHUNK_BYTES, offset):
            yield chunk
            offset += len(chunk)

    def _stamp(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


def image_list(
    file: ListFile, index: ListIndex, data_file_path: str | Path, remote: Remote = all_local
) -> ImageList:
    """Return a list whose entries are read from the file when they are asked for.

    Raises:
        DataFileError: the first picture does not exist.
    """
    count = index.count
    folder = str(Path(data_file_path).parent)

    latest: list[tuple[int, list[bytes]]] = [(-1, [])]  # one item, replaced as a whole by threads

    def texts_of(piece: int) -> list[bytes]:
        """Return the entries of a piece; who goes through the list reads it once."""
        known, texts = latest[0]
        if known == piece:
            file.read(0, 0)  # is it still the list of the start?
        else:
            begin, is_last = int(index.starts[piece]), piece + 1 == len(index.starts)
            end = index.size_bytes if is_last else int(index.starts[piece + 1])
            texts = [text for _, text in _lines(begin, file.read(begin, end)) if text]
            latest[0] = piece, texts
        return texts

    def entry(row: int) -> str:
        piece, within = divmod(row, EVERY)
        return texts_of(piece)[within].decode("utf-8", "surrogateescape")

    def number(row: int) -> int:
        return row + 1 + int(np.searchsorted(index.skipped, row, side="right"))

    # What leads to the first picture is tried first for all, whatever is asked for before.
    firsts = list(candidate_paths(entry(0), folder))
    way = next((i for i, path in enumerate(firsts) if os.path.exists(path)), None)
    if way is None and not remote(entry(0)):
        raise DataFileError(
            f"{file.path}:{number(0)}",
            f"{excerpt(entry(0), LONGEST_PATH_SHOWN)} does not exist",
            "a path from the current folder, or from that of the data file",
            "correct the line or remove it",
        )

    def path(row: int) -> Path:
        if far := remote(entry(row)):
            return far
        candidates = list(candidate_paths(entry(row), folder))
        likely = candidates[min(way or 0, len(candidates) - 1)]
        found = next(filter(os.path.exists, (likely, *candidates)), likely)
        return Path(found)

    return ImageList(
        str(file.path),
        Rows(count, entry),
        Rows(count, number),
        Rows(count, path),
        index.identity,
        index.digest,
    )


def index_path(folder: Path, digest: str) -> Path:
    """Return where the index of a list is kept."""
    return folder / f"{digest}.list"


def make_index(file: ListFile, digest: str) -> ListIndex:
    """Read a list from end to end.

    Raises:
        DataFileError: it lists no picture.
    """
    starts, skipped = array("Q"), array("Q")
    common: list[bytes] | None = None
    count = end = 0
    for begin, block in file.blocks():
        end = begin + len(block)
        for offset, text in _lines(begin, block):
            if not text:
                skipped.append(count)
                continue
            if count % EVERY == 0:
                starts.append(offset)
            count += 1
            common = common_folder(common, text)
    if not count:
        raise DataFileError(file.path, "lists no picture", "one path a line is needed")
    entries = (text for begin, block in file.blocks() for _, text in _lines(begin, block) if text)
    return ListIndex(
        digest=digest,
        size_bytes=end,
        identity=identity_of(entries, count, common),
        count=count,
        starts=np.frombuffer(starts, np.uint64),
        skipped=np.frombuffer(skipped, np.uint64),
    )


def read_index(path: Path, digest: str) -> ListIndex | None:
    """Return a kept index; None if there is none, or it is not as it was written."""
    data = read_sealed(path)
    if data is None:
        return None
    with suppress(ValueError, KeyError, TypeError):  # whole, but written by something else
        magic, first, _ = data[: data.index(b"\n", len(MAGIC)) + 1].split(b"\n")
        said = json.loads(first)
        begin = len(magic) + len(first) + 2
        numbers = np.frombuffer(data, "<u8", offset=begin)
        if magic + b"\n" == MAGIC and said["digest"] == digest:
            count, begins = int(said["count"]), -(-int(said["count"]) // EVERY)
            head = (said["size_bytes"], said["identity"], count)
            return ListIndex(digest, *head, numbers[:begins], numbers[begins:])
    return None


def write_index(path: Path, index: ListIndex) -> None:
    """Keep an index.

    Raises:
        StorageError: the folder cannot be written.
    """
    said = {
        "digest": index.digest,
        "size_bytes": index.size_bytes,
        "identity": index.identity,
        "count": index.count,
    }
    head = MAGIC + json.dumps(said).encode()
    head += b" " * (-(len(head) + 1) % 8) + b"\n"  # the numbers behind it are aligned
    storage.make_folder(path.parent)
    write_sealed(path, head, bytes_of(index.starts), bytes_of(index.skipped))


def _kept_index(file: ListFile, digest: str, folder: Path, say: Say) -> ListIndex:
    """Return the index of a list, from its file if that is whole, else made and kept."""
    path = index_path(folder, digest)
    if index := read_index(path, digest):
        return index
    index = make_index(file, digest)
    try:
        write_index(path, index)
    except StorageError as error:
        say(f"the index of {file.path} is not kept, and made at every start: {error}")
    return index


def _lines(begin: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (where it begins, entry) of the lines of a block; of what is no entry, no bytes."""
    if begin == 0 and block.startswith(BOM):
        begin, block = len(BOM), block.removeprefix(BOM)
    for line in block.splitlines(keepends=True):
        text = line.rstrip(b"\r\n")
        is_entry = text and not (text[0] in _MAY_BE_BLANK and _is_blank(text))
        yield begin, text if is_entry else b""
        begin += len(line)


def _is_blank(text: bytes) -> bool:
    return not text.decode("utf-8", "surrogateescape").strip()
