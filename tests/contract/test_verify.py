"""The file that `relume verify` names is the one that a start takes."""

from pathlib import Path

import pytest

from relume.commands.verify import check_run
from tests.commands.test_verify import flipped
from tests.contract.small_runs import start_of


@pytest.mark.parametrize("damaged", [(), ("net_last.weights",), ("net_last.weights", "net.backup")])
def test_the_file_named_is_the_one_that_a_start_takes(run: Path, damaged: tuple[str, ...]) -> None:
    backup = run / "backup"
    for name in damaged:
        (backup / name).write_bytes(flipped((backup / name).read_bytes()))
    (backup / "net_final.weights").write_bytes((run / "at_2.weights").read_bytes()[:3000])
    (backup / "net_last.weights.tmp").write_bytes(b"half a checkpo")
    named = check_run(backup, "net")
    said: list[str] = []
    state = start_of(run, said=said)

    assert said[-1] == f"goes on from {named.taken} ({named.place})"
    assert state.iteration == named.iteration
