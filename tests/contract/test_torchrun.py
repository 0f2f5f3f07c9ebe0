"""torchrun itself: workers that are killed, other numbers of them, a stop, and -gpus.

Needs nothing but this checkout: python -m pytest tests/contract/test_torchrun.py
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from relume.checkpoint import storage
from relume.checkpoint.folder import claimed_position
from tests.command_line import relume
from tests.contract.holding_trainer import HOLDS_IN, PROGRAM
from tests.contract.launched import RELUME, TORCHRUN, Launched
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, train_until, write_run

ROOT = Path(__file__).resolve().parents[2]
HOLDING = ("-m", PROGRAM[-1])
ITERATIONS = 8
TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "1")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nobody disturbed."""
    return finished_run(tmp_path_factory.mktemp("straight") / "run", ITERATIONS)


def finished_run(folder: Path, iterations: int) -> Path:
    write_run(folder, sgd_cfg(max_batches=iterations, batch=8, subdivisions=8))
    data = folder / "obj.data"
    data.write_text(data.read_text() + "saveweights = 4\nsavelast = 1\n")
    train_until(folder)
    return folder


def torchrun(
    folder: Path,
    size: int,
    *options: str,
    program: Sequence[str] = ("-m", "relume"),
    holds_in: int = 0,
) -> Launched:
    command = (*TORCHRUN, "--standalone", f"--nproc-per-node={size}", *options, *program, *TRAIN)
    return Launched(folder, *command, environment=holding(holds_in))


def holding(iteration: int) -> dict[str, str]:
    """Return the environment of a trainer that stands still in an iteration."""
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {HOLDS_IN: str(iteration), "PYTHONPATH": ":".join(filter(None, places))}


def is_finished(folder: Path) -> int:
    return relume("inspect", "-finished", folder / "backup").status


@pytest.mark.long
def test_a_worker_that_is_killed_is_started_again_and_a_stop_is_no_failure_of_the_workers(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    assert is_finished(folder) == 75

    launched = torchrun(folder, 2, "--max-restarts=1", program=HOLDING, holds_in=4)
    launched.read_until(" 3: ")
    os.kill(launched.workers()[1], signal.SIGKILL)
    launched.read_until("goes on from")
    launched.read_until("2 processes with 1 thread")
    launched.process.send_signal(signal.SIGTERM)

    assert launched.ended() != 0  # torchrun's own, after a signal
    assert "exitcode: -9" in launched.said
    assert "SIGTERM: saves after this subdivision" in launched.said
    assert "stopped at iteration 3" in launched.said
    assert "exitcode: 75" not in launched.said
    assert is_finished(folder) == 75
    launched = torchrun(folder, 3)
    assert launched.ended() == 0, launched.said
    assert is_finished(folder) == 0
    assert promised_files(folder) == promised_files(straight)


@pytest.mark.long
def test_gpus_is_a_short_form_that_returns_75_after_a_stop(straight: Path, tmp_path: Path) -> None:
    folder = copied_run(straight, tmp_path / "run")
    command = (*TRAIN, "-gpus", "0,1", "-nogpu")

    launched = Launched(folder, *PROGRAM, *command, environment=holding(2))
    launched.read_until(" 1: ")
    launched.process.send_signal(signal.SIGTERM)
    status = launched.ended()
    again = Launched(folder, *RELUME, *command)

    assert (status, again.ended()) == (75, 0), launched.said + again.said
    assert "Traceback" not in launched.said + again.said
    assert promised_files(folder) == promised_files(straight)


@pytest.mark.long
def test_workers_whose_torchrun_is_killed_save_and_end(straight: Path, tmp_path: Path) -> None:
    folder = copied_run(straight, tmp_path / "run")

    launched = torchrun(folder, 2, program=HOLDING, holds_in=4)
    launched.read_until(" 3: ")
    launched.process.kill()

    assert launched.ended() == -signal.SIGKILL  # when nobody has its output any more
    assert "process 0 of 2: the launcher that started it has ended" in launched.said
    with storage.locked(folder / "backup", "net"):
        assert iterations_done(folder) == 3
    assert torchrun(folder, 3).ended() == 0
    assert promised_files(folder) == promised_files(straight)


@pytest.mark.parametrize(
    ("gpus", "more", "said"),
    [
        (
            "0,1",
            (),
            "-gpus: PyTorch finds no GPU; a CUDA build of PyTorch and GPUs",
        ),
        ("0,0", ("-nogpu",), "-gpus: '0,0'; different numbers with commas between, as 0,1,2"),
        ("two", ("-nogpu",), "-gpus: 'two'; different numbers"),
        ("0,1", ("-nogpu", "-i", "0"), "-i: is given beside -gpus"),
    ],
)
def test_gpus_that_are_not_there_are_an_error(
    straight: Path, monkeypatch: pytest.MonkeyPatch, gpus: str, more: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(straight)

    ended = relume(*TRAIN, "-gpus", gpus, *more)

    assert ended.status == 2
    assert said in ended.err


def test_inspect_says_whether_a_run_is_finished(straight: Path, tmp_path: Path) -> None:
    folder = copied_run(straight, tmp_path / "run")
    assert is_finished(folder) == 75
    train_until(folder, 4, savelast=1)
    assert is_finished(folder) == 75
    train_until(folder, savelast=1)
    ended = relume("inspect", "-finished", folder / "backup")
    assert (ended.status, ended.out) == (0, f"{folder / 'backup'}: 'net' is finished\n")
    (folder / "backup" / "net_final.weights").unlink()
    assert is_finished(folder) == 75
    for path in (folder / "backup").glob("*.*"):
        if path.suffix in (".weights", ".backup"):
            path.write_bytes(path.read_bytes()[:-1])
    assert is_finished(folder) == 2


@pytest.mark.long
def test_a_run_whose_number_of_processes_changes_20_times_leaves_the_same_bytes(
    tmp_path: Path,
) -> None:
    straight = finished_run(tmp_path / "straight", 100)
    folder = copied_run(straight, tmp_path / "run")
    draw = np.random.Generator(np.random.PCG64(1))
    sizes, restarts = [int(draw.integers(1, 6))], 0

    while len(sizes) <= 20:
        done = iterations_done(folder)
        launched = torchrun(folder, sizes[-1], "--max-restarts=1")
        launched.read_until(f" {done + 2}: ")  # the one before it is durable, or nearly
        if draw.random() < 0.5:
            os.kill(launched.workers()[-1], signal.SIGKILL)
            launched.read_until("goes on from")
            restarts += 1
        for pid in [*launched.workers(), launched.process.pid]:
            os.killpg(pid, signal.SIGKILL)
        launched.ended()
        sizes.append(int(draw.choice([n for n in range(1, 6) if n != sizes[-1]])))
    before_the_last = iterations_done(folder)

    assert torchrun(folder, sizes[-1]).ended() == 0
    assert restarts > 3
    assert 10 < before_the_last < 100
    assert promised_files(folder) == promised_files(straight)


def iterations_done(folder: Path) -> int:
    """Return how many iterations the newest checkpoint has."""
    path = folder / "backup" / "net_last.weights"
    position = claimed_position(path) if path.exists() else None
    return position[0] if position else 0
