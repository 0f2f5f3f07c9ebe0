"""Only regular files are read: whoever opens a pipe would wait for ever."""

import os
import signal
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace

import pytest

from relume.data.image import read_picture
from relume.data.patience import Patience
from relume.errors import CfgError, DataFileError, RelumeError
from relume.formats import places
from relume.formats.cfg import read_cfg
from relume.formats.data_files import (
    listed_entries,
    read_data_file,
    read_image_list,
    read_labels,
    read_names,
)
from relume.formats.places import local_path, read_file
from relume.lists.long_list import read_list


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A pipe that nobody writes into; what waits for it is told to stop after some seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError("waits for a pipe")

    path = tmp_path / "pipe.txt"
    os.mkfifo(path)
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


READERS: dict[str, Callable[[Path], object]] = {
    "cfg": lambda path: read_cfg(str(path), "train"),
    "data file": read_data_file,
    "names": read_names,
    "list": listed_entries,
    "list of any length": lambda path: read_list(path, "obj.data", path.parent, print),
    "labels": lambda path: read_labels(path, 1),
    "picture": lambda path: read_picture(path, 3),
    "picture, with patience": lambda path: read_picture(path, 3, "", Patience((9.0,))),
}


@pytest.mark.parametrize("what", READERS)
def test_a_pipe_is_an_error_and_waited_for_by_nobody(what: str, pipe: Path) -> None:
    with pytest.raises(RelumeError, match=r"pipe\.txt: cannot be read:? \(?no regular file"):
        READERS[what](pipe)


def test_a_device_and_a_folder_are_errors_too(tmp_path: Path) -> None:
    with pytest.raises(RelumeError, match="no regular file"):
        read_labels(Path("/dev/zero"), 1)
    with pytest.raises(RelumeError, match="directory"):
        read_labels(tmp_path, 1)


def test_a_file_that_no_decoder_takes_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"four")
    monkeypatch.setattr(places, "LARGEST_BYTES", 4)
    assert read_file(tmp_path / "a") == b"four"
    monkeypatch.setattr(places, "LARGEST_BYTES", 3)
    with pytest.raises(OSError, match="too large"):
        read_file(tmp_path / "a")


def test_a_socket_is_no_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.cfg")
        with pytest.raises(CfgError, match="no regular file"):
            read_cfg("a.cfg", "train")


def test_a_file_larger_than_memory_is_refused_before_any_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    with path.open("wb") as file:
        file.truncate(1 << 40)

    tracemalloc.start()
    try:
        with pytest.raises(DataFileError, match="1,099,511,627,776 bytes need more memory than"):
            listed_entries(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_has_grown_since_its_size_was_looked_at_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"fives")
    whole = os.fstat

    def earlier(descriptor: int) -> object:
        size = whole(descriptor).st_size
        return SimpleNamespace(st_mode=whole(descriptor).st_mode, st_size=min(size, 2))

    monkeypatch.setattr(os, "fstat", earlier)
    assert read_file(tmp_path / "a") == b"fives"
    monkeypatch.setattr(places, "SOON_READ_BYTES", 1)
    with pytest.raises(OSError, match="grows while it is read"):
        read_file(tmp_path / "a")


def test_what_needs_a_disk_says_so_of_an_object_store(tmp_path: Path) -> None:
    assert local_path("C:/a.jpg", "-out") == Path("C:/a.jpg")
    with pytest.raises(RelumeError) as raised:
        local_path("s3://bucket/a.jpg", "-out")
    assert str(raised.value) == (
        "-out: s3://bucket/a.jpg is on an object store; local files only; copy them to a disk"
    )
    (tmp_path / "train.txt").write_text("s3://bucket/a.jpg\n")
    with pytest.raises(RelumeError, match=r"train\.txt:1: s3://bucket/a\.jpg is on an object"):
        read_image_list(tmp_path / "train.txt", tmp_path / "obj.data")


def test_a_line_without_end_is_not_told_whole(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a" * 100_000 + ".jpg\n")
    with pytest.raises(RelumeError) as raised:
        read_image_list(tmp_path / "train.txt", tmp_path / "obj.data")
    assert len(str(raised.value)) < 700
