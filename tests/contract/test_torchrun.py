"""torchrun itself: workers that are killed, other numbers of them, a stop, and -gpus.

Needs nothing but this checkout: python -m pytest tests/contract/test_torchrun.py
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from relume.checkpoint.folder import claimed_position
from tests.command_line import relume
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, train_until, write_run

ITERATIONS = 8
TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "1")
LONGEST_S = 240


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


class Launched:
    """A command at work, with what it says."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._watchdog = threading.Timer(LONGEST_S, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        assert self.process.stdout is not None
        self._output: IO[str] = self.process.stdout
        self.said = ""

    def read_until(self, text: str) -> None:
        """Read until a line holds `text`."""
        for line in self._output:
            self.said += line
            if text in line:
                return
        raise AssertionError(f"ended without '{text}': {self.said}")

    def ended(self) -> int:
        """Read to the end; return the exit status."""
        self.said += self._output.read()
        status = self.process.wait()
        self._output.close()
        self._watchdog.cancel()
        return status

    def workers(self) -> list[int]:
        """Return the processes that it has started, in their order."""
        pid = self.process.pid
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return sorted(map(int, text.split()))


def torchrun(folder: Path, size: int, *options: str) -> Launched:
    command = ("torch.distributed.run", "--standalone", f"--nproc-per-node={size}", *options)
    return Launched(folder, *command, "-m", "relume", *TRAIN)


def is_finished(folder: Path) -> int:
    return relume("inspect", "-finished", folder / "backup").status


@pytest.mark.long  # on a busy machine the run may end before the signal comes
def test_a_worker_that_is_killed_is_started_again_and_a_stop_is_no_failure_of_the_workers(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    assert is_finished(folder) == 75

    launched = torchrun(folder, 2, "--max-restarts=1")
    launched.read_until(" 2: ")
    os.kill(launched.workers()[1], signal.SIGKILL)
    launched.read_until("goes on from")
    launched.read_until(" 5: ")
    launched.process.send_signal(signal.SIGTERM)

    assert launched.ended() != 0  # torchrun's own, after a signal
    assert "exitcode: -9" in launched.said
    assert "SIGTERM: saves after this subdivision" in launched.said
    assert "stopped at iteration" in launched.said
    assert "exitcode: 75" not in launched.said
    assert is_finished(folder) == 75
    launched = torchrun(folder, 3)
    assert launched.ended() == 0, launched.said
    assert is_finished(folder) == 0
    assert promised_files(folder) == promised_files(straight)


@pytest.mark.long  # on a busy machine the run may end before the signal comes
def test_gpus_is_a_short_form_that_returns_75_after_a_stop(straight: Path, tmp_path: Path) -> None:
    folder = copied_run(straight, tmp_path / "run")

    launched = Launched(folder, "relume", *TRAIN, "-gpus", "0,1", "-nogpu")
    launched.read_until(" 1: ")
    launched.process.send_signal(signal.SIGTERM)
    status = launched.ended()
    again = Launched(folder, "relume", *TRAIN, "-gpus", "0,1", "-nogpu")

    assert (status, again.ended()) == (75, 0), launched.said + again.said
    assert "Traceback" not in launched.said + again.said
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
