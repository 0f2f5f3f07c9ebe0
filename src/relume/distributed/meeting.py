"""Where the processes of a group meet for the first time: the store that torchrun keeps.

It lives as long as torchrun, and what the processes of an earlier start have left in it looks
like what is new: the addresses of dead ones. So the first process gives every start a name of its
own, and each other asks it whether that is still the one. Under this name they go on.
"""

import os
import time
from collections.abc import Callable
from datetime import timedelta

# Known as torch.distributed's, where type checkers do not find them.
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from relume.distributed.connections import notice_cuts
from relume.errors import PeerLost

LONGEST = timedelta(minutes=5)
"""From the first process to the last: they import PyTorch, maybe from a busy disk."""
POLL_S = 0.05
CURRENT = "relume/start"


def meet(rank: int, size: int, cut_after_s: int) -> Store:
    """Return a store that the processes of this start have for themselves.

    Args:
        rank: of this process.
        size: of the group.
        cut_after_s: as in connections.py.
    Raises:
        PeerLost: one did not come.
        RuntimeError: torchrun's store cannot be reached.
    """
    store, _, _ = next(rendezvous("env://", rank, size, timeout=LONGEST))
    notice_cuts(cut_after_s)
    name = _welcome_all(store, size) if rank == 0 else _found(store, rank, size)
    return PrefixStore(name, store)


def _welcome_all(store: Store, size: int) -> str:
    """Name the start, and answer each of the others."""
    name = f"relume/{_myself()}"
    store.set(CURRENT, name)
    for other in range(1, size):
        asked = f"{name}/asks/{other}"
        # mypy does not infer a lambda with a default, which binds the name of this round.
        _wait(lambda asked=asked: store.check([asked]), 0, size)  # type: ignore[misc]
        store.set(f"{name}/welcome/{other}/{store.get(asked).decode()}", "")
    return name


def _found(store: Store, rank: int, size: int) -> str:
    """Return the name of the start: the first one whose first process answers."""
    found: list[str] = []
    myself = _myself()  # an earlier start has welcomed another process of this number

    def is_welcome() -> bool:
        if store.check([CURRENT]):
            name = store.get(CURRENT).decode()
            store.set(f"{name}/asks/{rank}", myself)
            found[:] = [name]
        return bool(found) and store.check([f"{found[0]}/welcome/{rank}/{myself}"])

    _wait(is_welcome, rank, size)
    return found[0]


def _myself() -> str:
    """Return what no other process, then or now, is called."""
    return f"{os.uname().nodename}/{os.getpid()}/{time.time_ns()}"


def _wait(has_come: Callable[[], bool], rank: int, size: int) -> None:
    until_s = time.monotonic() + LONGEST.total_seconds()
    while not has_come():
        if time.monotonic() > until_s:
            raise PeerLost(
                f"process {rank} of {size}",
                f"has waited for {LONGEST.total_seconds():.0f} seconds for another of the group",
                "all of them",
                "see what that one says",
            )
        time.sleep(POLL_S)
