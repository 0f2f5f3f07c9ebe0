"""Signals are taken at once, whatever the code that they interrupt is doing."""

import os
import signal
import threading

import pytest

from relume.commands.stopping import stop_by_signal
from relume.errors import INTERRUPTED
from relume.screen import Screen
from tests.contract.processes import CONTEXT, LONGEST_S


def test_a_signal_is_taken_while_the_screen_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the thread that draws the bar, which may wait for the very code that is interrupted."""
    said: list[str] = []
    held = threading.Lock()

    def warn(screen: Screen, text: str) -> None:
        if held.acquire(timeout=5):
            said.append(text)
            held.release()

    monkeypatch.setattr(Screen, "warn", warn)
    with stop_by_signal(Screen()) as stop, held:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested

    assert said == ["SIGTERM: saves after this subdivision, then stops"]
    assert "relume-signals" not in {thread.name for thread in threading.enumerate()}
    assert "relume-announcer" not in {thread.name for thread in threading.enumerate()}


def test_a_second_ctrl_c_leaves_although_the_main_thread_runs_no_handler() -> None:
    """As in a library's call, or where the signal comes just before a read that waits."""
    process = CONTEXT.Process(target=_held_up)
    process.start()
    process.join(LONGEST_S)
    status = process.exitcode
    process.kill()

    assert status == INTERRUPTED


def _held_up() -> None:
    nothing, _ = os.pipe()
    with stop_by_signal(Screen()):
        # From here on other threads take the signals, and nothing wakes this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            while signal.SIGINT in signal.sigpending():
                os.sched_yield()
        os.read(nothing, 1)
