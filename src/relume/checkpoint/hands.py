"""Threads that work for a save, and the processor time that they took from the training.

A save has three strands that need not wait for each other: the digests of the archive, filling
the next chunk, and the disk. Without hands the same work is done one after the other.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Hands:
    """A few threads; what they are given is done in no order."""

    def __init__(self, number: int) -> None:
        self._pool = ThreadPoolExecutor(number, "relume-save")
        self._lock = threading.Lock()
        self._processor_s = 0.0

    def start(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> Future[T]:
        """Do some work in a thread."""
        # mypy does not follow one ParamSpec through another.
        return self._pool.submit(self._counted, work, *args, **options)  # type: ignore[arg-type]

    def taken_processor_s(self) -> float:
        """Return the seconds of processor time that finished work took since the last call."""
        with self._lock:
            seconds, self._processor_s = self._processor_s, 0.0
        return seconds

    def close(self) -> None:
        """Wait for all that has been started."""
        self._pool.shutdown()

    def _counted(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        began_s = time.thread_time()
        try:
            return work(*args, **options)
        finally:
            with self._lock:
                self._processor_s += time.thread_time() - began_s


def started(
    hands: Hands | None, work: Callable[P, T], *args: P.args, **options: P.kwargs
) -> Future[T]:
    """Start some work, or do it at once where there are no hands."""
    if hands is not None:
        return hands.start(work, *args, **options)
    done: Future[T] = Future()
    try:
        done.set_result(work(*args, **options))
    except BaseException as error:
        done.set_exception(error)
    return done
