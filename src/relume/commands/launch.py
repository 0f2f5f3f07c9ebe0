"""`-gpus 0,1,2`: as many processes on this machine, connected by socket pairs.

Nothing here listens on a network or leaves a file: each process inherits its ends of the socket
pairs, and with an unnamed file where nccl needs one.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from socket import socket
from types import FrameType

import torch

from relume.command_table import Values
from relume.distributed.launched import VARIABLE, Launched
from relume.distributed.sockets import pair
from relume.errors import INTERRUPTED, TEMPORARY_FAILURE, Unavailable, UsageError
from relume.screen import Screen
from relume.spec import check_settings
from relume.stop_signals import heeded_stop_signals

PROGRAM: tuple[str, ...] = (sys.executable, "-P", "-m", "relume")
"""What each process runs; -P keeps modules in the current folder from being imported."""
GRACE_AFTER_FAILURE_S = 5
"""After one process has failed: seconds that the others have to end before they get SIGTERM."""
SHUTDOWN_TIMEOUT_S = 600
"""After which a process that has been asked to end is killed: a subdivision, and a save."""
POLL_S = 0.05
KILLED = 128
"""And the signal's number: the exit status of a process that a signal has ended."""
ON_THIS_MACHINE = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_RAS_ENABLE": "0"}
"""Lets nccl use no network but the loopback interface, and answer no questions on a port."""


def launch(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Train with a process for each GPU of -gpus; return the exit status of the run.

    Raises:
        UsageError: -gpus names what is not there.
        Unavailable: the system starts no more processes.
    """
    check_settings(arguments, flags, screen)
    visible = _visible_gpus(flags)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}  # what each computes with, it sets itself
    if not flags.get("-nogpu"):
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(visible)}
        environment |= ON_THIS_MACHINE | gpus | {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
    others = {name: value for name, value in flags.items() if name != "-gpus"}
    words = [word for flag in others.items() for word in flag if word is not True]
    command = [*PROGRAM, "detector", "train", *arguments, *map(str, words)]
    workers: list[subprocess.Popen[bytes]] = []
    with _received_signals() as received:
        try:
            for worker in _started(command, environment, len(visible), not flags.get("-nogpu")):
                workers.append(worker)
        except OSError as error:
            _kill(workers)
            raise Unavailable(
                "-gpus",
                f"process {len(workers)} cannot be started ({error.strerror})",
                f"{len(visible)} processes with open files for their connections",
                "see the limits (ulimit -a), or use fewer processes",
            ) from error
        _wait_for(workers, received)
    return _status([worker.returncode for worker in workers], received)


def _started(
    command: Sequence[str], environment: dict[str, str], size: int, with_store: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the processes one after another, each with its ends of the connections alone."""
    store = os.memfd_create("relume-nccl") if with_store else None
    ends: dict[int, dict[int, socket]] = {rank: {} for rank in range(size)}
    try:
        for rank in range(size):
            for other in range(rank + 1, size):
                ends[rank][other], ends[other][rank] = pair()
            sockets = {other: one.fileno() for other, one in ends[rank].items()}
            launched = Launched(rank, size, os.getpid(), sockets, store)
            yield subprocess.Popen(
                command,
                env=environment | {VARIABLE: launched.as_text()},
                stdin=subprocess.DEVNULL,
                pass_fds=[*sockets.values(), *([] if store is None else [store])],
                start_new_session=True,  # Ctrl-C on a terminal reaches it through this process
            )
            for one in ends.pop(rank).values():
                one.close()
    finally:
        for one in [one for sockets in ends.values() for one in sockets.values()]:
            one.close()
        if store is not None:
            os.close(store)


@contextmanager
def _received_signals() -> Iterator[list[int]]:
    """Give the list to which each signal that asks a training to stop is added."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in heeded_stop_signals()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for(workers: Sequence[subprocess.Popen[bytes]], received: Sequence[int]) -> None:
    """Wait until all processes have ended; send them every signal that is received meanwhile.

    When one has failed, or after the first signal, all end; the time for that is limited.
    """
    handed_on = 0
    kill_at_s = terminate_at_s = math.inf
    while alive := [worker for worker in workers if worker.poll() is None]:
        for number in received[handed_on:]:
            handed_on += 1
            for worker in alive:
                worker.send_signal(number)
        now_s = time.monotonic()
        if received.count(signal.SIGINT) > 1:  # they leave at once, unless they are suspended
            kill_at_s = min(kill_at_s, now_s + GRACE_AFTER_FAILURE_S)
        failed = any(worker.returncode not in (None, 0) for worker in workers)
        if kill_at_s == math.inf and (failed or handed_on):
            kill_at_s = now_s + SHUTDOWN_TIMEOUT_S
            terminate_at_s = math.inf if handed_on else now_s + GRACE_AFTER_FAILURE_S
        if now_s > terminate_at_s:
            terminate_at_s = math.inf
            for worker in alive:
                worker.terminate()
        if now_s > kill_at_s:
            _kill(alive)
        time.sleep(POLL_S)


def _kill(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.kill()
        worker.wait()


def _status(statuses: Sequence[int], received: Sequence[int]) -> int:
    """Return the status of the run: what has gone wrong, else whether it is finished."""
    # A signal ends a process that does not handle signals yet: the run is stopped.
    ended = [TEMPORARY_FAILURE if -status in received else status for status in statuses]
    if killed := [status for status in ended if status < 0]:
        return INTERRUPTED if received.count(signal.SIGINT) > 1 else KILLED - killed[0]
    failed = [status for status in ended if status not in (0, TEMPORARY_FAILURE)]
    return failed[0] if failed else max(ended)


def _visible_gpus(flags: Values) -> list[str]:
    """Return what each process is to see as its GPU; with -nogpu only their number counts."""
    text = str(flags["-gpus"])
    numbers = text.split(",")
    if not all(n.isdecimal() and n.isascii() for n in numbers) or len({*numbers}) < len(numbers):
        raise UsageError("-gpus", f"'{text}'", "different numbers with commas between, as 0,1,2")
    if "-i" in flags:
        raise UsageError("-i", "is given beside -gpus", "one of them", "leave -i out")
    if flags.get("-nogpu"):
        return numbers
    if not torch.cuda.is_available():
        raise UsageError(
            "-gpus",
            "PyTorch finds no GPU",
            "a CUDA build of PyTorch and GPUs",
            f"to train on the processor with {len(numbers)} processes, add -nogpu",
        )
    count = torch.cuda.device_count()
    if too_high := [number for number in numbers if int(number) >= count]:
        raise UsageError("-gpus", too_high[0], f"0 to {count - 1}, the GPUs that PyTorch finds")
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [given.split(",")[int(n)] for n in numbers] if given else numbers
