"""Processes that train together as those of torchrun or of -gpus do: the environment says how.

They are forked like those of `processes.py`, since every start by torchrun itself imports PyTorch.
"""

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

# Known as torch.distributed's, where type checkers do not find it.
from torch._C._distributed_c10d import TCPStore

from relume.distributed.launched import VARIABLE, Launched
from relume.distributed.sockets import pair
from tests.contract.machines import Machine
from tests.contract.processes import Relume

TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "1")

PORT = 29400
"""Where they meet that are on machines of their own."""


class Workers:
    """`relume WORDS`, so many times, in one folder or in one for each."""

    def __init__(
        self,
        folders: Path | Iterable[Path],
        size: int,
        *words: str,
        before: Callable[[int], None] | None = None,
        machines: Sequence[Machine] = (),
        gpus: bool = False,
    ) -> None:
        """Start them.

        Args:
            folders: the current folder of all, or of each.
            size: their number.
            words: of the command line, behind TRAIN.
            before: called first in each, with its number; a function at the top of a module.
            machines: of each; without them all are on this one.
            gpus: as -gpus starts them, else as torchrun does.
        """
        places = [folders] * size if isinstance(folders, Path) else list(folders)
        if gpus:
            ends = _ends(size)
            self.each = [
                Relume(place, *TRAIN, *words, before=partial(_born, rank, ends[rank], before))
                for rank, place in enumerate(places)
            ]
            for one in [one for sockets in ends for one in sockets.values()]:
                one.close()
            return
        if machines:
            meeting = (machines[0].address, PORT)  # the first process keeps the place
        else:
            # What torchrun's agent is for its workers: the place where they meet, on a free port.
            self._store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            meeting = ("localhost", self._store.port)
        self.each = [
            Relume(
                place,
                *TRAIN,
                *words,
                before=partial(_join, rank, size, meeting, machines, before),
            )
            for rank, place in enumerate(places)
        ]

    def ended(self) -> list[int]:
        """Wait for the end of all; return their exit statuses."""
        return [one.ended() for one in self.each]

    @property
    def said(self) -> list[str]:
        """What each has said."""
        return [one.output for one in self.each]


def _ends(size: int) -> list[dict[int, socket.socket]]:
    """Return each process's sockets to the others."""
    ends: list[dict[int, socket.socket]] = [{} for _ in range(size)]
    for rank in range(size):
        for other in range(rank + 1, size):
            ends[rank][other], ends[other][rank] = pair()
    return ends


def _born(rank: int, ends: dict[int, socket.socket], before: Callable[[int], None] | None) -> None:
    sockets = {other: one.detach() for other, one in ends.items()}
    launched = Launched(rank, len(ends) + 1, os.getppid(), sockets, None)
    os.environ[VARIABLE] = launched.as_text()
    if before is not None:
        before(rank)


def _join(
    rank: int,
    size: int,
    meeting: tuple[str, int],
    machines: Sequence[Machine],
    before: Callable[[int], None] | None,
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK="0" if machines else str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE="1" if machines else str(size),
        MASTER_ADDR=meeting[0],
        MASTER_PORT=str(meeting[1]),
        TORCHELASTIC_RUN_ID="test",
        TORCHELASTIC_RESTART_COUNT="0",
        TORCHELASTIC_USE_AGENT_STORE=str(not machines),
    )
    if machines:
        machines[rank].enter()
    if before is not None:
        before(rank)
