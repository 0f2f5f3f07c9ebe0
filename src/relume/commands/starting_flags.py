"""The flags that say how a training starts: where, with how many threads, from what."""

import torch

from relume.command_table import Values
from relume.data.loaders import available_processors
from relume.distributed.group import CUT_AFTER_S
from relume.distributed.launched import place_on_machine
from relume.errors import UsageError
from relume.train.rerun import Wishes
from relume.train.start import StartFlags

LONGEST_CUT_S = 1800
MOST_THREADS_PER_PROCESSOR = 16
"""To re-create a run of a larger machine; beyond that a number is a slip of the finger."""


def compute_device(flags: Values) -> torch.device:
    """Return the device that the flags -i and -nogpu ask for; of a group each has its own."""
    if flags.get("-nogpu") or not torch.cuda.is_available():
        if "-i" in flags and not flags.get("-nogpu"):
            raise UsageError("-i", "PyTorch finds no GPU", "a CUDA build of PyTorch and a GPU")
        return torch.device("cpu")
    index, count = int(flags.get("-i", place_on_machine()[0])), torch.cuda.device_count()
    if not 0 <= index < count:
        raise UsageError("-i", str(index), f"0 to {count - 1}, the GPUs that PyTorch finds")
    return torch.device("cuda", index)


def threads_of(flags: Values) -> int | None:
    """Return -threads.

    Raises:
        UsageError: a number that cannot be used.
    """
    if "-threads" not in flags:
        return None
    threads = int(flags["-threads"])
    most = MOST_THREADS_PER_PROCESSOR * available_processors()
    if not 1 <= threads <= most:
        raise UsageError("-threads", str(threads), f"1 to {most} on this machine")
    return threads


def peer_timeout_s(flags: Values) -> int:
    """Return -peer_timeout, the seconds after which a machine counts as lost.

    Raises:
        UsageError: a number that cannot be used.
    """
    seconds = int(flags.get("-peer_timeout", CUT_AFTER_S))
    if not 6 <= seconds <= LONGEST_CUT_S:
        raise UsageError("-peer_timeout", str(seconds), f"6 to {LONGEST_CUT_S} seconds")
    return seconds


def usual_threads() -> int:
    """Return the threads of a run that names none: all processes of a machine share them."""
    _, processes = place_on_machine()
    return max(1, available_processors() // processes)


def start_flags_of(arguments: list[str], flags: Values) -> StartFlags:
    """Return what a command line says about where the run starts."""
    return StartFlags(
        weights=arguments[2] if len(arguments) > 2 else None,
        clear=bool(flags.get("-clear")),
        resume=bool(flags.get("-resume")),
        allow_change=bool(flags.get("-allow-change")),
    )


def wishes_of(flags: Values) -> Wishes:
    """Return what a command line says about environments."""
    return Wishes(
        exact=bool(flags.get("-exact")),
        portable=bool(flags.get("-portable")),
        allow_change=bool(flags.get("-allow-change")),
    )
