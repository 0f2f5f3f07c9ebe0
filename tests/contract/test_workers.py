"""Several processes leave the same bytes as one, whatever their number and whatever ends them.

Needs nothing but this checkout: python -m pytest tests/contract/test_workers.py
"""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relume.checkpoint import container
from relume.checkpoint.state import TrainState
from relume.distributed import exchange
from relume.distributed.tree import Gradients, GradientTree
from relume.lists import long_list
from relume.model.network import Network
from relume.train import loop, step
from relume.train.partial import Share
from tests.cfg_texts import small_residual_cfg
from tests.contract.processes import Relume
from tests.contract.small_runs import (
    AUGMENTED,
    MOVING,
    copied_run,
    promised_files,
    sgd_cfg,
    train_until,
    write_run,
)
from tests.contract.starts import change_cfg
from tests.contract.workers import TRAIN, Workers

ITERATIONS = 5
ADAM = {"adam": 1, "B1": 0.9, "B2": 0.999}
RESIDUAL: dict[str, Any] = {"batch": 12, "subdivisions": 6, "yolo": MOVING, **AUGMENTED, **ADAM}
CFGS = {
    "sgd, 8": sgd_cfg(max_batches=ITERATIONS, batch=8, subdivisions=8, mosaic=1),
    "adam, residual, 6": small_residual_cfg(max_batches=ITERATIONS, **RESIDUAL),
}
SIZES = {"sgd, 8": (2, 3), "adam, residual, 6": (4,)}


