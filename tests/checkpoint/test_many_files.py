"""Many small files: all of them, and an end at the first that is refused."""

from pathlib import Path

import pytest

from relume.checkpoint.disk import Buffer
from relume.checkpoint.many_files import write_each_durably
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
