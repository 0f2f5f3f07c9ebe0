"""A watched process: its lines, its end, its death, and what it leaves behind (nothing)."""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from relume.checkpoint.storage import AppendFile
from relume.proof.trainer import Trainer

LONGEST_S = 30
FOREVER = "import signal, sys\nprint({!r}, flush=True)\nsignal.pause()"
LINES = """relume: goes on from backup/a (old)_last.weights (iteration 4)
relume: seed 0, 1 thread, backup backup
 5: 1.500000, 1.400000 avg loss, 0.001000 rate, 0.1 seconds, 20 images, 0.0 hours left
relume: error: a.jpg: cannot be read; a picture"""


def trainer(folder: Path, code: str) -> Trainer:
    return Trainer([sys.executable, "-c", code], AppendFile(folder / "log"))


def test_lines_are_read_noted_and_logged(tmp_path: Path) -> None:
    with trainer(tmp_path, f"import sys\nprint({LINES!r})\nsys.exit(2)") as watched:
        assert list(watched.lines()) == LINES.splitlines()
        assert watched.ended() == 2
    assert (watched.begun, watched.went_on_from, watched.iteration) == (True, 4, 5)
    assert watched.error == "a.jpg: cannot be read; a picture"
    assert (tmp_path / "log").read_text() == LINES + "\n"


def test_following_stops_at_what_is_waited_for_and_tells_an_early_end(tmp_path: Path) -> None:
    with trainer(tmp_path, f"print({LINES!r})") as watched:
        assert watched.follow(lambda: watched.begun)
        assert watched.iteration is None
        assert watched.follow(lambda: watched.has_done(5))
        assert not watched.follow(lambda: watched.has_done(6))


def test_a_silent_process_is_left_at_the_given_time(tmp_path: Path) -> None:
    with trainer(tmp_path, FOREVER.format("here")) as watched:
        assert watched.follow(lambda: True)
        assert list(watched.lines(until_s=time.monotonic() + LONGEST_S / 1000)) in ([], ["here"])


def test_a_kill_is_a_sigkill_and_the_last_lines_are_noted(tmp_path: Path) -> None:
    with trainer(tmp_path, FOREVER.format(LINES)) as watched:
        next(watched.lines())
        watched.kill()

        assert watched.ended() == -signal.SIGKILL
        assert watched.iteration == 5


def writer_of(fifo: Path) -> str:
    """Return code that holds a pipe's end open for as long as it lives, and says when it does."""
    return f"import signal\nheld = open({str(fifo)!r}, 'w')\nprint('held', flush=True)\n"


def test_whatever_ends_the_watching_ends_the_whole_session(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    child = writer_of(fifo) + "signal.pause()"
    code = f"import signal, subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n"
    with suppress(KeyboardInterrupt), trainer(tmp_path, code + "signal.pause()") as watched:
        assert next(watched.lines()) == "held"
        raise KeyboardInterrupt

    assert select.select([reader], [], [], LONGEST_S)[0]
    assert os.read(reader, 1) == b""  # no process holds the other end any more
    os.close(reader)


def test_a_process_that_left_a_child_with_its_output_has_ended_all_the_same(
    tmp_path: Path,
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = f"open({str(fifo)!r}).read()"  # lives until the other end is closed
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\nprint(1)"
    with trainer(tmp_path, code) as watched:
        assert list(watched.lines()) == ["1"]
        assert watched.ended() == 0
    with fifo.open("w"):
        pass