@pytest.fixture(scope="module", params=CFGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def alone(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nobody disturbed."""
    return finished_run(CFGS[name], tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of the two."""
    return finished_run(CFGS["sgd, 8"], tmp_path_factory.mktemp("straight") / "run")


def finished_run(cfg: str, folder: Path) -> Path:
    write_run(folder, cfg)
    data = folder / "obj.data"
    data.write_text(data.read_text() + "saveweights = 3\nsavelast = 2\n")
    train_until(folder, savelast=2)
    return folder


def last(folder: Path) -> TrainState:
    path = folder / "backup" / "net_last.weights"
    return container.unpack(path.read_bytes(), path)


def _leave_layer_by_layer(rank: int) -> None:
    exchange.GROUP_OF_LAYERS = 100


def test_any_number_of_processes_leaves_the_same_bytes(
    name: str, alone: Path, tmp_path: Path
) -> None:
    for size in SIZES[name]:
        folder = copied_run(alone, tmp_path / str(size))

        workers = Workers(folder, size, before=_leave_layer_by_layer)

        assert workers.ended() == [0] * size, workers.said
        assert promised_files(folder) == promised_files(alone)
        assert f"{size} processes with 1 thread," in workers.said[0]
        assert workers.said[1:] == [""] * (size - 1)


@pytest.mark.long
@pytest.mark.parametrize("gpus", [False, True], ids=["torchrun", "-gpus"])
@pytest.mark.parametrize("size", range(1, 9))
def test_every_number_of_processes_leaves_the_same_bytes(
    name: str, alone: Path, tmp_path: Path, size: int, gpus: bool
) -> None:
    folder = copied_run(alone, tmp_path / "run")
    size = min(size, 8 if name == "sgd, 8" else 6)

    workers = Workers(folder, size, before=_leave_layer_by_layer, gpus=gpus)
    assert workers.ended() == [0] * size, workers.said
    assert promised_files(folder) == promised_files(alone)


def test_more_processes_than_subdivisions_are_an_error_that_says_what_to_set(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "run", sgd_cfg(max_batches=2, batch=8, subdivisions=2))

    workers = Workers(folder, 3)

    assert workers.ended() == [2, 2, 2]
    assert "subdivisions=2, but 3 processes train; a subdivision for each" in workers.said[0]
    assert "set subdivisions=4 (which makes it another run), or start at most" in workers.said[0]
    assert workers.said[1:] == ["", ""]


# The negative control: what would make the bits depend on the number of processes


def _added_as_they_come(rank: int) -> None:
    add = GradientTree.add

    def added(
        tree: GradientTree, sums: Gradients, leaves: int = 1, first: int | None = None
    ) -> None:
        if first is None:  # of this process's own subdivisions
            add(tree, sums, leaves)
        elif tree._waiting:
            torch._foreach_add_(tree._waiting[0][1], sums)
        else:
            tree._waiting[0] = 1, sums

    GradientTree.add = added  # type: ignore[method-assign, assignment]


def test_sums_of_processes_added_as_they_come_give_other_bits(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "run")

    assert Workers(folder, 3, before=_added_as_they_come).ended() == [0] * 3
    assert promised_files(folder).keys() == promised_files(straight).keys()
    assert promised_files(folder) != promised_files(straight)


def test_every_process_measures_and_the_best_is_that_of_one(straight: Path, tmp_path: Path) -> None:
    folder, single = (copied_run(straight, tmp_path / name) for name in ("run", "single"))
    for run in (folder, single):
        change_cfg(run, "burn_in=3", "burn_in=1")  # before which nothing is measured
    words = ("-map", "-mAP_epochs", "1")

    alone, workers = Relume(single, *TRAIN, *words), Workers(folder, 2, *words)

    assert (alone.ended(), workers.ended()) == (0, [0, 0]), workers.said
    assert "mAP" in workers.said[0]
    assert last(folder).history.evaluations
    assert promised_files(folder) == promised_files(single)


# A start


def test_a_run_from_another_machine_is_compared_by_all_together(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    train_until(folder, 4, savelast=2)
    for path in (folder / "backup").glob("net*[0-9st].*"):
        state = container.unpack(path.read_bytes(), path)
        elsewhere = {**state.environment, "processor": "another"}
        path.write_bytes(container.pack(replace(state, environment=elsewhere)))
    older = folder / "backup" / "net.backup"
    older.write_bytes((folder / "backup" / "net_3.weights").read_bytes())

    workers = Workers(folder, 2)

    assert workers.ended() == [0, 0], workers.said
    assert "exact: iterations 4 to 4 gave the same bits here" in workers.said[0]
    assert workers.said[1] == ""
    for name in ("net_final.weights", "net.journal.jsonl"):
        assert promised_files(folder)[name] == promised_files(straight)[name]


def test_processes_with_other_inputs_are_told_apart(straight: Path, tmp_path: Path) -> None:
    folder = copied_run(straight, tmp_path / "run")
    other = copied_run(straight, tmp_path / "other")
    change_cfg(other, "momentum=0.9", "momentum=0.8")

    workers = Workers([folder, other], 2)

    assert workers.ended() == [2, 2]
    assert "process 1 of 2: has read other inputs than process 0 (" in workers.said[0]
    assert "net.momentum: 0.9 and 0.8" in workers.said[0]
    assert workers.said[1] == ""


def test_an_error_of_the_start_is_said_once(straight: Path, tmp_path: Path) -> None:
    folder = copied_run(straight, tmp_path / "run")
    train_until(folder, 1)
    change_cfg(folder, "momentum=0.9", "momentum=0.8")

    workers = Workers(folder, 2)

    assert workers.ended() == [2, 2]
    assert "this run was begun with other settings" in workers.said[0]
    assert workers.said[1] == ""


# A stop


def _asks_for_a_stop(rank: int, who: int, subdivisions: int) -> None:
    """Let one process ask for a stop after so many subdivisions, counted in all iterations."""
    if rank != who:
        return
    done, train_subdivision = [0], step.train_subdivision

    def counted(network: Network, share: Share, mini_batch: object) -> None:
        train_subdivision(network, share, mini_batch)  # type: ignore[arg-type]
        done[0] += 1
        if done[0] == subdivisions:
            os.kill(os.getpid(), signal.SIGTERM)

    loop.train_subdivision = counted  # type: ignore[attr-defined]


def _second_asks_inside(rank: int) -> None:
    _asks_for_a_stop(rank, who=1, subdivisions=3 + 2)  # of [2, 5) and [5, 8) in three processes


def _first_asks_at_the_end(rank: int) -> None:
    _asks_for_a_stop(rank, who=0, subdivisions=4)


@pytest.mark.parametrize(
    ("before", "size", "reached"),
    [(_second_asks_inside, 3, (1, 4)), (_first_asks_at_the_end, 2, (1, 0))],
)
def test_all_stop_at_the_longest_prefix_that_is_done(
    straight: Path, tmp_path: Path, before: object, size: int, reached: tuple[int, int]
) -> None:
    folder, single = (copied_run(straight, tmp_path / name) for name in ("run", "single"))

    workers = Workers(folder, size, before=before)  # type: ignore[arg-type]

    assert workers.ended() == [0] * size, workers.said
    assert last(folder).reached == reached
    train_until(single, reached[0], subdivision=reached[1], savelast=2)
    assert promised_files(folder) == promised_files(single)
    assert "stopped at iteration 1" in workers.said[0]
    assert Workers(folder, 4).ended() == [0] * 4
    assert promised_files(folder) == promised_files(straight)


def test_a_time_that_is_over_ends_all(straight: Path, tmp_path: Path) -> None:
    folder = copied_run(straight, tmp_path / "run")
    change_cfg(folder, f"max_batches={ITERATIONS}", "max_batches=100000")

    workers = Workers(folder, 2, "-max_time", "3")

    assert workers.ended() == [0, 0], workers.said
    assert "the time of -max_time is over" in workers.said[0]
    assert last(folder).iteration > 0


# Trouble


def test_a_picture_that_cannot_be_read_ends_all_where_it_would_end_one(
    straight: Path, tmp_path: Path
) -> None:
    folder, single = (copied_run(straight, tmp_path / name) for name in ("run", "single"))
    for run in (folder, single):
        picture = sorted(run.rglob("*.jpg"))[2]
        picture.write_bytes(b"no picture")
    with pytest.raises(Exception, match="cannot be decoded"):
        train_until(single, savelast=2)

    workers = Workers(folder, 3)

    assert workers.ended() == [2] * 3
    assert promised_files(folder) == promised_files(single)
    assert workers.said[0].count("error: ") == 1
    assert workers.said[1:] == ["", ""]


def test_a_loss_that_is_not_finite_ends_all_and_its_batch_is_kept_once(tmp_path: Path) -> None:
    cfg = sgd_cfg(max_batches=20, batch=8, subdivisions=8, learning_rate=1e30, burn_in=0)
    folder = write_run(tmp_path / "run", cfg)
    single = copied_run(folder, tmp_path / "single")

    alone, workers = Relume(single, *TRAIN), Workers(folder, 3)

    assert (alone.ended(), workers.ended()) == (1, [1, 1, 1]), workers.said
    (kept,) = (folder / "backup" / "net.notfinite").iterdir()
    report = single / "backup" / "net.notfinite" / kept.name / "report.json"
    assert (kept / "report.json").read_bytes() == report.read_bytes()
    assert promised_files(folder) == promised_files(single)
    assert workers.said[1:] == ["", ""]


def _dies(rank: int) -> None:
    if rank == 1:
        update = step.update

        def dying(*arguments: object) -> object:
            if arguments[3] == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return update(*arguments)  # type: ignore[arg-type]

        loop.update = dying  # type: ignore[attr-defined, assignment]


def test_a_process_that_dies_ends_the_others_and_the_run_goes_on_from_what_is_saved(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "run")

    workers = Workers(folder, 3, before=_dies)

    assert workers.ended() == [1, -signal.SIGKILL, 1]
    assert "process 0 of 3: another process of the group has ended" in workers.said[0]
    assert last(folder).reached == (3, 0)
    assert Workers(folder, 2).ended() == [0, 0]
    assert promised_files(folder) == promised_files(straight)


def _has_a_long_list(rank: int) -> None:
    long_list.COMPARED_AT_START = 0


def test_other_labels_of_a_long_list_are_found_when_another_process_uses_them(
    straight: Path, tmp_path: Path
) -> None:
    """They are not compared at the start, since nobody has read all of them then."""
    folder, other = (copied_run(straight, tmp_path / name) for name in ("run", "other"))
    label = sorted((other / "img").glob("*.txt"))[1]
    label.write_text(label.read_text().replace("0.", "0.1", 1))

    workers = Workers([folder, other], 2, before=_has_a_long_list)

    assert workers.ended() == [2, 2], workers.said
    said = "".join(workers.said)
    assert said.count("the labels have changed since this run used them") == 1
    assert str(label.name) in said


def _forgets_a_bit(rank: int) -> None:
    """Flip a bit of this process's memory before the fourth iteration."""
    if rank != 1:
        return
    train_subdivision, done = step.train_subdivision, set[int]()

    def flipping(network: Network, share: Share, mini_batch: object) -> None:
        done.add(mini_batch.positions[0] // 8)  # type: ignore[attr-defined]
        if len(done) == 4 and not share.done:
            array = network.darknet_arrays()["0.weights"].numpy()
            array.reshape(-1).view(np.uint32)[5] ^= 1 << 20
        train_subdivision(network, share, mini_batch)  # type: ignore[arg-type]

    loop.train_subdivision = flipping  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("size", "who"),
    [
        (3, "process 1 of 3 holds another state than the others"),
        (2, "processes 0 and 1 of 2 differ"),
    ],
)
def test_a_flipped_bit_in_one_process_is_found_and_saved_nowhere(
    straight: Path, tmp_path: Path, size: int, who: str
) -> None:
    folder = copied_run(straight, tmp_path / "run")

    workers = Workers(folder, size, before=_forgets_a_bit)

    assert workers.ended() == [1] * size
    # The flipped weight, and the momentum that its decay is a part of.
    assert f"iteration 4: {who}, in momentum/0.weights, weights/0.weights (" in workers.said[0]
    assert "(momentum/0.weights of process 1 and of 0: [" in workers.said[0]
    assert last(folder).reached == (3, 0)
    assert Workers(folder, size).ended() == [0] * size
    assert promised_files(folder) == promised_files(straight)
