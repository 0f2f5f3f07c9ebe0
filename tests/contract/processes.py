"""Real processes that train: forked from a server that has imported PyTorch once.

A start then takes milliseconds instead of seconds, and yet it is a process that can be killed,
stopped and waited for like any other.
"""

import multiprocessing
import os
import sys
from multiprocessing.connection import Connection, wait
from pathlib import Path

from relume.cli import main

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["relume.commands.train", "tests.contract.processes"])
LONGEST_S = 60
"""A process that takes longer has hung."""


class Relume:
    """`relume WORDS` in a folder; both its outputs come through one pipe."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._pipe, theirs = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(target=_run, args=(folder, theirs, words))
        self._process.start()
        theirs.close()
        self.output = ""
        """What has been read so far."""

    def read_until(self, text: str, times: int = 1) -> bool:
        """Read until `text` has come so often; return False if the process ended before."""
        while self.output.count(text) < times:
            assert self._pipe.poll(LONGEST_S), f"hangs; it said: {self.output}"
            data = os.read(self._pipe.fileno(), 65536)
            if not data:
                return False
            self.output += data.decode()
        return True

    def wait_at_most(self, seconds: float) -> None:
        """Let it work for a moment, or until it ends."""
        wait([self._process.sentinel], seconds)

    def signal(self, number: int) -> None:
        """Send a signal, if it still lives."""
        assert self._process.pid is not None
        if self._process.is_alive():
            os.kill(self._process.pid, number)

    def close_output(self) -> None:
        """Go away as `head` does."""
        self._pipe.close()

    def ended(self) -> int:
        """Wait for the end; return the exit status, negative after a signal."""
        if not self._pipe.closed:
            self.read_until("no such line")
            self._pipe.close()
        self._process.join(LONGEST_S)
        status = self._process.exitcode
        assert status is not None
        self._process.close()
        return status


def _run(folder: Path, output: Connection, words: tuple[str, ...]) -> None:
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    # The server's own streams may be files; these are pipes, which Python asks when it opens them.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    sys.exit(main(list(words)))
