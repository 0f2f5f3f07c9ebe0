"""No file changes but those of the run, whatever links lie under the names that it writes to.

Needs nothing but this checkout: python -m pytest tests/attacks/test_links.py
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from relume.checkpoint import container, storage
from relume.checkpoint.disk import Disk
from relume.errors import CheckpointError, Locked, StorageError
from relume.train.journal import Journal
from tests.attacks.held_runs import END, TRAIN, contents, written_run
from tests.checkpoint.states import history_of
from tests.command_line import Ended, relume
from tests.contract.small_runs import promised_files

FOREIGN = b"the only copy of my notes\n"
APPENDED = ("net.journal.jsonl", "net.log")
WRITTEN = (*APPENDED, "chart.png", "chart_net.png")

Put = Callable[[Path, Path], None]
"""Puts something at a path that leads to a foreign file."""


def symbolic(path: Path, foreign: Path) -> None:
    path.symlink_to(foreign)


def hard(path: Path, foreign: Path) -> None:
    path.hardlink_to(foreign)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed; not to be changed."""
    run = written_run(tmp_path_factory.mktemp("finished") / "run")
    assert train(run).status == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The inputs of that run, with an empty backup folder."""
    copy = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("backup"))
    (copy / "backup").mkdir()
    return Path(copy)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A file of the user's own."""
    path = tmp_path / "notes.txt"
    path.write_bytes(FOREIGN)
    return path


def train(run: Path, *words: str) -> Ended:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run)
        return relume(*TRAIN, *words)


@pytest.mark.parametrize("put", [symbolic, hard])
def test_training_changes_no_file_that_a_link_in_its_folder_leads_to(
    run: Path, finished: Path, foreign: Path, put: Put
) -> None:
    for name in WRITTEN:
        put(run / "backup" / name, foreign)

    ended = train(run)

    assert ended.status == 0, ended.err
    assert foreign.read_bytes() == FOREIGN
    assert promised_files(run) == promised_files(finished)
    for name in APPENDED:
        assert f"backup/{name}: is a {'hard ' * (put is hard)}link" in ended.err
    aside = [path for path in (run / "backup" / "net.aside").rglob("*") if not path.is_dir()]
    assert sorted(path.name for path in aside) == sorted(APPENDED)
    assert all(path.samefile(foreign) for path in aside)


def test_a_text_in_the_place_of_the_journal_is_moved_aside(run: Path, finished: Path) -> None:
    (run / "backup" / "net.journal.jsonl").write_bytes(FOREIGN)

    ended = train(run)

    assert ended.status == 0, ended.err
    assert "backup/net.journal.jsonl: holds a text that relume did not write" in ended.err
    assert (run / "backup" / "net.aside" / "1" / "net.journal.jsonl").read_bytes() == FOREIGN
    assert promised_files(run) == promised_files(finished)


