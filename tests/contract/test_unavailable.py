"""A disk that goes away in the middle of a run: saved, status 75, and on with the same command.

Needs nothing but this checkout: python -m pytest tests/contract/test_unavailable.py
"""

import errno
from pathlib import Path

import pytest

from relume.checkpoint import container
from relume.data.order import index_at
from relume.formats.places import read_file
from relume.train import loop
from tests.command_line import relume
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, train_until, write_run

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
