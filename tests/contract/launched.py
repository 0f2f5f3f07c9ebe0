"""A command at work in a shell of its own, with what it says; torchrun, mostly."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Condition, Thread

LONGEST_S = 300
"""A command from which nothing comes for longer has hung."""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
RELUME = (sys.executable, "-m", "relume")


class Launched:
    """A command at work."""

    def __init__(
        self, folder: Path, *command: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it in a folder, with more environment than this process has."""
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        self.said = ""
        """All that has come."""
        self._looked_through = 0
        self._is_over = False
        self._news = Condition()
        # It is read all the time: a command whose output nobody takes stands still.
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def read_until(self, text: str) -> None:
        """Wait until it says something, behind what was waited for before."""
        with self._news:
            assert self._news.wait_for(lambda: self._has_come(text), LONGEST_S), self.said
        assert self.said.startswith(text, self._looked_through - len(text)), (
            f"ended without '{text}': {self.said}"
        )

    def ended(self) -> int:
        """Read to the end; return the exit status."""
        with self._news:
            if not self._news.wait_for(lambda: self._is_over, LONGEST_S):
                self.kill()
                raise AssertionError(f"hangs; it said: {self.said}")
        self._reader.join()
        return self.process.wait(LONGEST_S)

    def kill(self) -> None:
        """End it, and what it has started in its group."""
        for pid in (*self.workers(), self.process.pid):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def workers(self) -> list[int]:
        """Return the processes that it has started, in their order."""
        pid = self.process.pid
        try:
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        except OSError:
            return []
        return sorted(map(int, text.split()))

    def _has_come(self, text: str) -> bool:
        at = self.said.find(text, self._looked_through)
        if at != -1:
            self._looked_through = at + len(text)
        return at != -1 or self._is_over

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._news:
                    self.said += line
                    self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()
