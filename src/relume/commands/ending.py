"""What ends a command early that is no training: SIGTERM and SIGHUP end it as Ctrl-C does."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = ("SIGTERM", "SIGHUP")


@contextmanager
def tidied_up() -> Iterator[None]:
    """Let what is half written be taken away before a signal ends the process.

    By default such a signal ends it at once. Here it is raised as KeyboardInterrupt, so that
    what was begun is left in order, and then ends the process, as whoever sent it expects.
    """
    ended: list[int] = []
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]

    def end(number: int, frame: FrameType | None) -> None:
        for other in taken:  # a second one shall not disturb the tidying up
            signal.signal(other, signal.SIG_IGN)
        ended.append(number)
        raise KeyboardInterrupt

    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if ended:
            os.kill(os.getpid(), ended[0])
