"""Everything a person sees while a command runs: lines, the progress bar, errors.

On a terminal training shows a bar; elsewhere it prints Darknet's line per iteration, which
log parsers know.
"""

import sys
import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

RECENT = 20
"""Iterations over which speed is averaged."""


class Screen:
    """Standard output for results, standard error for what goes wrong."""

    def __init__(self) -> None:
        self._bar: TrainingProgress | None = None

    def line(self, text: str) -> None:
        """Show one line of result, exactly as it is."""
        print(text, flush=True)

    def text(self, text: str) -> None:
        """Show several lines."""
        self.line(text)

    def warn(self, text: str) -> None:
        """Show one line that a person should know and that is no error."""
        print(f"relume: {text}", file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """Show the one line of an error."""
        single = " ".join(text.split("\n"))
        print(f"relume: error: {single}", file=sys.stderr, flush=True)

    def training(self, done: int, total: int) -> "TrainingProgress":
        """Return the display of a training run."""
        self._bar = TrainingProgress(done, total)
        return self._bar

    def close(self) -> None:
        """Put the terminal back in order."""
        if self._bar is not None:
            self._bar.close()


class TrainingProgress:
    """A bar on a terminal, Darknet's lines elsewhere."""

    def __init__(self, done: int, total: int) -> None:
        self._total = total
        self._times: deque[tuple[float, int]] = deque([(time.monotonic(), done)], RECENT + 1)
        console = Console()
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(bar_width=None),
                _Fields(),
                console=console,
                transient=False,
            )
            self._task = self._progress.add_task("", completed=done, total=total, fields="")
            self._progress.start()

    def iteration(
        self, iteration: int, loss: float, average_loss: float, rate: float, batch: int
    ) -> str:
        """Show one iteration; return Darknet's line about it."""
        before, first = self._times[0]
        now = time.monotonic()
        seconds = now - self._times[-1][0]
        self._times.append((now, iteration))
        per_iteration = (now - before) / max(iteration - first, 1)
        left_s = per_iteration * (self._total - iteration)
        line = (
            f" {iteration}: {loss:f}, {average_loss:f} avg loss, {rate:f} rate, "
            f"{seconds:f} seconds, {iteration * batch} images, {left_s / 3600:f} hours left"
        )
        if self._progress is None:
            print(line, flush=True)
        else:
            fields = (
                f"loss {loss:.3f}  avg {average_loss:.3f}  rate {rate:.6f}  "
                f"{batch / per_iteration:.1f} images/s  {_duration(left_s)} left"
            )
            self._progress.update(self._task, completed=iteration, fields=fields)
        return line

    def close(self) -> None:
        """Stop drawing."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Fields(ProgressColumn):
    def render(self, task: "object") -> Text:
        return Text(task.fields["fields"])  # type: ignore[attr-defined]


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days} d {h} h" if days else f"{h}:{m:02}:{s:02}"
