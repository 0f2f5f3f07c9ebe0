"""Real processes that train: forked from a server that has imported PyTorch once, or started cold.

A forked start takes a fraction of a second instead of several, and yet it is a process that can
be killed, stopped, traced and waited for like any other. The server has no thread of Python's.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from relume.cli import main

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["relume.commands.train", "tests.contract.processes", "tests.contract.preloaded"]
)
LONGEST_S = 120
"""A process that takes longer has hung."""


class Relume:
    """`relume WORDS` in a folder and a process group of its own; both outputs in one pipe."""

    def __init__(
        self,
        folder: Path,
        *words: str,
        cold: bool = False,
        before: Callable[[], None] | None = None,
        strace: Sequence[str] = (),
    ) -> None:
        """Start it.

        Args:
            folder: the current folder of the process.
            words: of the command line.
            cold: start a new interpreter instead of forking.
            before: called in the forked process first; a function at the top of a module.
            strace: options of strace that trace the forked process from its first step.
        """
        self._pipe, theirs = CONTEXT.Pipe(duplex=False)
        self._process: subprocess.Popen[bytes] | multiprocessing.process.BaseProcess
        self._tracer: subprocess.Popen[str] | None = None
        if cold:
            command = [sys.executable, "-m", "relume", *words]
            output = theirs.fileno()
            self._process = subprocess.Popen(
                command, cwd=folder, process_group=0, stdout=output, stderr=output
            )
        else:
            waits, go = CONTEXT.Pipe(duplex=False)
            arguments = (folder, theirs, words, before, waits)
            self._process = CONTEXT.Process(target=_run, args=arguments)
            self._process.start()
            if strace:
                self._tracer = _attached(self._process.pid or 0, strace)
            go.send(None)
            go.close()
            waits.close()
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
        self._status(seconds)

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal, to the process or to its whole group, if it still lives."""
        if self._status(0) is None:
            assert self._process.pid is not None
            (os.killpg if group else os.kill)(self._process.pid, number)

    def close_output(self) -> None:
        """Go away as `head` does."""
        self._pipe.close()

    def ended(self) -> int:
        """Wait for the end; return the exit status, negative after a signal."""
        if not self._pipe.closed:
            self.read_until("no such line")
            self._pipe.close()
        status = self._status(LONGEST_S)
        assert status is not None, f"hangs; it said: {self.output}"
        if self._tracer is not None:
            self._tracer.communicate()
        if not isinstance(self._process, subprocess.Popen):
            self._process.close()
        return status

    def _status(self, seconds: float) -> int | None:
        if isinstance(self._process, subprocess.Popen):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
            return self._process.returncode
        wait([self._process.sentinel], seconds)
        return self._process.exitcode


def _attached(pid: int, options: Sequence[str]) -> subprocess.Popen[str]:
    """Return an strace that follows a process; raises OSError where that is refused."""
    command = ["strace", "-f", *options, "-p", str(pid)]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = []
    for line in tracer.stderr:
        if " attached" in line:
            return tracer
        said.append(line.strip())
    tracer.communicate()
    os.kill(pid, signal.SIGKILL)
    raise OSError(f"strace cannot trace a process: {said}")


def _run(
    folder: Path,
    output: Connection,
    words: tuple[str, ...],
    before: Callable[[], None] | None,
    waits: Connection,
) -> None:
    os.setpgid(0, 0)
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    # The server's own streams may be files; these are pipes, which Python asks when it opens them.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    waits.recv()
    waits.close()
    if before is not None:
        before()
    sys.exit(main(list(words)))
