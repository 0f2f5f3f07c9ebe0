"""Writing: the old contents or the new, never a part; locks; what a refusal says."""

import errno
import fcntl
import os
import pwd
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from relume.checkpoint import storage
from relume.checkpoint.disk import Buffer, Disk
from relume.checkpoint.guarantees import missing_guarantees
from relume.checkpoint.hands import Hands
from relume.checkpoint.system_errors import as_storage_error
from relume.errors import Locked, StorageError
from tests.checkpoint.faults import strike

ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES]


def test_a_written_file_replaces_the_old_one_which_is_kept_if_asked(tmp_path: Path) -> None:
    path, previous = tmp_path / "last", tmp_path / "before"

    storage.write_durably(path, b"1", previous=previous)
    storage.write_durably(path, b"2", previous=previous)
    storage.write_durably(path, b"3")

    assert path.read_bytes() == b"3"
    assert previous.read_bytes() == b"1"
    assert sorted(tmp_path.iterdir()) == [previous, path]


def test_what_is_written_is_durable_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "last").write_bytes(b"old")
    faults = strike(monkeypatch, 99, errno.EIO)

    storage.write_durably(tmp_path / "last", b"new", previous=tmp_path / "before")

    assert faults.operations == [
        *("create", "write", "fsync", "link", "rename", "fsync_folder"),
        *("rename", "fsync_folder"),  # only now does the older generation go
    ]


