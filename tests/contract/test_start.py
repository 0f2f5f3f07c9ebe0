"""What a start does: every row of CHECKPOINT.md's table, and damaged files in the folder.

Needs nothing but this checkout: python -m pytest tests/contract/test_start.py
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relume.checkpoint import container
from relume.checkpoint.container import plain
from relume.checkpoint.folder import run_files
from relume.checkpoint.state import TrainState, first_difference_of_arrays
from relume.errors import (
    CheckpointError,
)
from relume.formats.weights import format_header
from relume.train.start import StartFlags
from tests.contract.small_runs import (
    promised_files,
    read_run,
    start_of,
    train_until,
)
from tests.contract.starts import (
    CUT,
    backbone,
    is_the_same,
    other_copy,
    refused,
    with_a_flipped_bit,
)

# The rows of the table


def test_without_weights_a_run_starts_at_random_from_the_seed(fresh: Path, tmp_path: Path) -> None:
    state = start_of(fresh)
    again = start_of(fresh)
    data = fresh / "obj.data"
    data.write_text(data.read_text() + "seed = 7\n")
    other = start_of(fresh)

    assert (state.iteration, state.progress.seen) == (0, 0)
    assert state.recipe.keys["start"] == "random"
    assert is_the_same(state, again)
    assert first_difference_of_arrays(state.weights["0.weights"], other.weights["0.weights"])


def test_a_file_cut_behind_a_layer_fills_the_layers_it_has(run: Path, fresh: Path) -> None:
    path = backbone(run, fresh / "net.conv.7")
    trained = start_of(run)
    said: list[str] = []

    state = start_of(fresh, StartFlags(weights=str(path)), said)

    assert said[0] == f"{path}: fills layers 0 to 7 of {len(read_run(fresh).recipe.cfg.layers)}"
    assert state.iteration == 0
    for name in ("0.weights", "4.rolling_mean"):
        assert np.array_equal(state.weights[name], trained.weights[name])
    assert np.array_equal(
        state.weights["8.weights"], start_of(other_copy(fresh)).weights["8.weights"]
    )


@pytest.mark.parametrize("kind", ["checkpoint", "plain"])
def test_clear_takes_any_weights_as_the_start_and_forgets_what_was_seen(
    run: Path, fresh: Path, kind: str
) -> None:
    path = fresh / "start.weights"
    trained = start_of(run)
    path.write_bytes(container.pack(trained) if kind == "checkpoint" else plain(trained))

    state = start_of(fresh, StartFlags(weights=str(path), clear=True))

    assert (state.iteration, state.progress.seen, state.progress.average_loss) == (0, 0, None)
    assert all(np.array_equal(state.weights[name], trained.weights[name]) for name in state.weights)
    assert not any(array.any() for array in state.groups["momentum"].values())
    assert state.recipe.keys["start"].startswith("clear ")


def test_a_checkpoint_copied_elsewhere_resumes_exactly(
    run: Path, fresh: Path, finished: Path
) -> None:
    copy = fresh / "copied_here.weights"
    shutil.copy(run / "backup" / "net_4.weights", copy)

    train_until(fresh, None, StartFlags(weights=str(copy)))

    files = promised_files(fresh)
    expected = promised_files(finished)
    del expected["net_2.weights"]  # it stayed in the other folder
    assert files == expected


@pytest.fixture
def from_darknet(stopped: Path, fresh: Path) -> tuple[Path, StartFlags]:
    """A run that begins with a whole plain file that has seen images."""
    path = fresh / "darknets.weights"
    batch = read_run(fresh).recipe.cfg.net.batch
    weights = plain(start_of(stopped))
    path.write_bytes(format_header(3 * batch + 1) + weights[20:])
    return fresh, StartFlags(weights=str(path))


def test_darknets_own_checkpoint_goes_on_at_its_iteration_without_momentum(
    from_darknet: tuple[Path, StartFlags],
) -> None:
    folder, flags = from_darknet
    said: list[str] = []

    state = start_of(folder, flags, said)

    batch = read_run(folder).recipe.cfg.net.batch
    assert (state.iteration, state.progress.seen) == (3, 3 * batch)
    assert not any(array.any() for array in state.groups["momentum"].values())
    assert "goes on at iteration 3; a Darknet file holds no momentum" in said[1]
    assert "not an exact resume" in said[1]


def test_a_run_from_darknets_checkpoint_is_itself_resumed_exactly(
    from_darknet: tuple[Path, StartFlags],
) -> None:
    folder, flags = from_darknet
    other = other_copy(folder)
    train_until(other, None, flags)

    train_until(folder, 4, flags)
    train_until(folder, 5, flags)
    train_until(folder, None, flags)

    assert promised_files(folder) == promised_files(other)
    assert start_of(folder, flags).history.start == 3


def test_weights_trained_beyond_max_batches_are_refused_before_anything_is_written(
    fresh: Path, stopped: Path
) -> None:
    path = fresh / "coco.weights"
    path.write_bytes(format_header(32_013_312) + plain(start_of(stopped))[20:])

    text = refused(fresh, StartFlags(weights=str(path)))

    assert "was trained for 8003328 iterations of batch=4" in text
    assert "-clear begins a new training with its weights" in text


@pytest.mark.parametrize("way", ["resume", "its own folder", "another folder"])
def test_resume_and_a_folder_mean_the_newest_good_checkpoint(
    run: Path, fresh: Path, way: str
) -> None:
    folder = fresh if way == "another folder" else run
    flags = StartFlags(resume=True)
    if way != "resume":
        flags = StartFlags(weights=str(run / "backup"))

    assert start_of(folder, flags).iteration == CUT


def test_an_empty_folder_has_nothing_to_resume(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert "holds no good checkpoint of 'net'" in refused_start(fresh, StartFlags(resume=True))
    flags = StartFlags(weights=str(tmp_path / "empty"))
    assert "holds no good checkpoint" in refused_start(fresh, flags)


def refused_start(folder: Path, flags: StartFlags) -> str:
    with pytest.raises(CheckpointError) as caught:
        start_of(folder, flags)
    return str(caught.value)


def cut_inside_a_layer(state: TrainState) -> bytes:
    return plain(state)[:-10]


def cut_early_though_trained(state: TrainState) -> bytes:
    biases, weights = list(state.weights.values())[-2:]
    return plain(state)[: -biases.nbytes - weights.nbytes]


def cut_at_the_end_of_the_darknet_part(state: TrainState) -> bytes:
    data = container.pack(state)
    return data[: container.read_manifest(data)["darknet"]["bytes"]]


DAMAGES = [
    (cut_inside_a_layer, "ends inside layer"),
    (cut_early_though_trained, "ends after layer 19, at byte .* though trained"),
    (with_a_flipped_bit, "contents do not match their digest"),
    (cut_at_the_end_of_the_darknet_part, "the end of the checkpoint is missing"),
    (lambda _: b"<html>", "is a web page"),
    (lambda _: b"", "has 0 bytes"),
    (lambda state: plain(state) + b"\0", "1 bytes follow the last layer"),
]


@pytest.mark.parametrize(("damage", "found"), DAMAGES)
def test_damaged_weights_are_refused_and_the_good_checkpoint_is_named(
    run: Path, tmp_path: Path, damage: Callable[[TrainState], bytes], found: str
) -> None:
    path = tmp_path / "damaged.weights"
    path.write_bytes(damage(start_of(run)))

    text = refused(run, StartFlags(weights=str(path)))

    good = run / "backup" / "net_last.weights"
    assert re.search(f"^{re.escape(str(path))}: .*{found}", text)
    assert text.endswith(f"a good checkpoint is {good}; -resume goes on from it")
    assert "\n" not in text


@pytest.mark.parametrize(("damage", "found"), DAMAGES)
def test_with_resume_damaged_weights_are_said_and_passed_over(
    run: Path, tmp_path: Path, damage: Callable[[TrainState], bytes], found: str
) -> None:
    path = tmp_path / "damaged.weights"
    path.write_bytes(damage(start_of(run)))
    said: list[str] = []

    state = start_of(run, StartFlags(weights=str(path), resume=True), said)

    assert state.iteration == CUT
    assert re.search(found, said[0])
    assert "net_last.weights (iteration 4)" in said[-1]


def test_damaged_weights_where_nothing_else_exists_are_an_error_of_one_line(
    fresh: Path, stopped: Path
) -> None:
    path = fresh / "damaged.weights"
    path.write_bytes(with_a_flipped_bit(start_of(stopped)))

    assert "damaged in the Darknet part" in refused(fresh, StartFlags(weights=str(path)))


def test_missing_weights_are_an_error_where_no_run_has_begun(fresh: Path) -> None:
    flags = StartFlags(weights=str(fresh / "no.weights"))

    assert "no.weights: cannot be read (No such file or directory)" in refused(fresh, flags)


# Damaged files in the backup folder


@pytest.mark.parametrize("damage", ["bit", "cut", "zeros"])
def test_a_damaged_last_is_moved_aside_and_never_replaces_the_good_generation(
    run: Path, finished: Path, damage: str
) -> None:
    backup = run / "backup"
    for name in ("net_4.weights", "net_4.backup"):
        (backup / name).unlink()
    last = backup / "net_last.weights"
    good, before = last.read_bytes(), (backup / "net.backup").read_bytes()
    bad = {"bit": good[:999] + bytes([good[999] ^ 1]) + good[1000:], "cut": good[:-1]}
    last.write_bytes(bad.get(damage, bytes(len(good))))
    damaged = last.read_bytes()
    said: list[str] = []

    state = start_of(run, None, said)

    assert state.iteration == CUT - 1
    assert (backup / "net.aside" / "1" / "net_last.weights").read_bytes() == damaged
    assert not last.exists()
    assert (backup / "net.backup").read_bytes() == before
    assert said[0].startswith(f"{last}: ")
    assert said[1] == f"moved to {backup / 'net.aside' / '1'}: net_last.weights"
    train_until(run)
    assert promised_files(run) == promised_files(finished)


@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_where_no_checkpoint_is_good_nothing_is_touched(run: Path, damage: str) -> None:
    for path in run_files(run / "backup", "net"):
        data = path.read_bytes()
        path.write_bytes(data[:-1] if damage == "cut" else bytes(len(data)))

    text = refused(run)

    assert "no checkpoint of 'net' is intact (" in text
    assert "begin anew after `relume reset DATA CFG`" in text
