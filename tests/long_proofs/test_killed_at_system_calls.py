"""The short form of the kills at system calls: as in `make prove`, smaller numbers.

Needs nothing but this checkout and strace:
python -m pytest tests/long_proofs/test_killed_at_system_calls.py
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.long_proofs import controls, syscalls
from tests.long_proofs.piece import Outcome


def tracing_refused() -> str:
    """Return why no process can be traced here, or nothing."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"ptrace is refused: {tried.stderr.strip()[-200:]}"


NO_TRACING = tracing_refused()
pytestmark = pytest.mark.skipif(bool(NO_TRACING), reason=NO_TRACING)


@pytest.mark.parametrize("name", ["milestone and end", "start after damage"])
def test_a_run_killed_at_system_calls_leaves_the_same_files(tmp_path: Path, name: str) -> None:
    outcome = syscalls.prove(tmp_path, name, part=7, parts=20)

    assert outcome.failures == ()
    assert outcome.counts["kills at system calls"] >= 4


@pytest.mark.parametrize("name", [name for name in controls.SHORT if "system calls" in name])
def test_the_proofs_notice_what_is_taken_away(tmp_path: Path, name: str) -> None:
    assert controls.prove(tmp_path, name) == Outcome({"controls": 1})