@pytest.mark.parametrize("size", [0, 1, 4096, 8 << 20, (8 << 20) + 5000, (16 << 20) - 1])
def test_what_is_written_past_the_page_cache_is_what_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(storage, "DIRECT_FROM_BYTES", 0)
    data = bytes(range(251)) * (size // 251 + 1)
    parts = [data[:7], data[7 : size // 2 + 7], data[size // 2 + 7 :][: max(0, size - 7)]]

    storage.write_durably(tmp_path / "last", *parts)

    assert (tmp_path / "last").read_bytes() == b"".join(parts)


@pytest.mark.parametrize("refusing", ["create", "write"])
def test_a_file_system_that_knows_no_direct_writing_is_written_the_usual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusing: str
) -> None:
    class Indirect(Disk):
        direct = False

        def create(self, path: Path, direct: bool = False) -> int:
            self.direct = direct
            if direct and refusing == "create":
                raise OSError(errno.EINVAL, "no")
            return super().create(path)

        def write(self, descriptor: int, data: Buffer) -> None:
            if self.direct:
                self.direct = False  # from here on the descriptor is an ordinary one
                raise OSError(errno.EINVAL, "no")
            super().write(descriptor, data)

    monkeypatch.setattr(storage, "DIRECT_FROM_BYTES", 0)
    monkeypatch.setattr(storage, "DISK", Indirect())

    storage.write_durably(tmp_path / "last", b"new" * 5000)

    assert (tmp_path / "last").read_bytes() == b"new" * 5000


def test_what_a_refusal_of_direct_writing_has_taken_already_is_not_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HalfDirect(Disk):
        direct = False

        def create(self, path: Path, direct: bool = False) -> int:
            self.direct = direct
            return super().create(path)

        def write(self, descriptor: int, data: Buffer) -> None:
            if self.direct:
                self.direct = False
                super().write(descriptor, data[:512])
                raise OSError(errno.EINVAL, "no")
            super().write(descriptor, data)

    monkeypatch.setattr(storage, "DIRECT_FROM_BYTES", 0)
    monkeypatch.setattr(storage, "CHUNK_BYTES", 8192)
    monkeypatch.setattr(storage, "DISK", HalfDirect())
    data = bytes(range(251)) * 80

    storage.write_durably(tmp_path / "last", data)

    assert (tmp_path / "last").read_bytes() == data


def test_a_file_is_closed_once_and_no_other_that_has_its_number_by_then(tmp_path: Path) -> None:
    file = storage.AppendFile(tmp_path / "log")
    file.close()
    with (tmp_path / "other").open("wb", buffering=0) as other:
        file.close()
        other.write(b"still open")

    assert (tmp_path / "other").read_bytes() == b"still open"


@pytest.mark.parametrize("fails_at", [2, 3, 4])
def test_a_write_refused_in_another_thread_is_an_error_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    hands = Hands(2)
    monkeypatch.setattr(storage, "CHUNK_BYTES", 4096)
    strike(monkeypatch, fails_at, errno.ENOSPC)

    with pytest.raises(StorageError, match="No space left"):
        storage.write_stream_durably(tmp_path / "last", [bytes(4096)] * 3, None, hands)
    hands.close()

    assert list(tmp_path.iterdir()) == []
    assert hands.taken_processor_s() > 0


def test_where_there_are_no_hard_links_two_generations_are_kept_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, previous = tmp_path / "last", tmp_path / "before"
    path.write_bytes(b"old")
    strike(monkeypatch, 4, errno.EPERM)  # as vfat answers

    storage.write_durably(path, b"new", previous=previous)

    assert (path.read_bytes(), previous.read_bytes()) == (b"new", b"old")
    assert sorted(tmp_path.iterdir()) == [previous, path]


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("fails_at", range(1, 9))
def test_a_refused_operation_loses_nothing_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, error: int
) -> None:
    path, previous = tmp_path / "last", tmp_path / "before"
    path.write_bytes(b"old")

    with storage.locked(tmp_path, "net") as lock:
        with monkeypatch.context() as patch:
            strike(patch, fails_at, error)
            with pytest.raises(StorageError, match=r": cannot be written \("):
                storage.write_durably(path, b"new", previous=previous)

        held = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p != lock.path}
        if fails_at <= 5:  # not renamed yet
            assert held == {"last": b"old"}
        else:
            assert held.pop("last") == b"new"
            assert b"old" in held.values()
        storage.write_durably(path, b"newer", previous=previous)
    assert path.read_bytes() == b"newer"
    assert previous.read_bytes() == held.get("last", b"old" if fails_at <= 5 else b"new")
    assert sorted(tmp_path.iterdir()) == [previous, path, lock.path]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (errno.ENOSPC, r"\(No space left on device\); .*; free some space"),
        (errno.EDQUOT, r"\(Disk quota exceeded\); .*; free some of the quota"),
        (errno.EACCES, r"\(Permission denied\); .*; choose a folder that can be written"),
        (errno.EIO, r"\(Input/output error\); .*; check the folder"),
    ],
)
def test_a_refusal_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, remedy: str
) -> None:
    strike(monkeypatch, 1, error)

    with pytest.raises(StorageError, match=remedy):
        storage.write_durably(tmp_path / "net.weights", b"")


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_folder_that_cannot_be_synced_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    strike(monkeypatch, 5, error)  # create, write, fsync, rename, fsync of the folder

    storage.write_durably(tmp_path / "net.weights", b"new")

    assert (tmp_path / "net.weights").read_bytes() == b"new"


def test_files_moved_aside_go_into_the_first_free_number(tmp_path: Path) -> None:
    aside = tmp_path / "net.aside"
    for text in ("one", "two"):
        (tmp_path / "a").write_text(text)
        storage.move_aside([tmp_path / "a"], aside)

    assert (aside / "1" / "a").read_text() == "one"
    assert (aside / "2" / "a").read_text() == "two"
    assert not (tmp_path / "a").exists()


def test_a_folder_is_removed_with_all_in_it_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_text("a")
    folder = tmp_path / "folder"
    (folder / "inner" / "deep").mkdir(parents=True)
    (folder / "inner" / "b").write_text("b")
    (folder / "linked").symlink_to(tmp_path / "kept")
    (folder / "c").symlink_to(tmp_path / "kept" / "a")
    storage.remove_folder(folder)

    assert not folder.exists()
    assert (tmp_path / "kept" / "a").read_text() == "a"


def test_an_append_file_takes_up_where_a_nearly_full_disk_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = storage.AppendFile(tmp_path / "net.log")
    plain = os.write
    # The system may take seven bytes at a time.
    monkeypatch.setattr(os, "write", lambda descriptor, data: plain(descriptor, data[:7]))

    file.append("a line of thirty characters ...")
    file.append("\udcff bytes that are no text")
    monkeypatch.undo()
    file.close()

    assert (tmp_path / "net.log").read_bytes() == (
        b"a line of thirty characters ...\n\xff bytes that are no text\n"
    )


