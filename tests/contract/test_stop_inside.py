"""The promise inside an iteration: cut after any subdivision, go on, and every byte is the same.

Needs nothing but this checkout: python -m pytest tests/contract/test_stop_inside.py
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relume.checkpoint import container
from relume.checkpoint.state import PARTIAL, Array, TrainState
from relume.errors import ImageError, Mismatch, RelumeError
from relume.model.network import Network
from relume.train.capture import install
from relume.train.loop import Stop, begin, iterations
from relume.train.optimizer import build_optimizer
from relume.train.start import StartFlags
from tests.contract.small_runs import (
    CPU,
    adam_cfg,
    copied_run,
    promised_files,
    read_run,
    sgd_cfg,
    start_of,
    train_until,
    write_run,
)
from tests.contract.starts import change_cfg

ITERATIONS = 12
CFGS = {
    "sgd, 4": sgd_cfg(batch=8, subdivisions=4),
    "adam, 5": adam_cfg(batch=5, subdivisions=5),
}


@pytest.fixture(scope="module", params=CFGS)
def snapshots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run as it was after every iteration: 0, 1, ..., 12."""
    folder = tmp_path_factory.mktemp("snapshots")
    write_run(folder / "0", CFGS[request.param])
    for iteration in range(1, ITERATIONS + 1):
        shutil.copytree(folder / str(iteration - 1), folder / str(iteration))
        train_until(folder / str(iteration), iteration)
    return folder


def snapshot(snapshots: Path, iteration: int, target: Path) -> Path:
    return Path(shutil.copytree(snapshots / str(iteration), target))


def state_and_journal(folder: Path) -> tuple[bytes, bytes]:
    files = promised_files(folder)
    return files["net_last.weights"], files["net.journal.jsonl"]


def subdivisions_of(folder: Path) -> int:
    return read_run(folder).recipe.cfg.net.subdivisions


@pytest.mark.parametrize("iteration", range(ITERATIONS))
def test_a_run_cut_after_any_subdivision_goes_on_to_the_same_bytes(
    snapshots: Path, tmp_path: Path, iteration: int
) -> None:
    for k in range(1, subdivisions_of(snapshots / "0")):
        folder = snapshot(snapshots, iteration, tmp_path / str(k))

        cut = train_until(folder, iteration, subdivision=k)
        assert cut.reached == (iteration, k)
        train_until(folder, iteration + 1)

        assert state_and_journal(folder) == state_and_journal(snapshots / str(iteration + 1))


def test_a_run_resumed_before_every_subdivision_leaves_the_same_bytes(
    snapshots: Path, tmp_path: Path
) -> None:
    folder = copied_run(snapshots / "0", tmp_path / "cut")

    for iteration in range(ITERATIONS):
        for k in range(subdivisions_of(folder)):
            train_until(folder, iteration, subdivision=k)
    train_until(folder, ITERATIONS)

    assert state_and_journal(folder) == state_and_journal(snapshots / str(ITERATIONS))


def test_a_run_meets_a_change_of_size(snapshots: Path) -> None:
    data = (snapshots / str(ITERATIONS) / "backup" / "net_last.weights").read_bytes()

    assert len(set(container.unpack(data, "x").history.records["width"].tolist())) == 2


@pytest.mark.parametrize(
    "options",
    [{"batch": 8, "subdivisions": 4}, {"batch": 7, "subdivisions": 7, "batch_normalize": 0}],
    ids=str,
)
def test_a_finished_run_cut_inside_iterations_leaves_the_same_files(
    tmp_path: Path, options: dict[str, int]
) -> None:
    straight = write_run(tmp_path / "straight", sgd_cfg(max_batches=6, **options))
    data = straight / "obj.data"
    data.write_text(data.read_text() + "saveweights = 2\n")
    cut = copied_run(straight, tmp_path / "cut")
    train_until(straight)
    for iteration, k in ((0, 3), (2, 1), (2, 2), (3, 3), (5, 1)):
        train_until(cut, iteration, subdivision=k, workers=k % 3)

    train_until(cut)

    assert promised_files(cut) == promised_files(straight)


def test_a_stop_before_the_first_subdivision_leaves_the_state_as_it_is(
    begun: Path, tmp_path: Path
) -> None:
    before = promised_files(begun)

    train_until(begun, 4, subdivision=2)

    assert promised_files(begun) == before


