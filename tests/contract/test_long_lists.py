"""A run with a long list: the same promise, with labels that are read when they are used."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from relume.data.order import index_at
from relume.errors import DataFileError, LabelError, OtherRecipe
from relume.formats.data_files import label_path
from relume.lists import long_list
from relume.lists.label_files import LABEL_BITS, LabelFiles
from relume.train.loop import Stop
from relume.train.start import StartFlags
from tests.command_line import relume
from tests.contract.small_runs import (
    copied_run,
    promised_files,
    read_run,
    sgd_cfg,
    start_of,
    train_until,
    write_run,
)

END, CUT = 6, 4


@pytest.fixture(scope="module", autouse=True)
def any_list_is_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_list, "COMPARED_AT_START", 0)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("long") / "inputs", sgd_cfg(END))


@pytest.fixture(scope="module")
def finished(inputs: Path) -> Path:
    """A run that was never interrupted."""
    folder = copied_run(inputs, inputs.parent / "finished")
    train_until(folder)
    return folder


@pytest.fixture
def run(inputs: Path, tmp_path: Path) -> Path:
    """A run that has done CUT iterations."""
    folder = copied_run(inputs, tmp_path / "run")
    train_until(folder, CUT)
    return folder


def used_label(run: Path) -> tuple[int, Path]:
    """Return row and label file of the picture that the next iteration begins with."""
    spec = read_run(run)
    images = spec.recipe.images
    row = index_at(spec.recipe.seed, CUT * spec.recipe.cfg.net.batch, len(images.paths))
    return row, label_path(images.paths[row])


def test_a_run_cut_anywhere_leaves_the_same_bytes(
    inputs: Path, finished: Path, tmp_path: Path
) -> None:
    folder = copied_run(inputs, tmp_path / "run")
    for iteration in range(1, END):
        train_until(folder, iteration)
        (cache,) = (folder / "backup" / "cache").iterdir()
        cache.unlink()  # it can be had again
    train_until(folder, None, workers=2)

    assert promised_files(folder) == promised_files(finished)
    assert isinstance(read_run(folder).recipe.labels, LabelFiles)


def test_it_trains_what_a_short_list_trains(inputs: Path, finished: Path, tmp_path: Path) -> None:
    folder = copied_run(inputs, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_list, "COMPARED_AT_START", 100)
        short = train_until(folder)
    end = start_of(finished)

    for name, array in short.weights.items():
        np.testing.assert_array_equal(end.weights[name], array)
    assert end.recipe.keys == short.recipe.keys
    assert end.recipe.label_digests.size == 0
    digests = [state.groups["pictures"]["digests"] for state in (end, short)]
    halves = [np.asarray(d, np.uint64) >> np.uint64(32) for d in digests]
    np.testing.assert_array_equal(halves[0], halves[1])


def test_a_label_that_has_changed_stops_before_the_update_and_is_named(
    run: Path, finished: Path
) -> None:
    row, path = used_label(run)
    before = path.read_bytes()
    digests = np.asarray(start_of(run).groups["pictures"]["digests"], np.uint64)
    assert digests[row] & LABEL_BITS  # used before
    path.write_bytes(before + b"0 .5 .5 .2 .2\n")

    with pytest.raises(LabelError, match=re.escape(f"{path}: the labels have changed since")):
        train_until(run)
    assert start_of(run).iteration == CUT
    path.write_bytes(before.replace(b"\n", b"\r\n"))  # the same numbers
    train_until(run)

    assert promised_files(run) == promised_files(finished)


def test_a_changed_label_can_be_allowed_and_is_marked(run: Path) -> None:
    row, path = used_label(run)
    path.write_bytes(path.read_bytes() + b"0 .5 .5 .2 .2\n")

    end = train_until(run, None, StartFlags(allow_change=True))

    assert end.iteration == END
    (mark,) = end.history.marks
    assert mark.text.startswith(f"labels of picture {row + 1}: ")


def test_a_malformed_label_is_named_when_it_is_used(run: Path) -> None:
    _, path = used_label(run)
    path.write_text("0 .5 .5 .2\n")

    with pytest.raises(LabelError, match=re.escape(f"{path}:1: 4 columns")):
        train_until(run)
    assert start_of(run).iteration == CUT


def test_a_changed_list_is_refused_at_the_start(run: Path) -> None:
    path = run / "train.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))

    with pytest.raises(OtherRecipe, match="images: 7 pictures"):
        start_of(run)


def test_a_list_that_is_written_to_while_it_trains_stops_the_run(run: Path, finished: Path) -> None:
    spec = read_run(run)
    path = run / "train.txt"
    text = path.read_text()
    path.write_text(text + "\n")

    with pytest.raises(DataFileError, match="has been changed while it is in use"):
        _ = spec.recipe.images.paths[0]
    path.write_text(text)
    train_until(run)

    assert promised_files(run) == promised_files(finished)


def test_a_state_from_before_there_were_indexes_goes_on(
    inputs: Path, finished: Path, tmp_path: Path
) -> None:
    folder = copied_run(inputs, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_list, "COMPARED_AT_START", 100)
        train_until(folder, CUT, subdivision=1)
    end = train_until(folder)

    assert (
        promised_files(folder)["net_final.weights"] == promised_files(finished)["net_final.weights"]
    )
    np.testing.assert_array_equal(
        end.groups["pictures"]["digests"], start_of(finished).groups["pictures"]["digests"]
    )


def test_the_command_looks_through_the_labels_once(
    inputs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied_run(inputs, tmp_path / "run")
    monkeypatch.chdir(folder)
    (folder / "obj.data").write_text((folder / "obj.data").read_text() + "cache = kept\n")
    command = ("detector", "train", "obj.data", "net.cfg", "-threads", 1, "-workers", 1)
    label = folder / "img" / "0003.txt"
    good = label.read_bytes()
    label.write_bytes(b"0 .5 .5\n")
    wrong = relume(*command)
    label.write_bytes(good)
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "is_due", lambda stop: True)
        first = relume(*command)
    again = relume(*command)

    assert (wrong.status, first.status, again.status) == (2, 75, 0)
    assert f"{label.relative_to(folder)}:1: 3 columns" in wrong.error
    looks = "looks through 7 pictures and their labels, once"
    assert [looks in ended.err for ended in (wrong, first, again)] == [True, True, True]
    assert "stopped before all labels were looked through" in first.err
    assert promised_files(folder) == promised_files(finished)
    for ending in ("list", "labels"):
        assert list((folder / "kept").glob(f"*.{ending}"))
    assert not (folder / "backup" / "cache").exists()
    assert looks not in relume(*command).err  # finished, and known


def test_replay_takes_a_state_from_before_there_were_indexes(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied_run(inputs, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_list, "COMPARED_AT_START", 100)
        train_until(folder, CUT)
    monkeypatch.chdir(folder)

    ended = relume("replay", "obj.data", "net.cfg", "-iteration", 1)
    assert (ended.status, ended.err) == (0, "")
