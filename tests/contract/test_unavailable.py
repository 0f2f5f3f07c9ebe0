"""A disk that does not give a file, at a start or later: nothing is lost, and on it goes.

Needs nothing but this checkout: python -m pytest tests/contract/test_unavailable.py
"""

import errno
from pathlib import Path

import pytest

from relume.checkpoint import container
from relume.checkpoint import folder as checkpoints
from relume.commands import train as train_command
from relume.data.order import index_at
from relume.errors import CheckpointError, RelumeError, Unavailable
from relume.formats import places
from relume.formats.places import read_file
from relume.kernels import recreate
from relume.screen import Screen
from relume.train import loop
from tests.command_line import relume
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, train_until, write_run
from tests.contract.starts import contents

TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", 1)
POSITION = 5
"""Of the second iteration, first subdivision, second picture."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(
        tmp_path_factory.mktemp("straight"), sgd_cfg(max_batches=4, batch=4, subdivisions=4)
    )
    train_until(folder)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("number", "status"), [(errno.EIO, 75), (errno.ENOENT, 75), (errno.EACCES, 2)]
)
def test_a_picture_that_the_disk_does_not_give_stops_the_run_where_it_is(
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int,
    workers: int,
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    monkeypatch.chdir(folder)
    lines = Path("train.txt").read_text().split()
    row = index_at(0, POSITION, len(lines))
    whole = read_file

    def read(path: Path) -> bytes:
        if path.name == Path(lines[row]).name:
            raise OSError(number, "trouble")
        return whole(path)

    with monkeypatch.context() as patch:
        patch.setattr("relume.data.patience.read_file", read)
        patch.setattr(loop, "PAUSES_S", (0.01, 0.01))
        ended = relume(*TRAIN, "-workers", workers)

    path = folder / "backup" / "net_last.weights"
    state = container.unpack(path.read_bytes(), path)
    assert ended.status == status
    assert ended.error.startswith(f"train.txt:{row + 1}: {lines[row]} cannot be read: trouble")
    assert state.reached == (1, 1)
    assert relume(*TRAIN).status == 0
    assert promised_files(folder) == promised_files(straight)


class Disk:
    """A disk that does not give one file for a while."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, number: int, failures: int) -> None:
        self.failures = failures
        whole = places.regular

        def regular(path: str, flags: int = 0) -> int:
            if Path(path).name == name and self.failures:
                self.failures -= 1
                raise OSError(number, "trouble")
            return whole(path, flags)

        patch.setattr(places, "regular", regular)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of four iterations that was stopped behind the third, with two generations."""
    folder = write_run(tmp_path / "run", sgd_cfg(max_batches=4, batch=4, subdivisions=4))
    data = folder / "obj.data"
    data.write_text(data.read_text() + "savelast = 1\n")
    train_until(folder, 3)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(train_command, "PAUSES_S", (0.01, 0.01))
    return folder


@pytest.mark.parametrize("failures", [1, 2])
def test_a_checkpoint_that_comes_at_the_second_try_is_gone_on_from(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    with monkeypatch.context() as patch:
        Disk(patch, "net_last.weights", errno.EIO, failures)
        ended = relume(*TRAIN)

    assert ended.status == 0
    assert "cannot be read (trouble), which is no damage; it is tried again" in ended.err
    assert "goes on from backup/net_last.weights (iteration 3)" in ended.err
    assert not Path("backup/net.aside").exists()


@pytest.mark.parametrize("name", ["net_last.weights", "net.backup"])
@pytest.mark.parametrize(
    ("number", "status"), [(errno.EIO, 75), (errno.EINVAL, 75), (errno.EACCES, 2)]
)
def test_a_checkpoint_that_the_disk_does_not_give_is_not_passed_over(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, status: int
) -> None:
    before = contents(stopped / "backup")
    with monkeypatch.context() as patch:
        Disk(patch, name, number, 99)
        ended = relume(*TRAIN)
        named = relume("verify", "backup")

    assert ended.status == status
    assert ended.error.startswith(f"backup/{name}: cannot be read (trouble), which is no damage")
    after = contents(stopped / "backup")
    assert {path: after[path] for path in before if path != "net.log"} == {
        path: data for path, data in before.items() if path != "net.log"
    }
    assert after.keys() <= before.keys() | {"net.log", "net.lock"}
    assert named.status == 2
    assert named.out.splitlines()[-1] == (
        f"a start of 'net' takes none: backup/{name} cannot be read, and may be the newest"
    )
    assert "goes on from backup/net_last.weights (iteration 3)" in relume(*TRAIN).err


def test_what_is_no_file_is_passed_over_and_damage_still_is(stopped: Path) -> None:
    Path("backup/net_last.weights").unlink()
    Path("backup/net_last.weights").symlink_to("nowhere")

    assert "goes on from backup/net.backup (iteration 2)" in relume(*TRAIN).err


def test_a_manifest_that_is_not_given_makes_no_old_checkpoint_the_newest(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(file: object) -> dict[str, object]:
        raise OSError(errno.EIO, "trouble")

    with monkeypatch.context() as patch:
        patch.setattr(container, "read_manifest_of", read)
        with pytest.raises(Unavailable):
            checkpoints.newest_good(Path("backup"), "net")


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, Unavailable), (errno.EACCES, CheckpointError)]
)
def test_kernels_are_not_guessed_where_the_checkpoint_is_not_given(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[RelumeError]
) -> None:
    with monkeypatch.context() as patch:
        Disk(patch, "net_last.weights", number, 99)
        with pytest.raises(kind, match="net_last"):
            recreate(["obj.data", "net.cfg"], {}, Screen())