def test_a_text_that_takes_the_place_of_the_journal_while_the_run_goes_on_is_moved_aside(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    path = tmp_path / "net.journal.jsonl"
    journal = Journal(path, history_of(3), said.append)
    path.rename(tmp_path / "old")
    path.write_bytes(FOREIGN)

    journal.finish(history_of(3))
    journal.close()

    assert path.read_bytes() == (tmp_path / "old").read_bytes()
    assert (tmp_path / "net.aside" / "1" / path.name).read_bytes() == FOREIGN


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_the_place_of_journal_and_log_is_moved_aside(
    run: Path, finished: Path, make: Callable[[Path], None]
) -> None:
    for name in APPENDED:
        make(run / "backup" / name)

    ended = train(run)

    assert ended.status == 0, ended.err
    assert promised_files(run) == promised_files(finished)


# The lock file


@pytest.mark.parametrize("target", ["notes.txt", "no such file"])
def test_a_symbolic_link_in_the_place_of_the_lock_is_refused_and_not_followed(
    finished: Path, tmp_path: Path, foreign: Path, target: str
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "backup" / "net.lock").unlink()
    (run / "backup" / "net.lock").symlink_to(tmp_path / target)
    before = contents(tmp_path)

    for words in (
        TRAIN,
        ("reset", "obj.data", "net.cfg"),
        ("rewind", "backup/net_2.weights"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(run)
            ended = relume(*words)
        assert ended.status == 2
        assert ended.error == (
            "backup/net.lock: is a link, a folder or a pipe; a regular file, which relume makes "
            "itself; move it away, then give the same command again"
        )
        assert contents(tmp_path) == before


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_the_place_of_the_lock_is_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "net.lock")
    message = "is a link, a folder or a pipe"
    with pytest.raises(CheckpointError, match=message), storage.locked(tmp_path, "net"):
        pass


def test_a_hard_link_in_the_place_of_the_lock_is_replaced_and_the_other_name_keeps_the_file(
    tmp_path: Path, foreign: Path
) -> None:
    """A copy of a backup folder that is made of hard links has one, and may be trained as well."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.lock").hardlink_to(foreign)
    one, other = tmp_path / "one", tmp_path / "other"
    with (
        storage.locked(one, "net"),
        storage.locked(other, "net"),
        pytest.raises(Locked),
        storage.locked(one, "net"),
    ):
        pass

    assert foreign.read_bytes() == FOREIGN


def test_a_lock_file_with_a_text_of_the_users_own_keeps_it_and_locks_all_the_same(
    tmp_path: Path,
) -> None:
    (tmp_path / "net.lock").write_bytes(FOREIGN)
    with storage.locked(tmp_path, "net") as lock:
        assert lock.is_exclusive
        message = "another process trains 'net'"
        with pytest.raises(Locked, match=message), storage.locked(tmp_path, "net"):
            pass

    assert (tmp_path / "net.lock").read_bytes() == FOREIGN


@pytest.mark.parametrize(
    "left", ["", "process 1\n", "process 77", "\0\0\0", "process 1\ntoken a\n"]
)
def test_whatever_a_crash_left_of_a_lock_file_it_holds_the_process_afterwards(
    tmp_path: Path, left: str
) -> None:
    (tmp_path / "net.lock").write_text(left)
    with storage.locked(tmp_path, "net"):
        pass

    assert (tmp_path / "net.lock").read_text() == f"process {os.getpid()}\n"


# Checkpoints


def test_a_save_replaces_a_link_and_not_what_it_leads_to(finished: Path, tmp_path: Path) -> None:
    """A user may link a checkpoint from elsewhere to go on from it."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    backup, elsewhere = run / "backup", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(backup / "net_2.weights", elsewhere / "mine")
    for path in backup.iterdir():
        path.unlink()
    for name in ("net_last.weights", "net.backup", "net_2.weights"):
        (backup / name).symlink_to(elsewhere / "mine")
    before = contents(elsewhere)

    ended = train(run)

    assert ended.status == 0, ended.err
    assert "goes on from backup/net_last.weights (iteration 2)" in ended.err
    assert contents(elsewhere) == before
    found = {name: data for name, data in promised_files(run).items() if name != "net_2.weights"}
    expected = promised_files(finished)
    assert found == {name: expected[name] for name in found}
    assert container.unpack(found["net_last.weights"], "x").iteration == END


def test_the_older_generation_of_a_linked_checkpoint_is_the_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"old")
    (tmp_path / "net_last.weights").symlink_to(tmp_path / "mine")
    with storage.locked(tmp_path, "net"):
        storage.write_durably(
            tmp_path / "net_last.weights", b"new", previous=tmp_path / "net.backup"
        )

    assert (tmp_path / "mine").read_bytes() == (tmp_path / "net.backup").read_bytes() == b"old"
    assert (tmp_path / "net_last.weights").read_bytes() == b"new"
    assert not (tmp_path / "net_last.weights").is_symlink()


def test_reset_moves_links_and_changes_nothing_that_they_lead_to(
    finished: Path, tmp_path: Path, foreign: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    backup = run / "backup"
    for name in ("net_last.weights", *WRITTEN):
        (backup / name).unlink()
        (backup / name).symlink_to(foreign if name != "net.log" else tmp_path / "gone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run)
        ended = relume("reset", "obj.data", "net.cfg")

    assert ended.status == 0, ended.err
    assert foreign.read_bytes() == FOREIGN
    assert not (tmp_path / "gone").exists()
    assert sorted(path.name for path in backup.iterdir()) == ["net.aside", "net.lock"]
    aside = backup / "net.aside" / "1"
    assert all((aside / name).is_symlink() for name in ("net_last.weights", *WRITTEN))


# The system calls


@pytest.mark.parametrize("put", [symbolic, hard])
def test_nothing_is_cut_or_appended_to_through_a_link(
    tmp_path: Path, foreign: Path, put: Put
) -> None:
    path = tmp_path / "net.journal.jsonl"
    put(path, foreign)
    with pytest.raises(StorageError):
        storage.truncate(path, 3)
    with pytest.raises(StorageError):
        storage.AppendFile(path)

    assert foreign.read_bytes() == FOREIGN


def test_nobody_waits_for_the_other_end_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        Disk().open_to_append(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        Disk().truncate(tmp_path / "pipe", 0)
