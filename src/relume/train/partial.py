"""An iteration that has begun: what its subdivisions have left so far, as a part of the state.

The sums of a prefix (subdivisions 0 to k-1) are kept as they are, so that the iteration ends
with the same bits wherever it was interrupted: losses added in order, batch statistics one by
one, and gradients as the complete subtrees that wait in the tree.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from relume.checkpoint.state import PARTIAL, Array, Arrays, TrainState
from relume.data.mixing import most_pictures
from relume.errors import Mismatch
from relume.model.network import Network, Statistics

Gradients = list[Tensor]
Signature = tuple[tuple[int, ...], np.dtype[Any]]
"""Shape and type of an array."""


class Partial:
    """The subdivisions of one iteration done so far."""

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


class GradientTree:
    """Sums gradients in the binary tree over subdivision numbers; an odd node moves up.

    Leaves come in order. Like a binary counter it holds at most log2(n) + 1 buffers: one for
    every complete subtree that waits for its right sibling.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Gradients]] = []

    def add(self, leaf: Gradients) -> None:
        """Add the gradients of the next subdivision; they are taken over."""
        level = 0
        while self._waiting and self._waiting[-1][0] == level:
            leaf = _added(self._waiting.pop()[1], leaf)
            level += 1
        self._waiting.append((level, leaf))

    def total(self) -> Gradients:
        """Return the sum of all leaves."""
        _, total = self._waiting.pop()
        while self._waiting:
            total = _added(self._waiting.pop()[1], total)
        return total

    def subtrees(self) -> Iterator[tuple[int, int, Gradients]]:
        """Yield (first leaf, leaves, their sum) of every complete subtree that waits."""
        first = 0
        for level, gradients in self._waiting:
            yield first, 2**level, gradients
            first += 2**level

    def put_back(self, leaves: int, gradients: Gradients) -> None:
        """Let the sum of a complete subtree wait behind those that wait already."""
        self._waiting.append((leaves.bit_length() - 1, gradients))


def _added(left: Gradients, right: Gradients) -> Gradients:
    torch._foreach_add_(left, right)
    return left


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
    for first, count in _subtrees(state.subdivision):
        names = [_gradient(first, count, p.name) for p in network.trained_parameters()]
        partial.tree.put_back(count, [tensor(name) for name in names])
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
    for first, count in _subtrees(done):
        for p in network.trained_parameters():
            signatures[_gradient(first, count, p.name)] = (tuple(p.tensor.shape), float32)
    return signatures


def _subtrees(leaves: int) -> Sequence[tuple[int, int]]:
    """Return (first leaf, leaves) of the complete subtrees that wait after so many leaves."""
    found, first = [], 0
    for level in reversed(range(leaves.bit_length())):
        if leaves >> level & 1:
            found.append((first, 2**level))
            first += 2**level
    return found


def _statistic(subdivision: int, layer: int, kind: str) -> str:
    return f"statistics/{subdivision}/{layer}.{kind}"


def _gradient(first: int, count: int, parameter: str) -> str:
    return f"gradient/{first}-{count}/{parameter}"
