"""The copies that a proof trains on mean what the user's files mean, but for the named lines."""

from dataclasses import replace
from pathlib import Path

import pytest

from relume.formats.cfg import parse_cfg, recipe_keys
from relume.formats.data_files import label_path, read_data_file
from relume.formats.weights import layout
from relume.proof.inputs import (
    ProofPlan,
    in_folder,
    needed_bytes,
    schedule_changes,
    shortened,
    write_data_file,
    write_inputs,
)
from relume.spec import Flags, read_spec
from tests.contract.small_runs import sgd_cfg, write_run


def plan_of(folder: Path, data: str = "obj.data", start: int = 0, end: int = 12) -> ProofPlan:
    """Return the plan of a proof of the run in the current folder."""
    spec = read_spec(data, "net.cfg", Flags(), pytest.fail)
    return ProofPlan(spec, read_data_file(data), start, end, kills=2, folder=folder / "net.prove")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inputs of a run of 200 iterations, the current folder."""
    write_run(tmp_path, sgd_cfg(max_batches=200))
    (tmp_path / "net.prove").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            b"[net]\nbatch=2\nmax_batches = 500\n[yolo]\n",
            b"[net]\nbatch=2\nmax_batches=9\n[yolo]\n",
        ),
        (b"# a\r\n[net]\r\nmax_batches=1\r\n", b"# a\r\n[net]\r\nmax_batches=9\r\n"),
        (b"\xef\xbb\xbf[network]\nbatch=2\n", b"\xef\xbb\xbf[network]\nmax_batches=9\nbatch=2\n"),
        (b"[net]\r\nbatch=2", b"[net]\r\nmax_batches=9\r\nbatch=2"),
        (b"[net]", b"[net]\nmax_batches=9"),
        (b"[net]\nmax_batches=1\nmax_batches=2\n", b"[net]\nmax_batches=9\nmax_batches=2\n"),
        (b"[net]\n#max_batches=1\nw=\xff\n", b"[net]\nmax_batches=9\n#max_batches=1\nw=\xff\n"),
    ],
)
def test_only_max_batches_changes_in_the_cfg(text: bytes, expected: bytes) -> None:
    assert shortened(text, 9) == expected


def test_the_copy_of_the_cfg_means_the_same_but_for_max_batches(folder: Path) -> None:
    plan = plan_of(folder)
    write_inputs(plan)
    copy = parse_cfg(plan.cfg.read_text(), "copy", "train")
    keys, own = recipe_keys(copy), recipe_keys(plan.spec.recipe.cfg)

    assert copy.net.max_batches == 12
    assert {key for key in own if own[key] != keys[key]} == {"net.max_batches", "net.sgdr_cycle"}


@pytest.mark.parametrize("below", [False, True])
def test_every_path_leads_where_the_users_leads(
    folder: Path, below: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = "obj.data"
    if below:  # the lists' paths are then found beside the data file
        (folder / "net.cfg").rename(folder.parent / "net.cfg")
        monkeypatch.chdir(folder.parent)
        data = f"{folder.name}/obj.data"
    plan = plan_of(folder, data)
    write_inputs(plan)
    write_data_file(plan, "straight", "auto")
    spec = read_spec(str(plan.data("straight")), str(plan.cfg), Flags(), pytest.fail)
    paths = [plan.spec.recipe.images.paths, spec.recipe.images.paths]

    assert paths[0] == paths[1]
    assert [label_path(path) for path in paths[0]] == [label_path(path) for path in paths[1]]
    own, copied = plan.spec.recipe.keys(), spec.recipe.keys()
    assert {key for key in own if own[key] != copied[key]} <= {"net.max_batches", "net.sgdr_cycle"}
    assert spec.recipe.names == plan.spec.recipe.names
    assert spec.operation.backup == folder / "net.prove" / "straight"
    assert spec.operation.name == "net"


@pytest.mark.parametrize(
    ("own", "starts"),
    [
        (None, ("auto", "2")),
        (1, ("1",)),
        (4, ("4",)),
        (5, ("2",)),  # a start has four iterations on average, and would never save
        (1000, ("2",)),
    ],
)
def test_savelast_is_the_users_where_a_start_can_reach_it(
    folder: Path, own: int | None, starts: tuple[str, ...]
) -> None:
    plan = plan_of(folder)
    operation = replace(plan.spec.operation, savelast=own)

    plan = replace(plan, spec=replace(plan.spec, operation=operation))
    assert plan.savelast_of_starts == starts


def test_a_milestone_falls_into_the_run(folder: Path) -> None:
    plan = plan_of(folder)
    assert (plan.spec.operation.saveweights, plan.saveweights) == (1000, 6)
    operation = replace(plan.spec.operation, saveweights=5)
    assert replace(plan, spec=replace(plan.spec, operation=operation)).saveweights == 5


def test_what_the_shorter_cfg_changes_is_counted_not_listed(folder: Path) -> None:
    plan = plan_of(folder, end=12)  # random=1: the first ten and the last hundred are the largest
    assert schedule_changes(plan) == "2 have another input size"
    Path("net.cfg").write_text(sgd_cfg(max_batches=200, yolo={}, policy="poly", burn_in=4))
    assert schedule_changes(plan_of(folder, end=12)) == "9 have another rate"
    Path("net.cfg").write_text(sgd_cfg(max_batches=200, yolo={}))
    assert schedule_changes(plan_of(folder, end=12)) == ""


def test_the_space_of_two_runs_is_estimated(folder: Path) -> None:
    plan = plan_of(folder)
    weights = sum(array.size_bytes for array in layout(plan.spec.recipe.cfg))

    # Three generations, milestones at 6 and 12, two copies of them while one is replaced.
    assert needed_bytes(plan) == 2 * (7 * 2 * weights + weights)


def test_a_run_can_be_put_into_another_folder(folder: Path) -> None:
    spec = plan_of(folder).spec
    assert in_folder(spec, Path("x")).operation == replace(spec.operation, backup=Path("x"))


def test_the_copies_measure_on_the_pictures_of_the_users_lists(folder: Path) -> None:
    (folder / "sets").mkdir()
    (folder / "valid.txt").rename(folder / "sets" / "valid.txt")
    data = folder / "obj.data"
    data.write_text(data.read_text().replace("valid.txt", "sets/valid.txt"))
    spec = read_spec("obj.data", "net.cfg", Flags(map=True), pytest.fail)
    plan = replace(plan_of(folder), spec=spec)
    write_inputs(plan)
    write_data_file(plan, "straight", "auto")

    copy = read_spec(str(plan.data("straight")), str(plan.cfg), Flags(map=True), pytest.fail)

    users, ours = (one.recipe.evaluations for one in (spec, copy))
    assert users is not None
    assert ours is not None
    assert [p.path.resolve() for p in ours.valid.pictures] == [
        p.path.resolve() for p in users.valid.pictures
    ]
    assert ours.valid.label_digest() == users.valid.label_digest()
