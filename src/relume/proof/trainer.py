"""One start of the real command: a process of its own, followed line by line, and killed."""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from relume.checkpoint.storage import AppendFile

LOOK_EVERY_S = 0.5
"""How often a silent process is asked whether it still lives."""
CHUNK_BYTES = 65536

_BEGINS = re.compile(r"relume: seed ")
"""Said when everything is read and the first iteration begins."""
_ITERATION = re.compile(r" (\d+): .* avg loss")
_GOES_ON = re.compile(r"relume: goes on from .*\(iteration (\d+)")
_ERROR = re.compile(r"relume: error: (.*)")


class Trainer:
    """A started command; leaving its `with` block ends whatever is left of it.

    It leads a session of its own, so that Ctrl-C on a terminal reaches only who started it. Its
    output is a pipe: should that one die by force, the trainer notices at its next line, and ends.
    """

    def __init__(self, command: Sequence[str], log: AppendFile) -> None:
        self._log = log
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        self._rest = b""
        self._at_end = False
        self.begun = False
        """The first iteration has begun."""
        self.went_on_from: int | None = None
        """Iterations done when it started, if it went on from a checkpoint."""
        self.iteration: int | None = None
        """The last one it has finished."""
        self.error = ""
        """The line of its error."""

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            # It is not waited for yet, so the number still is its own.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def lines(self, until_s: float | None = None) -> Iterator[str]:
        """Yield every line of its output, until it ends or `until_s` of the monotonic clock."""
        while True:
            while b"\n" in self._rest:
                raw, _, self._rest = self._rest.partition(b"\n")
                yield self._noted(raw)
            if self._at_end or not self._read(until_s):
                return

    def has_done(self, iteration: int) -> bool:
        """Tell whether it has finished so many iterations."""
        return self.iteration is not None and self.iteration >= iteration

    def follow(self, reached: Callable[[], bool]) -> bool:
        """Read until `reached`; return False if the output ends before."""
        return reached() or any(reached() for _ in self.lines())

    def kill(self) -> None:
        """Kill the process, and nothing but the process, as a person would; note its last lines."""
        self._process.kill()
        self._process.wait()
        for _ in self.lines(until_s=0):
            pass

    def ended(self) -> int:
        """Wait for its end; return the exit status, negative after a signal."""
        return self._process.wait()

    def _read(self, until_s: float | None) -> bool:
        """Read more; False: the time is over, or there is no more."""
        while True:
            left_s = LOOK_EVERY_S if until_s is None else max(until_s - time.monotonic(), 0)
            ended = self._process.poll() is not None
            ready, _, _ = select.select([self._pipe], [], [], min(left_s, LOOK_EVERY_S))
            if ready:
                data = os.read(self._pipe, CHUNK_BYTES)
                self._at_end = not data
                self._rest += data
                return bool(data)
            if ended:
                self._at_end = True  # what still holds the pipe is none of the command
                return False
            if until_s is not None and time.monotonic() >= until_s:
                return False

    def _noted(self, raw: bytes) -> str:
        line = raw.decode(errors="replace")
        self._log.append(line)
        if match := _ITERATION.match(line):
            self.iteration = int(match[1])
        elif match := _GOES_ON.match(line):
            self.went_on_from = int(match[1])
        elif match := _ERROR.match(line):
            self.error = match[1]
        self.begun = self.begun or bool(_BEGINS.match(line))
        return line
