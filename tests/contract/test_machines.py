"""Machines that share nothing but a network: cut off and healed, lost for good; the same bytes.

They are network namespaces (machines.py). Needs nothing but this checkout, root and iproute2:
python -m pytest tests/contract/test_machines.py
"""

import os
import shlex
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from relume.data.batch import MiniBatch
from relume.model.network import Network
from relume.train import loop, step
from relume.train.partial import Share
from tests.contract.launched import RELUME, TORCHRUN, Launched
from tests.contract.machines import INTERFACE, Machine, NotPermitted, machines
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, write_run
from tests.contract.test_torchrun import finished_run, iterations_done
from tests.contract.workers import TRAIN, Workers

ITERATIONS = 6
LONG = 1200
"""Of the runs below torchrun, whose starts take many seconds in which a machine is missed."""
LOOP = Path(__file__).resolve().parents[2] / "docs" / "preemption" / "torchrun_until_finished.sh"


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


class Site:
    """The machines of one run, with a folder each."""

    def __init__(self, machines: list[Machine], alone: Path, folder: Path) -> None:
        self._alone = alone
        self.folders = {one: copied_run(alone, folder / one.name) for one in machines}
        program = folder / "relume"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(RELUME)} "$@"\n')
        program.chmod(0o755)
        self._environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "PAUSE_S": "1",
            "QUICK_S": "1",
        }

    def begin(self, machine: Machine, host: Machine) -> Launched:
        """Start the loop of docs/distributed.md on a machine; another one keeps the meeting."""
        # PyTorch's own times are a minute and more; and the names of these machines mean nothing.
        times = (
            "last_call_timeout=10,keep_alive_interval=1,keep_alive_max_attempt=3,read_timeout=15"
        )
        meeting = f"{times},is_host={int(machine == host)}"
        command = (
            *("bash", str(LOOP), "backup", *TORCHRUN),
            *("--nnodes=1:3", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-id=run"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint={host.address}:29400"),
            *(f"--local-addr={machine.address}", f"--rdzv-conf={meeting}"),
            *("-m", "relume", *TRAIN, "-peer_timeout", "6"),
        )
        return Launched(
            self.folders[machine], *machine.command(*command), environment=self._environment
        )

    def check(self, machines: Iterable[Machine]) -> None:
        """See to it that each has what one process leaves that nobody disturbed."""
        chart = (self._alone / "backup" / "chart.png").read_bytes()
        for one in machines:
            assert promised_files(self.folders[one]) == promised_files(self._alone), one.name
            assert (self.folders[one] / "backup" / "chart.png").read_bytes() == chart


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long run, by one process that nobody disturbed."""
    cfg = sgd_cfg(max_batches=LONG, batch=8, subdivisions=8)
    folder = write_run(tmp_path_factory.mktemp("alone") / "run", cfg)
    data = folder / "obj.data"
    data.write_text(data.read_text() + "saveweights = 200\nsavelast = 20\n")
    run = Launched(folder, *RELUME, *TRAIN)
    assert run.ended() == 0, run.said
    return folder


@pytest.mark.long
@pytest.mark.parametrize("cut", [2, 0])
def test_a_machine_that_is_cut_off_comes_back_when_it_is_healed(
    three: list[Machine], alone: Path, tmp_path: Path, cut: int
) -> None:
    """It does so by itself; the first machine has the process that leads."""
    site = Site(three, alone, tmp_path)
    loops = {one: site.begin(one, host=three[1]) for one in three}
    left = [one for one in three if one != three[cut]]
    loops[three[0]].read_until(" 60: ")

    three[cut].cut_off()
    loops[left[0]].read_until("goes on from")
    loops[left[0]].read_until("2 processes with 1 thread")
    three[cut].heal()
    loops[three[0]].read_until("3 processes with 1 thread")

    assert [loops[one].ended() for one in three] == [0, 0, 0], [loops[one].said for one in three]
    site.check(three)


@pytest.mark.long
def test_the_machine_that_leads_and_keeps_the_meeting_is_lost_for_good(
    three: list[Machine], alone: Path, tmp_path: Path
) -> None:
    site = Site(three, alone, tmp_path)
    lost, *left = three
    loops = {one: site.begin(one, host=lost) for one in three}
    loops[lost].read_until(" 60: ")

    lost.lose()
    assert loops[lost].ended() == -signal.SIGKILL
    for one in left:
        loops[one].read_until("torchrun_until_finished: status 1, looks in")
        loops[one].process.terminate()
    assert [loops[one].ended() for one in left] == [75, 75]
    loops = {one: site.begin(one, host=left[0]) for one in left}
    loops[left[0]].read_until("goes on from")

    assert [loops[one].ended() for one in left] == [0, 0], [loops[one].said for one in left]
    assert 0 < iterations_done(site.folders[lost]) < LONG
    site.check(left)
