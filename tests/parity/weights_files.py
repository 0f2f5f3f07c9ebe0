"""Weights files into networks, for the comparisons with Darknet."""

from pathlib import Path

import torch

from relume.formats.weights import parse_weights
from relume.model.network import Network


def fill(network: Network, path: Path) -> None:
    """Copy a whole weights file into the network."""
    weights = parse_weights(path.read_bytes(), network.cfg, str(path))
    assert weights.end == "whole"
    assert weights.trailing == 0
    for name, tensor in network.darknet_arrays().items():
        tensor.copy_(torch.from_numpy(weights.arrays[name].copy()))
