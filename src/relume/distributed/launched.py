"""How this process was started: alone, by `-gpus`, or by torchrun; as the environment says.

`-gpus` starts processes of one machine, and gives each the number of the launcher and its ends of
socket pairs to the others (sockets.py). That takes precedence over what torchrun's variables may
still be set to.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from relume.errors import UsageError

VARIABLE = "RELUME_LAUNCHED"
"""Set by -gpus for each process that it starts."""
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Set by torchrun, each a number."""


@dataclass(frozen=True)
class Launched:
    """What -gpus passes to a process that it starts."""

    rank: int
    size: int
    launcher: int
    """Process number of -gpus."""
    sockets: dict[int, int]
    """Rank of every other process -> descriptor of a stream socket to it."""
    store: int | None
    """Descriptor of an unnamed file in which nccl notes how the processes meet."""

    def as_text(self) -> str:
        """Return it as the value of VARIABLE."""
        return json.dumps(asdict(self))


def by_relume(environ: Mapping[str, str] = os.environ) -> Launched | None:
    """Return what -gpus has told this process, None if -gpus has not started it.

    Raises:
        UsageError: the variable holds something else.
    """
    text = environ.get(VARIABLE)
    if text is None:
        return None
    try:
        told = json.loads(text)
        sockets = {int(rank): int(descriptor) for rank, descriptor in told["sockets"].items()}
        store = None if told["store"] is None else int(told["store"])
        rank, size, launcher = (int(told[name]) for name in ("rank", "size", "launcher"))
        if len(sockets) != size - 1 or sorted([*sockets, rank]) != list(range(size)):
            raise ValueError("there is not one socket for each other process")
        return Launched(rank, size, launcher, sockets, store)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise UsageError(VARIABLE, "is not what -gpus sets", "", "unset it") from None


def by_torchrun(environ: Mapping[str, str] = os.environ) -> tuple[int, int, int, int] | None:
    """Return the values of TORCHRUN, None if torchrun has not started this process.

    Raises:
        UsageError: one is missing or no number.
    """
    if VARIABLE in environ or "TORCHELASTIC_RUN_ID" not in environ:
        return None
    for name in TORCHRUN:
        if not (environ.get(name, "").isdecimal() and environ[name].isascii()):
            raise UsageError(
                name,
                f"'{environ.get(name, '')}' in the environment, and TORCHELASTIC_RUN_ID is set",
                "the numbers that torchrun sets",
                "begin with torchrun, or unset TORCHELASTIC_RUN_ID",
            )
    rank, size, local_rank, local_size = (int(environ[name]) for name in TORCHRUN)
    return rank, size, local_rank, local_size


def place_on_machine() -> tuple[int, int]:
    """Return the number of this process on its machine, and how many there are of the group.

    Raises:
        UsageError: as above.
    """
    if launched := by_relume():
        return launched.rank, launched.size
    numbers = by_torchrun()
    return numbers[2:] if numbers else (0, 1)
