"""The promise where pictures are mixed or drawn: every byte, and every picture noticed.

Needs nothing but this checkout: python -m pytest tests/contract/test_mixed_pictures.py
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relume.checkpoint import container
from relume.checkpoint.state import PARTIAL, TrainState
from relume.data.batch import load_mini_batch
from relume.data.sample import load_sample
from relume.errors import ImageError, Mismatch, NotFinite, OtherRecipe
from relume.model.network import Network
from relume.train.batches import source_of, unchanged
from relume.train.capture import install
from relume.train.optimizer import build_optimizer
from relume.train.partial import Partial
from tests.contract.small_runs import (
    adam_cfg,
    copied_run,
    promised_files,
    read_run,
    sgd_cfg,
    train_until,
    write_run,
)

ITERATIONS = 5
EFFECTS = {"batch": 6, "subdivisions": 3, "blur": 3, "gaussian_noise": 20}
CFGS = {
    "mixup": sgd_cfg(ITERATIONS, mixup=1, letter_box=1, **EFFECTS),
    "mosaic": adam_cfg(ITERATIONS, mosaic=1, mosaic_bound=1, **EFFECTS),
}


@pytest.fixture(scope="module", params=CFGS)
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed; not to be changed."""
    folder = write_run(tmp_path_factory.mktemp("mixed") / "run", CFGS[request.param])
    train_until(folder)
    return folder


@pytest.fixture
def run(straight: Path, tmp_path: Path) -> Path:
    """The inputs of the run."""
    return copied_run(straight, tmp_path / "run")


def last(folder: Path) -> TrainState:
    path = folder / "backup" / "net_last.weights"
    return container.unpack(path.read_bytes(), path)


def rows_at(folder: Path, positions: range) -> list[tuple[int, ...]]:
    """Return the rows of the pictures that the samples at these positions are made of."""
    source = source_of(read_run(folder))
    return [load_sample(source, position, 64, 64).indices for position in positions]


def test_a_run_cut_in_every_iteration_leaves_the_same_files(straight: Path, run: Path) -> None:
    for iteration in range(ITERATIONS):
        for k in range(3):
            train_until(run, iteration, subdivision=k, workers=k)
    train_until(run)

    assert promised_files(run) == promised_files(straight)


def test_without_mixing_the_same_seed_leaves_other_files(straight: Path, run: Path) -> None:
    cfg = run / "net.cfg"
    cfg.write_text(cfg.read_text().replace("mixup=1", "mixup=0").replace("mosaic=1", "mosaic=0"))

    train_until(run)

    assert promised_files(run) != promised_files(straight)


def test_every_picture_used_is_recorded(run: Path) -> None:
    train_until(run, 0, subdivision=2)
    begun = last(run).groups[PARTIAL]
    train_until(run, 1)

    samples = rows_at(run, range(6))
    used = {row for rows in samples for row in rows}
    assert used > {rows[0] for rows in samples}  # some are there as partners only
    assert begun["rows"].tolist() == [row for rows in samples[:4] for row in rows]
    digests = last(run).groups["pictures"]["digests"]
    assert set(np.flatnonzero(digests).tolist()) == used
    assert begun["digests"].tolist() == digests[begun["rows"]].tolist()


def test_a_partner_that_has_changed_stops_the_run(run: Path) -> None:
    train_until(run, 1)
    samples = rows_at(run, range(6))
    (partner, *_) = {r for rows in samples for r in rows} - {rows[0] for rows in samples}
    path = read_run(run).recipe.images.paths[partner]
    path.write_bytes(path.read_bytes() + b"\0")

    with pytest.raises(ImageError, match="has changed since this run used it") as caught:
        train_until(run)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_picture_that_changes_between_two_uses_in_one_iteration_is_noticed(
    run: Path, resumed: bool
) -> None:
    spec = read_run(run)
    recipe, source = spec.recipe, source_of(spec)
    first, again = next(
        (mini_batch, min(common))
        for position in range(0, 600, 6)
        if (mini_batch := load_mini_batch(source, position, 64, 64))
        and (
            common := {*mini_batch.indices} & {*rows_at(run, range(position + 2, position + 3))[0]}
        )
    )
    path = recipe.images.paths[again]
    begun, pictures = Partial(), np.zeros(len(recipe.labels), np.uint64)
    if resumed:
        begun.rows += first.indices
        begun.digests += first.digests.tolist()

    def batches() -> Iterator[object]:
        if not resumed:
            yield first
        path.write_bytes(path.read_bytes() + b"\0")
        yield load_mini_batch(source, first.positions[0] + 2, 64, 64)

    checked = unchanged(batches(), pictures, begun, spec, pytest.fail)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="has changed since this run used it"):
        list(checked)


def test_a_batch_that_is_kept_names_every_picture(run: Path) -> None:
    train_until(run, 1)
    state = last(run)
    weights = {**state.weights, "4.weights": np.full_like(state.weights["4.weights"], np.nan)}
    path = run / "backup" / "net_last.weights"
    path.write_bytes(container.pack(replace(state, weights=weights)))

    with pytest.raises(NotFinite):
        train_until(run)

    report = json.loads((run / "backup" / "net.notfinite" / "2" / "report.json").read_text())
    entries = [entry for s in report["subdivisions"] for entry in s["pictures"]]
    paths = read_run(run).recipe.images.paths
    assert [[e["path"], *(o["path"] for o in e.get("mixed_with", ()))] for e in entries] == [
        [str(paths[row]) for row in rows] for rows in rows_at(run, range(6, 12))
    ]


@pytest.mark.parametrize(("rows", "digests"), [(3, 3), (17, 17), (5, 6)])
def test_a_state_with_an_impossible_number_of_pictures_does_not_fit(
    run: Path, rows: int, digests: int
) -> None:
    train_until(run, 0, subdivision=2)  # 4 samples
    state = last(run)
    arrays = {
        **state.groups[PARTIAL],
        "rows": np.zeros(rows, np.int64),
        "digests": np.zeros(digests, np.uint64),
    }
    state = replace(state, groups={**state.groups, PARTIAL: arrays})
    spec = read_run(run)
    network = Network(spec.recipe.cfg, 1)
    optimizer = build_optimizer(network.trained_parameters(), spec.recipe.cfg.net)

    with pytest.raises(Mismatch, match="partial/"):
        install(state, network, optimizer, len(spec.recipe.labels))


def test_a_run_that_draws_with_replacement_is_resumed_and_another_way_refused(run: Path) -> None:
    data = run / "obj.data"
    by_epochs = data.read_text()
    data.write_text(by_epochs + "sampling = replacement\n")
    straight = copied_run(run, run.parent / "straight")
    train_until(straight)
    for iteration, k in ((0, 2), (1, 0), (3, 1)):
        train_until(run, iteration, subdivision=k)

    data.write_text(by_epochs)
    with pytest.raises(OtherRecipe, match="sampling: replacement -> absent"):
        train_until(run)
    data.write_text(by_epochs + "sampling = replacement\n")
    train_until(run)

    assert promised_files(run) == promised_files(straight)
