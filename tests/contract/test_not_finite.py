"""Numbers that go wrong: stopped before the update, explained, kept, and a way to go on from there.

Needs nothing but this checkout: python -m pytest tests/contract/test_not_finite.py
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from relume.checkpoint import container
from relume.checkpoint.state import Array
from relume.data.order import index_at
from relume.data.sample import load_sample
from relume.errors import NotFinite
from relume.formats.data_files import read_labels
from relume.schedule import input_size
from relume.train.batches import source_of
from relume.train.diagnosis import Cause, diagnose
from relume.train.start import StartFlags
from tests.command_line import relume
from tests.contract.small_runs import (
    CPU,
    copied_run,
    promised_files,
    read_run,
    sgd_cfg,
    start_of,
    train_until,
    write_run,
)
from tests.contract.starts import change_cfg, contents

ITERATION = 2
TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", 1)
WHITE = 3
"""The row of the one bright picture."""
CFG = sgd_cfg(max_batches=6, batch=8, subdivisions=4, dropout=0, yolo={"jitter": 0.2})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of black pictures, but for one white one, after ITERATION iterations."""
    folder = write_run(tmp_path_factory.mktemp("trained"), CFG)
    for row, path in enumerate(read_run(folder).recipe.images.paths):
        pixels = np.full((72, 72, 3), 255 if row == WHITE else 0, np.uint8)
        assert cv2.imwrite(str(path), pixels)
    train_until(folder, ITERATION)
    return folder


Change = Callable[[str, Array], Array]


def set_to(name: str, value: float) -> Change:
    return lambda n, array: np.full_like(array, value) if n == name else array


