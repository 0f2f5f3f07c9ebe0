"""The recipes of docs/preemption: a loop, a SLURM job and a systemd unit around a run.

Needs nothing but this checkout, and bash: python -m pytest tests/contract/test_preemption.py
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.contract.processes import LONGEST_S, Relume
from tests.contract.small_runs import copied_run, sgd_cfg, write_run

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "preemption"
LOOP, JOB, UNIT = (
    RECIPES / name for name in ("until_finished.sh", "relume.sbatch", "relume.service")
)
TORCHRUN_LOOP = RECIPES / "torchrun_until_finished.sh"
TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "1")
ITERATIONS = 12

STOPS_BY_SIGNAL = """
import os, signal, sys
def stop(number, frame):
    print("told", signal.Signals(number).name, flush=True)
    sys.exit(75)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, stop)
print("trains", os.getpid(), flush=True)
while True:
    signal.pause()
"""
"""Stands in for a run, which would take seconds to start."""


class Script:
    """A recipe at work in its own process group, as from a terminal or a batch system."""

    def __init__(self, script: Path, folder: Path, *command: object) -> None:
        path = f"{folder}:{os.environ['PATH']}"
        self.process = subprocess.Popen(
            ["bash", str(script), *map(str, command)],
            cwd=folder,
            env={**os.environ, "PATH": path, "PAUSE_S": "0", "SLURM_JOB_ID": "7"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._watchdog = threading.Timer(LONGEST_S, self._kill)
        self._watchdog.start()
        assert self.process.stdout is not None
        self._output: IO[str] = self.process.stdout
        self.said: list[str] = []

    def read_until(self, text: str) -> str:
        """Read until a line holds `text`, and return that line."""
        for line in self._output:
            self.said.append(line.rstrip())
            if text in line:
                return line
        raise AssertionError(f"ended without '{text}': {self.said}")

    def ended(self) -> int:
        """Read to the end; return the exit status."""
        self.said += [line.rstrip() for line in self._output]
        return self.process.wait()

    def close(self) -> None:
        """Leave nothing behind."""
        self._watchdog.cancel()
        self._kill()
        self.process.wait()
        self._output.close()

    def _kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def scripts() -> Iterator[list[Script]]:
    started: list[Script] = []
    yield started
    for script in started:
        script.close()


def child_of(process: subprocess.Popen[str]) -> int:
    """Return the process id of the run that a script has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (child,) = map(int, children)
    return child


def promised(folder: Path) -> dict[str, bytes]:
    """Return all files of a finished run but its log and its lock."""
    files = [path for path in (folder / "backup").iterdir() if path.is_file()]
    return {p.name: p.read_bytes() for p in files if p.suffix not in (".log", ".lock")}


def test_the_loop_carries_a_run_through_kills_and_stops_to_the_same_files(
    tmp_path: Path, scripts: list[Script]
) -> None:
    straight = write_run(tmp_path / "straight", sgd_cfg(max_batches=ITERATIONS))
    with (straight / "obj.data").open("a") as data:
        data.write("savelast = 2\n")
    folder = copied_run(straight, tmp_path / "looped")
    undisturbed = Relume(straight, *TRAIN)
    assert undisturbed.ended() == 0, undisturbed.output
    command = (sys.executable, "-m", "relume", *TRAIN)

    scripts.append(first := Script(LOOP, folder, *command))
    first.read_until(" 3: ")
    os.kill(child_of(first.process), signal.SIGKILL)
    first.read_until("until_finished: status 137, starts again in 0 s")
    first.read_until("goes on from")
    first.read_until(" avg loss")
    os.killpg(first.process.pid, signal.SIGINT)  # Ctrl-C reaches the script and the run
    assert first.ended() == 75, first.said
    assert not list((folder / "backup").glob("*_final.weights"))

    scripts.append(second := Script(LOOP, folder, *command))
    assert second.ended() == 0, second.said
    assert promised(folder) == promised(straight)


@pytest.mark.parametrize("status", [0, 1, 2, 127, 130])
def test_the_loop_ends_where_another_start_would_not_help(
    tmp_path: Path, scripts: list[Script], status: int
) -> None:
    command = ("bash", "-c", f"echo tried; exit {status}")
    scripts.append(loop := Script(LOOP, tmp_path, *command))

    assert loop.ended() == status
    assert loop.said == ["tried"]


