"""The signals that ask a run to stop."""

import signal

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP", "SIGXCPU", "SIGBREAK")
"""SIGXCPU is a soft limit of time (ulimit -S -t, Grid Engine), SIGBREAK is Windows' Ctrl-Break."""


def stop_signals() -> list[signal.Signals]:
    """Return those of NAMES that this system has."""
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def heeded_stop_signals() -> list[signal.Signals]:
    """Return those that stop a run: not SIGHUP under nohup, where no terminal is needed."""
    return [
        number
        for number in stop_signals()
        if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN
    ]
