"""The journal follows from the history, whatever a crash left of the file."""

import errno
import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from relume.checkpoint import storage
from relume.checkpoint.state import RECORD, Mark, Measured, Progress
from relume.errors import StorageError
from relume.train.journal import FULLY_CHECKED, Journal, line_of, lines, record_of
from relume.train.step import Report, updated_average
from tests.checkpoint.states import history_of

MARKS = (Mark(0, "environment", "a"), Mark(2, "change", "b"), Mark(4, "change", "c"))
HISTORY = history_of(4, MARKS)
TEXT = "".join(f"{line}\n" for line in lines(HISTORY))


def test_marks_stand_in_front_of_the_iteration_that_follows_them() -> None:
    values = [json.loads(line) for line in lines(HISTORY)]

    order = [value.get("iteration", value.get("mark")) for value in values]
    assert order == ["environment", 1, 2, "change", 3, 4, "change"]
    assert values[3] == {"mark": "change", "after_iteration": 2, "text": "b"}


def test_a_line_holds_all_that_the_history_knows() -> None:
    (line,) = lines(history_of(1, start=9))

    assert json.loads(line) == {
        "iteration": 10,
        "seen": 20,
        "loss": 1.0,
        "average_loss": 1.0,
        "box_loss": float(np.float32(0.4)),
        "objectness_loss": float(np.float32(0.6)),
        "class_loss": 0.0,
        "rate": float(np.float32(0.001)),
        "width": 32,
        "height": 32,
        "digest": "0000000000000000000000000000000a",
    }


def test_an_evaluation_stands_behind_its_iteration_and_the_marks_there(tmp_path: Path) -> None:
    done = (Measured(2, 0.5, 1), Measured(4, 0.25, 1))
    history = replace(history_of(4, MARKS), evaluations=done)

    text = list(lines(history))

    values = [json.loads(line) for line in text]
    order = [next(iter(value.values())) for value in values]
    assert order == ["environment", 1, 2, "change", 0.5, 3, 4, "change", 0.25]
    assert values[-1] == {
        "map": 0.25, "after_iteration": 4, "best_map": 0.5, "best_iteration": 2
    }  # fmt: skip
    assert list(lines(history, 2, values[2]["average_loss"])) == text[3:]
    path = tmp_path / "net.journal.jsonl"
    before = replace(history, evaluations=done[:1])
    with closing(Journal(path, before, pytest.fail)) as journal:
        journal.append_evaluation(history)
    assert path.read_text().splitlines() == text


def test_a_record_takes_48_bytes_and_holds_its_report() -> None:
    report = Report(1.5, 0.25, 0.75, 0.5, 0.001, 608, 416)

    record = record_of(report, Progress(seen=2**40), bytes(range(16)))

    assert RECORD.itemsize == record.nbytes == 48
    assert record[0].tolist() == (
        1.5, 0.25, 0.75, 0.5, float(np.float32(0.001)), 608, 416, 2**40, bytes(range(16))
    )  # fmt: skip


@pytest.mark.parametrize(
    "left",
    [
        None,
        "",
        TEXT,
        TEXT + '{"iteration":5}\n',
        TEXT + '{"iter',
        TEXT[:-30],
        TEXT[:200],
        TEXT.replace("5.0", "5.1"),
        "\0" * 5000,
        TEXT[:300] + "\0" * 400 + TEXT[700:],
        TEXT[:-60] + "\0" * 60,
    ],
    ids=[
        "missing",
        "empty",
        "right",
        "longer",
        "torn",
        "cut",
        "shorter",
        "changed",
        "only zeros",
        "zeros inside",
        "zeros at the end",
    ],
)
@pytest.mark.parametrize("is_long", [False, True])
def test_opening_makes_the_file_follow_from_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str | None, is_long: bool
) -> None:
    if is_long:
        monkeypatch.setattr("relume.train.journal.FULLY_CHECKED", 0)
    if is_long and left == TEXT.replace("5.0", "5.1"):
        pytest.skip("a changed line of a long journal is found at the end of the run: see below")
    path = tmp_path / "net.journal.jsonl"
    if left is not None:
        path.write_text(left)

    Journal(path, HISTORY, pytest.fail).close()

    assert path.read_text() == TEXT
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("iteration", range(5))
def test_a_long_journal_shorter_than_the_state_is_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iteration: int
) -> None:
    monkeypatch.setattr("relume.train.journal.FULLY_CHECKED", 0)
    path = tmp_path / "net.journal.jsonl"
    text = TEXT[: TEXT.find("\n", TEXT.find(f'"iteration":{iteration},')) + 1]
    path.write_text(text)

    Journal(path, HISTORY, pytest.fail).close()

    assert path.read_text() == TEXT


