"""Machines, as far as a network sees them: network namespaces with a switch between them.

Each has an address, a name and a cable that can be pulled out. Needs root and `ip` (iproute2).
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

INTERFACE = "eth0"
"""Of every machine."""
FOR_THE_NETWORK = 0x40000000
"""CLONE_NEWNET."""


class NotPermitted(Exception):
    """This process may not make network namespaces."""


class Machine:
    """One of them; its folder stands for its disk."""

    def __init__(self, network: str, number: int) -> None:
        self._switch = f"{network}s"
        self.port = f"port{number}"
        self.namespace = f"{network}{number}"
        self.name = f"machine{number}"
        self.address = f"10.77.0.{number + 1}"

    def command(self, *words: str) -> list[str]:
        """Return a command that runs there."""
        shell = f'hostname {self.name}; exec "$@"'
        there = ("ip", "netns", "exec", self.namespace, "unshare", "--uts")
        return [*there, "sh", "-c", shell, "sh", *words]

    def cut_off(self) -> None:
        """Pull its cable out."""
        _ip("-n", self._switch, "link", "set", self.port, "down")

    def heal(self) -> None:
        """Put it in again, at both ends."""
        _ip("-n", self._switch, "link", "set", self.port, "up")
        _ip("-n", self.namespace, "link", "set", INTERFACE, "up")

    def lose(self) -> None:
        """Take its power away: nobody hears of it."""
        self.cut_off()
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def enter(self) -> None:
        """Let this process, which has no other thread yet, be there."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", self.namespace).open("rb") as namespace:
            if libc.setns(namespace.fileno(), FOR_THE_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE

    def _pids(self) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]


@contextmanager
def machines(number: int) -> Iterator[list[Machine]]:
    """Give so many machines on one switch.

    Raises:
        NotPermitted: it cannot be done here.
    """
    network = f"relume{os.getpid()}-"
    made = [Machine(network, one) for one in range(number)]
    switch = f"{network}s"
    try:
        try:
            _ip("netns", "add", switch)
            _ip("-n", switch, "link", "add", "switch", "type", "bridge")
            _ip("-n", switch, "link", "set", "switch", "up")
            for one in made:
                _plug_in(one, switch)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotPermitted(f"no network namespaces can be made here ({error})") from error
        yield made
    finally:
        for one in made:
            with suppress(OSError, subprocess.CalledProcessError):
                one.lose()
        for namespace in (*(one.namespace for one in made), switch):
            with suppress(OSError, subprocess.CalledProcessError):
                _ip("netns", "del", namespace)


def _plug_in(machine: Machine, switch: str) -> None:
    port, there = machine.port, machine.namespace
    _ip("netns", "add", there)
    ends = ("type", "veth", "peer", "name", INTERFACE, "netns", there)
    _ip("link", "add", port, "netns", switch, *ends)
    _ip("-n", switch, "link", "set", port, "master", "switch", "up")
    _ip("-n", there, "address", "add", f"{machine.address}/24", "dev", INTERFACE)
    for interface in (INTERFACE, "lo"):
        _ip("-n", there, "link", "set", interface, "up")
    # How often the system sends again what nobody answers: 10 seconds instead of 15 minutes.
    retries = "echo 4 > /proc/sys/net/ipv4/tcp_retries2"
    _ip("netns", "exec", there, "sh", "-c", retries)


def _ip(*words: str) -> str:
    return subprocess.run(
        ["ip", *words], capture_output=True, text=True, check=True, timeout=20
    ).stdout
