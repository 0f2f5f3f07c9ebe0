"""An iteration that has begun: what its subdivisions have left so far, as a part of the state.

The sums of a prefix (subdivisions 0 to k-1) are kept as they are, so that the iteration ends
with the same bits wherever it was interrupted: losses added in order, batch statistics one by
one, and gradients as the complete subtrees that wait in the tree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from relume.checkpoint.state import PARTIAL, Array, Arrays, TrainState
from relume.data.mixing import most_pictures
from relume.distributed.exchange import Exchange
from relume.distributed.tree import GradientTree, spans_of
from relume.errors import Mismatch
from relume.model.network import Network, Statistics

Signature = tuple[tuple[int, ...], np.dtype[Any]]
"""Shape and type of an array."""


@dataclass(frozen=True)
class Subdivision:
    """What one subdivision leaves, but for its gradient."""

    losses: npt.NDArray[np.float32]
    """Box, objectness and class loss, summed over heads and images."""
    statistics: Statistics
    rows: Sequence[int]
    """Of the image list, for every picture used."""
    digests: Sequence[int]
    """Of those pictures."""
    skipped: Mapping[int, int]
    """Digest by row of the pictures that could not be decoded, and were replaced."""


class Share:
    """The subdivisions of one iteration that this process trains, and what they left so far."""

    def __init__(self, subdivisions: range, exchange: Exchange | None = None) -> None:
        self.subdivisions = subdivisions
        self.done: list[Subdivision] = []
        self.exchange = exchange
        """Where the gradients go in a group of processes."""
        self.tree = GradientTree(subdivisions.start)
        """Where they stay in one."""

    @property
    def is_complete(self) -> bool:
        """Whether all are done."""
        return len(self.done) == len(self.subdivisions)


class Partial:
    """The subdivisions of one iteration done so far, from the first on."""

    def __init__(self) -> None:
        self.losses: npt.NDArray[np.float32] = np.zeros(3, np.float32)
        """Box, objectness and class loss, summed over heads and images."""
        self.statistics: list[Statistics] = []
        """Of every subdivision."""
        self.tree = GradientTree()
        self.rows: list[int] = []
        """Of the image list, for every picture used."""
        self.digests: list[int] = []
        """Of those pictures."""
        self.skipped: dict[int, int] = {}
        """Digest by row of the pictures that could not be decoded, and were replaced."""

    @property
    def subdivisions(self) -> int:
        """How many are done."""
        return len(self.statistics)

    def extend(self, done: Sequence[Subdivision]) -> None:
        """Add what the next subdivisions left; their gradients are added to `tree`."""
        for subdivision in done:
            self.losses += subdivision.losses
            self.statistics.append(subdivision.statistics)
            self.rows += subdivision.rows
            self.digests += subdivision.digests
            self.skipped |= subdivision.skipped


def with_partial(state: TrainState, partial: Partial, network: Network) -> TrainState:
    """Return a state between two iterations with what `partial` holds; the memory is shared."""
    if partial.subdivisions == 0:
        return state
    net = network.cfg.net
    arrays: dict[str, Array] = {
        "subdivisions": np.array([partial.subdivisions], np.uint32),
        "losses": partial.losses,
        "rows": np.array(partial.rows, np.int64),
        "digests": np.array(partial.digests, np.uint64),
    }
    if partial.skipped:
        arrays["skipped_rows"] = np.array(sorted(partial.skipped), np.int64)
        digests = [digest for _, digest in sorted(partial.skipped.items())]
        arrays["skipped_digests"] = np.array(digests, np.uint64)
    for number, statistics in enumerate(partial.statistics):
        for layer, (mean, variance) in statistics.items():
            arrays[_statistic(number, layer, "mean")] = mean.cpu().numpy()
            arrays[_statistic(number, layer, "variance")] = variance.cpu().numpy()
    for first, count, gradients in partial.tree.subtrees():
        for parameter, gradient in zip(network.trained_parameters(), gradients, strict=True):
            array = np.ascontiguousarray(gradient.cpu().numpy())
            arrays[_gradient(first, count, parameter.name)] = array
    seen = state.iteration * net.batch + partial.subdivisions * net.mini_batch
    return replace(
        state,
        groups={**state.groups, PARTIAL: arrays},
        progress=replace(state.progress, seen=seen),
    )


def partial_of(state: TrainState, network: Network) -> Partial:
    """Return what a state holds of the iteration that has begun, on the network's device."""
    partial = Partial()
    if state.subdivision == 0:
        return partial
    arrays = state.groups[PARTIAL]
    device = next(network.parameters()).device

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.array(arrays[name])).to(device)

    partial.losses = np.array(arrays["losses"], np.float32)
    partial.rows = [int(row) for row in arrays["rows"]]
    partial.digests = [int(digest) for digest in arrays["digests"]]
    if "skipped_rows" in arrays:
        rows, digests = (arrays[name].tolist() for name in ("skipped_rows", "skipped_digests"))
        partial.skipped = dict(zip(rows, digests, strict=True))
    for number in range(state.subdivision):
        partial.statistics.append(
            {
                layer: (
                    tensor(_statistic(number, layer, "mean")),
                    tensor(_statistic(number, layer, "variance")),
                )
                for layer, _ in network.batch_norms()
            }
        )
    for first, count in spans_of(0, state.subdivision):
        names = [_gradient(first, count, p.name) for p in network.trained_parameters()]
        partial.tree.add([tensor(name) for name in names], count)
    return partial


def signatures_of_partial(arrays: Arrays, network: Network) -> Mapping[str, Signature]:
    """Return name, shape and type of every array that the group must hold.

    Args:
        arrays: of the group; only its numbers of subdivisions and of pictures are looked at.
        network: for which it must fit.
    Raises:
        Mismatch: no such number can be done of an iteration that has begun.
    """
    net = network.cfg.net
    number = arrays.get("subdivisions", np.zeros(0))
    done = int(number[0]) if number.shape == (1,) else 0
    if not 0 < done < net.subdivisions:
        raise Mismatch(
            "checkpoint",
            f"{PARTIAL}/subdivisions is {done}",
            f"1 to {net.subdivisions - 1}, for subdivisions={net.subdivisions}",
        )
    samples = done * net.mini_batch
    found = arrays.get("rows", np.zeros(0)).size
    pictures = found if samples <= found <= samples * most_pictures(net) else samples
    float32 = np.dtype(np.float32)
    signatures: dict[str, Signature] = {
        "subdivisions": ((1,), np.dtype(np.uint32)),
        "losses": ((3,), float32),
        "rows": ((pictures,), np.dtype(np.int64)),
        "digests": ((pictures,), np.dtype(np.uint64)),
    }
    if "skipped_rows" in arrays:
        skipped = arrays["skipped_rows"].shape[:1]
        signatures["skipped_rows"] = (skipped, np.dtype(np.int64))
        signatures["skipped_digests"] = (skipped, np.dtype(np.uint64))
    for layer, module in network.batch_norms():
        for subdivision in range(done):
            for kind in ("mean", "variance"):
                shape = tuple(module.running_mean.shape)
                signatures[_statistic(subdivision, layer, kind)] = (shape, float32)
    for first, count in spans_of(0, done):
        for p in network.trained_parameters():
            signatures[_gradient(first, count, p.name)] = (tuple(p.tensor.shape), float32)
    return signatures


def _statistic(subdivision: int, layer: int, kind: str) -> str:
    return f"statistics/{subdivision}/{layer}.{kind}"


def _gradient(first: int, count: int, parameter: str) -> str:
    return f"gradient/{first}-{count}/{parameter}"
