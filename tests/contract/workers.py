"""Processes that train together as torchrun's workers do: told by the environment where to meet.

They are forked like those of `processes.py`, since every start by torchrun itself imports PyTorch.
"""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

# Known as torch.distributed's, where type checkers do not find it.
from torch._C._distributed_c10d import TCPStore

from tests.contract.processes import Relume

TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "1")


class Workers:
    """`relume WORDS`, so many times, in one folder or in one for each."""

    def __init__(
        self,
        folders: Path | Iterable[Path],
        size: int,
        *words: str,
        before: Callable[[int], None] | None = None,
    ) -> None:
        """Start them.

        Args:
            folders: the current folder of all, or of each.
            size: their number.
            words: of the command line, behind TRAIN.
            before: called first in each, with its number; a function at the top of a module.
        """
        # What torchrun's agent is for its workers: the place where they meet, on a free port.
        self._store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        places = [folders] * size if isinstance(folders, Path) else list(folders)
        self.each = [
            Relume(
                place,
                *TRAIN,
                *words,
                before=partial(_join, rank, size, self._store.port, before),
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


def _join(rank: int, size: int, port: int, before: Callable[[int], None] | None) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="localhost",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
        TORCHELASTIC_RESTART_COUNT="0",
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    if before is not None:
        before(rank)