def test_the_loop_gives_a_stopped_command_again_and_a_dying_one_five_times(
    tmp_path: Path, scripts: list[Script]
) -> None:
    stops_six_times = "echo x >> tries; [ $(wc -l < tries) -gt 6 ] || exit 75; kill -SEGV $$"
    scripts.append(loop := Script(LOOP, tmp_path, "bash", "-c", stops_six_times))

    assert loop.ended() == 139
    assert len((tmp_path / "tries").read_text().split()) == 6 + 5
    assert loop.said[-1] == "until_finished: died 5 times in a row, last with status 139"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_loop_passes_a_signal_on_waits_for_the_run_and_ends(
    tmp_path: Path, scripts: list[Script], number: int
) -> None:
    scripts.append(loop := Script(LOOP, tmp_path, sys.executable, "-c", STOPS_BY_SIGNAL))
    loop.read_until("trains")
    os.kill(loop.process.pid, number)

    assert loop.ended() == 75
    assert loop.said[1:] == ["told SIGTERM"]


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Return a folder in which `relume inspect` says 75 until there is a file `finished`."""
    relume = tmp_path / "relume"
    relume.write_text("#!/bin/sh\n[ -e finished ] || exit 75\n")
    relume.chmod(0o755)
    (tmp_path / "backup").mkdir()
    return tmp_path


def test_the_loop_of_torchrun_gives_up_after_five_starts_in_a_row_that_save_nothing(
    unfinished: Path, scripts: list[Script]
) -> None:
    saves_thrice = (
        "echo x >> tries; n=$(wc -l < tries); "
        "[ $n -gt 3 ] || echo $n > backup/net_$n''_last.weights; exit 2"
    )
    scripts.append(loop := Script(TORCHRUN_LOOP, unfinished, "backup", "bash", "-c", saves_thrice))

    assert loop.ended() == 2
    assert len((unfinished / "tries").read_text().split()) == 3 + 5
    assert loop.said[-1] == ("torchrun_until_finished: failed 5 times in a row, last with status 2")


def test_the_loop_of_torchrun_ends_when_the_run_is_finished_whatever_torchrun_says(
    unfinished: Path, scripts: list[Script]
) -> None:
    command = "echo x >> tries; [ $(wc -l < tries) -lt 7 ] || touch finished"
    scripts.append(loop := Script(TORCHRUN_LOOP, unfinished, "backup", "bash", "-c", command))

    assert loop.ended() == 0
    assert len((unfinished / "tries").read_text().split()) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_loop_of_torchrun_passes_a_signal_on_and_starts_nothing_again(
    unfinished: Path, scripts: list[Script], number: int
) -> None:
    command = ("backup", sys.executable, "-c", STOPS_BY_SIGNAL)
    scripts.append(loop := Script(TORCHRUN_LOOP, unfinished, *command))
    loop.read_until("trains")
    os.kill(loop.process.pid, number)

    assert loop.ended() == 75
    assert loop.said[1:] == ["told SIGTERM"]


def test_the_slurm_job_passes_signals_on_and_queues_itself_again_unless_cancelled(
    tmp_path: Path, scripts: list[Script]
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\necho scontrol "$@"\n')
    scontrol.chmod(0o755)
    scripts.append(job := Script(JOB, tmp_path, sys.executable, "-c", STOPS_BY_SIGNAL))
    job.read_until("trains")
    os.kill(job.process.pid, signal.SIGUSR1)  # --signal=B: signals the shell alone

    assert job.ended() == 75
    assert job.said[1:] == ["told SIGUSR1", "scontrol requeue 7"]
    scripts.append(job := Script(JOB, tmp_path, "bash", "-c", "exit 75"))  # -max_time
    assert job.ended() == 75
    assert job.said == ["scontrol requeue 7"]
    scripts.append(job := Script(JOB, tmp_path, sys.executable, "-c", STOPS_BY_SIGNAL))
    job.read_until("trains")
    os.kill(job.process.pid, signal.SIGTERM)  # scancel

    assert job.ended() == 75
    assert job.said[1:] == ["told SIGTERM"]
    for status in (0, 1, 2, 137):
        scripts.append(job := Script(JOB, tmp_path, "bash", "-c", f"exit {status}"))
        assert job.ended() == status
        assert job.said == []


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert "ExecStart=/srv/venv/bin/relume " in text
    unit.write_text(text.replace("/srv/venv/bin/relume", sys.executable))
    verified = subprocess.run(
        [analyze, "verify", unit], capture_output=True, text=True, check=False
    )

    assert (verified.returncode, verified.stderr) == (0, "")
