"""Which sockets of a run's processes other processes could reach, through all its life."""

from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

LISTENS, BOUND = "0A", "07"
"""States in /proc/net of a TCP socket that listens and of an unconnected UDP socket."""
ACCEPTS = 0x10000
"""Flag in /proc/net/unix of a socket that listens."""
POLL_S = 0.02

Listener = tuple[str, str]
"""Kind and address, as /proc/net writes it."""


class Listeners:
    """Looks again and again at a process and its descendants, until the `with` block ends."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.found: set[Listener] = set()
        """All listeners that were seen."""
        self.processes: set[int] = set()
        """All processes that were looked at."""
        self._over = Event()
        self._watcher = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Listeners":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(POLL_S):
            family = descendants(self._pid)
            self.processes |= family
            self.found |= listeners(family)


def descendants(pid: int) -> set[int]:
    """Return a process and those that it and they have started and that still live."""
    found, new = {pid}, [pid]
    while new:
        for path in Path(f"/proc/{new.pop()}/task").glob("*/children"):
            with suppress(OSError):
                children = set(map(int, path.read_text(encoding="ascii").split()))
                new += children - found
                found |= children
    return found


def listeners(processes: set[int]) -> set[Listener]:
    """Return the sockets of processes that take connections, datagrams or packets."""
    found: set[Listener] = set()
    for pid in processes:
        with suppress(OSError):  # it has ended meanwhile
            own = _inodes(pid)
            for kind, inode, address in _reachable(pid):
                if inode in own:
                    found.add((kind, address))
    return found


def _inodes(pid: int) -> set[str]:
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    return inodes


def _reachable(pid: int) -> list[tuple[str, str, str]]:
    """Return kind, inode and address of what is reachable in a process's network namespace."""
    found: list[tuple[str, str, str]] = []
    for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "unix"):
        for line in _lines(Path(f"/proc/{pid}/net/{kind}")):
            if kind == "unix":
                if int(line[3], 16) & ACCEPTS:
                    found.append((kind, line[6], " ".join(line[7:])))
            elif kind == "packet":
                found.append((kind, line[8], ""))
            elif kind.startswith("raw") or line[3] in (LISTENS, BOUND):
                found.append((kind, line[9], line[1]))
    return found


def _lines(path: Path) -> list[list[str]]:
    with suppress(FileNotFoundError):  # such sockets are not a part of this kernel
        # A socket's path may be anything.
        text = path.read_text(encoding="utf-8", errors="replace")
        return [line.split(maxsplit=10) for line in text.split("\n")[1:] if line.strip()]
    return []
