"""The labels of a long list, read once, by several processes.

The index is a folder of blocks (label_block.py) and a summary of them, which is all that a start
reads. It is named after the list's bytes, where its first picture is, and the number of classes.
A building that was interrupted goes on at the first missing block. Nothing is trained on what
it says: labels are read again, and compared, when they are used.
"""

import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import xxhash

from relume import errors
from relume.checkpoint import storage
from relume.errors import DataFileError, RelumeError, Unavailable
from relume.formats.data_files import ImageList
from relume.lists.label_block import (
    Block,
    Summary,
    make_block,
    read_block,
    summary_from,
    write_block,
)
from relume.lists.long_list import ListFile, image_list, index_path, make_index, read_index
from relume.lists.sealed import read_sealed, write_sealed
from relume.stop_signals import stop_signals

ROWS = 8192
"""Of a block: a second of reading, a megabyte."""
SUMMARY = "summary.json"
POLL_S = 0.1
FAREWELL_S = 5.0
"""Seconds for a process to end its block."""

At = Callable[[int, int], None]
"""Takes how many rows of how many are done."""


@dataclass(frozen=True)
class Place:
    """Which labels an index is of, and where it is: all that a process needs to build a part."""

    list_path: Path
    data_file_path: Path
    digest: str
    """Of the list's bytes."""
    rows: int
    classes: int
    lists: Path
    """Folder of the indexes of lists."""
    folder: Path
    """Of this index."""
    block_rows: int = ROWS

    def blocks(self) -> range:
        """Return the first row of every block."""
        return range(0, self.rows, self.block_rows)

    def path(self, first: int) -> Path:
        """Return where the block that begins at a row is kept."""
        return self.folder / f"{first:012}.block"


def place_of(
    images: ImageList, digest: str, data_file_path: str | Path, classes: int, lists: Path
) -> Place:
    """Return where the labels of a list are indexed.

    Args:
        images: the list.
        digest: of its bytes.
        data_file_path: for entries that are relative to its folder.
        classes: of the network's heads.
        lists: folder of the indexes of lists.
    """
    first = images.paths[0].absolute()
    text = f"{digest}\n{first}\n{classes}".encode("utf-8", "surrogateescape")
    key = xxhash.xxh3_128_hexdigest(text)
    return Place(
        Path(images.path),
        Path(data_file_path),
        digest,
        len(images.paths),
        classes,
        lists,
        lists / f"{key}.labels",
    )


def read_summary(place: Place) -> Summary | None:
    """Return what an index says in all; None if it is not whole, or holds what must be mended."""
    text = read_sealed(place.folder / SUMMARY)
    if text is None:
        return None
    with suppress(ValueError, KeyError, TypeError):  # whole, but written by something else
        summary = summary_from(json.loads(text))
        return summary if summary.rows == place.rows and summary.is_clean else None
    return None


def build(
    place: Place, processes: int, at: At, stopped: Callable[[], bool], again: bool = False
) -> Summary | None:
    """Make or complete an index; return what it says in all, or None if stopped.

    Args:
        place: of the index.
        processes: that read at once.
        at: hears how far it has come.
        stopped: tells whether to leave the rest for another time.
        again: look at every file's size and time, and read those that have changed.
    Raises:
        StorageError: the folder cannot be written.
        DataFileError: the list is being changed.
        Unavailable: a process was killed.
    """
    storage.make_folder(place.folder)
    _remove_old_temporaries(place.folder)
    found: dict[int, Summary] = {}
    left = []
    for first in place.blocks():
        block = None if again else read_block(place.path(first))
        if block is not None and block.summary.is_clean:
            found[first] = block.summary
        else:
            left.append(first)
    done = sum(summary.rows for summary in found.values())
    at(done, place.rows)
    with _processes(place, min(processes, len(left))) as connections:
        for first, summary in _answers(connections, left, stopped):
            found[first] = summary
            done += summary.rows
            at(done, place.rows)
    if len(found) < len(place.blocks()):
        return None
    total = Summary()
    for first in place.blocks():
        total = total.plus(found[first])
    write_sealed(place.folder / SUMMARY, json.dumps(asdict(total)).encode())
    return total


