"""Everything a person sees while a command runs: lines, the progress bar, errors.

On a terminal training shows a bar; elsewhere it prints Darknet's line per iteration, which
log parsers know. A character that the output cannot show, or that would act on a terminal, is
shown as its escape: no text from outside can forge a line.
"""

import io
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from relume.control_characters import escape_controls
from relume.errors import StorageError

RECENT = 20
"""Iterations over which speed is averaged."""
MANY = 10_000
"""Files from which on reading or writing them takes long enough to be shown."""
Item = TypeVar("Item")


class Screen:
    """Standard output for results, standard error for what goes wrong."""

    def __init__(self) -> None:
        _take_closed_streams()
        self.began_s = time.monotonic()
        """When the command began."""
        self._bar: TrainingProgress | StepProgress | None = None
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

    def line(self, text: str) -> None:
        """Show one line of result; a newline in it is shown as its escape.

        Raises:
            BrokenPipeError: whoever read the lines has gone.
            StorageError: standard output is a file that cannot be written.
        """
        _print([text])

    def lines(self, lines: Iterable[str]) -> None:
        """Show several lines at once.

        Raises:
            BrokenPipeError, StorageError: as Screen.line.
        """
        _print(lines)

    def json(self, value: object) -> None:
        """Show a value as JSON.

        Raises:
            BrokenPipeError, StorageError: as Screen.line.
        """
        _print(json.dumps(value, indent=1).split("\n"))

    def warn(self, text: str) -> None:
        """Show one line that a person should know and that is no error."""
        _print_aside(f"relume: {text}")

    def error(self, text: str) -> None:
        """Show the one line of an error."""
        _print_aside(f"relume: error: {text}")

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None if standard output is none."""
        if sys.stdout is None or not sys.stdout.isatty():
            return None
        return shutil.get_terminal_size().columns

    @contextmanager
    def silent_libraries(self) -> Iterator[None]:
        """Keep what libraries of C say of a file off standard error: it names no file."""
        try:
            kept = os.dup(2)
        except OSError:
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)

    def training(self, done: int, total: int) -> "TrainingProgress":
        """Return the display of a training run."""
        self._bar = TrainingProgress(done, total)
        return self._bar

    def progress(self, total: int) -> "StepProgress":
        """Return the display of work in steps."""
        self._bar = StepProgress(total)
        return self._bar

    def each(self, items: Iterable[Item], total: int, text: str) -> Iterator[Item]:
        """Yield the items, so many; of MANY it shows how many are done."""
        progress = self.progress(total) if total >= MANY else None
        for done, item in enumerate(items, 1):
            yield item
            if progress is not None:
                progress.at(done, text)
        if progress is not None:
            progress.close()

    def counter(self, total: int, text: str, is_shown: bool = True) -> Callable[[int], None]:
        """Return what shows how many of the things that `text` names are done: on a terminal only.

        It is called with their number; the display ends at `total`.
        """
        if not is_shown or self.width is None or not total:
            return lambda done: None
        progress = self.progress(total)

        def at(done: int) -> None:
            progress.at(done, text)
            if done == total:
                progress.close()

        return at

    def close(self) -> None:
        """Put the terminal back in order."""
        if self._bar is not None:
            self._bar.close()


class TrainingProgress:
    """A bar on a terminal, Darknet's lines elsewhere."""

    def __init__(self, done: int, total: int) -> None:
        self._total = total
        self._times: deque[tuple[float, int]] = deque([(time.monotonic(), done)], RECENT + 1)
        self._map: dict[str, str] = {}
        self._progress = _bar(transient=False)
        if self._progress is not None:
            self._task = self._progress.add_task("", completed=done, total=total, parts={})
            self._progress.start()

    def iteration(
        self,
        iteration: int,
        loss: float,
        average_loss: float,
        rate: float,
        batch: int,
        unsaved: tuple[int, float] = (0, 0.0),
    ) -> str:
        """Show one iteration; return Darknet's line about it, and behind that what is unsaved.

        Args:
            unsaved: iterations and seconds that a power cut would throw the run back.
        Raises:
            BrokenPipeError, StorageError: as Screen.line.
        """
        before, first = self._times[0]
        now = time.monotonic()
        seconds = now - self._times[-1][0]
        self._times.append((now, iteration))
        per_iteration = max(now - before, 1e-6) / max(iteration - first, 1)
        left_s = per_iteration * (self._total - iteration)
        line = (
            f" {iteration}: {loss:f}, {average_loss:f} avg loss, {rate:f} rate, "
            f"{seconds:f} seconds, {iteration * batch} images, {left_s / 3600:f} hours left, "
            f"{unsaved[0]} unsaved"
        )
        if self._progress is None:
            _print([line])
        else:
            parts = {
                "loss": f"loss {loss:.4g}",
                "avg": f"avg {average_loss:.4g}",
                "rate": f"rate {rate:.3g}",
                "speed": f"{batch / per_iteration:.3g} images/s",
                "left": f"{_duration(left_s)} left",
                "unsaved": f"unsaved {unsaved[0]} ({_duration(unsaved[1])})",
                **self._map,
            }
            self._progress.update(self._task, completed=iteration, parts=parts)
        return line

    def evaluation(self, last_map: float, best_map: float) -> None:
        """Show the newest mAP and the best, 0 to 1, from the next iteration on."""
        self._map = {"map": f"mAP {100 * last_map:.1f} % (best {100 * best_map:.1f})"}

    def close(self) -> None:
        """Stop drawing."""
        if self._progress is not None:
            _stop_drawing(self._progress)
            self._progress = None


