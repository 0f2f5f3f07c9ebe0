"""The promise, with real processes: killed and stopped at random moments, the files are the same.

Needs nothing but this checkout: python -m pytest tests/contract/test_kill.py
"""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relume.checkpoint import container
from relume.checkpoint.state import TrainState
from relume.data.order import index_at
from relume.formats import places
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


def newest_state(folder: Path) -> TrainState:
    path = folder / "backup" / "net_last.weights"
    return container.unpack(path.read_bytes(), path)


def test_an_undisturbed_run_leaves_all_that_is_promised(straight: Path) -> None:
    assert sorted(promised(straight)) == [
        *("chart.png", "chart_net.png", "net.backup", "net.journal.jsonl"),
        *("net_14.backup", "net_14.weights", "net_7.weights"),
        *("net_final.weights", "net_last.weights"),
    ]


def test_a_run_stopped_by_each_signal_says_75_and_leaves_the_same_files(
    straight: Path, tmp_path: Path
) -> None:
    """Each stop falls between the two subdivisions of an iteration: the loader says when."""
    folder = copied_run(straight, tmp_path / "stopped")
    for number, position in (
        (signal.SIGTERM, 2),
        (signal.SIGINT, 6),
        (signal.SIGUSR1, 2),
        (signal.SIGHUP, 10),
    ):
        with held_up(folder, position) as (picture, content):
            process = Relume(folder, *TRAIN[:-1], "0", before=takes_pipes)
            with picture.open("wb") as file:  # opens when the other side does
                process.signal(number)
                file.write(content)

            assert process.ended() == 75, process.output
        lines = process.output.splitlines()
        done = f"iteration {position // 4} (+1 of 2 subdivisions)"
        assert f"relume: {number.name}: saves after this subdivision, then stops" in lines
        assert lines[-1] == f"relume: stopped at {done}; the same command goes on from there"
        state = newest_state(folder)
        assert state.reached == (position // 4, 1)
        if number == signal.SIGINT:  # the last one begins anew
            process = Relume(folder, *TRAIN)
            assert process.ended() == 0
            assert f"relume: goes on from backup/net_last.weights ({done})" in process.output
            assert promised(folder) == promised(straight)
            shutil.rmtree(folder / "backup")
    process = Relume(folder, *TRAIN)

    assert process.ended() == 0
    assert promised(folder) == promised(straight)


def takes_pipes() -> None:
    """Let this process read pipes like files: they are a disk that does not answer."""
    places.regular = lambda path, flags=0: os.open(path, os.O_RDONLY)
    places.read_rest = lambda file, most_bytes=0: file.read()


@contextmanager
def held_up(folder: Path, position: int) -> Iterator[tuple[Path, bytes]]:
    """Make a pipe of the picture at a position, a picture again at the end.

    Who `takes_pipes` waits when it reads it.
    """
    paths = (folder / "train.txt").read_text().split()
    picture = folder / paths[index_at(0, position, len(paths))]
    content = picture.read_bytes()
    picture.unlink()
    os.mkfifo(picture)

    try:
        yield picture, content
    finally:
        picture.unlink()
        picture.write_bytes(content)


@pytest.mark.parametrize("how", ["SIGTERM", "-max_time"])
def test_a_picture_that_never_comes_does_not_hold_up_a_stop(
    straight: Path, tmp_path: Path, how: str
) -> None:
    folder = copied_run(straight, tmp_path / "stuck")
    with held_up(folder, 6):
        limit = ("-max_time", "1.5") if how == "-max_time" else ()
        process = Relume(folder, *TRAIN, *limit, before=takes_pipes)
        if how == "SIGTERM":
            assert process.read_until(" avg loss")
            process.signal(signal.SIGTERM)

        assert process.ended() == 75, process.output
    line = process.output.splitlines()[-1]
    if how == "SIGTERM":
        assert re.match(r"relume: stopped at iteration 1( \(\+1 of 2 subdivisions\))?; the ", line)
    else:  # how far it comes depends on the machine
        assert line.startswith("relume: the time of -max_time is over")
    process = Relume(folder, *TRAIN)

    assert process.ended() == 0
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
    assert 3 <= newest_state(folder).iteration < ITERATIONS
    process = Relume(folder, *TRAIN)
    assert process.ended() == 0
    assert promised(folder) == promised(straight)


def test_a_second_ctrl_c_leaves_at_once(straight: Path, tmp_path: Path) -> None:
    """Without loader threads a picture that does not come holds up everything."""
    folder = copied_run(straight, tmp_path / "stuck")
    with held_up(folder, 0) as (picture, _):
        process = Relume(folder, *TRAIN[:-1], "0", before=takes_pipes)
        with picture.open("wb"):  # opens when the other side does
            process.signal(signal.SIGINT)
            assert process.read_until("relume: SIGINT: saves after this subdivision, then stops")
            process.signal(signal.SIGINT)

            assert process.ended() == 130
    assert process.output.splitlines()[-1].startswith("relume: left at once; the same command")
    assert "Traceback" not in process.output


def test_a_second_run_in_the_same_folder_is_refused(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied_run(straight, tmp_path / "stuck")
    with held_up(folder, 0):
        process = Relume(folder, *TRAIN, before=takes_pipes)
        assert process.read_until("relume: seed 0, 1 thread")
        monkeypatch.chdir(folder)
        second = relume(*TRAIN)
        process.signal(signal.SIGKILL)

        assert process.ended() == -signal.SIGKILL
    assert second.status == 2
    assert " trains 'net' in this folder; one run per name and folder; " in second.error
