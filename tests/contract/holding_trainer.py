"""`relume` that stands still in one iteration until it is asked to stop, or killed.

So a test that sends a signal to a run need not be faster than the run.
"""

import os
import sys
import time
from functools import wraps

from relume.cli import main
from relume.commands import launch
from relume.data.batch import MiniBatch
from relume.model.network import Network
from relume.train import loop, step
from relume.train.partial import Share

PROGRAM = (sys.executable, "-P", "-m", "tests.contract.holding_trainer")
HOLDS_IN = "HOLDS_IN"
"""Names the iteration, in the environment; the first subdivision of it is done before."""
POLL_S = 0.01


def hold_in(iteration: int, batch: int) -> None:
    """Let this process stand still in an iteration."""
    is_due, train_subdivision, held = loop.Stop.is_due, step.train_subdivision, [False]

    @wraps(train_subdivision)
    def noted(network: Network, share: Share, mini_batch: MiniBatch) -> None:
        train_subdivision(network, share, mini_batch)
        held[0] = mini_batch.positions[0] // batch >= iteration - 1

    def waits(stop: loop.Stop) -> bool:
        while held[0] and not is_due(stop):
            time.sleep(POLL_S)
        return is_due(stop)

    loop.train_subdivision = noted  # type: ignore[attr-defined]
    loop.Stop.is_due = waits  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    launch.PROGRAM = PROGRAM
    hold_in(int(os.environ[HOLDS_IN]), batch=8)
    sys.exit(main(sys.argv[1:]))
