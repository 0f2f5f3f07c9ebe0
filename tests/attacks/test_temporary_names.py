"""No file of a user's is taken for a temporary one, and what a killed process left is removed.

Needs nothing but this checkout: python -m pytest tests/attacks/test_temporary_names.py
"""

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relume.checkpoint import container, many_files, storage
from relume.checkpoint.own_files import remove_temporaries
from relume.checkpoint.tensor_digests import TensorDigests
from relume.errors import StorageError
from tests.attacks.held_runs import TRAIN, written_run
from tests.checkpoint.states import tiny_state
from tests.command_line import relume

FOREIGN = b"the only copy of my notes\n"


def test_a_file_of_the_users_beside_a_written_one_stays(tmp_path: Path) -> None:
    for write in (
        storage.write_durably,
        lambda path, data: storage.write_replaceable(path, [data]),
    ):
        (tmp_path / "out.weights.tmp").write_bytes(FOREIGN)
        write(tmp_path / "out.weights", b"new")
        assert (tmp_path / "out.weights.tmp").read_bytes() == FOREIGN
        assert len(list(tmp_path.iterdir())) == 2


def test_files_of_the_users_that_are_called_like_temporaries_of_earlier_versions_survive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = written_run(tmp_path / "run")
    names = ["net_last.weights.tmp", "net.backup.tmp", "net.journal.jsonl.tmp", "chart.png.tmp"]
    for name in names:
        (run / "backup" / name).write_bytes(FOREIGN)
    monkeypatch.chdir(run)

    ended = relume(*TRAIN)

    assert ended.status == 0, ended.err
    aside = run / "backup" / "net.aside" / "1"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == dict.fromkeys(
        names, FOREIGN
    )
    assert "moved to backup/net.aside/1: chart.png.tmp, net.backup.tmp, " in ended.err


def test_what_a_killed_earlier_version_left_is_removed(tmp_path: Path) -> None:
    newest, older = container.pack(tiny_state(5)), container.pack(tiny_state(4))
    (tmp_path / "net_last.weights").write_bytes(newest)
    (tmp_path / "net.backup.tmp").hardlink_to(tmp_path / "net_last.weights")
    (tmp_path / "net_4.weights.tmp").write_bytes(older)
    (tmp_path / "net_final.weights.tmp").write_bytes(b"")
    (tmp_path / "net_5.backup.tmp").write_bytes(newest[:4096])
    (tmp_path / "net.journal.jsonl.tmp").write_bytes(b'{"iteration":1,"se')

    remove_temporaries(tmp_path, "net", pytest.fail)

    assert [path.name for path in tmp_path.iterdir()] == ["net_last.weights"]
    assert (tmp_path / "net_last.weights").read_bytes() == newest


def test_a_second_name_of_a_foreign_file_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(FOREIGN)
    (tmp_path / "net_last.weights.tmp").hardlink_to(tmp_path / "mine")
    (tmp_path / "net.backup.tmp").symlink_to(tmp_path / "mine")
    said: list[str] = []

    remove_temporaries(tmp_path, "net", said.append)

    aside = tmp_path / "net.aside" / "1"
    assert (aside / "net_last.weights.tmp").samefile(tmp_path / "mine")
    assert (aside / "net.backup.tmp").is_symlink()
    assert len(said) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from relume.checkpoint import storage
from relume.checkpoint.disk import Disk

class Killing(Disk):
    def rename(self, source, target):
        os.kill(os.getpid(), signal.SIGKILL)

with storage.locked(Path(sys.argv[1]), "net"):
    storage.DISK = Killing()
    storage.write_durably(Path(sys.argv[1]) / sys.argv[2], b"new")
"""


def test_what_a_killed_process_left_is_found_by_the_next_start_of_the_run(tmp_path: Path) -> None:
    for name in ("net_last.weights", "net_123.backup", "chart.png"):
        command = [sys.executable, "-c", KILLED, str(tmp_path), name]
        assert subprocess.run(command, check=False).returncode == -9
    left = [path.name for path in tmp_path.iterdir() if path.name != "net.lock"]

    with storage.locked(tmp_path, "net"):
        remove_temporaries(tmp_path, "net", pytest.fail)

    assert len(left) == 3
    assert all(name.startswith(".relume-") and name.endswith(".tmp") for name in left)
    assert [path.name for path in tmp_path.iterdir()] == ["net.lock"]


def test_what_another_run_in_the_folder_is_writing_stays(tmp_path: Path) -> None:
    with storage.locked(tmp_path, "other"):
        (temporary := storage.temporary_of(tmp_path / "chart.png")).write_bytes(b"half")
    with storage.locked(tmp_path, "net"):
        remove_temporaries(tmp_path, "net", pytest.fail)
        storage.write_durably(tmp_path / "chart.png", b"whole")

    assert temporary.read_bytes() == b"half"


def test_a_temporary_file_of_no_run_is_taken_for_abandoned_after_a_day_and_not_before(
    tmp_path: Path,
) -> None:
    temporary = storage.temporary_of(tmp_path / "out.weights")
    temporary.write_bytes(b"half")
    storage.write_durably(tmp_path / "out.weights", b"1")
    assert temporary.read_bytes() == b"half"

    os.utime(temporary, (0, 0))
    storage.write_durably(tmp_path / "out.weights", b"2")

    assert [path.name for path in tmp_path.iterdir()] == ["out.weights"]


@pytest.mark.parametrize("name", ["a" * 250 + ".txt", "\N{SNOWMAN}" * 85])
def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path, name: str) -> None:
    storage.write_durably(tmp_path / name, b"1")
    storage.write_replaceable(tmp_path / name, [b"2"])

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"2"}


def test_two_that_write_one_file_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)

    def write(letter: bytes) -> None:
        def parts() -> list[bytes]:
            barrier.wait()
            return [letter * 100_000]

        for _ in range(50):
            storage.write_stream_durably(tmp_path / "out.weights", parts())

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (b"a", b"b")))

    assert [path.name for path in tmp_path.iterdir()] == ["out.weights"]
    assert (tmp_path / "out.weights").read_bytes() in (b"a" * 100_000, b"b" * 100_000)


def test_a_folder_that_is_being_filled_is_none_of_the_users(tmp_path: Path) -> None:
    mine = tmp_path / f"labels.{os.getpid()}.tmp"
    mine.mkdir()
    (mine / "notes").write_bytes(FOREIGN)
    with many_files.filled_folder(tmp_path / "labels") as filling:
        (filling / "a").write_bytes(b"a")
    with pytest.raises(StorageError), many_files.filled_folder(tmp_path / "labels"):
        pass

    assert (mine / "notes").read_bytes() == FOREIGN
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", mine.name]
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["a"]


def test_tensor_digests_are_added_to_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(FOREIGN)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    shutil.copy(tmp_path / "mine", tmp_path / "copy")
    (tmp_path / "hard").hardlink_to(tmp_path / "copy")
    for name in ("mine", "link", "hard"):
        with pytest.raises(StorageError):
            TensorDigests(tmp_path / name, pytest.fail)

    assert (tmp_path / "mine").read_bytes() == (tmp_path / "copy").read_bytes() == FOREIGN
