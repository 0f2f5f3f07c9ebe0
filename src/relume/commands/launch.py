"""`-gpus 0,1,2`: as many processes on this machine, started by torchrun's own launcher."""

import os
import sys

import torch
from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from relume.checkpoint.finished import is_finished_in
from relume.command_table import Values
from relume.errors import TEMPORARY_FAILURE, UsageError
from relume.formats.data_files import read_data_file
from relume.screen import Screen
from relume.spec import backup_folder, check_settings, run_name

PROGRAM = (sys.executable, "-m", "relume")
"""What each process runs."""
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGUSR1"
"""Handed on to the processes, which save and end."""
LONGEST_FAREWELL_S = 600
"""After which a process that has been asked to end is killed: a subdivision, and a save."""
KILLED = 128
"""And the signal's number: the exit status of a process that a signal has ended."""


def launch(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Train with a process for each GPU of -gpus; return the exit status of the run.

    Raises:
        UsageError: -gpus names what is not there.
    """
    check_settings(arguments, flags, screen)
    visible = _visible_gpus(flags)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(LONGEST_FAREWELL_S))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what each computes with, it sets itself
    if not flags.get("-nogpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    others = {name: value for name, value in flags.items() if name != "-gpus"}
    words = [word for pair in others.items() for word in pair if word is not True]
    options = [
        *("--standalone", f"--nproc-per-node={len(visible)}"),
        *(f"--signals-to-handle={SIGNALS}", "--no-python"),
    ]
    command = [*PROGRAM, "detector", "train", *arguments, *map(str, words)]
    try:
        # PyTorch gives no types to its launcher.
        run.run(run.parse_args([*options, *command]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        status = failure.exitcode
        return status if status > 0 else KILLED - status
    except SignalException:
        pass  # the processes have saved
    folder, name = backup_folder(read_data_file(arguments[0])), run_name(arguments[1])
    return 0 if is_finished_in(folder, name) else TEMPORARY_FAILURE


def _visible_gpus(flags: Values) -> list[str]:
    """Return what each process is to see as its GPU; with -nogpu only their number counts."""
    text = str(flags["-gpus"])
    numbers = text.split(",")
    if not all(n.isdecimal() and n.isascii() for n in numbers) or len({*numbers}) < len(numbers):
        raise UsageError("-gpus", f"'{text}'", "different numbers with commas between, as 0,1,2")
    if "-i" in flags:
        raise UsageError("-i", "is given beside -gpus", "one of them", "leave -i out")
    if flags.get("-nogpu"):
        return numbers
    if not torch.cuda.is_available():
        raise UsageError(
            "-gpus",
            "PyTorch finds no GPU",
            "a CUDA build of PyTorch and GPUs",
            f"to train on the processor with {len(numbers)} processes, add -nogpu",
        )
    count = torch.cuda.device_count()
    if too_high := [number for number in numbers if int(number) >= count]:
        raise UsageError("-gpus", too_high[0], f"0 to {count - 1}, the GPUs that PyTorch finds")
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [given.split(",")[int(n)] for n in numbers] if given else numbers
