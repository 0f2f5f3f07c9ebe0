"""The short form of the kills and the chained resumes: as in `make prove`, smaller numbers.

Needs nothing but this checkout:
python -m pytest tests/long_proofs/test_killed.py
"""

from pathlib import Path

import pytest

from tests.long_proofs import chain, controls, kills
from tests.long_proofs.ledger import Ledger
from tests.long_proofs.piece import Outcome, Piece

SEED = 5


@pytest.mark.parametrize("number", [3, 4])
def test_a_run_killed_ten_times_leaves_the_same_files(tmp_path: Path, number: int) -> None:
    outcome = kills.prove(tmp_path, SEED, number, kills=10)

    assert outcome.failures == ()
    assert outcome.counts["kills"] >= 10
    assert outcome.counts["starts"] >= 10


def test_a_run_stopped_and_resumed_eight_times_leaves_the_same_files(tmp_path: Path) -> None:
    assert chain.prove(tmp_path, SEED, resumes=8) == Outcome({"resumes": 8})


@pytest.mark.parametrize("name", [name for name in controls.SHORT if "momentum" in name])
def test_the_proofs_notice_what_is_taken_away(tmp_path: Path, name: str) -> None:
    assert controls.prove(tmp_path, name) == Outcome({"controls": 1})


def test_a_ledger_goes_on_where_it_was_cut_and_knows_its_source(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    good, bad, other = (Piece("kills", name, kills.prove) for name in ("good", "bad", "other"))
    ledger = Ledger(path, "a")
    ledger.add(good, Outcome({"kills": 3}), 1.0)
    ledger.add(bad, Outcome({}, ("lost",)), 1.0)
    with path.open("a") as file:
        file.write('{"source": "a", "part": "ki')  # killed while writing

    again = Ledger(path, "a")
    again.add(other, Outcome({"kills": 2}), 1.0)
    reread = Ledger(path, "a")

    assert [reread.proven(piece) for piece in (good, bad, other)] == [True, False, True]
    assert sum(entry.counts.get("kills", 0) for entry in reread.of_part("kills")) == 5
    assert not Ledger(path, "b").proven(good)
