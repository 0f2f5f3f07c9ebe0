"""Two runs never write into one folder, whatever becomes of the lock file or the folder.

Needs nothing but this checkout: python -m pytest tests/attacks/test_two_writers.py
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relume.checkpoint import container, file_lock, run_lock, storage
from relume.checkpoint.folder import newest_good
from relume.checkpoint.guarantees import missing_guarantees
from relume.checkpoint.keeper import Keeper
from relume.errors import Locked, LockLost, StorageError
from tests.attacks.held_runs import (
    END,
    HELD,
    TRAIN,
    contents,
    held_run,
    let_go,
    written_run,
)
from tests.checkpoint.states import tiny_state
from tests.contract.processes import Relume

LOCK = Path("backup") / "net.lock"


def _remove_the_lock(run: Path) -> None:
    (run / LOCK).unlink()


def _remove_the_lock_and_train_to_the_end(run: Path) -> None:
    (run / LOCK).unlink()
    second = Relume(run, *TRAIN)
    assert second.ended() == 0, second.output


def _move_the_folder_and_make_a_new_one(run: Path) -> None:
    (run / "backup").rename(run / "moved")
    (run / "backup").mkdir()


def _move_the_folder_and_train_in_a_new_one(run: Path) -> None:
    _move_the_folder_and_make_a_new_one(run)
    second = Relume(run, *TRAIN)
    assert second.ended() == 0, second.output


def _replace_the_folder_by_a_copy(run: Path) -> None:
    (run / "backup").rename(run / "moved")
    shutil.copytree(run / "moved", run / "backup")


def _remove_the_folder(run: Path) -> None:
    shutil.rmtree(run / "backup")


def _restore_the_folder(run: Path) -> None:
    shutil.copytree(run / "backup", run / "kept")
    shutil.rmtree(run / "backup")
    (run / "kept").rename(run / "backup")


def _replace_the_lock_by_a_link(run: Path) -> None:
    (run / LOCK).rename(run / "lock")
    (run / LOCK).symlink_to(run / "lock")


def _replace_the_lock_by_a_pipe(run: Path) -> None:
    (run / LOCK).unlink()
    os.mkfifo(run / LOCK)


def _replace_the_lock_by_a_folder(run: Path) -> None:
    (run / LOCK).unlink()
    (run / LOCK).mkdir()


def _replace_the_lock_by_the_same_text(run: Path) -> None:
    text = (run / LOCK).read_bytes()
    (run / LOCK).rename(run / "lock")
    (run / LOCK).write_bytes(text)


EVENTS: dict[Callable[[Path], None], str] = {
    _remove_the_lock: "backup/net.lock: was removed while this run held it",
    _remove_the_lock_and_train_to_the_end: "backup/net.lock: was replaced while this run held it",
    _move_the_folder_and_make_a_new_one: "backup: is another folder than when this run began",
    _move_the_folder_and_train_in_a_new_one: "backup: is another folder than when this run began",
    _replace_the_folder_by_a_copy: "backup: is another folder than when this run began",
    _remove_the_folder: "backup: is gone: renamed, removed or unmounted",
    _restore_the_folder: "backup: is another folder than when this run began",
    _replace_the_lock_by_a_link: "backup/net.lock: was replaced while this run held it",
    _replace_the_lock_by_a_pipe: "backup/net.lock: was replaced while this run held it",
    _replace_the_lock_by_a_folder: "backup/net.lock: was replaced while this run held it",
    _replace_the_lock_by_the_same_text: "backup/net.lock: was replaced while this run held it",
}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__[1:])
def test_a_run_that_has_lost_its_lock_stops_and_changes_nothing(
    tmp_path: Path, event: Callable[[Path], None]
) -> None:
    run = written_run(tmp_path / "run")
    process = held_run(run)
    event(run)
    before = contents(run)

    status, said = let_go(run, process)

    assert status == 2, said
    (error,) = [line for line in said.splitlines() if line.startswith("relume: error: ")]
    assert error.startswith(f"relume: error: {EVENTS[event]}")
    assert "nothing was written there since; see that no other training of 'net'" in error
    assert "training goes on" not in said
    (run / "go").unlink()
    assert contents(run) == before


def test_a_backup_folder_that_leads_to_another_disk_now_gets_nothing(tmp_path: Path) -> None:
    run = written_run(tmp_path / "run")
    (run / "backup").rename(run / "disk")
    (run / "backup").symlink_to("disk")
    process = held_run(run)
    with _folder_on_another_disk(run) as other:
        (run / "backup").unlink()
        (run / "backup").symlink_to(other)
        before = contents(run / "disk")

        status, said = let_go(run, process)

        assert list(other.iterdir()) == []
    assert status == 2
    assert "backup: is on another disk than when this run began" in said
    assert contents(run / "disk") == before


@contextmanager
def _folder_on_another_disk(folder: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == folder.stat().st_dev:
        pytest.skip("there is no other disk")
    with tempfile.TemporaryDirectory(dir=memory) as other:
        yield Path(other)


def test_a_run_whose_folder_comes_back_before_it_writes_goes_on(tmp_path: Path) -> None:
    run = written_run(tmp_path / "run")
    process = held_run(run)
    (run / "backup").rename(run / "moved")
    (run / "moved").rename(run / "backup")

    status, said = let_go(run, process)

    assert status == 0, said
    found, rejected = newest_good(run / "backup", "net")
    assert found is not None
    assert (found.state.iteration, rejected) == (END, [])


def test_a_run_that_was_stopped_by_the_loss_of_its_lock_goes_on_by_the_same_command(
    tmp_path: Path,
) -> None:
    run = written_run(tmp_path / "run")
    process = held_run(run)
    _remove_the_lock(run)
    let_go(run, process)

    again = Relume(run, *TRAIN)

    assert again.ended() == 0, again.output
    assert f"(iteration {HELD - 1})" in again.output


# The lock itself


EARLIER_VERSION = """
import fcntl, sys
file = open(sys.argv[1], "a+b", buffering=0)
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("refused", flush=True)
else:
    print("held", flush=True)
    sys.stdin.read()
