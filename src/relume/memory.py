"""How much memory this process may still take: asked before something large is read."""

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

CGROUP_1 = (
    *("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ("total_inactive_file", "total_active_file"),
)
CGROUP_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
"""Files of a control group: the limit, what is used, and what of that is page cache."""
NO_MEMORY = ("can't allocate memory", "could not create a primitive")
"""Words of PyTorch, and of oneDNN in it, for a processor's memory."""
OPENCV_NO_MEMORY = -4
"""Error::StsNoMem, the code of cv2.error."""
RLIMITS = (("RLIMIT_AS", 0), ("RLIMIT_DATA", 5))
"""Limits of a process, and the column of /proc/self/statm that counts against each."""


def free_memory_bytes(with_swap: bool = False) -> int:
    """Return the memory that can still be taken within all limits; a large number if unknown."""
    free = _free_in_machine(("MemAvailable:", "SwapFree:") if with_swap else ("MemAvailable:",))
    limits = [*_limits(), *limits_of_cgroups(_text("/proc/self/cgroup"))]
    return max(min(free, *(limit - used for limit, used in limits)), 0)


def total_memory_bytes() -> int:
    """Return the memory that there is at most, whoever uses it now; a large number if unknown.

    That of the machine with its swap, within the limits of this process and its control groups.
    """
    limits = [limit for limit, _ in _limits()]
    swap = _in_machine(("SwapTotal:",))
    groups = [limit + swap for limit, _ in limits_of_cgroups(_text("/proc/self/cgroup"))]
    return min(_in_machine(("MemTotal:", "SwapTotal:")) or sys.maxsize, *limits, *groups)


def limits_of_cgroups(
    memberships: str, mounted: Path = Path("/sys/fs/cgroup")
) -> list[tuple[int, int]]:
    """Return the limit of each control group of this process in bytes, and what of it is used.

    The page cache of files does not count as used: the kernel drops it when a group needs memory.
    A container that has read many pictures would otherwise always look full.

    Args:
        memberships: the text of /proc/self/cgroup.
        mounted: where control groups are mounted, version 1 or 2 or both.
    """
    limits = []
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots, names = [mounted, mounted / "unified"], CGROUP_2
        elif "memory" in controllers.split(","):
            roots, names = [mounted / "memory"], CGROUP_1
        else:
            continue
        for root in roots:
            # Inside a container the mount begins at its own group, so a folder may be missing.
            own = root / path.lstrip("/")
            for folder in {
                own,
                *(parent for parent in own.parents if root in parent.parents),
                root,
            }:
                limits += _limit_of_cgroup(folder, *names)
    return limits


def _limit_of_cgroup(
    folder: Path, limit: str, used: str, cached: tuple[str, ...]
) -> list[tuple[int, int]]:
    texts = [_text(str(folder / name)).strip() for name in (limit, used)]
    if not all(text.isdecimal() for text in texts):  # "max", or no such file
        return []
    counted = (line.split() for line in _text(str(folder / "memory.stat")).splitlines())
    cache = sum(int(fields[1]) for fields in counted if fields and fields[0] in cached)
    return [(int(texts[0]), int(texts[1]) - cache)]


def _free_in_machine(counted: tuple[str, ...]) -> int:
    if free := _in_machine(counted):
        return free
    names = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" not in names:
        return sys.maxsize
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether Python, PyTorch or OpenCV reports with an error that memory is short."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # PyTorch's, of a GPU
        or (isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY))
        or getattr(error, "code", None) == OPENCV_NO_MEMORY
    )


def _in_machine(counted: tuple[str, ...]) -> int:
    """Return the sum of lines of /proc/meminfo in bytes; 0 where there is no such file."""
    lines = _text("/proc/meminfo").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(counted))


def _limits() -> list[tuple[int, int]]:
    """Return limits of this process in bytes, and what of each is used."""
    limits = [(sys.maxsize, 0)]
    try:
        import resource  # not on Windows
    except ImportError:
        return limits
    used_pages = _text("/proc/self/statm").split()
    for name, column in RLIMITS:
        limit, _ = resource.getrlimit(getattr(resource, name))
        if limit != resource.RLIM_INFINITY and used_pages:
            limits.append((limit, int(used_pages[column]) * resource.getpagesize()))
    return limits


def release_freed_memory() -> None:
    """Give the system back what the allocator of C holds of freed memory, where it can."""
    with suppress(OSError, AttributeError, TypeError):  # not glibc's
        ctypes.CDLL(None).malloc_trim(0)


def _text(path: str) -> str:
    """Return a file of the kernel: regular by its type, but of no size, so read to its end."""
    with suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text()
    return ""
