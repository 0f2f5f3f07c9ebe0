"""How much memory this process may still take: asked before something large is read."""

import os
import sys
from contextlib import suppress
from pathlib import Path

RLIMITS = (("RLIMIT_AS", 0), ("RLIMIT_DATA", 5))
"""Limits of a process, and the column of /proc/self/statm that counts against each."""


def free_memory_bytes(with_swap: bool = False) -> int:
    """Return the memory that can still be taken within all limits; a large number if unknown."""
    free = _free_in_machine(("MemAvailable:", "SwapFree:") if with_swap else ("MemAvailable:",))
    limit, used = _text("/sys/fs/cgroup/memory.max"), _text("/sys/fs/cgroup/memory.current")
    if limit.strip().isdigit() and used.strip().isdigit():
        free = min(free, int(limit) - int(used))
    return max(min(free, *_left_of_limits()), 0)


def _free_in_machine(counted: tuple[str, ...]) -> int:
    free = 0
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith(counted):
            free += int(line.split()[1]) * 1024
    if free:
        return free
    names = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" not in names:
        return sys.maxsize
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_of_limits() -> list[int]:
    try:
        import resource  # not on Windows
    except ImportError:
        return [sys.maxsize]
    used_pages = _text("/proc/self/statm").split()
    left = [sys.maxsize]
    for name, column in RLIMITS:
        limit, _ = resource.getrlimit(getattr(resource, name))
        if limit != resource.RLIM_INFINITY and used_pages:
            left.append(limit - int(used_pages[column]) * resource.getpagesize())
    return left


def _text(path: str) -> str:
    """Return a file of the kernel: regular by its type, but of no size, so read to its end."""
    with suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text()
    return ""