"""


def earlier_version(lock: Path) -> subprocess.Popen[str]:
    """Lock as relume did up to 0ac199f."""
    command = [sys.executable, "-c", EARLIER_VERSION, str(lock)]
    return subprocess.Popen(command, stdin=-1, stdout=-1, text=True)


def test_an_earlier_version_and_this_one_keep_each_other_out(tmp_path: Path) -> None:
    with storage.locked(tmp_path, "net") as lock:
        refused, _ = earlier_version(lock.path).communicate()
    holder = earlier_version(lock.path)
    assert holder.stdout is not None
    held = holder.stdout.readline()

    with pytest.raises(Locked), storage.locked(tmp_path, "net"):
        pass
    holder.communicate()

    assert (refused, held) == ("refused\n", "held\n")
    with storage.locked(tmp_path, "net"):
        pass


def test_closing_another_descriptor_of_the_lock_file_does_not_drop_the_lock(
    tmp_path: Path,
) -> None:
    with storage.locked(tmp_path, "net") as lock:
        lock.path.read_bytes()
        with lock.path.open("ab"):
            pass
        refused, _ = earlier_version(lock.path).communicate()

    assert refused == "refused\n"


def test_a_process_cannot_lock_one_run_twice(tmp_path: Path) -> None:
    with storage.locked(tmp_path, "net"):
        message = f"process {os.getpid()} trains 'net'"
        with pytest.raises(Locked, match=message), storage.locked(tmp_path, "net"):
            pass
        with storage.locked(tmp_path, "other"):
            pass


ORPHAN = """
import os, signal, sys
from pathlib import Path
from relume.checkpoint.storage import locked
with locked(Path(sys.argv[1]), "net"):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        print("forked", flush=True)
        sys.stdin.read()
        os._exit(0)
    signal.pause()
"""


def test_a_child_that_survives_a_killed_trainer_does_not_keep_its_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHAN, str(tmp_path)]
    trainer = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "forked\n"
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()

    with storage.locked(tmp_path, "net"):
        pass
    trainer.communicate()


def test_nobody_takes_a_lock_between_the_check_and_the_change_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it otherwise, a process that stands still there would write as the second one."""
    monkeypatch.setattr(run_lock, "LONGEST_CHANGE_S", 0.05)
    monkeypatch.setattr(run_lock, "LONGEST_START_S", 0.02)
    with storage.locked(tmp_path, "net") as lock:
        with lock.change():
            lock.path.unlink()
            message = "another process is changing this folder"
            with pytest.raises(StorageError, match=message), storage.locked(tmp_path, "net"):
                pass
        with storage.locked(tmp_path, "net"), pytest.raises(LockLost):
            storage.write_durably(tmp_path / "net_last.weights", b"new")

    assert [path.name for path in tmp_path.iterdir()] == ["net.lock"]


