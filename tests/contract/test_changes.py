"""Changes of settings and data: refused and named, or allowed, marked and resumed exactly.

Needs nothing but this checkout: python -m pytest tests/contract/test_changes.py
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from relume.checkpoint import container
from relume.errors import (
    ImageError,
)
from relume.train.start import StartFlags
from tests.contract.small_runs import (
    promised_files,
    read_run,
    start_of,
    train_until,
)
from tests.contract.starts import (
    CUT,
    END,
    change_cfg,
    label_files,
    other_copy,
    refused,
    small_run,
)

# Allowed changes


@pytest.fixture(scope="module")
def changed(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stopped run, gone on from iteration 2 with another momentum and half the batch."""
    folder = Path(shutil.copytree(stopped, tmp_path_factory.mktemp("changed") / "run"))
    change_cfg(folder, "momentum=0.9", "momentum=0.8")
    change_cfg(folder, "batch=4", "batch=2")
    train_until(folder, None, allowed_at_2(folder))
    return folder


def allowed_at_2(folder: Path) -> StartFlags:
    return StartFlags(weights=str(folder / "at_2.weights"), allow_change=True)


def test_an_allowed_change_is_marked_and_newer_files_are_moved_aside(
    run: Path, changed: Path
) -> None:
    change_cfg(run, "momentum=0.9", "momentum=0.8")
    change_cfg(run, "batch=4", "batch=2")
    old = start_of(other_copy(changed), StartFlags())
    before = container.unpack((run / "at_2.weights").read_bytes(), "x")
    said: list[str] = []

    state = start_of(run, allowed_at_2(run), said)

    assert [mark.text for mark in state.history.marks] == [
        "net.batch: 4 -> 2 (changes the course)",
        "net.momentum: 0.9 -> 0.8 (changes the course)",
    ]
    assert {mark.iteration for mark in state.history.marks} == {2}
    assert state.course not in (before.course, "")
    assert state.course == old.course
    aside = run / "backup" / "net.aside" / "1"
    names = ["net.backup", "net_4.backup", "net_4.weights", "net_last.weights"]
    assert sorted(path.name for path in aside.iterdir()) == names
    assert "net.batch: 4 -> 2 (changes the course)" in said


def test_a_changed_batch_keeps_the_iteration_and_sets_what_was_seen(run: Path) -> None:
    change_cfg(run, "batch=4", "batch=2")

    state = start_of(run, StartFlags(allow_change=True))

    assert (state.iteration, state.progress.seen) == (CUT, 2 * CUT)
    assert state.history.records["seen"].tolist() == [4, 8, 12, 16]


@pytest.mark.parametrize("cut", [2, 3, 4, 5])
@pytest.mark.parametrize("repeated", [True, False], ids=["same command", "flag left out"])
def test_a_run_with_an_allowed_change_is_resumed_exactly(
    run: Path, changed: Path, cut: int, repeated: bool
) -> None:
    change_cfg(run, "momentum=0.9", "momentum=0.8")
    change_cfg(run, "batch=4", "batch=2")
    train_until(run, cut, allowed_at_2(run))

    end = train_until(run, None, allowed_at_2(run) if repeated else None)

    assert end.iteration == END
    assert promised_files(run) == promised_files(changed)


def test_a_repeated_allowed_change_does_not_go_back(run: Path) -> None:
    change_cfg(run, "batch=4", "batch=2")
    train_until(run, 5, allowed_at_2(run))

    assert start_of(run, allowed_at_2(run)).iteration == 5


def test_allowing_changes_where_nothing_differs_changes_nothing(run: Path, finished: Path) -> None:
    train_until(run, None, StartFlags(allow_change=True))

    assert promised_files(run) == promised_files(finished)


def test_a_foreign_run_is_not_overwritten_even_where_changes_are_allowed(
    run: Path, tmp_path: Path
) -> None:
    other = small_run(tmp_path / "other", momentum=0.5)
    train_until(other, 2)
    flags = StartFlags(str(other / "backup" / "net_last.weights"), allow_change=True)

    assert "belongs to another course" in refused(run, flags)


# Data that changed


def test_a_changed_label_is_refused_and_named(run: Path) -> None:
    path = label_files(run)[3]
    path.write_text(path.read_text() + "0 0.5 0.5 0.2 0.2\n")

    text = refused(run)

    assert re.search(r"train\.txt:4: labels of picture 4: [0-9a-f]{16} -> [0-9a-f]{16} ", text)


def test_an_allowed_change_of_labels_holds_no_path_in_the_checkpoint(run: Path) -> None:
    path = label_files(run)[3]
    path.write_text(path.read_text() + "0 0.5 0.5 0.2 0.2\n")

    state = start_of(run, StartFlags(allow_change=True))

    assert state.history.marks[0].text.startswith("labels of picture 4: ")
    assert str(run).encode() not in container.pack(state)


def test_a_changed_picture_stops_the_run_before_the_update_and_is_named(
    run: Path, finished: Path
) -> None:
    images = read_run(run).recipe.images.paths
    originals = [path.read_bytes() for path in images]
    for path in images:
        path.write_bytes(path.read_bytes() + b"\0")  # other bytes, the same pixels

    with pytest.raises(ImageError, match=r"the picture has changed since this run used it"):
        train_until(run)
    assert start_of(run).iteration == CUT
    for path, data in zip(images, originals, strict=True):
        path.write_bytes(data)
    train_until(run)

    assert promised_files(run) == promised_files(finished)


def test_a_changed_picture_can_be_allowed_and_is_marked(run: Path) -> None:
    used = int(np.flatnonzero(start_of(run).groups["pictures"]["digests"])[0])
    path = read_run(run).recipe.images.paths[used]
    path.write_bytes(path.read_bytes() + b"\0")
    said: list[str] = []

    end = train_until(run, None, StartFlags(allow_change=True), said)

    assert end.iteration == END
    assert [mark.text[:9] for mark in end.history.marks] == [f"picture {used + 1}"]
    assert any(line.startswith(f"{path}: picture") for line in said)


def test_another_image_list_is_refused_and_can_be_allowed(run: Path) -> None:
    path = run / "train.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(reversed(lines)))

    assert "images: 7 pictures " in refused(run)
    state = start_of(run, StartFlags(allow_change=True))

    assert [mark.text.partition(":")[0] for mark in state.history.marks] == ["images"]
    assert not state.groups["pictures"]["digests"].any()


def test_a_moved_data_set_is_the_same_data_set(run: Path, finished: Path) -> None:
    folder = run.parent / "moved"
    run.rename(folder)
    path = folder / "train.txt"
    images = folder / "elsewhere" / "deep"
    first = read_run(folder).recipe.images.paths[0]
    shutil.move(first.parent, images)
    path.write_text("".join(f"{images / Path(line).name}\n" for line in path.read_text().split()))

    train_until(folder)

    assert promised_files(folder) == promised_files(finished)
