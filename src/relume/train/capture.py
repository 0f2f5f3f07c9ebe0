"""A live network and optimizer <-> TrainState. All names, shapes and types, or an error."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from relume.checkpoint.state import PARTIAL, Array, Arrays, History, Progress, TrainState
from relume.errors import Mismatch
from relume.model.network import Network
from relume.train.optimizer import Optimizer, named_state
from relume.train.partial import Partial, Signature, partial_of, signatures_of_partial

PAGE = 512
PICTURES = "pictures"
"""The group that holds one digest per listed picture, 0 while it has not been used."""


def capture(
    network: Network,
    optimizer: Optimizer,
    pictures: npt.NDArray[np.uint64],
    before: TrainState,
    progress: Progress,
    history: History,
) -> TrainState:
    """Return the state as it is now; arrays on the CPU share the network's memory.

    Args:
        network: after an update.
        optimizer: of the network.
        pictures: [images] digest of every picture used so far.
        before: the state before, for what does not change: recipe, course, environment.
        progress: the counters now.
        history: with this iteration in it.
    """
    live = named_state(optimizer, network.trained_parameters(), network.cfg.net)
    groups: dict[str, Arrays] = {group: _to_numpy(tensors) for group, tensors in live.items()}
    groups[PICTURES] = {"digests": pictures}
    return TrainState(
        weights=_to_numpy(network.darknet_arrays()),
        groups=groups,
        progress=progress,
        history=history,
        recipe=before.recipe,
        course=before.course,
        environment=before.environment,
    )


def install(
    state: TrainState, network: Network, optimizer: Optimizer, pictures: int
) -> tuple[npt.NDArray[np.uint64], Partial]:
    """Put a state into a network and its optimizer; return the rest of it.

    Args:
        state: what a checkpoint holds.
        network: of the same cfg; overwritten.
        optimizer: of the network; overwritten.
        pictures: lines of the image list.
    Returns:
        The picture digests, and the iteration that has begun.
    Raises:
        Mismatch: names, shapes or types differ; nothing has been touched.
    """
    live: dict[str, Mapping[str, Tensor]] = {"weights": network.darknet_arrays()}
    live |= named_state(optimizer, network.trained_parameters(), network.cfg.net)
    given: dict[str, Arrays] = {"weights": state.weights, **state.groups}
    expected: dict[str, Signature] = {
        f"{group}/{name}": (tuple(t.shape), np.dtype(np.float32))
        for group, tensors in live.items()
        for name, t in tensors.items()
    }
    expected[f"{PICTURES}/digests"] = ((pictures,), np.dtype(np.uint64))
    if PARTIAL in state.groups:
        for name, signature in signatures_of_partial(state.groups[PARTIAL], network).items():
            expected[f"{PARTIAL}/{name}"] = signature
    found = {
        f"{group}/{name}": (array.shape, array.dtype.newbyteorder("="))
        for group, arrays in given.items()
        for name, array in arrays.items()
    }
    names = expected.keys() | found.keys()
    if wrong := sorted(name for name in names if expected.get(name) != found.get(name)):
        raise Mismatch(
            "checkpoint",
            f"{len(wrong)} tensors do not fit, first {wrong[0]}: {found.get(wrong[0], 'missing')}",
            f"{expected.get(wrong[0], 'no such tensor')}",
        )
    with torch.no_grad():
        for group, tensors in live.items():
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(np.array(given[group][name])))
    return _copied(state.groups[PICTURES]["digests"]), partial_of(state, network)


def _copied(digests: Array) -> npt.NDArray[np.uint64]:
    """Copy an array of which, with a long list, most may be zero; zeros then take no memory."""
    copied = np.zeros(len(digests), np.uint64)
    for first in range(0, len(digests), PAGE):
        part = digests[first : first + PAGE]
        if part.any():
            copied[first : first + PAGE] = part
    return copied


def empty_groups(network: Network, optimizer: Optimizer, pictures: int) -> dict[str, Arrays]:
    """Return the groups of a state in which nothing has been trained yet."""
    live = named_state(optimizer, network.trained_parameters(), network.cfg.net)
    groups: dict[str, Arrays] = {group: _to_numpy(tensors) for group, tensors in live.items()}
    groups[PICTURES] = {"digests": np.zeros(pictures, np.uint64)}
    return groups


def weights_of(network: Network) -> Arrays:
    """Return the network's parameters and rolling statistics by Darknet's names."""
    return _to_numpy(network.darknet_arrays())


def _to_numpy(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    # Darknet's order of dimensions, whatever the memory format.
    return {name: np.ascontiguousarray(t.detach().cpu().numpy()) for name, t in tensors.items()}
