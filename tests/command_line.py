"""`relume ...` in this process: its exit status and what it said."""

import contextlib
import io
import signal
import sys
from dataclasses import dataclass
from unittest import mock

import torch

from relume.cli import main

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGXCPU)


@dataclass(frozen=True)
class Ended:
    """A command line that has run."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The line of the error, without its beginning; there must be exactly one."""
        (line,) = [x for x in self.err.splitlines() if x.startswith("relume: error: ")]
        assert "Traceback" not in self.err
        return line.removeprefix("relume: error: ")


def relume(*words: object, stdin: str = "") -> Ended:
    """Run one command line; leave PyTorch's settings and the signals as they were."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in STOPS}
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        ):
            status = main([str(word) for word in words])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(1)
    return Ended(status, out.getvalue(), err.getvalue())
