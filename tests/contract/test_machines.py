"""Machines that share nothing but a network: cut off and healed, lost for good; the same bytes.

They are network namespaces (machines.py). Needs nothing but this checkout, root and iproute2:
python -m pytest tests/contract/test_machines.py
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from relume.data.batch import MiniBatch
from relume.model.network import Network
from relume.train import loop, step
from relume.train.partial import Share
from tests.contract.machines import INTERFACE, Machine, NotPermitted, machines
from tests.contract.small_runs import copied_run, promised_files
from tests.contract.test_torchrun import finished_run, iterations_done
from tests.contract.workers import Workers

ITERATIONS = 6


@pytest.fixture
def three() -> Iterator[list[Machine]]:
    try:
        with machines(3) as made:
            yield made
    except NotPermitted as error:
        pytest.skip(str(error))


def _is_cut_off(rank: int) -> None:
    """Let the last machine lose its connection in the fourth iteration."""
    if rank != 2:
        return
    train_subdivision = step.train_subdivision

    def cut(network: Network, share: Share, mini_batch: MiniBatch) -> None:
        if mini_batch.positions[0] // 8 == 3 and not share.done:
            subprocess.run(["ip", "link", "set", INTERFACE, "down"], check=True)
        train_subdivision(network, share, mini_batch)

    loop.train_subdivision = cut  # type: ignore[attr-defined]


def test_a_machine_that_is_cut_off_is_noticed_by_all_and_the_run_goes_on(
    three: list[Machine], tmp_path: Path
) -> None:
    straight = finished_run(tmp_path / "straight", ITERATIONS)
    folders = [copied_run(straight, tmp_path / one.name) for one in three]

    group = Workers(folders, 3, "-peer_timeout", "6", before=_is_cut_off, machines=three)

    assert group.ended() == [1, 1, 1]
    for text in group.said[:2]:
        assert "another process of the group has ended, or does not answer" in text
    assert [iterations_done(folder) for folder in folders] == [3, 3, 3]
    group = Workers(folders[:2], 2, machines=three[:2])
    assert group.ended() == [0, 0], group.said
    three[2].heal()
    group = Workers(folders, 3, machines=three)
    assert group.ended() == [0, 0, 0], group.said
    for folder in folders:
        assert promised_files(folder) == promised_files(straight)
