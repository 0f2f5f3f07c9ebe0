"""The promise: cut a run anywhere, go on, and every file is byte for byte the same.

Needs nothing but this checkout: python -m pytest tests/contract/test_resume.py
"""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relume.checkpoint import container
from relume.checkpoint.state import History, Progress, RecipeRecord, TrainState
from relume.errors import RelumeError
from tests.contract.small_runs import (
    adam_cfg,
    copied_run,
    promised_files,
    sgd_cfg,
    train_until,
    write_run,
)

ITERATIONS = 12


@pytest.fixture(scope="module", params=["sgd", "adam"])
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 iterations that nobody disturbed."""
    cfg = {"sgd": sgd_cfg, "adam": adam_cfg}[request.param]()
    folder = write_run(tmp_path_factory.mktemp("straight"), cfg)
    train_until(folder, ITERATIONS)
    return folder


@pytest.mark.parametrize("cut", range(1, ITERATIONS))
def test_a_run_cut_after_any_iteration_leaves_the_same_files(
    straight: Path, tmp_path: Path, cut: int
) -> None:
    folder = copied_run(straight, tmp_path / "cut")
    train_until(folder, cut)

    train_until(folder, ITERATIONS)

    assert promised_files(folder) == promised_files(straight)


def test_a_run_resumed_before_every_iteration_leaves_the_same_files(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "cut")

    for iteration in range(1, ITERATIONS + 1):
        train_until(folder, iteration)

    assert promised_files(folder) == promised_files(straight)


def test_the_run_meets_what_it_is_meant_to_test(straight: Path) -> None:
    data = (straight / "backup" / "net_last.weights").read_bytes()
    records = container.unpack(data, "net_last.weights").history.records

    assert len(set(records["rate"].tolist())) >= 4  # burn-in, full rate, two steps
    assert len(set(records["width"].tolist())) == 2  # multi-scale
    assert len(set(records["loss"].tolist())) == ITERATIONS


@pytest.mark.parametrize(
    "operation",
    [
        {"workers": 1, "read_ahead": 1},
        {"workers": 3, "read_ahead": 7},
        {"savelast": 5},
    ],
    ids=str,
)
def test_operation_changes_no_byte(
    straight: Path, tmp_path: Path, operation: dict[str, Any]
) -> None:
    folder = copied_run(straight, tmp_path / "other")
    train_until(folder, 4, **operation)

    train_until(folder, ITERATIONS, **operation)

    files, expected = promised_files(folder), promised_files(straight)
    if "savelast" in operation:  # the generation before is then another one
        del files["net.backup"], expected["net.backup"]
    assert files == expected


def test_a_finished_run_leaves_the_same_files_milestones_included(tmp_path: Path) -> None:
    straight = write_run(tmp_path / "straight", sgd_cfg(max_batches=9))
    data = straight / "obj.data"
    data.write_text(data.read_text() + "saveweights = 4\n")
    cut = copied_run(straight, tmp_path / "cut")
    train_until(straight)
    for iteration in (3, 4, 8, None):
        train_until(cut, iteration)

    files = promised_files(cut)

    assert files == promised_files(straight)
    assert sorted(files) == [
        "net.backup",
        "net.journal.jsonl",
        "net_4.weights",
        "net_8.backup",
        "net_8.weights",
        "net_final.weights",
        "net_last.weights",
    ]
    assert files["net.backup"] == files["net_last.weights"]


def test_a_finished_run_trains_no_more(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sgd_cfg(max_batches=3))
    train_until(folder)
    files = promised_files(folder)

    end = train_until(folder)

    assert end.iteration == 3
    assert promised_files(folder) == files


def test_a_raised_max_batches_leads_where_a_longer_run_leads(tmp_path: Path) -> None:
    neutral = {"yolo": {"jitter": 0.3}}
    straight = write_run(tmp_path / "straight", sgd_cfg(max_batches=8, **neutral))
    raised = copied_run(straight, tmp_path / "raised")
    (raised / "net.cfg").write_text(sgd_cfg(max_batches=5, **neutral))
    train_until(straight)
    train_until(raised)
    (raised / "net.cfg").write_text((straight / "net.cfg").read_text())

    train_until(raised)

    assert promised_files(raised) == promised_files(straight)


# A mutant per field of the state: the resumed run loses it, and the comparison must notice.

Mutate = Callable[[TrainState], TrainState]


def _without_group(name: str) -> Mutate:
    def mutate(state: TrainState) -> TrainState:
        zeros = {key: np.zeros_like(array) for key, array in state.groups[name].items()}
        return replace(state, groups={**state.groups, name: zeros})

    return mutate


def _without_weights(ending: str) -> Mutate:
    def mutate(state: TrainState) -> TrainState:
        weights = {
            name: np.zeros_like(array) if name.endswith(ending) else array
            for name, array in state.weights.items()
        }
        return replace(state, weights=weights)

    return mutate


def _with_progress(**change: object) -> Mutate:
    return lambda state: replace(state, progress=replace(state.progress, **change))  # type: ignore[arg-type]


def _with_history(**change: object) -> Mutate:
    return lambda state: replace(state, history=replace(state.history, **change))  # type: ignore[arg-type]


def _with_recipe(**change: object) -> Mutate:
    return lambda state: replace(state, recipe=replace(state.recipe, **change))  # type: ignore[arg-type]


def _shortened(state: TrainState) -> TrainState:
    return replace(state, history=replace(state.history, records=state.history.records[1:]))


MUTANTS: dict[str, Mutate] = {
    "weights.biases": _without_weights(".biases"),
    "weights.scales": _without_weights(".scales"),
    "weights.rolling_mean": _without_weights(".rolling_mean"),
    "weights.rolling_variance": _without_weights(".rolling_variance"),
    "weights.weights": _without_weights(".weights"),
    "groups.momentum": _without_group("momentum"),
    "groups.pictures": _without_group("pictures"),
    "progress.seen": _with_progress(seen=0),
    "progress.average_loss": _with_progress(average_loss=None),
    "history.start": _with_history(start=1),
    "history.records": _shortened,
    "recipe.keys": _with_recipe(keys={}),
    "recipe.label_digests": _with_recipe(label_digests=np.zeros(7, np.uint64)),
    "course": lambda state: replace(state, course=""),
    "environment": lambda state: replace(state, environment={}),
}

# Left out of the mutants: replaced by today's on every start, so losing them loses nothing.
REPLACED_AT_A_START = {"recipe.cfg_text", "recipe.names"}
# Left out: empty in a run that never left its course, and whose pictures are all good;
# test_course.py and test_skipping.py resume others; test_evaluations.py those with -map.
EMPTY_HERE = {"history.marks", "progress.skipped"}
EMPTY_HERE |= {"history.evaluations", "history.valid_digests"}


def test_every_field_of_the_state_has_a_mutant() -> None:
    parts = {"progress": Progress, "history": History, "recipe": RecipeRecord}
    names = {field.name for field in fields(TrainState)} - parts.keys()
    names |= {f"{part}.{field.name}" for part, kind in parts.items() for field in fields(kind)}
    covered = set(MUTANTS) | {name.partition(".")[0] for name in MUTANTS} - parts.keys()

    assert names <= covered | REPLACED_AT_A_START | EMPTY_HERE


@pytest.fixture(scope="module")
def straight_sgd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("sgd"), sgd_cfg())
    train_until(folder, ITERATIONS)
    return folder


@pytest.mark.parametrize("name", MUTANTS)
def test_losing_any_field_of_the_state_is_noticed(
    straight_sgd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = copied_run(straight_sgd, tmp_path / "mutant")
    train_until(folder, 5)
    whole = container.unpack
    monkeypatch.setattr(container, "unpack", lambda *args: MUTANTS[name](whole(*args)))

    assert not _resumes_to_the_same_files(folder, straight_sgd)


def test_the_mutants_test_passes_with_nothing_lost(straight_sgd: Path, tmp_path: Path) -> None:
    folder = copied_run(straight_sgd, tmp_path / "control")
    train_until(folder, 5)

    assert _resumes_to_the_same_files(folder, straight_sgd)


@pytest.mark.parametrize("name", ["adam_m", "adam_v"])
def test_losing_adams_state_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    straight = write_run(tmp_path / "straight", adam_cfg())
    folder = copied_run(straight, tmp_path / "mutant")
    train_until(straight, 6)
    train_until(folder, 3)
    whole = container.unpack
    monkeypatch.setattr(container, "unpack", lambda *args: _without_group(name)(whole(*args)))

    assert not _resumes_to_the_same_files(folder, straight, 6)


def _resumes_to_the_same_files(folder: Path, straight: Path, iterations: int = ITERATIONS) -> bool:
    try:
        train_until(folder, iterations)
    except (RelumeError, KeyError):
        return False
    return promised_files(folder) == promised_files(straight)
