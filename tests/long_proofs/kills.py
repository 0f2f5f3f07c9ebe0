"""Kills at random moments: a run that is killed again and again leaves the undisturbed run's files.

The moments are drawn from the time in which an iteration begins on, so they fall into loading,
training and saving as these take their time. Some processes are frozen before, some are told
to stop and killed while they do, some are left to stop; a tenth are started cold.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.contract.processes import Relume
from tests.contract.small_runs import copied_run
from tests.long_proofs.piece import Outcome, Piece, draws_of
from tests.long_proofs.variants import (
    VARIANTS,
    Variant,
    differences,
    trained,
    variant,
    write_variant,
)

KILLS = 42
"""Of one run; 26 runs make 1,092."""
LONGEST = 6.0
"""The last moment of a kill, in iterations behind the beginning of the first."""
ITERATIONS_PER_KILL = 2
COLD_EVERY = 8
"""Some of these end by being stopped; of the kills a tenth remains."""
BEGUN = "relume: seed"
"""What a trainer says just before its first iteration."""
STOPPED = 75


@dataclass
class Disturbed:
    """A run in a folder that is interrupted in one way or another."""

    run: Variant
    folder: Path
    iteration_s: float
    draws: np.random.Generator
    before: Callable[[], None] | None = None
    """Called in every trainer first: what the negative control breaks."""

    def interrupt(self, counts: Counter[str]) -> str | None:
        """Start the trainer and interrupt it once; return what went wrong, or None."""
        cold = self.before is None and counts["starts"] % COLD_EVERY == COLD_EVERY - 1
        process = Relume(self.folder, *self.run.words, cold=cold, before=self.before)
        counts["starts"] += 1
        group = bool(self.draws.integers(2))
        way = self.draws.choice(["kill", "freeze", "stop, kill", "stop"], p=[0.7, 0.1, 0.1, 0.1])
        moment_s = self._moment_s(LONGEST)
        if process.read_until(BEGUN):
            process.wait_at_most(moment_s)
            if way == "freeze":
                process.signal(signal.SIGSTOP, group)
                process.wait_at_most(self._moment_s(1))
                process.signal(signal.SIGCONT, group)
                process.wait_at_most(self._moment_s(1))
            if "stop" in way:
                process.signal(signal.SIGTERM, group)
                process.wait_at_most(self._moment_s(1))
            if way != "stop":
                process.signal(signal.SIGKILL, group)
        status = process.ended()
        counts["kills"] += status == -signal.SIGKILL
        counts["kills of cold starts"] += cold and status == -signal.SIGKILL
        counts["stops"] += status == STOPPED
        counts["freezes"] += way == "freeze"
        counts["finished"] += status == 0
        if status in (-signal.SIGKILL, STOPPED, 0):
            return None
        return f"exit status {status}: {process.output[-2000:]}"

    def _moment_s(self, longest: float) -> float:
        return float(self.draws.random() * longest * self.iteration_s)


def prove(
    folder: Path, seed: int, number: int, kills: int, before: Callable[[], None] | None = None
) -> Outcome:
    """Kill the variant of this number so often, and compare what it leaves in the end.

    A run that finishes before is compared, and killed further in a folder of its own.
    """
    run = variant(number, max_batches=ITERATIONS_PER_KILL * kills)
    straight = write_variant(folder / "straight", run)
    iteration_s = timed(straight, run) / (ITERATIONS_PER_KILL * kills)
    counts: Counter[str] = Counter(runs=1)
    draws = draws_of(seed, 1, number)
    failures: list[str] = []
    while counts["kills"] < kills and not failures:
        killed = copied_run(straight, folder / f"killed_{counts['runs finished']}")
        disturbed = Disturbed(run, killed, iteration_s, draws, before)
        finished = counts["finished"]
        while counts["kills"] < kills and counts["finished"] == finished and not failures:
            if wrong := disturbed.interrupt(counts):
                failures.append(wrong)
        if not failures:
            trained(killed, run)
            failures += differences(killed, straight)
            counts["runs finished"] += 1
    del counts["finished"]
    return Outcome(dict(counts), tuple(f"run {number}: {text}" for text in failures))


def timed(folder: Path, run: Variant) -> float:
    """Train to the end; return the seconds behind the beginning of the first iteration."""
    process = Relume(folder, *run.words)
    process.read_until(BEGUN)
    began_s = time.monotonic()
    status = process.ended()
    assert status == 0, process.output[-2000:]
    return time.monotonic() - began_s


def pieces(seed: int) -> list[Piece]:
    """Return the long form: every variant killed KILLS times."""
    numbers = range(VARIANTS)
    return [Piece("kills", f"run {number:02}", prove, (seed, number, KILLS)) for number in numbers]
