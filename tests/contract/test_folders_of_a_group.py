"""Processes with backup folders of their own: each folder ends with the bytes of one process.

The processes stand for machines that share no disk; machines themselves are in test_machines.py.
Needs nothing but this checkout: python -m pytest tests/contract/test_folders_of_a_group.py
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from relume.checkpoint import storage
from relume.checkpoint.disk import Disk
from relume.data.batch import MiniBatch
from relume.formats.weights import format_header
from relume.model.network import Network
from relume.spec import Flags
from relume.train import loop, step
from relume.train.partial import Share
from tests.contract.processes import Relume
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, train_until, write_run
from tests.contract.workers import TRAIN, Workers

ITERATIONS = 6


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nobody disturbed."""
    folder = write_run(
        tmp_path_factory.mktemp("straight") / "run",
        sgd_cfg(max_batches=ITERATIONS, batch=8, subdivisions=4, burn_in=1),
    )
    data = folder / "obj.data"
    data.write_text(data.read_text() + "saveweights = 2\nsavelast = 1\nkeepstate = 1\n")
    run = Relume(folder, *TRAIN, "-map", "-mAP_epochs", "1")
    assert run.ended() == 0, run.output
    return folder


@pytest.fixture
def folders(straight: Path, tmp_path: Path) -> list[Path]:
    """The inputs of the run, on each of three machines."""
    return [copied_run(straight, tmp_path / f"machine {number}") for number in range(3)]


def workers(folders: list[Path], before: Callable[[int], None] | None = None) -> Workers:
    return Workers(folders, len(folders), "-map", "-mAP_epochs", "1", before=before)


def all_files(folder: Path) -> dict[str, bytes]:
    """Return the files under the promise, and charts; whatever else is there is none of them."""
    charts = (folder / "backup").glob("chart*.png")
    return {**promised_files(folder), **{path.name: path.read_bytes() for path in charts}}


def stopped_at(folder: Path, iteration: int, subdivision: int = 0) -> None:
    """Train for a while in one process, as the machine of a smaller group."""
    flags = Flags(map=True, map_epochs=1)
    train_until(folder, iteration, subdivision=subdivision, flags=flags, evaluated=True)


def test_every_folder_gets_the_files_of_a_run_of_one_process(
    straight: Path, folders: list[Path]
) -> None:
    group = workers(folders)

    assert group.ended() == [0, 0, 0], group.said
    assert group.said[1:] == ["", ""]
    for folder in folders:
        assert all_files(folder) == all_files(straight)
        left = {path.name for path in (folder / "backup").iterdir()} - all_files(straight).keys()
        assert left == {"net.log", "net.lock"}


@pytest.mark.parametrize("holder", [0, 2])
def test_folders_that_missed_a_part_get_the_files_of_the_one_that_has_most(
    straight: Path, folders: list[Path], holder: int
) -> None:
    order = [holder, *(number for number in range(3) if number != holder)]
    newest, older, _ = (folders[number] for number in order)
    stopped_at(newest, 5, subdivision=2)
    stopped_at(older, 3)

    group = workers(folders)

    assert group.ended() == [0, 0, 0], group.said
    assert "iteration 5 (+2 of 4 subdivisions)" in group.said[0]
    for folder in folders:
        assert all_files(folder) == all_files(straight)
        assert not (folder / "backup" / "net.aside").exists()


def test_folders_of_a_finished_run_are_completed(straight: Path, folders: list[Path]) -> None:
    shutil.copytree(straight / "backup", folders[1] / "backup")

    group = workers(folders)

    assert group.ended() == [0, 0, 0], group.said
    assert "is finished" in group.said[0]
    for folder in folders:
        assert all_files(folder) == all_files(straight)


def test_processes_that_share_a_folder_by_two_paths_have_one_writer(
    straight: Path, folders: list[Path]
) -> None:
    (folders[0] / "backup").mkdir()
    (folders[2] / "backup").symlink_to(folders[0] / "backup")

    group = workers(folders)

    assert group.ended() == [0, 0, 0], group.said
    for folder in folders:
        assert all_files(folder) == all_files(straight)


def test_damaged_files_of_one_machine_are_replaced_and_kept_aside(
    straight: Path, folders: list[Path]
) -> None:
    for folder in folders:
        stopped_at(folder, 3)
    last = folders[1] / "backup" / "net_last.weights"
    damaged = last.read_bytes()[:-1]
    for path in (folders[1] / "backup").glob("net*.[wb]*"):
        path.write_bytes(path.read_bytes()[:-1])

    group = workers(folders)

    assert group.ended() == [0, 0, 0], group.said
    assert "process 1: moved to " in group.said[1]
    assert (folders[1] / "backup" / "net.aside" / "1" / last.name).read_bytes() == damaged
    for folder in folders:
        assert all_files(folder) == all_files(straight)