class StepProgress:
    """A bar on a terminal; elsewhere a line when something else is done, and at every tenth."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._said = ("", -1)
        self._progress = _bar(transient=True)
        if self._progress is not None:
            self._task = self._progress.add_task("", total=total, parts={})
            self._progress.start()

    def at(self, done: int, text: str) -> None:
        """Show that so many steps of what `text` names are done.

        Raises:
            BrokenPipeError, StorageError: as Screen.line.
        """
        if self._progress is not None:
            self._progress.update(self._task, completed=done, parts={"": escape_controls(text)})
        elif self._said != (said := (text, done * 10 // self._total)):
            self._said = said
            _print([f"{text}: {done}/{self._total}"])

    def close(self) -> None:
        """Stop drawing."""
        if self._progress is not None:
            _stop_drawing(self._progress)
            self._progress = None


def _bar(transient: bool) -> Progress | None:
    """Return a bar that is not drawn yet; None where there is no terminal."""
    console = Console()
    if sys.stdout is None or not sys.stdout.isatty() or console.is_dumb_terminal:
        return None
    return Progress(
        # What must not break gets its width first, and the bar what is left.
        TextColumn("{task.completed}/{task.total}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None),
        _Parts(table_column=Column(no_wrap=True)),
        console=console,
        transient=transient,
    )


class _Parts(ProgressColumn):
    """The parts that fit beside the counter, which would be cut otherwise."""

    def render(self, task: Task) -> Text:
        room = Console().width - len(f"{task.completed}/{task.total}") - 2
        parts = dict(task.fields["parts"])
        for name in ("rate", "speed", "loss", "unsaved"):
            if len(" ".join(parts.values())) > room:
                parts.pop(name, None)
        return Text(" ".join(parts.values()))


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days} d {h} h" if days else f"{h}:{m:02}:{s:02}"


def _print(lines: Iterable[str]) -> None:
    """Print lines on standard output: with `_print_aside` the only way there."""
    try:
        print("\n".join(map(escape_controls, lines)), flush=True)
    except BrokenPipeError:
        _silence(sys.stdout)
        raise
    except OSError as error:
        _silence(sys.stdout)
        raise StorageError(
            "standard output",
            f"cannot be written ({error.strerror})",
            "a terminal, a pipe or a file with space",
        ) from error


def _print_aside(text: str) -> None:
    """Print on standard error; nothing depends on its being read."""
    try:
        line = f"{escape_controls(text)}\n"  # whole, whichever thread speaks
        print(line, end="", file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def _stop_drawing(bar: Progress) -> None:
    """Give the terminal back, which may have gone."""
    try:
        bar.stop()
    except OSError:
        _silence(sys.stdout)


def _take_closed_streams() -> None:
    """Open what stands for a closed stream: 0 to 2.

    The next file would get its number, and with it whatever a library writes to that stream.
    """
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)


def _silence(stream: TextIO) -> None:
    """Lead a stream into nothing, or Python would complain about its last bytes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
