"""-gpus: what its processes do when one is killed, when the first is, and when they are stopped.

Needs nothing but this checkout: python -m pytest tests/contract/test_launch.py
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from relume.commands import launch
from relume.distributed import launched as launching
from relume.distributed.group import joined
from relume.distributed.launched import Launched as Told
from relume.distributed.launched import by_relume, by_torchrun, place_on_machine
from relume.errors import UsageError
from tests.contract.holding_trainer import PROGRAM
from tests.contract.launched import RELUME, Launched
from tests.contract.small_runs import copied_run, promised_files
from tests.contract.test_torchrun import TRAIN, finished_run, holding

ITERATIONS = 6
GPUS = ("-gpus", "0,1,2", "-nogpu")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nobody disturbed."""
    return finished_run(tmp_path_factory.mktemp("straight") / "run", ITERATIONS)


def kill_a_worker(launched: Launched) -> None:
    os.kill(launched.workers()[1], signal.SIGKILL)


def kill_the_launcher(launched: Launched) -> None:
    launched.process.kill()


def interrupt_twice(launched: Launched) -> None:
    stands_still = launched.workers()[1]
    os.kill(stands_still, signal.SIGSTOP)  # so that the others cannot end at the first
    launched.process.send_signal(signal.SIGINT)
    launched.read_until("SIGINT: saves after this subdivision")
    launched.process.send_signal(signal.SIGINT)
    launched.read_until("left at once")


@pytest.mark.long
@pytest.mark.parametrize(
    ("disturb", "status", "said"),
    [
        (kill_a_worker, 128 + signal.SIGKILL, "another process of the group has ended"),
        (kill_the_launcher, -signal.SIGKILL, "the launcher that started it has ended"),
        (interrupt_twice, 130, "left at once"),
    ],
)
def test_a_run_that_is_disturbed_goes_on_to_the_same_bytes(
    straight: Path,
    tmp_path: Path,
    disturb: Callable[[Launched], None],
    status: int,
    said: str,
) -> None:
    folder = copied_run(straight, tmp_path / "run")

    launched = Launched(folder, *PROGRAM, *TRAIN, *GPUS, environment=holding(3))
    launched.read_until(" 2: ")
    disturb(launched)
    ended = launched.ended()
    again = Launched(folder, *RELUME, *TRAIN, *GPUS)

    assert (ended, again.ended()) == (status, 0), launched.said + again.said
    assert said in launched.said
    assert "Traceback" not in launched.said + again.said
    assert promised_files(folder) == promised_files(straight)


@pytest.mark.long
def test_variables_that_another_launcher_has_left_change_nothing(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    left = dict.fromkeys(launching.TORCHRUN, "8") | {
        "MASTER_ADDR": "192.0.2.1",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "left",
        "GLOO_SOCKET_IFNAME": "none",
    }

    launched = Launched(folder, *RELUME, *TRAIN, *GPUS, environment=left)

    assert launched.ended() == 0, launched.said
    assert promised_files(folder) == promised_files(straight)


@pytest.mark.parametrize(
    ("statuses", "received", "status"),
    [
        ([0, 0], [], 0),
        ([75, 75], [signal.SIGTERM], 75),
        ([0, 75], [], 75),
        ([2, 2], [], 2),
        ([75, 1], [], 1),
        ([1, -signal.SIGKILL, 1], [], 137),
        ([-signal.SIGTERM, 75], [signal.SIGTERM], 75),
        ([-signal.SIGTERM, 1], [], 143),
        ([130, 130], [signal.SIGINT, signal.SIGINT], 130),
        ([130, -signal.SIGKILL], [signal.SIGINT, signal.SIGINT], 130),
    ],
)
def test_the_status_is_what_went_wrong_or_whether_the_run_is_finished(
    statuses: list[int], received: list[int], status: int
) -> None:
    assert launch._status(statuses, received) == status


def test_a_second_ctrl_c_ends_a_process_too_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "GRACE_AFTER_FAILURE_S", 0)

    def ignore_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    with subprocess.Popen(["sleep", "600"], preexec_fn=ignore_interrupts) as deaf:
        launch._wait_for([deaf], [signal.SIGINT, signal.SIGINT])

        assert deaf.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "[]", "{}", "[" * 100_000),
        '{"rank": 0, "size": 2, "launcher": 1, "sockets": [], "store": null}',
        '{"rank": 0, "size": 2, "launcher": 1, "sockets": {}, "store": null}',
        '{"rank": 0, "size": 2, "launcher": 1, "sockets": {"2": 5}, "store": null}',
        '{"rank": 2, "size": 2, "launcher": 1, "sockets": {"1": 5}, "store": null}',
        '{"rank": 0, "size": 1e300, "launcher": 1, "sockets": {"1": 5}, "store": null}',
        '{"rank": 0, "size": 1e999, "launcher": 1, "sockets": {"1": 5}, "store": null}',
    ],
)
def test_a_variable_of_the_launcher_that_says_something_else_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="RELUME_LAUNCHED: is not what -gpus sets; unset it"):
        by_relume({launching.VARIABLE: text})


def test_descriptors_that_are_no_sockets_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open(encoding="ascii") as file:
        told = Told(0, 2, os.getppid(), {1: file.fileno()}, None)
        monkeypatch.setenv(launching.VARIABLE, told.as_text())

        with pytest.raises(UsageError, match="RELUME_LAUNCHED: names no sockets"):
            joined(torch.device("cpu")).__enter__()


@pytest.mark.parametrize("descriptor", [-1, 1 << 20, 1 << 40, 1 << 80])
def test_numbers_that_are_no_descriptors_are_an_error(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(0, 2, os.getppid(), {1: descriptor}, None)
    monkeypatch.setenv(launching.VARIABLE, told.as_text())

    with pytest.raises(UsageError, match=r"RELUME_LAUNCHED: names no sockets .+; unset it"):
        joined(torch.device("cpu")).__enter__()


@pytest.mark.parametrize(
    ("missing", "found"), [("RANK", "RANK: ''"), ("LOCAL_WORLD_SIZE", "LOCAL_WORLD_SIZE: ''")]
)
def test_half_of_torchruns_variables_is_an_error(missing: str, found: str) -> None:
    variables = dict.fromkeys(launching.TORCHRUN, "1") | {"TORCHELASTIC_RUN_ID": "left"}
    del variables[missing]

    with pytest.raises(UsageError, match=found):
        by_torchrun(variables)


def test_without_torchrun_variables_of_that_name_mean_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in launching.TORCHRUN:
        monkeypatch.setenv(name, "7")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)

    assert by_torchrun() is None
    assert place_on_machine() == (0, 1)


def test_what_the_launcher_tells_is_read_as_it_was_written() -> None:
    told = Told(1, 3, 77, {0: 5, 2: 9}, 11)

    assert by_relume({launching.VARIABLE: told.as_text()}) == told
    assert json.loads(told.as_text())["sockets"] == {"0": 5, "2": 9}
