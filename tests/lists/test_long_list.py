"""A long list is the list that the plain reader sees; its index is never trusted blindly."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relume.errors import DataFileError
from relume.formats.data_files import ImageList, listed_entries
from relume.lists import long_list
from relume.lists.identity import list_identity
from relume.lists.long_list import (
    ListFile,
    image_list,
    index_path,
    make_index,
    read_index,
    read_list,
    write_index,
)

same_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100
)
PIECES = (
    *(b"\n", b"\r\n", b"\r", b"\xef\xbb\xbf", b" ", b"\t", b"\x1c", b"\xc2\xa0", b"\xe2\x80\xa8"),
    *(b"\xff", b"a b.jpg", b"img/c.jpg", b"img\\d.jpg", b"/data/img/e.jpg", b"/data/f.jpg", b"//"),
    *(b"\xc3\xa9.png", b"\0", b"\x85"),
)


@pytest.fixture
def any_list_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_list, "COMPARED_AT_START", 0)


@same_folder
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=3)).map(b"".join), st.integers(1, 9))
def test_an_index_gives_what_the_plain_reader_gives(
    tmp_path: Path, data: bytes, chunk_bytes: int
) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_list, "CHUNK_BYTES", chunk_bytes)
        patch.setattr(long_list, "EVERY", 1 + chunk_bytes % 3)
        file = ListFile(path)
        digest, _ = file.digest()
        try:
            numbered = listed_entries(path)
        except DataFileError:
            with pytest.raises(DataFileError, match="lists no picture"):
                make_index(file, digest)
            return
        index = make_index(file, digest)
        write_index(index_path(tmp_path, digest), index)
        kept = read_index(index_path(tmp_path, digest), digest)
        assert kept is not None
        patch.setattr(os.path, "exists", lambda path: True)
        images = image_list(file, kept, tmp_path / "obj.data")
        entries = tuple(images.entries)

    assert list(zip(images.lines, entries, strict=True)) == numbered
    assert images.identity == index.identity == list_identity(entries)


def written_list(folder: Path, pictures: int = 5) -> Path:
    """Write a list of pictures that exist, with a blank line, and return its path."""
    folder.mkdir(exist_ok=True)
    for i in range(pictures):
        (folder / f"{i}.jpg").write_bytes(b"")
    lines = [f"{i}.jpg" for i in range(pictures)]
    (folder / "train.txt").write_text("\n".join([*lines[:2], "", *lines[2:], ""]))
    return folder / "train.txt"


def read(path: Path, folder: Path) -> ImageList:
    return read_list(path, path.parent / "obj.data", folder, pytest.fail)


def test_a_short_list_is_read_as_a_whole_and_has_no_index(tmp_path: Path) -> None:
    images = read(written_list(tmp_path / "data"), tmp_path / "cache")

    assert images.identity is None
    assert images.lines == (1, 2, 4, 5, 6)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("any_list_is_long")
def test_a_long_list_is_indexed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written_list(tmp_path / "data")
    first = read(path, tmp_path / "cache")
    monkeypatch.setattr(long_list, "make_index", pytest.fail)
    again = read(path, tmp_path / "cache")

    assert list(first.paths) == list(again.paths) == [path.parent / f"{i}.jpg" for i in range(5)]
    assert list(first.lines) == list(again.lines) == [1, 2, 4, 5, 6]
    assert first.identity == again.identity == list_identity(tuple(first.entries))
    with pytest.raises(IndexError):
        first.paths[5]


@pytest.mark.usefixtures("any_list_is_long")
@pytest.mark.parametrize("place", [0, 20, 100, -40, -1])
def test_a_damaged_index_is_made_again(tmp_path: Path, place: int) -> None:
    path, folder = written_list(tmp_path / "data"), tmp_path / "cache"
    expected = list(read(path, folder).entries)
    (kept,) = folder.iterdir()
    good = kept.read_bytes()
    bad = bytearray(good)
    bad[place] ^= 1
    for data in (bytes(bad), good[:-9], b"", good + b"\n"):
        kept.write_bytes(data)

        assert list(read(path, folder).entries) == expected
        assert kept.read_bytes() == good


@pytest.mark.usefixtures("any_list_is_long")
def test_a_list_that_has_changed_has_an_index_of_its_own(tmp_path: Path) -> None:
    path, folder = written_list(tmp_path / "data"), tmp_path / "cache"
    before = read(path, folder)
    stamp = path.stat()
    path.write_text(path.read_text().replace("3.jpg", "1.jpg"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # the same size and time
    after = read(path, folder)

    assert list(after.entries) == ["0.jpg", "1.jpg", "2.jpg", "1.jpg", "4.jpg"]
    assert before.identity != after.identity
    assert len(list(folder.iterdir())) == 2


@pytest.mark.usefixtures("any_list_is_long")
def test_an_index_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    path = written_list(tmp_path / "data")
    (tmp_path / "cache").write_text("a file in the folder's place")
    said: list[str] = []

    images = read_list(path, path.parent / "obj.data", tmp_path / "cache", said.append)

    assert len(images.paths) == 5
    assert len(said) == 1
    assert "made at every start" in said[0]


@pytest.mark.usefixtures("any_list_is_long")
def test_a_list_that_is_written_to_meanwhile_is_noticed_and_one_in_its_place_is_not_read(
    tmp_path: Path,
) -> None:
    path = written_list(tmp_path / "data")
    images = read(path, tmp_path / "cache")
    other = tmp_path / "other.txt"
    other.write_text("4.jpg\n" * 5)
    other.replace(path)
    assert list(images.entries) == [f"{i}.jpg" for i in range(5)]
    images = read(path, tmp_path / "cache")
    with path.open("a") as file:
        file.write("1.jpg\n")

    with pytest.raises(DataFileError, match=r"train\.txt: has been changed while it is in use"):
        images.entries[0]


@pytest.mark.usefixtures("any_list_is_long")
def test_of_a_long_list_the_first_picture_must_exist(tmp_path: Path) -> None:
    path = written_list(tmp_path / "data")
    (path.parent / "3.jpg").unlink()
    assert read(path, tmp_path / "cache").paths[3] == path.parent / "3.jpg"
    (path.parent / "0.jpg").unlink()

    with pytest.raises(DataFileError, match=r"train\.txt:1: 0\.jpg does not exist"):
        read(path, tmp_path / "cache")


@pytest.mark.usefixtures("any_list_is_long")
def test_where_a_picture_is_does_not_depend_on_what_was_asked_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written_list(tmp_path / "data")
    here = tmp_path / "here"
    here.mkdir()
    (here / "3.jpg").write_bytes(b"")  # the same name in the current folder
    monkeypatch.chdir(here)
    images = read(path, tmp_path / "cache")
    forwards = list(images.paths)

    assert [images.paths[row] for row in (4, 3, 2, 1, 0)] == forwards[::-1]
    assert forwards[3] == path.parent / "3.jpg"


def test_rows_of_an_index_are_numbers_of_any_kind(tmp_path: Path) -> None:
    path = written_list(tmp_path / "data")
    file = ListFile(path)
    images = image_list(file, make_index(file, file.digest()[0]), path.parent / "obj.data")

    assert images.entries[np.int64(2)] == "2.jpg"  # type: ignore[call-overload,index]
