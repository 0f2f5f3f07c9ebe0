"""Bytes between the processes of one machine, over socket pairs that they inherit.

A socket pair has no name and no port: nothing listens, so no other process, of this user or of
another, can connect. When a process ends, the system closes its sockets, and the others notice.
"""

import select
import socket
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

BUFFER_BYTES = 4 * 2**20
"""Asked of the system for each socket, which may give less."""


class Sockets:
    """A stream socket to every other process of the group."""

    def __init__(self, rank: int, sockets: Mapping[int, socket.socket], timeout_s: float) -> None:
        """Take over the sockets.

        Args:
            rank: of this process.
            sockets: by the rank of the process at the other end.
            timeout_s: after which processes that give and take nothing count as lost.
        """
        self._rank, self._sockets, self._timeout_s = rank, dict(sockets), timeout_s
        for one in self._sockets.values():
            one.setblocking(False)
            one.set_inheritable(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)

    def swap(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Give every process its part of this one's rows; return what all have for this one.

        Args:
            rows: [processes, rows, n], on the processor.
            counts: rows of every process.
        Returns:
            [sum of counts, n], in the order of processes.
        Raises:
            ConnectionError: another process is gone.
            TimeoutError: the others do not answer.
        """
        received = rows.new_empty((sum(counts), rows.shape[2]))
        ends = [0, *accumulate(counts)]
        parts = [received[begin:end] for begin, end in pairwise(ends)]
        parts[self._rank].copy_(rows[self._rank])
        sent = {rank: _bytes_of(rows[rank].contiguous()) for rank in self._sockets}
        self._pass(sent, {rank: _bytes_of(parts[rank]) for rank in self._sockets})
        return received

    def broadcast(self, numbers: Tensor, source: int) -> None:
        """Give the numbers of one process to all others, in place.

        Args:
            numbers: of equal length in all, on the processor.
            source: rank of the process that gives.
        Raises:
            ConnectionError: another process is gone.
            TimeoutError: the others do not answer.
        """
        if source == self._rank:
            self._pass({rank: _bytes_of(numbers) for rank in self._sockets}, {})
        else:
            self._pass({}, {source: _bytes_of(numbers)})

    def close(self) -> None:
        """Close all sockets; the others notice."""
        for one in self._sockets.values():
            one.close()

    def _pass(self, sent: dict[int, memoryview], received: dict[int, memoryview]) -> None:
        """Send and receive at once, so that no process waits for one that waits for it."""
        out = {rank: data for rank, data in sent.items() if data}
        into = {rank: data for rank, data in received.items() if data}
        ready = select.poll()
        ranks = {one.fileno(): rank for rank, one in self._sockets.items()}
        for rank in out.keys() | into.keys():
            ready.register(self._sockets[rank], _events(rank, out, into))
        until_s = time.monotonic() + self._timeout_s
        while out or into:
            events = ready.poll(1000 * max(until_s - time.monotonic(), 0))
            if not events:
                raise TimeoutError(f"no answer for {self._timeout_s:.0f} seconds")
            until_s = time.monotonic() + self._timeout_s
            for descriptor, event in events:
                rank = ranks[descriptor]
                if rank in into and event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    _advance(into, rank, self._receive(rank, into[rank]))
                if rank in out and event & (select.POLLOUT | select.POLLHUP | select.POLLERR):
                    _advance(out, rank, self._send(rank, out[rank]))
                if wanted := _events(rank, out, into):
                    ready.modify(descriptor, wanted)
                else:
                    ready.unregister(descriptor)

    def _receive(self, rank: int, into: memoryview) -> int:
        try:
            count = self._sockets[rank].recv_into(into)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionError(f"process {rank}: {error.strerror}") from error
        if count == 0:
            raise ConnectionError(f"process {rank} has closed its connection")
        return count

    def _send(self, rank: int, data: memoryview) -> int:
        try:
            return self._sockets[rank].send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionError(f"process {rank}: {error.strerror}") from error


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def _bytes_of(numbers: Tensor) -> memoryview:
    """Return a contiguous tensor's memory."""
    return numbers.detach().reshape(-1).view(torch.uint8).numpy().data


def _events(rank: int, out: Mapping[int, object], into: Mapping[int, object]) -> int:
    return select.POLLOUT * (rank in out) | select.POLLIN * (rank in into)


def _advance(parts: dict[int, memoryview], rank: int, count: int) -> None:
    """Take what has been passed off a part, and the part away when nothing is left of it."""
    parts[rank] = parts[rank][count:]
    if not parts[rank]:
        del parts[rank]
