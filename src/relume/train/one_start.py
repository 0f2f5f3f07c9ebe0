"""All processes of a group begin at one state, with the same inputs, in the same environment."""

import json
from collections.abc import Mapping

from relume.checkpoint import container
from relume.checkpoint.state import TrainState
from relume.distributed.group import Group
from relume.errors import OtherEnvironment, OtherRecipe, RelumeError, UsageError
from relume.spec import RunSpec

MOST_TOLD = 3
"""Differences that one message names."""


def check_size(group: Group, spec: RunSpec) -> None:
    """See to it that every process has something to do.

    Raises:
        UsageError: there are more processes than subdivisions.
    """
    cfg = spec.recipe.cfg
    net = cfg.net
    if group.size <= net.subdivisions:
        return
    more = [n for n in range(group.size, net.batch + 1) if net.batch % n == 0]
    fewer = f"start at most {net.subdivisions} processes"
    raise UsageError(
        f"{cfg.path}:{net.line}",
        f"subdivisions={net.subdivisions}, but {group.size} processes train",
        "a subdivision for each at least, since a process trains whole ones",
        f"set subdivisions={more[0]} (which makes it another run), or {fewer}" if more else fewer,
    )


def shared_state(group: Group, state: TrainState | None) -> TrainState | None:
    """Return the leader's state in every process; the others give None, and so may the leader.

    Raises:
        Damaged: it has not come as it was sent.
    """
    if group.size == 1:
        return state
    data = group.broadcast(container.pack(state) if state is not None else b"")
    if group.leads or not data:
        return state
    return container.unpack(data, f"the state that process 0 sent to process {group.rank}")


def check_alike(group: Group, spec: RunSpec, environment: Mapping[str, str]) -> None:
    """See to it that all processes have read the same inputs, and compute alike.

    Raises:
        OtherRecipe, OtherEnvironment: one does not.
    """
    recipe = spec.recipe
    labels = recipe.label_digests().tobytes().hex()
    inputs = {**recipe.keys(), "names": str(recipe.names), "labels": labels}
    said = [json.loads(text) for text in group.gather(json.dumps([inputs, environment]).encode())]
    for number, (others, elsewhere) in enumerate(said):
        if found := _differences(said[0][0], others):
            raise _other_recipe(number, group, found)
        if found := _differences(said[0][1], elsewhere):
            raise OtherEnvironment(
                f"process {number} of {group.size}",
                f"computes otherwise than process 0 ({found})",
                "the same versions, kernels, threads and kind of processor for all",
                "install the same versions; leave out machines of another kind, or begin the run "
                "with -portable",
            )


def _other_recipe(number: int, group: Group, found: str) -> RelumeError:
    return OtherRecipe(
        f"process {number} of {group.size}",
        f"has read other inputs than process 0 ({found})",
        "the same cfg, data file, list and labels on all machines",
        "copy them from one to the others",
    )


def _differences(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    names = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return ", ".join(
        name if name == "labels" else f"{name}: {one.get(name)} and {other.get(name)}"
        for name in names[:MOST_TOLD]
    )
