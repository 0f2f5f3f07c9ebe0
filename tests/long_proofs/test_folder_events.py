"""The short form of the folder events: as in `make prove`, smaller numbers.

Needs nothing but this checkout: python -m pytest tests/long_proofs/test_folder_events.py
"""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.contract.processes import CONTEXT
from tests.long_proofs import controls, folder_events
from tests.long_proofs.piece import Outcome

SEED = 5


def test_whatever_happens_to_its_folder_a_run_has_one_writer_and_loses_nothing() -> None:
    """In a process without threads, from which others are forked."""
    with ProcessPoolExecutor(1, CONTEXT) as pool:
        outcome = pool.submit(folder_events.prove, Path(), SEED, 0, 50).result()

    assert outcome.failures == ()
    assert outcome.counts["sequences"] == 50
    assert min(outcome.counts[name] for name in ("kill", "durable", "refused")) > 15


@pytest.mark.parametrize("name", [name for name in controls.SHORT if "folder events" in name])
def test_the_proof_notices_what_is_taken_away(tmp_path: Path, name: str) -> None:
    with ProcessPoolExecutor(1, CONTEXT) as pool:
        assert pool.submit(controls.prove, tmp_path, name).result() == Outcome({"controls": 1})
