"""A limit of the system that sends a signal asks a run to stop, and does not kill it."""

import os
import signal

from relume.commands.stopping import stop_by_signal
from relume.screen import Screen


def test_a_soft_limit_of_processor_time_asks_a_run_to_stop() -> None:
    with stop_by_signal(Screen(), is_said=False) as stop:
        os.kill(os.getpid(), signal.SIGXCPU)

        assert stop.requested
