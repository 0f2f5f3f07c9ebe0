"""Processes that train together as torchrun's workers do: told by the environment where to meet.

They are forked like those of `processes.py`, since every start by torchrun itself imports PyTorch.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

# Known as torch.distributed's, where type checkers do not find it.
from torch._C._distributed_c10d import TCPStore

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
    ) -> None:
        """Start them.

        Args:
            folders: the current folder of all, or of each.
            size: their number.
            words: of the command line, behind TRAIN.
            before: called first in each, with its number; a function at the top of a module.
            machines: of each; without them all are on this one.
        """
        if machines:
            meeting = (machines[0].address, PORT)  # the first process keeps the place
        else:
            # What torchrun's agent is for its workers: the place where they meet, on a free port.
            self._store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            meeting = ("localhost", self._store.port)
        places = [folders] * size if isinstance(folders, Path) else list(folders)
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
