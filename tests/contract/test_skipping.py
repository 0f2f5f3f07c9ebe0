"""bad=skip: another picture takes the place of one that cannot be decoded, however often cut.

Needs nothing but this checkout: python -m pytest tests/contract/test_skipping.py
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relume.checkpoint import container
from relume.checkpoint.state import PARTIAL, TrainState
from relume.data.order import index_at
from relume.errors import ImageError, RelumeError
from relume.spec import SKIP
from relume.train.loop import Stop
from relume.train.rerun import compared
from relume.train.start import StartFlags
from tests.command_line import relume
from tests.contract import small_runs
from tests.contract.small_runs import CPU, copied_run, promised_files, read_run, sgd_cfg, write_run

END, BATCH, PICTURES = 6, 4, 7
CFG = sgd_cfg(max_batches=END, batch=BATCH, subdivisions=4)


def train_until(folder: Path, iteration: int | None = None, **options: Any) -> TrainState:
    return small_runs.train_until(folder, iteration, said=[], **options)


def pictures(folder: Path) -> list[Path]:
    return list(read_run(folder).recipe.images.paths)


LATE = index_at(0, PICTURES - 1, PICTURES)
"""Row of the picture that is met last: in the second iteration."""
EARLY = index_at(0, 0, PICTURES)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which two of seven pictures are none; not to be trained in."""
    folder = write_run(tmp_path_factory.mktemp("damaged"), CFG)
    (folder / "obj.data").write_text((folder / "obj.data").read_text() + "bad = skip\n")
    pictures(folder)[EARLY].write_bytes(b"no picture")
    pictures(folder)[LATE].write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def straight(damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run, undisturbed."""
    folder = copied_run(damaged, tmp_path_factory.mktemp("straight") / "run")
    train_until(folder)
    return folder


def last(folder: Path) -> TrainState:
    path = folder / "backup" / "net_last.weights"
    return container.unpack(path.read_bytes(), path)


def without_skip(folder: Path) -> None:
    text = (folder / "obj.data").read_text()
    (folder / "obj.data").write_text(text.replace("bad = skip\n", ""))


def test_what_is_skipped_stands_in_the_state_and_is_said_once(
    damaged: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied_run(damaged, tmp_path / "run")
    ended = relume("detector", "train", folder / "obj.data", folder / "net.cfg", "-threads", 1)

    state = last(folder)
    assert ended.status == 0
    assert state.progress.skipped == tuple(sorted([EARLY, LATE]))
    assert state.groups["pictures"]["digests"].all()
    said = [line for line in ended.err.splitlines() if "cannot be decoded" in line]
    assert len(said) == 2
    assert all("skipped, as bad=skip says" in line for line in said)
    assert any(f"train.txt:{EARLY + 1}: " in line for line in said)
    assert state.weights["0.weights"].tobytes() == last(straight).weights["0.weights"].tobytes()


def test_a_run_that_skips_nothing_has_no_word_of_it_in_its_checkpoint(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", CFG)
    train_until(folder, 1)
    stopping = promised_files(folder)
    again = copied_run(folder, tmp_path / "again")
    (again / "obj.data").write_text((again / "obj.data").read_text() + "bad = skip\n")

    train_until(again, 1)

    assert promised_files(again) == stopping
    assert b"skipped" not in stopping["net_last.weights"]


@pytest.mark.parametrize("workers", [0, 3])
def test_a_run_cut_after_every_subdivision_leaves_the_same_files(
    damaged: Path, straight: Path, tmp_path: Path, workers: int
) -> None:
    folder = copied_run(damaged, tmp_path / "cut")
    for iteration in range(3):
        for k in range(4):
            train_until(folder, iteration, subdivision=k, workers=workers)

    train_until(folder, workers=workers)

    assert promised_files(folder) == promised_files(straight)


def test_a_run_that_stopped_at_a_bad_picture_goes_on_with_skip_to_the_same_files(
    damaged: Path, straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(damaged, tmp_path / "run")
    without_skip(folder)

    with pytest.raises(ImageError, match=r"train\.txt:\d+: .*, or set bad=skip in the data file"):
        train_until(folder)
    (folder / "obj.data").write_text((folder / "obj.data").read_text() + "bad = skip\n")
    train_until(folder)

    assert promised_files(folder) == promised_files(straight)


def test_a_run_that_skipped_stops_at_the_next_bad_picture_with_stop(
    damaged: Path, tmp_path: Path
) -> None:
    folder = copied_run(damaged, tmp_path / "run")
    train_until(folder, 2)
    without_skip(folder)

    with pytest.raises(ImageError, match="cannot be decoded"):
        train_until(folder)

    assert last(folder).progress.skipped == tuple(sorted([EARLY, LATE]))


def test_a_picture_that_turns_good_or_bad_within_a_run_stops_it(
    damaged: Path, tmp_path: Path
) -> None:
    good = next(row for row in range(PICTURES) if row not in (EARLY, LATE))
    for row, content in ((EARLY, pictures(damaged)[good].read_bytes()), (good, b"now bad")):
        folder = copied_run(damaged, tmp_path / str(row))
        train_until(folder, 2)
        pictures(folder)[row].write_bytes(content)

        with pytest.raises(ImageError, match="has changed since this run used it"):
            train_until(folder)


def test_an_allowed_change_forgets_that_a_picture_was_skipped(
    damaged: Path, tmp_path: Path
) -> None:
    folder = copied_run(damaged, tmp_path / "run")
    train_until(folder, 2)
    good = next(row for row in range(PICTURES) if row not in (EARLY, LATE))
    shutil.copy(pictures(folder)[good], pictures(folder)[EARLY])

    end = train_until(folder, start=StartFlags(allow_change=True))

    assert end.progress.skipped == (LATE,)
    assert end.history.marks[0].text.startswith(f"picture {EARLY + 1}: ")


def test_a_rerun_skips_what_the_run_skipped(straight: Path, damaged: Path, tmp_path: Path) -> None:
    folder = copied_run(damaged, tmp_path / "run")
    train_until(folder, 1)
    older = last(folder)

    spec, end = read_run(folder), last(straight)
    other = replace(spec, recipe=replace(spec.recipe, seed=1))
    said: list[str] = []

    assert compared(spec, older, end, Stop(), CPU, said.append) == (END, True)
    assert len(said) == 1  # the one that the older state did not know
    assert not compared(other, older, end, Stop(), CPU, said.append)[1]


def test_pictures_that_are_all_bad_are_an_error(damaged: Path, tmp_path: Path) -> None:
    folder = copied_run(damaged, tmp_path / "run")
    for path in pictures(folder):
        path.write_bytes(b"none")

    with pytest.raises(ImageError, match="none of the 7 pictures tried from this one on can be"):
        train_until(folder)


def without_progress(state: TrainState) -> TrainState:
    return replace(state, progress=replace(state.progress, skipped=()))


def without_partial(state: TrainState) -> TrainState:
    if PARTIAL not in state.groups:
        return state
    arrays = {k: v for k, v in state.groups[PARTIAL].items() if not k.startswith("skipped")}
    return replace(state, groups={**state.groups, PARTIAL: arrays})


def with_other_digests(state: TrainState) -> TrainState:
    if PARTIAL not in state.groups:
        return state
    arrays = {
        k: np.zeros_like(v) if k == "skipped_digests" else v
        for k, v in state.groups[PARTIAL].items()
    }
    return replace(state, groups={**state.groups, PARTIAL: arrays})


@pytest.mark.parametrize(
    ("mutate", "cut", "same"),
    [
        (without_progress, (1, 0), False),
        (without_partial, (0, 1), False),
        (with_other_digests, (0, 1), False),
        (lambda state: state, (0, 1), True),
    ],
)
def test_losing_what_was_skipped_is_noticed(
    damaged: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mutate: object,
    cut: tuple[int, int],
    same: bool,
) -> None:
    folder = copied_run(damaged, tmp_path / "run")
    train_until(folder, cut[0], subdivision=cut[1])
    whole = container.unpack
    monkeypatch.setattr(container, "unpack", lambda *args: mutate(whole(*args)))  # type: ignore[operator]

    try:
        train_until(folder, cut[0] + 1)
    except RelumeError:
        assert not same
        return
    monkeypatch.undo()
    uncut = copied_run(damaged, tmp_path / "uncut")
    train_until(uncut, cut[0] + 1)
    name = "net_last.weights"
    assert (promised_files(folder)[name] == promised_files(uncut)[name]) == same


def test_skip_is_an_operation_and_no_part_of_the_recipe(damaged: Path, tmp_path: Path) -> None:
    folder = copied_run(damaged, tmp_path / "run")
    skipping = read_run(folder)
    without_skip(folder)

    assert skipping.operation.bad == SKIP
    assert read_run(folder).recipe.keys() == skipping.recipe.keys()


@pytest.mark.parametrize("options", [{"mosaic": 1}, {"mixup": 1}], ids=str)
def test_samples_of_several_pictures_skip_bad_ones_as_exactly(
    damaged: Path, tmp_path: Path, options: dict[str, int]
) -> None:
    straight = copied_run(damaged, tmp_path / "straight")
    text = sgd_cfg(max_batches=3, batch=BATCH, subdivisions=4, **options)
    (straight / "net.cfg").write_text(text)
    cut = copied_run(straight, tmp_path / "cut")
    train_until(straight)
    for iteration in range(3):
        for k in (1, 3):
            train_until(cut, iteration, subdivision=k, workers=k)

    train_until(cut)

    assert promised_files(cut) == promised_files(straight)
    assert last(cut).progress.skipped == tuple(sorted([EARLY, LATE]))
