"""Many small files: all of them, and an end at the first that is refused."""

from pathlib import Path

import pytest

from relume.checkpoint.disk import Buffer
from relume.checkpoint.many_files import filled_folder, not_there_yet, write_each_durably
from relume.errors import StorageError


def test_every_file_is_written_and_told_in_order(tmp_path: Path) -> None:
    files: dict[Path, Buffer] = {tmp_path / f"{n}.txt": f"{n}\n".encode() for n in range(40)}

    assert list(write_each_durably(files)) == list(files)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert list(write_each_durably({})) == []


def test_the_first_that_is_refused_ends_it_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    files: dict[Path, Buffer] = {tmp_path / "folder": b"x"}
    files |= {tmp_path / f"{n}.txt": b"x" for n in range(2000)}

    with pytest.raises(StorageError, match="folder: cannot be written"):
        list(write_each_durably(files))

    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) < 1000
    assert not any(name.endswith(".tmp") for name in left)


def test_a_reader_that_gives_up_ends_the_writing(tmp_path: Path) -> None:
    files: dict[Path, Buffer] = {tmp_path / f"{n}.txt": b"x" for n in range(2000)}
    written = write_each_durably(files)
    next(written)

    written.close()

    assert len(list(tmp_path.iterdir())) < 1000


def test_what_is_there_with_the_same_bytes_needs_no_writing(tmp_path: Path) -> None:
    (tmp_path / "same").write_bytes(b"x")
    (tmp_path / "other").write_bytes(b"y")
    (tmp_path / "folder").mkdir()
    files = {tmp_path / name: b"x" for name in ("same", "other", "folder", "none")}

    assert [path.name for path in not_there_yet(files)] == ["other", "folder", "none"]


def test_a_folder_is_there_when_all_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "new"

    def interrupted() -> None:
        with filled_folder(folder) as filling:
            (filling / "a").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()

    with filled_folder(folder) as filling:
        (filling / "a").write_text("a")
        assert list(folder.iterdir()) == []
    with pytest.raises(StorageError, match="new: cannot be written"), filled_folder(folder):
        pass

    assert [path.name for path in tmp_path.rglob("*")] == ["new", "a"]
