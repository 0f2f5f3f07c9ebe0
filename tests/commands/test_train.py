"""`relume detector train`: its flags, what it says, and the files around the checkpoints."""

import errno
import os
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from relume import schedule
from relume.checkpoint import container, storage
from relume.checkpoint.state import History, TrainState
from relume.checkpoint.tensor_digests import digests_of, read_digest_file
from relume.commands import run_folder, watcher
from relume.commands import train as train_command
from relume.commands.stopping import max_time_s
from relume.errors import StorageError
from relume.kernels import VARIABLES, machine_level
from relume.spec import Flags
from relume.train import chart, loop
from relume.train.start import starting_state
from tests.command_line import Ended, relume
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, train_until, write_run

CFG = sgd_cfg(max_batches=4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything a run needs, and nothing trained."""
    return write_run(tmp_path_factory.mktemp("inputs"), CFG)


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run leaves that is trained without the command line."""
    folder = copied_run(inputs, tmp_path_factory.mktemp("undisturbed") / "run")
    train_until(folder)
    return promised_files(folder)


@pytest.fixture
def run(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the inputs, the current folder."""
    folder = copied_run(inputs, tmp_path / "run")
    monkeypatch.chdir(folder)
    return folder


def train(*words: object) -> Ended:
    return relume("detector", "train", "obj.data", "net.cfg", *words, "-threads", 1, "-workers", 1)


def stopped_after(folder: Path, iteration: int) -> None:
    """Train so far without the command line."""
    train_until(folder, iteration)


def last(folder: Path) -> TrainState:
    path = folder / "backup" / "net_last.weights"
    return container.unpack(path.read_bytes(), path)


def test_the_command_leaves_what_the_loop_leaves(run: Path, undisturbed: dict[str, bytes]) -> None:
    ended = train()

    assert ended.status == 0
    assert promised_files(run) == undisturbed
    assert ended.out.count(" avg loss") == 4
    assert ended.err.splitlines() == [
        "relume: net.cfg:13: steps at or behind max_batches are never reached; step 7, 10; "
        "max_batches=4; usual are 80 and 90 % of max_batches",
        "relume: seed 0, 1 thread, backup backup",
        "relume: finished: backup/net_final.weights",
    ]


def test_the_same_command_goes_on(run: Path, undisturbed: dict[str, bytes]) -> None:
    stopped_after(run, 2)
    ended = train()

    assert ended.status == 0
    assert ended.err.startswith("relume: goes on from backup/net_last.weights (iteration 2)\n")
    assert ended.out.startswith(" 3: ")
    assert promised_files(run) == undisturbed


def test_a_finished_run_says_how_to_go_on_and_changes_nothing(run: Path) -> None:
    train()
    before = {path: path.read_bytes() for path in (run / "backup").glob("*[!g]")}
    ended = train()

    assert (ended.status, ended.out) == (0, "")
    assert "is finished: 4 iterations of max_batches=4 are done; to go on, raise" in ended.err
    assert {path: path.read_bytes() for path in (run / "backup").glob("*[!g]")} == before


def test_loaders_and_other_hands_change_no_byte(run: Path, undisturbed: dict[str, bytes]) -> None:
    for workers in (0, 3):
        relume("reset", "obj.data", "net.cfg")
        words = ("detector", "train", "obj.data", "net.cfg", "-dont_show", "-nogpu")
        ended = relume(*words, "-threads", 1, "-workers", workers)

        assert ended.status == 0
        assert promised_files(run) == undisturbed


def test_the_seed_flag_goes_before_the_data_file_and_is_part_of_the_run(run: Path) -> None:
    Path("obj.data").write_text(Path("obj.data").read_text() + "seed = 5\n")
    assert "seed 5, 1 thread," in train().err
    refused = train("-seed", 6)
    assert refused.status == 2
    assert "seed: 5 -> 6" in refused.error
    relume("reset", "obj.data", "net.cfg")
    assert "seed 6, 1 thread," in train("-seed", 6).err


def test_clear_takes_weights_as_a_start_and_again_goes_on(run: Path) -> None:
    train()
    shutil.copy("backup/net_final.weights", "start.weights")
    relume("reset", "obj.data", "net.cfg")
    cleared = train("start.weights", "-clear")
    again = train("start.weights", "-clear")

    assert cleared.status == 0
    assert cleared.out.startswith(" 1: ")
    assert (again.status, again.out) == (0, "")


def test_resume_goes_on_whatever_weights_says(run: Path, undisturbed: dict[str, bytes]) -> None:
    stopped_after(run, 2)
    Path("broken.weights").write_bytes(b"\0" * 100)

    assert train("broken.weights").status == 2
    assert train("broken.weights", "-resume").status == 0
    assert promised_files(run) == undisturbed


def test_resume_without_a_checkpoint_is_an_error(run: Path) -> None:
    ended = train("-resume")

    assert ended.status == 2
    assert "backup: holds no good checkpoint of 'net'" in ended.error


def test_a_change_is_refused_unless_allowed_and_then_marked(run: Path) -> None:
    stopped_after(run, 2)
    Path("net.cfg").write_text(CFG.replace("saturation=1.5", "saturation=1.25"))
    refused = train()
    assert refused.status == 2
    assert "-allow-change" in refused.error
    allowed = train("-allow-change")

    assert allowed.status == 0
    assert "saturation: 1.5 -> 1.25" in allowed.err
    (mark,) = last(run).history.marks
    assert (mark.iteration, mark.kind) == (2, "change")


def test_another_environment_is_marked_or_refused(run: Path) -> None:
    stopped_after(run, 2)
    (run / "backup" / "net.backup").unlink()  # what a rerun would begin from
    words = ("detector", "train", "obj.data", "net.cfg", "-threads", 2, "-workers", 1)
    refused = relume(*words, "-exact")
    assert refused.status == 2
    assert "threads: 1 -> 2" in refused.error
    assert last(run).iteration == 2
    allowed = relume(*words)

    assert allowed.status == 0
    assert "not exact from here on: threads: 1 -> 2 (no older checkpoint" in allowed.err
    assert [mark.kind for mark in last(run).history.marks] == ["environment"]


def test_without_a_number_of_threads_the_runs_own_is_taken(
    run: Path, undisturbed: dict[str, bytes]
) -> None:
    stopped_after(run, 2)
    ended = relume("detector", "train", "obj.data", "net.cfg", "-exact")

    assert ended.status == 0
    assert promised_files(run) == undisturbed


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("-threads", "0"), r"-threads: 0; 1 to \d+ on this machine"),
        (("-workers", "-1"), r"-workers: -1; 0 or more"),
        (("-map", "-thresh", "25"), r"-thresh: 25; a number from 0 to 1; for example -thresh .5"),
        (
            ("-map", "-iou_thresh", "50"),
            r"-iou_thresh: 50; a number from 0 to 1; for example -iou_thresh .5",
        ),
    ],
)
def test_a_number_without_sense_is_an_error_before_anything_is_written(
    run: Path, words: tuple[str, ...], error: str
) -> None:
    ended = relume("detector", "train", "obj.data", "net.cfg", *words)

    assert ended.status == 2
    assert re.fullmatch(error, ended.error)
    assert not Path("backup").exists()


def test_a_cfg_in_the_place_of_the_data_file_is_called_that(run: Path) -> None:
    ended = relume("detector", "train", "net.cfg", "obj.data")

    assert ended.status == 2
    assert ended.error.startswith("obj.data:1: ")
    assert ended.error.endswith("is it the data file? That one stands before the cfg")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_asking_for_a_gpu_that_is_not_there_is_an_error(run: Path) -> None:
    ended = train("-i", 0)

    assert ended.status == 2
    assert ended.error == "-i: PyTorch finds no GPU; a CUDA build of PyTorch and a GPU"
    assert not Path("backup").exists()


def test_the_log_keeps_lines_remarks_and_errors(run: Path) -> None:
    stopped_after(run, 2)
    train("-seed", 1)
    train()
    log = Path("backup/net.log").read_text().splitlines()

    assert log[0].startswith("error: backup/net_last.weights: this run was begun with other")
    assert [line.split(":")[0] for line in log if " avg loss" in line] == [" 3", " 4"]
    assert log[-1] == "finished: backup/net_final.weights"


def test_tensor_digests_name_every_tensor_of_every_iteration_and_change_nothing(
    run: Path, undisturbed: dict[str, bytes]
) -> None:
    stopped_after(run, 2)
    ended = train("-tensor_digests", "digests.jsonl")
    file = read_digest_file(Path("digests.jsonl"))

    assert ended.status == 0
    assert promised_files(run) == undisturbed
    assert (sorted(file.offsets), file.computed_again) == ([2, 3, 4], 0)
    assert file.tensors(4) == digests_of(last(run))


def test_tensor_digests_that_cannot_be_written_are_an_error_before_training(run: Path) -> None:
    ended = train("-tensor_digests", "no/digests.jsonl")

    assert (ended.status, ended.out) == (2, "")
    assert ended.error.startswith("-tensor_digests: no does not exist; an existing folder; mkdir")


def test_both_charts_are_the_same_picture(run: Path) -> None:
    train()

    chart = Path("backup/chart_net.png").read_bytes()
    assert chart == Path("backup/chart.png").read_bytes()
    assert chart.startswith(b"\x89PNG")


def test_a_stop_whose_chart_cannot_be_written_is_a_stop(run: Path) -> None:
    (run / "backup" / "chart.png").mkdir(parents=True)
    ended = train("-max_time", "0.001")

    assert ended.status == 75
    assert "relume: saved, but without the chart: backup/chart.png: cannot be written" in ended.err
    ended = train()
    assert ended.status == 2
    assert ended.error.startswith("backup/chart.png: cannot be written (Is a directory)")


def test_a_journal_that_cannot_be_written_keeps_no_weights_from_being_saved(
    run: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> bool:
        raise StorageError(path, "cannot be written (Operation not permitted)")

    def pause(file: storage.AppendFile, line: str) -> None:
        raise StorageError(file.path, "cannot be written (Operation not permitted)")

    with monkeypatch.context() as patch:
        (run / "backup").mkdir()
        (run / "backup" / "net.journal.jsonl").touch()
        patch.setattr(storage, "write_new_durably", refuse)  # the journal's own way
        patch.setattr(storage.AppendFile, "append", pause)
        ended = train()

    assert ended.status == 2
    assert ended.error.startswith("backup/net.journal.jsonl: cannot be written")
    weights = {name: data for name, data in undisturbed.items() if not name.endswith("jsonl")}
    written = promised_files(run)
    assert {name: written[name] for name in weights} == weights
    assert train().status == 0
    assert promised_files(run) == undisturbed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("0.5", 0.5), ("3:50:00", 13800.0), ("0:00:01", 1.0), ("100:00:00", 360000.0)],
)
def test_the_time_limit_is_a_number_of_seconds_or_a_clock(text: str, seconds: float) -> None:
    assert max_time_s({"-max_time": text}) == seconds
    assert max_time_s({}) is None


@pytest.mark.parametrize("text", ["0", "-5", "1:60:00", "5:00", "1h", "nan", "1e3", "", "0:00:00"])
def test_a_time_limit_that_is_none_is_an_error_before_anything_is_written(
    run: Path, text: str
) -> None:
    ended = train("-max_time", text)

    assert ended.status == 2
    assert ended.error == f"-max_time: '{text}'; seconds above 0, or H:MM:SS"
    assert not Path("backup").exists()


def test_a_time_limit_counts_from_the_beginning_of_the_command(run: Path) -> None:
    ended = train("-max_time", "0.000001")  # over before the first picture

    assert ended.status == 75
    assert ended.out == ""
    assert ended.err.splitlines()[-1] == (
        "relume: the time of -max_time is over before a subdivision was done; "
        "stopped at iteration 0; the same command begins again: nothing is saved yet"
    )
    assert not list(Path("backup").glob("*.weights"))
    assert train("-max_time", "1000:00:00").status == 0


def test_a_time_limit_within_an_evaluation_or_behind_it_is_told_as_such(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "LEAST_INTERVAL", 3)
    train_until(run, 4, flags=Flags(map=True), said=[])

    ended = train("-map", "-max_time", "0.000001")

    assert ended.err.splitlines()[-1] == (
        "relume: the time of -max_time is over before an evaluation was done; stopped at "
        "iteration 4, before its evaluation; the same command goes on from there"
    )


@pytest.mark.skipif(machine_level() == "", reason="needs a processor of x86-64-v3")
def test_a_portable_run_that_has_saved_nothing_says_that_the_flag_is_needed_again(
    run: Path,
) -> None:
    words = ["-m", "relume", "detector", "train", "obj.data", "net.cfg", "-portable"]
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environ["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    ended = subprocess.run(
        [sys.executable, *words, "-max_time", "0.000001"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 75
    assert ended.stderr.splitlines()[-1].endswith(
        "begins again: nothing is saved yet, so -portable is needed again"
    )


def test_a_state_inside_an_iteration_is_inspected_and_gone_back_to(
    run: Path, undisturbed: dict[str, bytes]
) -> None:
    train_until(run, 2, subdivision=1)
    place = "iteration 2 (+1 of 2 subdivisions)"
    inspected = relume("inspect", "backup/net_last.weights").out
    assert f"{place}, average loss " in inspected
    assert "partial (" in inspected

    shutil.copy("backup/net_last.weights", "backup/net_2.weights")
    train_until(run, 3)
    rewound = relume("rewind", "backup/net_2.weights")

    assert rewound.out.splitlines()[-1] == f"the run 'net' goes on from {place}"
    assert f"goes on from backup/net_last.weights ({place})" in train().err
    Path("backup/net_2.weights").unlink()
    assert promised_files(run) == undisturbed


def test_going_back_to_a_whole_iteration_moves_what_was_begun_behind_it_aside(run: Path) -> None:
    stopped_after(run, 2)
    shutil.copy("backup/net_last.weights", "backup/net_2.weights")
    train_until(run, 2, subdivision=1)

    assert relume("rewind", "backup/net_2.weights").status == 0

    assert last(run).reached == (2, 0)
    assert Path("backup/net.aside/1/net_last.weights").exists()


def test_a_chart_that_cannot_be_drawn_ends_no_training(
    run: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_font(history: History, title: str, max_batches: int) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files", "DejaVuSans.ttf")

    with monkeypatch.context() as patch:
        patch.setattr(watcher, "draw_chart", no_font)
        patch.setattr(chart, "EVERY", 2)
        ended = train()

    assert "training goes on: backup/chart.png: cannot be drawn ([Errno " in ended.err
    assert ended.status == 2
    assert ended.error.startswith("backup/chart.png: cannot be drawn ([Errno ")
    assert promised_files(run) == undisturbed
    assert train().status == 0


def test_a_folder_whose_name_the_system_refuses_is_one_line(run: Path) -> None:
    text = (run / "obj.data").read_text()
    (run / "obj.data").write_text(text.replace("backup = backup", f"backup = {'x' * 300}"))
    ended = train()

    assert ended.status == 2
    assert ended.error.startswith(f"{'x' * 300}: cannot be written (File name too long)")


def test_what_was_read_of_a_checkpoint_is_gone_from_memory_when_training_begins(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(run, 2)
    read: list[weakref.ref[TrainState]] = []
    training = loop.train

    def noted(*arguments: object) -> TrainState:
        state = starting_state(*arguments)  # type: ignore[arg-type]  # passed on as they came
        read.append(weakref.ref(state))
        return state

    def looked_at(*arguments: object) -> TrainState:
        assert [state() for state in read] == [None]
        return training(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(train_command, "starting_state", noted)
    monkeypatch.setattr(run_folder, "train", looked_at)

    assert train().status == 0
    assert len(read) == 1
