"""The short form of power cuts, refusals and damage: as in `make prove`, smaller numbers.

Needs nothing but this checkout:
python -m pytest tests/long_proofs/test_disk.py
"""

from pathlib import Path

import pytest

from tests.long_proofs import controls, damage, power_cuts, refusals
from tests.long_proofs.piece import Outcome

SEED = 5
IN_MEMORY = ("power cuts", "refusals", "damage")


@pytest.mark.parametrize("course", power_cuts.courses(), ids=lambda course: course.name)
def test_a_run_goes_on_after_any_power_cut(course: power_cuts.Course) -> None:
    outcome = power_cuts.prove(Path(), SEED, course, most=60)

    assert outcome.failures == ()
    assert outcome.counts["states"] > 300


def test_a_run_goes_on_after_a_power_cut_behind_a_refused_operation() -> None:
    courses = power_cuts.failing_courses(None)[::9] + power_cuts.failing_courses(1)[5::9]
    outcomes = [power_cuts.prove(Path(), SEED, course, most=2) for course in courses]

    assert [outcome.failures for outcome in outcomes] == [()] * len(courses)
    assert len(courses) >= 10


@pytest.mark.parametrize("keepstate", [None, 1])
def test_a_disk_that_refuses_an_operation_costs_no_good_checkpoint(keepstate: int | None) -> None:
    outcome = refusals.prove(Path(), keepstate, part=1, parts=3)

    assert outcome.failures == ()
    assert outcome.counts["refusals"] >= 40


@pytest.mark.parametrize("kind", damage.FILES)
def test_flipped_bits_are_detected_and_the_generation_before_is_taken(kind: str) -> None:
    assert damage.prove_flips(Path(), SEED, kind, count=750) == Outcome({"flips": 750})


def test_cut_shifted_swapped_and_longer_files_are_detected() -> None:
    outcome = damage.prove_cuts(Path(), "sgd", step=4)

    assert outcome.failures == ()
    assert min(outcome.counts[name] for name in ("truncations", "shifts", "blocks")) > 100


def test_a_file_of_another_run_is_never_loaded(tmp_path: Path) -> None:
    outcome = damage.prove_foreign(tmp_path)

    assert outcome.failures == ()
    assert outcome.counts["files of another run"] >= 4


@pytest.mark.parametrize("name", [name for name in controls.SHORT if name.startswith(IN_MEMORY)])
def test_the_proofs_notice_what_is_taken_away(tmp_path: Path, name: str) -> None:
    assert controls.prove(tmp_path, name) == Outcome({"controls": 1})
