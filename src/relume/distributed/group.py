"""The processes that train one run together: who is in the group, and what they pass around.

`-gpus` or `torchrun` starts them, and the environment describes the group (launched.py). Any other
process is a group of its own: everything here then costs nothing, and torch.distributed is not
used. What is passed around is moved, never computed with: no number depends on the way it takes.

Processes that `-gpus` has started use socket pairs (sockets.py), those of torchrun use gloo. On
GPUs small messages go that way too, and tensors go between GPUs (nccl); that has not been run.
Whoever leaves while the others want something tells them why: see `leave`.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

# Known as torch.distributed's, where type checkers do not find it.
from torch._C._distributed_c10d import FileStore

from relume import errors
from relume.distributed.connections import notice_cuts
from relume.distributed.courier import Courier, Job
from relume.distributed.launched import VARIABLE, Launched, by_relume, by_torchrun
from relume.distributed.meeting import meet
from relume.distributed.sockets import Sockets
from relume.errors import PeerLost, RelumeError, UsageError

TIMEOUT = timedelta(minutes=30)
"""After which a process that does not answer counts as lost; one that dies is noticed at once."""
CUT_AFTER_S = 60
"""Seconds without a sign of life after which a machine counts as lost, if nothing else is said."""
LEADER = 0
"""The process that decides from where the run goes on, and speaks."""
STAYS, LEAVES = b"+", b"-"


class LeftQuietly(Exception):
    """Another process has left without an error: there is nothing to do together."""


class Group:
    """A group as one of its processes sees it."""

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        machine: str = "",
        sockets: Sockets | None = None,
        launcher: int | None = None,
    ) -> None:
        """Describe a group.

        Args:
            rank: number of this process.
            size: number of processes.
            machine: name of the one this process runs on, if there are several.
            sockets: to the others, if -gpus has started them.
            launcher: process number of what has started this one and must live on.
        """
        self.rank = rank
        """Number of this process, 0 to size - 1. It may change with every start."""
        self.size = size
        self.machine = machine
        """Name of the one this process runs on, if there are several."""
        self._sockets = sockets
        self._launcher = launcher
        self._is_over = False
        """Whether another process has left; nothing can be passed around any more."""
        self._is_lost = False
        """Whether one has without a word."""
        self._courier = Courier()

    @property
    def leads(self) -> bool:
        """Whether this process decides from where the run goes on, and speaks."""
        return self.rank == LEADER

    def check_launcher(self) -> None:
        """Check that the launcher, if one has started this process, still lives.

        Nobody would start the group again with one that goes on without, nor could a run in the
        same folder begin.

        Raises:
            PeerLost: it has ended.
        """
        if self._launcher is not None and os.getppid() != self._launcher:
            raise PeerLost(
                f"process {self.rank} of {self.size}",
                "the launcher that started it has ended",
                "",
                "the same command goes on from the newest checkpoint",
            )

    def gather(self, message: bytes) -> list[bytes]:
        """Return what every process says, in their order.

        Raises:
            RelumeError: what another process has left with.
            LeftQuietly: another process has left without an error.
            PeerLost: another process has ended or does not answer.
        """
        if self.size == 1:
            return [message]
        said = self._gathered(STAYS + message)
        for number, text in enumerate(said):
            if text[:1] == LEAVES:
                self._is_over = True
                raise parse_error(text[1:]) if text[1:] else LeftQuietly(f"process {number}")
        return [text[1:] for text in said]

    def leave(self, error: RelumeError | None = None) -> bool:
        """Tell the others that this process ends, and wait until they end too or hear of it.

        Args:
            error: why; those who hear of it raise the same.
        Returns:
            Whether the leader tells of the error.
        Raises:
            RelumeError: what another has left with, if this process leaves without.
        """
        if self.size == 1 or self._is_over:
            return not self._is_lost
        mine = format_error(error, self.machine).encode() if error else b""
        try:
            said = self._gathered(LEAVES + mine)
        except PeerLost:
            return False
        errors_of_others = [text[1:] for text in said if text[:1] == LEAVES and text[1:]]
        if error is None and errors_of_others:
            raise parse_error(errors_of_others[0])
        of_leader = said[LEADER]
        if error is None or of_leader[:1] == STAYS or of_leader == LEAVES:
            return True
        return _what_and_where(of_leader[1:]) == _what_and_where(mine)

    def broadcast(self, data: bytes = b"", source: int = LEADER) -> bytes:
        """Return what one process, usually the leader, gives.

        Raises:
            RelumeError, LeftQuietly, PeerLost: as gather.
        """
        length = int(self.gather(str(len(data)).encode())[source])
        gives = self.rank == source
        if self.size == 1 or length == 0:
            return data if gives else b""
        buffer = np.frombuffer(data, np.uint8).copy() if gives else np.zeros(length, np.uint8)
        with _peers(self):
            if self._sockets is None:
                dist.broadcast(torch.from_numpy(buffer), source)
            else:
                self._sockets.broadcast(torch.from_numpy(buffer), source)
        return data if gives else buffer.tobytes()

    def swap(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Give every process its part of this one's rows; return what all have for this one.

        Args:
            rows: [processes, rows, n]; of the group's device.
            counts: rows of every process.
        Returns:
            [sum of counts, n], in the order of processes.
        """
        _, own, n = rows.shape
        if self._sockets is not None and rows.device.type == "cpu":
            with _peers(self):
                return self._sockets.swap(rows, counts)
        received = rows.new_empty(sum(counts) * n)
        with _peers(self):
            dist.all_to_all_single(
                received,
                rows.contiguous().view(-1),
                [count * n for count in counts],
                [own * n] * self.size,
            )
        return received.view(-1, n)

    def collect(self, part: Tensor) -> Tensor:
        """Return the parts of all processes, [processes, *part.shape].

        Not by gloo's all_gather, which takes twice as long or more: it copies everything once more.
        """
        rows = part.reshape(1, 1, -1).expand(self.size, 1, -1)
        return self.swap(rows, [1] * self.size).view(self.size, *part.shape)

    def later(self, job: Job) -> Future[None]:
        """Let a job pass something around while this thread computes; see Courier.

        All processes must ask for the same in the same order, and wait for the end before they
        pass around anything else.
        """
        return self._courier.ask(job)

    def lose(self) -> None:
        """Note that another process is gone."""
        self._is_over = self._is_lost = True

    def _gathered(self, message: bytes) -> list[bytes]:
        sizes = self.collect(torch.tensor([len(message)])).reshape(-1).tolist()
        padded = np.zeros(max(sizes), np.uint8)
        padded[: len(message)] = np.frombuffer(message, np.uint8)
        collected = self.collect(torch.from_numpy(padded)).numpy()
        return [row[:size].tobytes() for row, size in zip(collected, sizes, strict=True)]