def test_a_run_ends_by_itself_when_its_time_is_over(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", CFGS["sgd, 4"])
    ticks = iter(range(1000))
    spec = read_run(folder, workers=0)
    start = start_of(folder)

    # Asked before the first subdivision and each of its 2 pictures, and so on: 3 times for one.
    stop = Stop(ends_at_s=3 * 6, clock=lambda: next(ticks))
    states = [state for state, _ in iterations(spec, begin(spec, start, CPU), stop)]

    assert [state.reached for state in states] == [(1, 0), (1, 2)]


# What the state of an iteration that has begun consists of


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 6 iterations."""
    folder = write_run(tmp_path_factory.mktemp("straight"), CFGS["sgd, 4"])
    train_until(folder, 6)
    return folder


@pytest.fixture(scope="module")
def stopped(straight: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after 3 of 4 subdivisions of its first iteration; not to change."""
    folder = copied_run(straight, tmp_path_factory.mktemp("stopped") / "run")
    train_until(folder, 0, subdivision=3)
    return folder


@pytest.fixture
def begun(straight: Path, tmp_path: Path) -> Path:
    """A run of one's own, stopped after 2 of 4 subdivisions of its fifth iteration."""
    folder = copied_run(straight, tmp_path / "begun")
    train_until(folder, 4, subdivision=2)
    return folder


def last(folder: Path) -> TrainState:
    path = folder / "backup" / "net_last.weights"
    return container.unpack(path.read_bytes(), path)


def test_the_state_inside_an_iteration_is_as_documented(begun: Path, stopped: Path) -> None:
    state = last(begun)
    partial = state.groups[PARTIAL]
    parameters = state.groups["momentum"]
    norms = [n.removesuffix(".rolling_mean") for n in state.weights if n.endswith("rolling_mean")]
    statistics = {
        f"statistics/{j}/{layer}.{kind}"
        for j in range(2)
        for layer in norms
        for kind in ("mean", "variance")
    }

    assert partial.keys() == {
        *("subdivisions", "losses", "rows", "digests"),
        *statistics,
        *(f"gradient/0-2/{name}" for name in parameters),
    }
    assert state.reached == (4, 2)
    assert state.progress.seen == 4 * 8 + 2 * 2
    assert state.history.iteration == 4
    kinds = {name: (array.dtype.str, array.shape) for name, array in partial.items()}
    assert (kinds["subdivisions"], kinds["losses"]) == (("<u4", (1,)), ("<f4", (3,)))
    assert (kinds["rows"], kinds["digests"]) == (("<i8", (4,)), ("<u8", (4,)))
    names = {name.rpartition("/")[0] for name in last(stopped).groups[PARTIAL]}
    assert {name for name in names if name.startswith("gradient")} == {
        *("gradient/0-2", "gradient/2-1"),
    }


Mutate = Callable[[Array], Array]
MUTANTS: dict[str, Mutate] = {
    "subdivisions": np.zeros_like,
    "losses": np.zeros_like,
    "rows": lambda a: a[::-1].copy(),
    "digests": np.zeros_like,
    "statistics/0": np.zeros_like,
    "statistics/1": np.zeros_like,
    "statistics/2": np.zeros_like,
    "gradient/0-2": np.zeros_like,
    "gradient/2-1": np.zeros_like,
}


def _with_partial(state: TrainState, change: Callable[[str, Array], Array]) -> TrainState:
    arrays = {name: change(name, array) for name, array in state.groups[PARTIAL].items()}
    return replace(state, groups={**state.groups, PARTIAL: arrays})


@pytest.mark.parametrize("part", [*MUTANTS, "all of it", "nothing"])
def test_losing_any_part_of_the_partial_sums_is_noticed(
    straight: Path, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "mutant"))
    whole = container.unpack

    def mutant(*args: object) -> TrainState:
        state = whole(*args)  # type: ignore[arg-type]
        if state.subdivision == 0 or part == "nothing":
            return state
        if part == "all of it":
            groups = {name: arrays for name, arrays in state.groups.items() if name != PARTIAL}
            return replace(state, groups=groups)
        return _with_partial(
            state, lambda name, array: MUTANTS[part](array) if name.startswith(part) else array
        )

    monkeypatch.setattr(container, "unpack", mutant)

    try:
        train_until(folder, 6)
        same = promised_files(folder) == promised_files(straight)
    except RelumeError:
        same = False

    assert same == (part == "nothing")