def blocks_of(place: Place) -> Iterator[Block]:
    """Yield all blocks of a complete index, in order of the list.

    Raises:
        DataFileError: one is damaged.
    """
    for first in place.blocks():
        block = read_block(place.path(first))
        if block is None:
            needed, remedy = "a whole index", "delete it, and it is made again"
            raise DataFileError(place.path(first), "is missing or damaged", needed, remedy)
        yield block


def _answers(
    connections: list[Connection], left: list[int], stopped: Callable[[], bool]
) -> Iterator[tuple[int, Summary]]:
    """Let processes make the blocks that are left; yield (first row, summary) as they come."""
    waiting = left[::-1]
    busy: dict[Connection, int] = {}
    while (waiting and not stopped()) or busy:
        for connection in connections:
            if waiting and connection not in busy and not stopped():
                busy[connection] = waiting.pop()
                connection.send_bytes(json.dumps(busy[connection]).encode())
        if stopped():
            return
        ready = wait(list(busy), POLL_S)
        for connection in [one for one in connections if one in ready]:
            yield busy.pop(connection), _answer(connection)


def _answer(connection: Connection) -> Summary:
    try:
        answer = json.loads(connection.recv_bytes())
    except (EOFError, OSError):
        again = "see that there is memory for it, then give the same command again"
        raise Unavailable("index", "a process that reads labels was killed", "", again) from None
    if "error" in answer:
        raise getattr(errors, answer["error"])(*answer["told"])
    return summary_from(answer)


def _remove_old_temporaries(folder: Path) -> None:
    """Delete what killed processes have left; nobody writes one block for a day."""
    old_s = time.time() - 86_400
    for path in folder.glob(f"*{storage.TEMPORARY}"):
        with suppress(OSError):
            if path.stat().st_mtime < old_s:
                storage.remove(path)


@contextmanager
def _processes(place: Place, count: int) -> Iterator[list[Connection]]:
    """Give connections to processes that make blocks; they end with this one, however it ends."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(count)]
    started = [
        context.Process(target=_make_blocks, args=(theirs, place), daemon=True)
        for _, theirs in pairs
    ]
    try:
        for process, (_, theirs) in zip(started, pairs, strict=True):
            process.start()
            theirs.close()  # so that it hears when this end is closed
        yield [ours for ours, _ in pairs]
    finally:
        for ours, _ in pairs:
            ours.close()
        for process in started:
            if process.pid is not None:
                process.join(FAREWELL_S)
                process.kill()  # it hangs in a read
                process.join()


def _make_blocks(connection: Connection, place: Place) -> None:
    """Make the blocks that are asked for until nobody asks any more; in a process of its own."""
    for number in stop_signals():
        # Sent to the whole group: the other end decides, and closes the connection.
        signal.signal(number, signal.SIG_IGN)
    try:
        images = _images(place)
        while True:
            first = json.loads(connection.recv_bytes())
            end, path = min(first + place.block_rows, place.rows), place.path(first)
            block = make_block(images, first, end, place.classes, read_block(path))
            write_block(path, block)
            connection.send_bytes(json.dumps(asdict(block.summary)).encode())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except RelumeError as error:
        told = (error.place, error.found, error.needed, error.remedy)
        with suppress(OSError):
            answer = {"error": type(error).__name__, "told": told}
            connection.send_bytes(json.dumps(answer).encode())


def _images(place: Place) -> ImageList:
    file = ListFile(place.list_path)
    if file.digest()[0] != place.digest:
        again = "give the same command again"
        raise DataFileError(place.list_path, "has been changed meanwhile", "", again)
    index = read_index(index_path(place.lists, place.digest), place.digest)
    if index is None:
        index = make_index(file, place.digest)
    return image_list(file, index, place.data_file_path)
