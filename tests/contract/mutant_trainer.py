"""`relume` with a defect that users would not see: momentum is not restored when a run goes on."""

import sys

import numpy.typing as npt
from numpy import uint64

from relume.checkpoint.state import TrainState
from relume.cli import main
from relume.model.network import Network
from relume.train import capture, loop
from relume.train.optimizer import Optimizer
from relume.train.partial import Partial


def forgetful_install(
    state: TrainState, network: Network, optimizer: Optimizer, pictures: int
) -> tuple[npt.NDArray[uint64], Partial]:
    """Install a state, and then lose the momentum."""
    installed = capture.install(state, network, optimizer, pictures)
    for kept in optimizer.state.values():
        kept["momentum_buffer"].zero_()
    return installed


if __name__ == "__main__":
    loop.install = forgetful_install  # type: ignore[attr-defined]
    sys.exit(main(sys.argv[1:]))