def test_a_damaged_journal_is_mended_when_the_run_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "net.journal.jsonl"
    journal = Journal(path, HISTORY, pytest.fail)
    path.write_text(TEXT.replace("5.0", "5.1"))

    journal.finish(HISTORY)

    assert path.read_text() == TEXT
    journal.close()
    assert path.read_text() == TEXT


def test_a_journal_whose_folder_vanished_and_came_back_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    folder.mkdir()
    journal = Journal(folder / "net.journal.jsonl", history_of(0), pytest.fail)
    journal.append(history_of(1), 10.0)
    folder.rename(tmp_path / "gone")
    folder.mkdir()
    journal.append(history_of(2), 9.5)

    journal.close()

    assert (folder / "net.journal.jsonl").read_text().splitlines() == list(lines(history_of(2)))


def test_a_journal_written_line_by_line_is_the_one_made_from_the_history(tmp_path: Path) -> None:
    path = tmp_path / "net.journal.jsonl"
    whole = history_of(30)
    average = None
    journal = Journal(path, history_of(0), pytest.fail)

    for iteration in range(1, 31):
        history = history_of(iteration)
        average = updated_average(average, float(history.records[-1]["loss"]))
        journal.append(history, average)
    journal.close()

    assert path.read_text().splitlines() == list(lines(whole))


def test_a_line_is_readable_as_soon_as_it_is_added(tmp_path: Path) -> None:
    path = tmp_path / "net.journal.jsonl"
    journal = Journal(path, history_of(0), pytest.fail)

    journal.append(history_of(1), 10.0)
    before_closing = path.read_text()
    journal.close()

    assert before_closing == line_of(history_of(1).records[0], 1, 10.0) + "\n"


def test_a_journal_that_cannot_be_written_pauses_and_is_made_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.journal.jsonl"
    said: list[str] = []
    journal = Journal(path, history_of(0), said.append)
    journal.append(history_of(1), 10.0)

    def full(file: storage.AppendFile, line: str) -> None:
        raise StorageError(file.path, "cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(storage.AppendFile, "append", full)
        journal.append(history_of(2), 10.0)
        journal.append(history_of(3), 10.0)
    journal.append(history_of(4), 10.0)
    journal.close()

    assert path.read_text().splitlines() == list(lines(history_of(4)))
    assert len(said) == 1
    assert said[0].startswith("the journal pauses, training goes on: ")


def test_a_journal_on_a_disk_that_went_and_came_back_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.journal.jsonl"
    journal = Journal(path, history_of(3), pytest.fail)
    path.write_text('{"iteration":1,"seen":9}\n')  # what the disk held when it went
    broken: list[Path] = []

    def not_connected(file: storage.AppendFile) -> None:
        broken.append(file.path)
        raise StorageError(file.path, "cannot be written (Transport endpoint is not connected)")

    with monkeypatch.context() as patch:
        patch.setattr(storage.AppendFile, "close", not_connected)
        journal.finish(history_of(4))
    journal.close()

    assert broken == [path]
    assert path.read_text().splitlines() == list(lines(history_of(4)))


def test_a_journal_that_cannot_be_closed_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "backup"
    folder.mkdir()
    journal = Journal(folder / "net.journal.jsonl", history_of(3), said.append)
    folder.rename(tmp_path / "gone")
    journal.close()

    assert [line.partition(": ")[0] for line in said] == [
        "the journal is not whole, the next start mends it"
    ]


@pytest.mark.parametrize("iterations", [3, FULLY_CHECKED + 1])
def test_a_journal_that_cannot_be_read_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iterations: int
) -> None:
    path = tmp_path / "net.journal.jsonl"
    Journal(path, history_of(iterations), pytest.fail).close()
    whole = path.read_bytes()
    path.write_bytes(whole + b"more\n")

    def refused(path: Path, mode: str) -> IO[bytes]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        Journal(path, history_of(iterations), pytest.fail).close()

    assert path.read_bytes() == whole
