"""The cause of numbers that are not finite where only the subdivisions' sums are not."""

import numpy as np
import torch

from relume.formats.cfg import parse_cfg
from relume.model.network import Network
from relume.train.diagnosis import Cause, _cause_in_the_sums
from relume.train.partial import Partial
from tests.checkpoint.states import tiny_cfg


def partial_of(network: Network, *values: float) -> Partial:
    """Return what subdivisions leave whose last gradient consists of these values."""
    partial = Partial()
    for value in values:
        gradients = [torch.zeros_like(p.tensor) for p in network.trained_parameters()]
        gradients[-1] += value
        partial.tree.add(gradients)
    return partial


def test_losses_that_overflow_together_are_those_of_a_head() -> None:
    network = Network(parse_cfg(tiny_cfg(), "net.cfg", "train"))
    losses = np.full((2, 1, 3), 2e38, np.float32)

    cause = _cause_in_the_sums(network, partial_of(network, 0.0, 0.0), losses)

    head = len(network.layers) - 1
    assert cause == Cause(head, "the sum over the subdivisions of the losses")


def test_gradients_that_overflow_together_are_those_of_a_layer() -> None:
    network = Network(parse_cfg(tiny_cfg(), "net.cfg", "train"))
    losses = np.ones((2, 1, 3), np.float32)
    last = network.trained_parameters()[-1]

    cause = _cause_in_the_sums(network, partial_of(network, 3e38, 3e38), losses)

    what = "the sum over the subdivisions of the gradients of the weights"
    assert cause == Cause(last.layer, what)


def test_finite_sums_have_no_cause() -> None:
    network = Network(parse_cfg(tiny_cfg(), "net.cfg", "train"))
    losses = np.ones((2, 1, 3), np.float32)

    assert _cause_in_the_sums(network, partial_of(network, 1.0, -1.0), losses) is None
