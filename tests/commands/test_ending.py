"""A signal that ends a command lets it tidy up before, and ends it all the same."""

import os
import signal

import pytest

from relume.commands.ending import tidied_up


def test_a_signal_ends_the_process_when_it_is_tidied_up(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda process, number: done.append(number))

    def ended() -> None:
        with tidied_up():
            try:
                kill(os.getpid(), signal.SIGTERM)
            finally:
                kill(os.getpid(), signal.SIGTERM)  # an impatient second one
                done.append("tidied up")

    with pytest.raises(KeyboardInterrupt):
        ended()

    assert done == ["tidied up", signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_nothing_happens_without_a_signal_or_where_it_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with tidied_up():
        os.kill(os.getpid(), signal.SIGHUP)

    assert signal.signal(signal.SIGHUP, before) == signal.SIG_IGN
