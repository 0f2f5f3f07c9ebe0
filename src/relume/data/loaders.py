"""Threads that do tasks ahead of time, and a waiting for them that a stop request ends.

Unlike those of concurrent.futures these are daemons, so that one that hangs in a read keeps
no process alive. A task is done anew if its thread has died, so it must be a pure function.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, InvalidStateError, wait
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from relume.data.patience import POLL_S

T = TypeVar("T")
Task = tuple[Callable[[], T], Future[T]]
"""Something to be done by a thread, and what comes of it."""

LONGEST_FAREWELL_S = 1.0
"""Seconds to wait, at the end, for threads that are busy."""


def available_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Loaders:
    """A number of threads that take tasks in their order."""

    def __init__(self, number: int) -> None:
        self._tasks: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._threads = [self._started() for _ in range(number)]

    def submit(self, function: Callable[[], T]) -> Task[T]:
        """Let a thread call a pure function."""
        task = (function, Future[T]())
        self._tasks.put(task)
        return task

    def results(self, tasks: Sequence[Task[T]], stopped: Callable[[], bool]) -> list[T] | None:
        """Return what the tasks return, in order; None if `stopped` says so while one waits.

        Raises:
            Exception: what a task has raised, as soon as one has.
        """
        futures = [future for _, future in tasks]
        while True:
            done, waiting = wait(futures, POLL_S, FIRST_EXCEPTION)
            errors = [error for f in futures if f in done and (error := f.exception())]
            if (waiting or errors) and stopped():
                return None
            if errors:
                raise errors[0]
            if not waiting:
                return [future.result() for future in futures]
            self._replace_dead(tasks)

    def close(self) -> None:
        """Drop the tasks that nobody has begun, and let the threads end.

        Waits for tasks under way, but not for one that hangs: see `cli.program`.
        """
        with suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        until_s = time.monotonic() + LONGEST_FAREWELL_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="relume-load", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            function, future = task
            with suppress(InvalidStateError):  # it was done twice
                try:
                    future.set_result(function())
                except BaseException as error:  # whatever it is, who waits must hear of it
                    future.set_exception(error)

    def _replace_dead(self, tasks: Sequence[Task[T]]) -> None:
        """Start new threads for dead ones, and have done again what one may have taken along."""
        dead = [i for i, thread in enumerate(self._threads) if not thread.is_alive()]
        for i in dead:
            self._threads[i] = self._started()
        if dead:
            for task in tasks:
                if not task[1].done():
                    self._tasks.put(task)