def test_an_append_file_knows_when_its_name_has_gone(tmp_path: Path) -> None:
    file = storage.AppendFile(tmp_path / "net.log")
    assert file.is_at_its_path()
    (tmp_path / "net.log").rename(tmp_path / "elsewhere")
    assert not file.is_at_its_path()
    (tmp_path / "net.log").write_bytes(b"")
    assert not file.is_at_its_path()
    file.close()


LOCKING = """
import sys
from pathlib import Path
from relume.checkpoint.storage import locked
from relume.errors import Locked
try:
    with locked(Path(sys.argv[1]), "net"):
        print("held", flush=True)
        if sys.argv[2] == "wait":
            sys.stdin.read()
except Locked as error:
    print(error)
"""


def lock_process(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOCKING, str(folder), *arguments]
    return subprocess.Popen(command, stdin=-1, stdout=-1, text=True)


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = lock_process(tmp_path, "wait")
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"

    refused, _ = lock_process(tmp_path, "go").communicate()
    first.kill()  # as the kernel kills: no handler runs, the lock file stays
    first.communicate()
    text_left = (tmp_path / "net.lock").read_text()
    held, _ = lock_process(tmp_path, "go").communicate()

    assert refused.startswith(f"{tmp_path / 'net.lock'}: process {first.pid} trains 'net'")
    assert text_left == f"process {first.pid}\n"
    assert held == "held\n"


def test_another_name_in_the_folder_has_its_own_lock(tmp_path: Path) -> None:
    process = lock_process(tmp_path, "wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"

    with storage.locked(tmp_path, "other"):
        pass
    with pytest.raises(Locked), storage.locked(tmp_path, "net"):
        pass
    process.communicate()


def test_a_file_system_without_locks_or_with_no_space_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for call in ("fcntl", "lockf", "flock"):
        monkeypatch.setattr(fcntl, call, refuse)
    with storage.locked(tmp_path, "net") as lock:
        assert not lock.is_exclusive
        storage.write_durably(tmp_path / "net_last.weights", b"new")


def test_what_a_file_system_cannot_do_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.locked(tmp_path, "net") as lock:
        assert missing_guarantees(lock) == []
        for lacking, part in (
            (replace(lock, is_exclusive=False), "has no locks"),
            (replace(lock, has_stable_inodes=False), "has no lasting inode numbers"),
        ):
            (told,) = missing_guarantees(lacking)
            assert part in told
        for fails_at, part in ((1, "cannot make names durable"), (3, "has no hard links")):
            with monkeypatch.context() as patch:
                strike(patch, fails_at, errno.ENOTSUP)
                (told,) = missing_guarantees(lock)
            assert part in told
    assert [path.name for path in tmp_path.iterdir()] == ["net.lock"]


@pytest.mark.parametrize("fails_at", range(1, 5))  # create, two writes, rename
def test_what_can_be_had_again_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    path = tmp_path / "index"
    storage.write_replaceable(path, [b"old"])
    with monkeypatch.context() as patch:
        strike(patch, fails_at, errno.ENOSPC)
        with pytest.raises(StorageError, match="index: cannot be written"):
            storage.write_replaceable(path, [b"new ", b"one"])

    assert [item.name for item in tmp_path.iterdir()] == ["index"]
    assert path.read_bytes() == b"old"
    storage.write_replaceable(path, [b"new ", b"one"])
    assert path.read_bytes() == b"new one"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_refusal_at_a_file_of_another_user_names_that_user(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.lock"
    path.write_bytes(b"")
    owner = pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with (
        pytest.raises(StorageError, match=f"net.lock: belongs to user '{owner}' .*chown"),
        as_storage_error(path),
    ):
        raise OSError(number, os.strerror(number))
    with (
        pytest.raises(StorageError, match="cannot be written"),
        as_storage_error(tmp_path / "missing"),
    ):
        raise OSError(number, os.strerror(number))
