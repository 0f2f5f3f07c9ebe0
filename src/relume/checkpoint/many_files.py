"""Many small files, written side by side; not those of a run, but what is made before it."""

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

from relume.checkpoint import storage
from relume.checkpoint.disk import Buffer
from relume.errors import StorageError
from relume.formats.places import read_regular

SIDE_BY_SIDE = 8


def write_each_durably(files: Mapping[Path, Buffer]) -> Generator[Path]:
    """Put files at their paths, each as `write_durably` does; yield the paths as they are done.

    Each has to wait for the disk twice; waiting together takes a tenth of the time.

    Raises:
        StorageError: the first that was refused; those that are not begun then are not written.
    """
    may_begin, is_over = Event(), Event()

    def write(path: Path, data: Buffer) -> None:
        may_begin.wait()
        if not is_over.is_set():
            storage.write_durably(path, data)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        try:
            # A thread whose start is interrupted is not waited for; so none has begun by then.
            written = pool.map(write, files.keys(), files.values())
            may_begin.set()
            for path, _ in zip(files, written, strict=True):
                yield path
        except BaseException:
            is_over.set()
            may_begin.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def not_there_yet(files: Mapping[Path, bytes]) -> dict[Path, bytes]:
    """Return those files that do not have these contents already.

    So a command that was interrupted goes on, and replaces nothing but what it wrote itself.
    """

    def is_there(path: Path, data: bytes) -> bool:
        try:
            return read_regular(path) == data
        except OSError:
            return False

    return {path: data for path, data in files.items() if not is_there(path, data)}


@contextmanager
def filled_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which takes the name of `folder` when all is in it.

    Until then `folder` stays as it is: not there, or empty. What was begun is taken away again.

    Raises:
        StorageError: the disk refuses, or something has come into `folder` meanwhile.
    """
    storage.make_folder(folder.parent)
    filling = storage.make_temporary_folder(folder)
    try:
        yield filling
        storage.rename(filling, folder)
    except BaseException:
        with suppress(StorageError):
            storage.remove_folder(filling)
        raise