@pytest.fixture
def damaged(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of the run whose weights were changed."""

    def copy(*changes: Change) -> Path:
        folder = copied_run(trained, tmp_path / "run")
        state = start_of(trained)
        weights = dict(state.weights)
        for change in changes:
            weights = {name: change(name, array) for name, array in weights.items()}
        (folder / "backup").mkdir()
        path = folder / "backup" / "net_last.weights"
        path.write_bytes(container.pack(replace(state, weights=weights)))
        return folder

    return copy


def failed(folder: Path) -> str:
    """Train; return the error, after which the run is as it was before that iteration."""
    before = start_of(folder)
    with pytest.raises(NotFinite) as caught:
        train_until(folder)
    assert container.pack(start_of(folder)) == container.pack(before)
    return str(caught.value)


def report_of(folder: Path) -> dict[str, Any]:
    path = folder / "backup" / "net.notfinite" / str(ITERATION + 1) / "report.json"
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def bright_ones() -> list[tuple[int, int]]:
    """Return (subdivision, row in it) of the white picture in the batch."""
    first = ITERATION * 8
    numbers = [n for n in range(8) if index_at(0, first + n, 7) == WHITE]
    return [divmod(number, 2) for number in numbers]


def cause_in(folder: Path) -> Cause | None:
    return diagnose(read_run(folder), start_of(folder), CPU).cause


def test_nan_in_the_weights_is_named_and_no_picture_blamed(damaged: Callable[..., Path]) -> None:
    folder = damaged(set_to("4.weights", np.nan))

    text = failed(folder)

    assert cause_in(folder) == Cause(4, "the weights", subdivision=0)
    place = f"({folder}/net.cfg:{read_run(folder).recipe.cfg.layers[4].line})"
    assert f"first: the weights of layer 4 ([convolutional], {place[1:]}, whatever the" in text
    assert text.startswith(f"iteration {ITERATION + 1}: the loss is nan (box nan, ")
    assert text.endswith(
        "lower learning_rate or lengthen burn_in and begin anew after `relume reset DATA CFG`"
    )


def test_a_picture_that_alone_overflows_the_first_sums_is_named(
    damaged: Callable[..., Path],
) -> None:
    folder = damaged(set_to("0.weights", 3e37))  # 27 ones make more than float32 holds
    (number, row), *_ = bright_ones()

    text = failed(folder)

    assert cause_in(folder) == Cause(0, "the output before batch norm", number, (row,))
    path = read_run(folder).recipe.images.paths[WHITE]
    assert f"for {folder}/train.txt:{WHITE + 1} {path}; the batch is in " in text
    assert report_of(folder)["first"]["subdivision"] == number + 1  # counted as messages do
    assert text.endswith("to go on without, take them off the list and add -allow-change")


def test_a_picture_that_alone_overflows_a_variance_is_named(
    damaged: Callable[..., Path],
) -> None:
    folder = damaged(set_to("0.weights", 1e25))
    (number, row), *_ = bright_ones()

    assert cause_in(folder) == Cause(0, "the statistics of batch norm", number, (row,))
    assert "the statistics of batch norm of layer 0" in failed(folder)


def test_a_gradient_that_overflows_stops_a_run_whose_loss_is_finite(
    damaged: Callable[..., Path],
) -> None:
    # The last convolution makes much of the little that reaches it; back goes only the much.
    folder = damaged(set_to("11.scales", 0), set_to("11.biases", 1e-39), set_to("12.weights", 3e38))

    text = failed(folder)

    assert re.match(
        rf"iteration {ITERATION + 1}: the gradient is not finite \(the loss is \d", text
    )
    cause = cause_in(folder)
    assert cause is not None
    assert "gradient" in cause.what
    assert cause.layer == 11
    report = report_of(folder)
    losses = [part for s in report["subdivisions"] for head in s["heads"] for part in head.values()]
    assert all(isinstance(part, float | int) for part in losses)


def test_statistics_that_overflow_alone_stop_the_run_too(damaged: Callable[..., Path]) -> None:
    """An infinite variance makes the output zero: the loss stays finite, the running one not."""
    folder = damaged(set_to("0.weights", 1e25))

    assert "the statistics of batch norm are not finite (the loss is " in failed(folder)


def test_the_batch_is_kept_as_it_was_trained_on(damaged: Callable[..., Path]) -> None:
    folder = damaged(set_to("4.weights", np.nan))
    failed(folder)
    spec = read_run(folder)
    source = source_of(spec)
    size = input_size(spec.recipe.cfg, 0, ITERATION + 1)
    kept = folder / "backup" / "net.notfinite" / str(ITERATION + 1)

    assert len(list(kept.glob("*.png"))) == len(list(kept.glob("*.txt"))) == 8
    for number in range(8):
        sample = load_sample(source, ITERATION * 8 + number, *size)
        picture = cv2.imread(str(kept / f"{number:03}.png"))
        boxes = read_labels(kept / f"{number:03}.txt", 3).boxes
        assert picture is not None
        assert np.array_equal(picture[:, :, ::-1], sample.image)
        assert np.array_equal(boxes, sample.truths)
    report = report_of(folder)
    entries = [entry for s in report["subdivisions"] for entry in s["pictures"]]
    assert [entry["position"] for entry in entries] == list(range(16, 24))
    assert report["first"]["pictures"] == []
    assert [h["layer"] for h in report["subdivisions"][0]["heads"]] == [13, 20]


def test_the_same_command_again_meets_the_same_numbers(damaged: Callable[..., Path]) -> None:
    folder = damaged(set_to("0.weights", 3e37))
    first = failed(folder)
    before = contents(folder / "backup")

    assert failed(folder) == first
    after = contents(folder / "backup")
    assert after == before


def test_partial_sums_of_such_an_iteration_are_not_reused(damaged: Callable[..., Path]) -> None:
    folder = damaged(set_to("4.weights", np.nan))
    train_until(folder, ITERATION, subdivision=3)
    with pytest.raises(NotFinite):
        train_until(folder)
    state = container.unpack((folder / "backup" / "net_last.weights").read_bytes(), "x")
    assert state.reached == (ITERATION, 0)

    change_cfg(folder, "momentum=0.9", "momentum=0.8")
    state = start_of(folder, StartFlags(allow_change=True))

    assert (state.reached, state.progress.seen) == ((ITERATION, 0), ITERATION * 8)


def test_a_run_goes_on_without_the_picture(
    damaged: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = damaged(set_to("0.weights", 3e37))
    monkeypatch.chdir(folder)
    ended = relume(*TRAIN)
    lines = Path("train.txt").read_text().splitlines()

    assert ended.status == 1
    assert (
        f"for train.txt:{WHITE + 1} {lines[WHITE]}; the batch is in backup/net.notfinite/3; "
        in ended.error
    )
    del lines[WHITE]
    Path("train.txt").write_text("\n".join(lines))
    change_cfg(folder, "learning_rate=0.001", "learning_rate=0.0001")
    assert relume(*TRAIN).status == 2
    assert relume(*TRAIN, "-allow-change").status == 0


def test_a_rate_that_was_too_high_is_lowered_after_a_rewind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate of iteration 5 breaks the weights, and 6 finds out: 4 is the place to go back to."""
    folder = write_run(
        tmp_path / "run",
        CFG.replace("steps=7,10", "steps=5,6").replace("scales=.5,.1", "scales=1e30,1"),
    )
    (folder / "obj.data").write_text((folder / "obj.data").read_text() + "saveweights = 2\n")
    monkeypatch.chdir(folder)
    ended = relume(*TRAIN)
    assert ended.status == 1
    assert ended.error.startswith("iteration 6: the ")
    newest = "`relume rewind backup/net_4.weights`, lower learning_rate or lengthen burn_in"
    assert ended.error.endswith(f"; {newest} and give the command with -allow-change")

    assert relume("rewind", "backup/net_4.weights").status == 0
    change_cfg(folder, "scales=1e30,1", "scales=.5,1")
    ended = relume(*TRAIN, "-allow-change")

    assert ended.status == 0
    straight = copied_run(folder, tmp_path / "straight")
    monkeypatch.chdir(straight)
    train_until(straight)
    ours, theirs = (promised_files(run)["net_final.weights"] for run in (folder, straight))
    assert ours == theirs


def test_a_milestone_that_keepstate_made_plain_is_no_place_to_go_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(
        tmp_path / "run",
        CFG.replace("steps=7,10", "steps=5,6").replace("scales=.5,.1", "scales=1e30,1"),
    )
    data = folder / "obj.data"
    data.write_text(data.read_text() + "saveweights = 1\nkeepstate = 1\n")
    monkeypatch.chdir(folder)

    ended = relume(*TRAIN)

    assert ended.status == 1
    assert ended.error.endswith(" and begin anew after `relume reset DATA CFG`")


def test_a_batch_that_cannot_be_saved_is_said_beside_what_was_found(
    damaged: Callable[..., Path],
) -> None:
    folder = damaged(set_to("0.weights", np.nan))
    (folder / "backup" / "net.notfinite").write_bytes(b"in the way")

    text = failed(folder)

    assert "; first: the weights of layer 0 " in text
    assert f"; the batch could not be saved ({folder}/backup/net.notfinite" in text


def test_too_little_memory_to_look_again_hides_nothing(
    damaged: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*args: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    folder = damaged(set_to("0.weights", np.nan))
    monkeypatch.setattr("relume.train.evidence.diagnose", no_memory)

    assert "; it could not be computed again (no memory); lower learning_rate" in failed(folder)


def test_a_number_that_went_wrong_once_is_told_from_one_that_always_does(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that flipped in memory: computed again, nothing is wrong."""
    folder = copied_run(trained, tmp_path / "run")
    monkeypatch.setattr("relume.train.step.are_finite", lambda tensors: False)

    with pytest.raises(NotFinite) as caught:
        train_until(folder)

    assert "first: nothing, computed again all numbers are finite; the batch is in" in str(
        caught.value
    )
    assert str(caught.value).endswith("if this comes back, test the machine's memory")
