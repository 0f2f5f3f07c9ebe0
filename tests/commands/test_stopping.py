"""Signals are taken at once, whatever the code that they interrupt is doing."""

import signal
import threading

import pytest

from relume.commands.stopping import stop_by_signal
from relume.screen import Screen


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
