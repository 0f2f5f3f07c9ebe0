"""Signals are taken at once, whatever the code that they interrupt is doing."""

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from relume.commands.stopping import stop_by_signal
from relume.errors import INTERRUPTED
from relume.screen import Screen
from tests.command_line import STOPS
from tests.contract.processes import CONTEXT, LONGEST_S


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


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


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_behind_the_end_does_not_spoil_the_exit_status(number: int) -> None:
    process = CONTEXT.Process(target=_stopped_behind_the_end, args=(number,))
    process.start()
    process.join(LONGEST_S)

    assert process.exitcode == 75


def _stopped_behind_the_end(number: int) -> None:
    with stop_by_signal(Screen()):
        pass
    os.kill(os.getpid(), number)
    sys.exit(75)


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


def test_a_soft_limit_of_processor_time_asks_a_run_to_stop() -> None:
    with stop_by_signal(Screen(), is_said=False) as stop:
        os.kill(os.getpid(), signal.SIGXCPU)

        assert stop.requested