def test_a_neighbour_that_locks_the_folder_does_not_hold_up_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read a folder can hold its flock."""
    monkeypatch.setattr(run_lock, "LONGEST_START_S", 0.05)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with storage.locked(tmp_path, "net") as lock:
        neighbour = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(neighbour, fcntl.LOCK_EX)
        try:
            storage.write_durably(tmp_path / "net_last.weights", b"1")
            waited = len(waits)
            storage.write_durably(tmp_path / "net_last.weights", b"2")
            lock.path.unlink()
            with pytest.raises(LockLost):
                storage.write_durably(tmp_path / "net_last.weights", b"3")
        finally:
            os.close(neighbour)

    assert waited > 0
    assert len(waits) == waited  # it waits once, and not at every change
    assert (tmp_path / "net_last.weights").read_bytes() == b"2"


def test_a_run_can_be_trained_under_a_lock_of_its_folder_that_the_user_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by `flock backup relume ...`."""
    monkeypatch.setattr(run_lock, "LONGEST_START_S", 0.02)
    users = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(users, fcntl.LOCK_EX)
        with storage.locked(tmp_path, "net"):
            storage.write_durably(tmp_path / "net_last.weights", b"1")
            with pytest.raises(Locked), storage.locked(tmp_path, "net"):
                pass
    finally:
        os.close(users)

    assert (tmp_path / "net_last.weights").read_bytes() == b"1"


def test_a_folder_that_is_replaced_between_the_check_and_the_change_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backup"
    folder.mkdir()
    is_in_its_place = run_lock.RunLock.is_in_its_place

    def then_replaced(lock: run_lock.RunLock) -> bool:
        found = is_in_its_place(lock)
        if not (tmp_path / "moved").exists():
            folder.rename(tmp_path / "moved")
            folder.mkdir()
        return found

    with storage.locked(folder, "net"):
        monkeypatch.setattr(run_lock.RunLock, "is_in_its_place", then_replaced)
        with pytest.raises(LockLost):
            storage.write_durably(folder / "net_last.weights", b"new")

    assert list(folder.iterdir()) == []


def test_a_run_whose_folder_was_another_for_the_moment_it_was_read_does_not_begin(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "backup"
    folder.mkdir()
    (folder / "net_last.weights").write_bytes(container.pack(tiny_state(5)))
    with storage.locked(folder, "net"):
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        found, _ = newest_good(folder, "net")
        folder.rmdir()
        (tmp_path / "moved").rename(folder)
        keeper = Keeper(folder, "net", 1, 1000, pytest.fail)
        with pytest.raises(LockLost, match="is newer than iteration 0, with which this run would"):
            keeper.stop(tiny_state(0))

    assert found is None
    newest, _ = newest_good(folder, "net")
    assert newest is not None
    assert newest.state.iteration == 5


def test_a_damaged_checkpoint_that_appears_during_a_start_is_reported_as_damaged(
    tmp_path: Path,
) -> None:
    last = tmp_path / "net_last.weights"
    with storage.locked(tmp_path, "net"):
        last.write_bytes(container.pack(tiny_state(5))[:-200])
        keeper = Keeper(tmp_path, "net", 1, 1000, pytest.fail)
        with pytest.raises(LockLost, match="was replaced by a damaged file while this run started"):
            keeper.stop(tiny_state(0))

    assert last.read_bytes() == container.pack(tiny_state(5))[:-200]


def test_a_lock_file_whose_inode_seems_to_change_is_known_by_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on file systems that number their files anew at every look."""
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "samestat", lambda one, other: False)
        with storage.locked(tmp_path, "net") as lock:
            storage.write_durably(tmp_path / "net_last.weights", b"1")
            missing = missing_guarantees(lock)
            lock.path.rename(tmp_path / "taken away")
            lock.path.write_text("process 1\n")
            with pytest.raises(LockLost, match="was replaced"):
                storage.write_durably(tmp_path / "net_last.weights", b"2")

    assert (tmp_path / "net_last.weights").read_bytes() == b"1"
    assert "has no lasting inode numbers" in missing[0]


def test_where_the_system_cannot_look_the_run_goes_on_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> os.stat_result:
        raise OSError(5, "Input/output error")

    with storage.locked(tmp_path, "net"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "lstat", refuse)
            with pytest.raises(StorageError, match="Input/output error"):
                storage.write_durably(tmp_path / "net_last.weights", b"1")
        storage.write_durably(tmp_path / "net_last.weights", b"2")


def test_a_system_without_locks_of_open_files_is_locked_the_old_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "HAS_OFD_LOCKS", False)
    with storage.locked(tmp_path, "net") as lock:
        refused, _ = earlier_version(lock.path).communicate()

    assert refused == "refused\n"