# What is refused


def test_another_run_in_the_folder_of_one_machine_is_an_error_that_names_it(
    folders: list[Path],
) -> None:
    stopped_at(folders[0], 3)
    seed = "seed = 1\n"
    data = folders[1] / "obj.data"
    text = data.read_text()
    data.write_text(text + seed)
    stopped_at(folders[1], 2)
    data.write_text(text)
    before = promised_files(folders[1])

    group = workers(folders, before=_is_on_a_machine_of_its_own)

    assert group.ended() == [2, 2, 2]
    assert "relume: error: machine 1: " in group.said[0]
    assert "net_last.weights: belongs to another run, or another course of it" in group.said[0]
    assert promised_files(folders[1]) == before
    assert group.said[1:] == ["", ""]


def test_files_of_another_program_on_one_machine_are_not_overwritten(folders: list[Path]) -> None:
    (folders[2] / "backup").mkdir()
    foreign = folders[2] / "backup" / "net_last.weights"
    foreign.write_bytes(format_header(64) + b"of Darknet")

    group = workers(folders, before=_is_on_a_machine_of_its_own)

    assert group.ended() == [2, 2, 2]
    assert "machine 2: " in group.said[0]
    assert "holds net_last.weights without training state" in group.said[0]
    assert foreign.read_bytes().endswith(b"of Darknet")
    assert not list((folders[0] / "backup").glob("*.weights"))


def test_a_folder_in_which_another_run_trains_is_locked_on_every_machine(
    folders: list[Path],
) -> None:
    for folder in folders:
        (folder / "backup").mkdir()
    with storage.locked(folders[1] / "backup", "net"):
        group = workers(folders, before=_is_on_a_machine_of_its_own)

        assert group.ended() == [2, 2, 2]
    assert "machine 1: " in group.said[0]
    assert "trains 'net' in this folder" in group.said[0]


# Disks that fail


class _FailingDisk(Disk):
    def rename(self, source: Path, target: Path) -> None:
        if target.name == "net_final.weights":
            raise OSError(5, "Input/output error")
        super().rename(source, target)


def _is_on_a_machine_of_its_own(rank: int) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = "1"
    os.uname = lambda: _Named(f"machine {rank}")  # type: ignore[assignment, return-value]


class _Named:
    def __init__(self, nodename: str) -> None:
        self.nodename = nodename


def _has_a_disk_that_fails_at_the_end(rank: int) -> None:
    _is_on_a_machine_of_its_own(rank)
    if rank == 1:
        storage.DISK = _FailingDisk()


def test_a_disk_that_fails_on_one_machine_is_reported_with_its_name(
    straight: Path, folders: list[Path]
) -> None:
    group = workers(folders, before=_has_a_disk_that_fails_at_the_end)

    assert group.ended() == [2, 2, 2], group.said
    assert "relume: error: machine 1: backup/net_final.weights: cannot be written" in group.said[0]
    assert all_files(folders[2]) == all_files(straight)
    assert workers(folders).ended() == [0, 0, 0]
    assert all_files(folders[1]) == all_files(straight)


# A writer that dies


def _second_dies_in_the_fourth_iteration(rank: int) -> None:
    if rank == 1:
        _signalled(4, signal.SIGKILL)


def _first_is_stopped_in_the_sixth_iteration(rank: int) -> None:
    if rank == 0:
        _signalled(6, signal.SIGTERM)


def _signalled(iteration: int, number: int) -> None:
    """Let a signal come at the first subdivision of an iteration."""
    train_subdivision = step.train_subdivision

    def signalled(network: Network, share: Share, mini_batch: MiniBatch) -> None:
        if mini_batch.positions[0] // 8 == iteration - 1 and not share.done:
            os.kill(os.getpid(), number)
        train_subdivision(network, share, mini_batch)

    loop.train_subdivision = signalled  # type: ignore[attr-defined]


def test_a_machine_that_is_lost_and_comes_back_has_missed_nothing(
    straight: Path, folders: list[Path]
) -> None:
    group = workers(folders, before=_second_dies_in_the_fourth_iteration)
    assert group.ended() == [1, -signal.SIGKILL, 1]
    lost = folders[1]
    group = workers([folders[0], folders[2]], before=_first_is_stopped_in_the_sixth_iteration)
    assert group.ended() == [0, 0], group.said
    assert not (lost / "backup" / "net_4.weights").exists()

    group = workers([lost, folders[0], folders[2]])

    assert group.ended() == [0, 0, 0], group.said
    assert "backup: gets from process 1: net_2.weights, net_4.backup, " in group.said[0]
    for folder in folders:
        assert all_files(folder) == all_files(straight)
