"""The promise, with real processes: killed and stopped at random moments, the files are the same.

Needs nothing but this checkout: python -m pytest tests/contract/test_kill.py
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from relume.checkpoint import container
from tests.command_line import relume
from tests.contract.processes import Relume
from tests.contract.small_runs import copied_run, sgd_cfg, write_run

ITERATIONS = 16
TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "1")
ITERATION_S = 0.04
"""About what an iteration with its save takes here; a kill falls anywhere within."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that nobody disturbed."""
    folder = write_run(tmp_path_factory.mktemp("straight"), sgd_cfg(max_batches=ITERATIONS))
    data = folder / "obj.data"
    data.write_text(data.read_text() + "saveweights = 7\n")
    process = Relume(folder, *TRAIN)
    assert process.ended() == 0, process.output
    return folder


def promised(folder: Path) -> dict[str, bytes]:
    """Return all files of a finished run but its log and its lock."""
    files = [path for path in (folder / "backup").iterdir() if path.is_file()]
    return {p.name: p.read_bytes() for p in files if p.suffix not in (".log", ".lock")}


def last_iteration(folder: Path) -> int:
    """Return the iteration of the newest checkpoint."""
    path = folder / "backup" / "net_last.weights"
    return container.unpack(path.read_bytes(), path).iteration


def test_an_undisturbed_run_leaves_all_that_is_promised(straight: Path) -> None:
    assert sorted(promised(straight)) == [
        *("chart.png", "chart_net.png", "net.backup", "net.journal.jsonl"),
        *("net_14.backup", "net_14.weights", "net_7.weights"),
        *("net_final.weights", "net_last.weights"),
    ]


@pytest.mark.parametrize("savelast", [1, 5])
def test_a_run_killed_at_random_moments_leaves_the_same_files(
    straight: Path, tmp_path: Path, savelast: int
) -> None:
    folder = copied_run(straight, tmp_path / "killed")
    data = folder / "obj.data"
    data.write_text(data.read_text() + f"savelast = {savelast}\n")
    random = np.random.Generator(np.random.Philox(savelast))
    killed = 0
    for _ in range(7):
        process = Relume(folder, *TRAIN)
        # One kill in four falls into the start, the others anywhere behind an iteration.
        if random.random() < 0.25:
            process.wait_at_most(random.random() * 0.5)
        else:
            process.read_until(" avg loss", times=int(random.integers(1, 5)))
            process.wait_at_most(random.random() * ITERATION_S)
        process.signal(signal.SIGKILL)
        killed += process.ended() == -signal.SIGKILL

    process = Relume(folder, *TRAIN)

    assert process.ended() == 0, process.output
    assert killed >= 2  # a run of so few iterations is over before the last of seven kills
    assert promised(folder) == promised(straight)


def test_a_run_stopped_by_each_signal_says_75_and_leaves_the_same_files(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "stopped")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        process = Relume(folder, *TRAIN)
        assert process.read_until(" avg loss", times=3)
        process.signal(number)

        assert process.ended() == 75, process.output
        lines = process.output.splitlines()
        last = next(line for line in reversed(lines) if " avg loss" in line)
        iteration = int(last.partition(":")[0])
        assert f"relume: {number.name}: saves after this iteration, then stops" in lines
        assert lines[-1] == (
            f"relume: stopped at iteration {iteration}; the same command goes on from there"
        )
        assert last_iteration(folder) == iteration
    process = Relume(folder, *TRAIN)

    assert process.ended() == 0
    assert promised(folder) == promised(straight)


def test_the_program_itself_killed_and_started_again_leaves_the_same_files(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "killed")
    command = [sys.executable, "-m", "relume", *TRAIN]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        for _ in range(ITERATIONS // 2):
            assert b" avg loss" in process.stdout.readline()
        process.kill()
        assert process.wait() == -signal.SIGKILL
    again = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    assert again.returncode == 0, again.stderr
    assert "relume: goes on from backup/net" in again.stderr
    assert promised(folder) == promised(straight)


def test_a_finished_run_says_so_and_how_to_go_on(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "finished"
    shutil.copytree(straight, folder)
    process = Relume(folder, *TRAIN)

    assert process.ended() == 0
    assert (
        f"relume: 'net' is finished: {ITERATIONS} iterations of max_batches={ITERATIONS} are done; "
        "to go on, raise max_batches in net.cfg (with random=1, or a policy that depends on "
        "max_batches, that changes the run: add -allow-change)"
    ) in process.output.splitlines()
    assert promised(folder) == promised(straight)


def test_a_reader_that_goes_away_stops_the_run_like_a_signal(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "head")
    process = Relume(folder, *TRAIN)
    assert process.read_until(" avg loss", times=3)
    process.close_output()

    assert process.ended() == 75
    assert 3 <= last_iteration(folder) < ITERATIONS
    process = Relume(folder, *TRAIN)
    assert process.ended() == 0
    assert promised(folder) == promised(straight)


@pytest.fixture
def stuck(straight: Path, tmp_path: Path) -> Path:
    """A folder in which a run waits for a picture that never comes."""
    folder = copied_run(straight, tmp_path / "stuck")
    picture = folder / (folder / "train.txt").read_text().split()[0]
    picture.unlink()
    os.mkfifo(picture)
    return folder


def test_a_second_ctrl_c_leaves_at_once(stuck: Path) -> None:
    process = Relume(stuck, *TRAIN)
    assert process.read_until("relume: seed 0, 1 threads")
    process.signal(signal.SIGINT)
    assert process.read_until("relume: SIGINT: saves after this iteration, then stops")
    process.signal(signal.SIGINT)

    assert process.ended() == 130
    assert process.output.splitlines()[-1].startswith("relume: left at once; the same command")
    assert "Traceback" not in process.output


def test_a_second_run_in_the_same_folder_is_refused(
    stuck: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Relume(stuck, *TRAIN)
    assert process.read_until("relume: seed 0, 1 threads")
    monkeypatch.chdir(stuck)
    second = relume(*TRAIN)
    process.signal(signal.SIGKILL)

    assert process.ended() == -signal.SIGKILL
    assert second.status == 2
    assert " trains 'net' in this folder; one run per name and folder; " in second.error