@pytest.mark.parametrize("which", ["one missing", "one more", "shape", "type", "too many done"])
def test_partial_sums_that_do_not_fit_touch_nothing(begun: Path, which: str) -> None:
    spec = read_run(begun)
    network = Network(spec.recipe.cfg, 1)
    optimizer = build_optimizer(network.trained_parameters(), spec.recipe.cfg.net)
    before = {name: tensor.clone() for name, tensor in network.darknet_arrays().items()}
    state = last(begun)
    arrays = dict(state.groups[PARTIAL])
    name = "gradient/0-2/0.weights"
    match which:
        case "one missing":
            del arrays[name]
        case "one more":
            arrays["gradient/2-1/0.weights"] = arrays[name]
        case "shape":
            arrays[name] = arrays[name].reshape(-1)
        case "type":
            arrays[name] = arrays[name].astype(np.float64)
        case "too many done":
            arrays["subdivisions"] = np.array([4], np.uint32)
    state = replace(state, groups={**state.groups, PARTIAL: arrays})

    with pytest.raises(Mismatch, match="partial/"):
        install(state, network, optimizer, len(spec.recipe.labels))

    after = network.darknet_arrays()
    assert all(np.array_equal(before[name].numpy(), after[name].numpy()) for name in before)


# Changes of the recipe while an iteration has begun


def test_an_allowed_change_goes_back_to_the_beginning_of_the_iteration(
    straight: Path, begun: Path, tmp_path: Path
) -> None:
    between = copied_run(straight, tmp_path / "between")
    train_until(between, 4)
    said: list[str] = []
    for folder in (begun, between):
        change_cfg(folder, "momentum=0.9", "momentum=0.8")
        state = start_of(folder, StartFlags(allow_change=True), said)
        assert (state.reached, state.progress.seen) == ((4, 0), 4 * 8)
        assert PARTIAL not in state.groups

    for folder in (begun, between):
        train_until(folder, 6, StartFlags(allow_change=True))

    assert state_and_journal(begun) == state_and_journal(between)
    assert (begun / "backup" / "net.aside" / "1" / "net_last.weights").exists()


@pytest.mark.parametrize("iteration", [0, 4])
def test_an_allowed_change_loses_nothing_if_it_is_killed_before_its_first_save(
    straight: Path, tmp_path: Path, iteration: int
) -> None:
    folder = copied_run(straight, tmp_path / "begun")
    train_until(folder, iteration, subdivision=2)
    old = last(folder)
    change_cfg(folder, "momentum=0.9", "momentum=0.8")
    state = start_of(folder, StartFlags(allow_change=True))

    again = start_of(folder)

    assert container.pack(again) == container.pack(state)
    assert state.reached == (iteration, 0)
    aside = folder / "backup" / "net.aside" / "1" / "net_last.weights"
    assert aside.read_bytes() == container.pack(old)


def test_a_change_of_batch_drops_what_the_old_batch_has_begun(begun: Path) -> None:
    change_cfg(begun, "batch=8", "batch=4")

    state = start_of(begun, StartFlags(allow_change=True))

    assert (state.reached, state.progress.seen) == ((4, 0), 4 * 4)


def test_a_change_without_consequence_so_far_goes_on_inside_the_iteration(begun: Path) -> None:
    change_cfg(begun, "steps=7,10", "steps=9,10")

    state = start_of(begun)

    assert state.reached == (4, 2)


def test_another_size_from_here_on_begins_the_iteration_again(tmp_path: Path) -> None:
    """A changed multi-scale is harmless to iterations 1 to 10, but not to what 11 has begun."""
    other = write_run(tmp_path / "other", sgd_cfg(105, batch=8, subdivisions=4))
    folder = copied_run(other, tmp_path / "begun")
    train_until(folder, 10, subdivision=1)
    for run in (folder, other):
        change_cfg(run, "max_batches=105", "max_batches=200")

    state = start_of(folder)
    train_until(folder, 12)
    train_until(other, 12)

    assert state.reached == (10, 0)
    assert state.history.marks == ()
    assert state_and_journal(folder) == state_and_journal(other)


def test_a_picture_that_changed_since_the_iteration_began_is_noticed(
    stopped: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "changed"))
    state = last(folder)
    row = int(state.groups[PARTIAL]["rows"][0])
    assert not state.groups["pictures"]["digests"].any()
    path = read_run(folder).recipe.images.paths[row]
    path.write_bytes(path.read_bytes() + b"\0")
    allowed = Path(shutil.copytree(folder, tmp_path / "allowed"))

    with pytest.raises(ImageError, match="has changed since this run used it"):
        train_until(folder, 6)
    state = start_of(allowed, StartFlags(allow_change=True))

    assert state.reached == (0, 0)
    assert [mark.text.split(":")[0] for mark in state.history.marks] == [f"picture {row + 1}"]
