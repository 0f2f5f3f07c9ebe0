"""A current folder that is gone is one error; the temporary folder is neither needed nor littered.

Needs nothing but this checkout.
"""

import getpass
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relume.command_table import COMMANDS
from tests.command_line import relume
from tests.contract.launched import RELUME, Launched
from tests.contract.small_runs import sgd_cfg, write_run

GONE = ".: the current folder is gone (No such file or directory); a folder; cd to one that exists"
IN_A_FOLDER_THAT_IS_GONE = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
"""A shell script."""
TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "1")


def test_every_command_reports_a_current_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relume("version")  # what is imported for a test itself needs a current folder
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    for command in COMMANDS:
        needed = [
            word for name, flag in command.flags.items() if flag.needed for word in (name, "1")
        ]
        count = next(number for number in range(10) if command.takes(number))
        ended = relume(*command.words.split(), *["x"] * count, *needed)
        assert (ended.status, ended.error) == (2, GONE), command.words


def test_a_training_in_a_folder_that_is_gone_ends_before_its_libraries_fail(
    tmp_path: Path,
) -> None:
    command = ["sh", "-c", IN_A_FOLDER_THAT_IS_GONE, "sh", *RELUME, *TRAIN]

    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"relume: error: {GONE}\n"


def test_a_launcher_that_is_killed_leaves_nothing_and_what_others_put_there_stops_nothing(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "run", sgd_cfg(max_batches=100_000, batch=8, subdivisions=4))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    taken = temporary / f"torchinductor_{getpass.getuser()}"
    taken.write_text("where PyTorch wants a folder")

    script = "from relume.cli import program; program()"
    training = (sys.executable, "-P", "-c", script, *TRAIN, "-gpus", "0,1", "-nogpu")
    # PyTorch has set it for this process, and would then use it.
    command = ("env", "-u", "TORCHINDUCTOR_CACHE_DIR", *training)
    launched = Launched(folder, *command, environment={"TMPDIR": str(temporary)})
    launched.read_until(" 1: ")
    launched.process.kill()

    assert launched.ended() == -signal.SIGKILL  # when no process has its output any more
    assert list(temporary.iterdir()) == [taken]
    assert " of 2: the launcher that started it has ended" in launched.said
    assert "Traceback" not in launched.said
