"""Resumes chained in one run: stopped again and again, mostly after a moment's work.

Every link is a process of its own that reads the checkpoint of the one before, is told to stop
by one of the three signals, and says 75.
"""

import signal
from collections.abc import Callable
from pathlib import Path

from tests.contract.processes import Relume
from tests.contract.small_runs import copied_run
from tests.long_proofs.kills import BEGUN, STOPPED, timed
from tests.long_proofs.piece import Outcome, Piece, draws_of
from tests.long_proofs.variants import differences, trained, variant, write_variant

RESUMES = 200
LONGEST = 2.0
"""The longest moment that a link works, in iterations."""
ITERATIONS_PER_RESUME = 8
"""More than a link works: on a busy machine a signal comes late, and the run must not be over."""
ITERATION_DONE = " avg loss"
"""What a trainer says behind an iteration; every third link gets as far as that before."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
VARIANT = 12
"""Two subdivisions, SGD, dropout and multi-scale, a checkpoint every iteration."""


def prove(
    folder: Path, seed: int, resumes: int, before: Callable[[], None] | None = None
) -> Outcome:
    """Stop and resume one run so often, and compare what it leaves in the end."""
    iterations = ITERATIONS_PER_RESUME * resumes
    run = variant(VARIANT, max_batches=iterations)
    straight = write_variant(folder / "straight", run)
    iteration_s = timed(straight, run) / iterations
    chained = copied_run(straight, folder / "chained")
    draws = draws_of(seed, 3)
    for number in range(resumes):
        process = Relume(chained, *run.words, before=before)
        process.read_until(BEGUN if number % 3 else ITERATION_DONE)
        process.wait_at_most(float(draws.random()) * LONGEST * iteration_s)
        process.signal(SIGNALS[number % 3])
        status = process.ended()
        if status != STOPPED:
            text = f"resume {number}: exit status {status}: {process.output[-2000:]}"
            return Outcome({"resumes": number}, (text,))
    trained(chained, run)
    return Outcome({"resumes": resumes}, tuple(differences(chained, straight)))


def pieces(seed: int) -> list[Piece]:
    """Return the long form."""
    return [Piece("chain", "one run", prove, (seed, RESUMES))]