def is_started_by_torchrun() -> bool:
    """Tell whether torchrun has started this process.

    Raises:
        UsageError: its variables are incomplete.
    """
    return by_torchrun() is not None


ALONE = Group()
"""A process that trains by itself."""


@contextmanager
def joined(device: torch.device, cut_after_s: int = CUT_AFTER_S) -> Iterator[Group]:
    """Give the group that this process was started in, and leave it at the end.

    Args:
        device: what each process computes on.
        cut_after_s: seconds after which a machine counts as lost that gives no sign of life.
    Raises:
        PeerLost: the others cannot be reached.
        UsageError: the environment describes no group.
    """
    launched, numbers = by_relume(), by_torchrun()
    connected: AbstractContextManager[Group] = nullcontext(Group())
    if launched is not None:
        connected = _connected_by_relume(launched, device)
    elif numbers is not None:
        connected = _connected_by_torchrun(numbers, device, cut_after_s)
    with connected as group:
        try:
            yield group
        except RelumeError as error:
            error.is_told = group.leave(error) and not group.leads
            raise
        else:
            try:
                group.leave()
            except RelumeError as error:
                error.is_told = not group.leads
                raise


@contextmanager
def _connected_by_relume(launched: Launched, device: torch.device) -> Iterator[Group]:
    """Give the group of processes that -gpus has started."""
    try:
        ends = {rank: socket.socket(fileno=number) for rank, number in launched.sockets.items()}
    except (OSError, ValueError, OverflowError) as error:  # the last two: no descriptor at all
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(VARIABLE, f"names no sockets ({reason})", "", "unset it") from error
    sockets = Sockets(launched.rank, ends, TIMEOUT.total_seconds())
    group = Group(launched.rank, launched.size, "", sockets, launched.launcher)
    try:
        if launched.store is not None and device.type == "cuda" and group.size > 1:
            with _peers(group):
                # The file has no name: it ends with the processes, and no one else can open it.
                store = FileStore(f"/proc/self/fd/{launched.store}", group.size)
                dist.init_process_group(
                    "nccl", timeout=TIMEOUT, store=store, rank=group.rank, world_size=group.size
                )
        yield group
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        sockets.close()


@contextmanager
def _connected_by_torchrun(
    numbers: tuple[int, int, int, int], device: torch.device, cut_after_s: int
) -> Iterator[Group]:
    """Give the group of processes that torchrun has started, on one machine or several."""
    rank, size, _, local_size = numbers
    launcher = os.getppid()
    if size == 1:
        yield Group(launcher=launcher)
        return
    machine = os.uname().nodename if local_size != size else ""
    if not machine and sys.platform == "linux":
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")
    group = Group(rank, size, machine, launcher=launcher)
    with _peers(group):
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = meet(rank, size, cut_after_s)
        dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=size)
        notice_cuts(cut_after_s)
    try:
        yield group
    finally:
        dist.destroy_process_group()


@contextmanager
def _peers(group: Group) -> Iterator[None]:
    """Turn what PyTorch and sockets raise when another process is gone into an error of ours."""
    try:
        yield
    # RuntimeError is gloo's, and the base of all of torch.distributed's own.
    except (RuntimeError, ConnectionError, TimeoutError) as error:
        group.lose()
        reason = str(error).strip().splitlines()[0]
        raise PeerLost(
            f"process {group.rank} of {group.size}",
            f"another process of the group has ended, or does not answer ({reason})",
            "all of them",
            "see what that process reported; the same command goes on from the newest checkpoint",
        ) from error


def format_error(error: RelumeError, machine: str = "") -> str:
    """Return an error as text that another process can raise it from.

    Args:
        error: of this process, or one that it has heard of.
        machine: this one's name, if there are several.
    """
    known = "" if error.is_passed_on else machine
    parts = (type(error).__name__, known, error.place, error.found, error.needed, error.remedy)
    return json.dumps(parts)


def parse_error(text: str | bytes) -> RelumeError:
    """Return the error of a process, whichever it is; its place begins with the machine."""
    kind, machine, place, *parts = json.loads(text)
    place = f"{machine}: {place}" if machine else place
    error: RelumeError = getattr(errors, kind)(place, *parts)
    error.is_passed_on = True
    return error


def _what_and_where(text: bytes) -> tuple[str, str]:
    kind, _, place, *_ = json.loads(text)
    return kind, place
