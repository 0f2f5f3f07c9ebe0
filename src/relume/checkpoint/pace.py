"""How often saving is worth its cost, where savelast leaves that to what is measured.

Saving in the background costs the training three things: the time it stands still for the
copy, the processor time of the writer, and what a busy disk or memory takes from its
iterations. The first two are measured directly, the third by what an iteration beside a save
takes longer than one that is not disturbed.
"""

import statistics
from collections import deque

COST_SHARE = 0.01
GIGABYTE = 10**9
SECONDS_PER_DAY = 24 * 3600
LONGEST_PAUSE_S = 600.0
"""Without a savelast: at most 1 % of the time and `savebudget` a day, at least every 10 minutes."""
RECENT = 20
"""Iterations whose median duration is what an iteration takes while nothing is saved."""


class Pace:
    """What an iteration takes while nothing is saved, and how much longer those beside a save."""

    def __init__(self) -> None:
        self._undisturbed_s: deque[float] = deque(maxlen=RECENT)
        self._disturbed_s: list[float] = []
        self._last_at: float | None = None

    def note(self, now: float, saving: bool) -> None:
        """Note that an iteration ended at `now`, beside a save or not."""
        if self._last_at is not None:
            (self._disturbed_s if saving else self._undisturbed_s).append(now - self._last_at)
        self._last_at = now

    def skip(self, now: float) -> None:
        """Note that what ended at `now` was no iteration."""
        self._last_at = now

    def taken_slowdown_s(self) -> float:
        """Return the seconds lost since the last call."""
        disturbed, self._disturbed_s = self._disturbed_s, []
        if not self._undisturbed_s:
            return 0.0
        usual = statistics.median(self._undisturbed_s)
        return max(sum(disturbed) - usual * len(disturbed), 0.0)


def pause_after(cost_s: float, size_bytes: int, savebudget_gb: float) -> float:
    """Return the seconds until the next save, so that saving stays within its budgets."""
    by_cost = cost_s / COST_SHARE
    by_size = size_bytes / (savebudget_gb * GIGABYTE) * SECONDS_PER_DAY
    return min(max(by_cost, by_size), LONGEST_PAUSE_S)
