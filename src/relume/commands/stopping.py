"""What ends a training early: signals and -max_time. Both ask; the loop saves and returns."""

import os
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from types import FrameType

from relume.errors import INTERRUPTED, UsageError
from relume.screen import Screen
from relume.stop_signals import heeded_stop_signals
from relume.train.loop import Stop

DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
LEFT = "left at once; the same command goes on from the last checkpoint"
END = 0
"""No signal has this number: the listener ends."""
LONGEST_FAREWELL_S = 1.0
"""Seconds to wait, at the end, for a screen that takes no line."""


def max_time_s(flags: Mapping[str, str | int | float | bool]) -> float | None:
    """Return the seconds of -max_time: a number of them, or H:MM:SS."""
    if "-max_time" not in flags:
        return None
    text = str(flags["-max_time"])
    clock = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", text, re.ASCII)
    if clock:
        hours, minutes, seconds = map(int, clock.groups())
        total = 3600.0 * hours + 60 * minutes + seconds
    else:
        total = float(text) if re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII) else 0.0
    if total <= 0:
        raise UsageError("-max_time", f"'{text}'", "seconds above 0, or H:MM:SS")
    return total


@contextmanager
def stop_by_signal(screen: Screen, is_said: bool = True) -> Iterator[Stop]:
    """Turn the first signal into a request; a second SIGINT leaves at once.

    That is as safe as being killed, which a checkpoint survives, and it ends a process too
    that waits for a disk that does not answer: a thread of its own hears of every signal, also
    while the main one is held up in a system call or a library and runs no handler.

    Behind the end nothing is left to stop: a signal that comes then is ignored, or it would
    spoil the exit status by which a recipe decides whether to go on.

    Args:
        screen: told of the first signal.
        is_said: False in a process that follows another, which says it.
    """
    stop, announcer = Stop(), _Announcer(screen)
    numbers = heeded_stop_signals()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def listen() -> None:
        interrupts = 0
        with ours:
            while (number := ours.recv(1)[0]) != END:
                interrupts += number == signal.SIGINT
                if interrupts > 1:
                    announcer.say(LEFT)
                    announcer.end()
                    os._exit(INTERRUPTED)
                if number in numbers:
                    stop.requested = True
                    name = signal.Signals(number).name
                    if is_said:
                        announcer.say(f"{name}: saves after this subdivision, then stops")

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True  # before the main thread's next step, not a little later

    listener = Thread(target=listen, name="relume-signals", daemon=True)
    listener.start()
    fd_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    before = [signal.signal(number, request) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_IGN if handler in DEFAULTS else handler)
        signal.set_wakeup_fd(fd_before)
        theirs.send(bytes([END]))
        theirs.close()
        listener.join()
        announcer.end()


class _Announcer:
    """Says lines in a thread of its own: nobody may take them, and the listener must go on."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._texts: SimpleQueue[str | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="relume-announcer", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Say a line when those before have been said; LEFT is the last one of the process."""
        self._texts.put(text)

    def end(self) -> None:
        """Wait until all has been said, but not for long."""
        self._texts.put(None)
        self._thread.join(LONGEST_FAREWELL_S)

    def _work(self) -> None:
        while (text := self._texts.get()) is not None:
            if text == LEFT:
                self._screen.close()
            self._screen.warn(text)
