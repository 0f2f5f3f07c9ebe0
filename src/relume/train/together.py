"""What the processes of a group say to each other between two updates, and make of it.

At the end of its share of an iteration, or where it stops before, each tells what it has done.
All then know the same: every subdivision's losses, statistics and pictures in their order, the
sum of all gradients, and whether the iteration is complete. If it is not, the longest prefix of
subdivisions that are done is kept. In a group of one the same is done with nobody to ask.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from relume.checkpoint.state import TrainState, first_difference_of_arrays, named_arrays
from relume.checkpoint.tensor_digests import digests_of
from relume.distributed.exchange import Exchange
from relume.distributed.group import Group, format_error, parse_error
from relume.distributed.plan import plan_of
from relume.distributed.tree import shares_of
from relume.errors import RelumeError, Unconfirmed
from relume.model.network import Network
from relume.spec import Recipe
from relume.train.batches import changed
from relume.train.partial import Partial, Share, Subdivision

MOST_TOLD = 3
"""Tensors that one message names."""


@dataclass(frozen=True)
class Wish:
    """Whether a run is to end, as one process sees it."""

    requested: bool = False
    """By a signal."""
    due: bool = False
    """Because its time is over."""


@dataclass(frozen=True)
class Told:
    """What one process tells about its share of an iteration."""

    done: list[Subdivision]
    wish: Wish
    trouble: RelumeError | None
    """What kept it from its next subdivision."""


def share_of(group: Group, partial: Partial, network: Network) -> Share:
    """Return what this process trains of the subdivisions that are left of an iteration."""
    left = range(partial.subdivisions, network.cfg.net.subdivisions)
    if group.size == 1:
        return Share(left)
    plan = plan_of(left.start, left.stop, group.size)
    parameters = [parameter.tensor for parameter in network.trained_parameters()]
    exchange = Exchange(group, partial.tree, parameters, plan)
    return Share(plan.shares[group.rank], exchange)


def put_together(
    group: Group,
    recipe: Recipe,
    network: Network,
    partial: Partial,
    share: Share,
    told: Told,
) -> Wish:
    """Add the subdivisions that are done, in this process and the others, to `partial`.

    All processes are left with the same. The iteration may not be complete then: there was
    trouble, or a process has stopped.

    Args:
        group: the processes.
        recipe: of the run.
        network: whose gradients are exchanged.
        partial: the subdivisions before; added to in place.
        share: of this process; used up.
        told: by this process about it.
    Returns:
        Whether any process wishes the run to end.
    Raises:
        RelumeError: the first trouble, in the order of subdivisions.
        PeerLost: another process has ended, and `partial` is as it was.
    """
    planned = shares_of(partial.subdivisions, network.cfg.net.subdivisions, group.size)
    is_whole = share.exchange.end() if share.exchange else True
    all_told = [told] if group.size == 1 else _gathered(group, network, told)
    used = {**dict(zip(partial.rows, partial.digests, strict=True)), **partial.skipped}
    done: list[Subdivision] = []
    shares: list[range] = []
    trouble, end = None, partial.subdivisions
    for plan, one in zip(planned, all_told, strict=True):
        kept = one.done if trouble is None and end == plan.start else []
        if kept and group.size > 1 and (change := _first_change(recipe, kept, used)):
            raise change  # some of the sums have met; none of this iteration is kept
        if end == plan.start:
            trouble = trouble or one.trouble
        shares.append(range(end, end + len(kept)))
        done += kept
        end += len(kept)
    if share.exchange is None:
        for _, leaves, gradients in share.tree.subtrees():
            partial.tree.add(gradients, leaves)
    elif done:
        partial.tree = share.exchange.total() if is_whole else share.exchange.prefix(shares)
    partial.extend(done)
    if trouble is not None:
        raise trouble
    wishes = [one.wish for one in all_told]
    return Wish(any(wish.requested for wish in wishes), any(wish.due for wish in wishes))


def _first_change(
    recipe: Recipe, done: Sequence[Subdivision], used: dict[int, int]
) -> RelumeError | None:
    """Return what to say of a picture that was another file for another process."""
    for subdivision in done:
        pairs = zip(subdivision.rows, subdivision.digests, strict=True)
        for row, digest in (*pairs, *subdivision.skipped.items()):
            if (known := used.setdefault(row, digest)) != digest:
                return changed(recipe, row, np.uint64(known ^ digest))
    return None


def _gathered(group: Group, network: Network, told: Told) -> list[Told]:
    """Return what all processes tell."""
    mine = told.done
    text = json.dumps(
        {
            "requested": told.wish.requested,
            "due": told.wish.due,
            "trouble": told.trouble and format_error(told.trouble, group.machine),
            "rows": [list(one.rows) for one in mine],
            "digests": [list(one.digests) for one in mine],
            "skipped": [list(one.skipped.items()) for one in mine],
        }
    ).encode()
    numbers = [_numbers_of(one) for one in mine]
    head = np.array([len(text)], "<u8").tobytes()
    messages = group.gather(b"".join([head, text, *numbers]))
    return [_parsed(message, network) for message in messages]


def _numbers_of(one: Subdivision) -> bytes:
    parts = [part for pair in one.statistics.values() for part in pair]
    return b"".join([one.losses.tobytes(), *(part.cpu().numpy().tobytes() for part in parts)])


def _parsed(message: bytes, network: Network) -> Told:
    length = 8 + int(np.frombuffer(message[:8], "<u8")[0])
    said = json.loads(message[8:length])
    norms = [(index, len(layer.running_mean)) for index, layer in network.batch_norms()]
    sizes = [3, *(size for _, size in norms for _ in range(2))]
    device = next(network.parameters()).device
    count = len(said["rows"])
    numbers = np.frombuffer(message[length:], np.float32).reshape(count, sum(sizes))
    done = []
    for number in range(count):
        losses, *parts = np.split(numbers[number], np.cumsum(sizes)[:-1])
        tensors = [torch.from_numpy(part.copy()).to(device) for part in parts]
        statistics = {
            index: (tensors[2 * place], tensors[2 * place + 1])
            for place, (index, _) in enumerate(norms)
        }
        skipped = {int(row): int(digest) for row, digest in said["skipped"][number]}
        rows, digests = said["rows"][number], said["digests"][number]
        done.append(Subdivision(losses, statistics, rows, digests, skipped))
    trouble = parse_error(said["trouble"]) if said["trouble"] else None
    return Told(done, Wish(said["requested"], said["due"]), trouble)


def agreed_evaluation(group: Group, state: TrainState | None, wish: Wish) -> tuple[bool, Wish]:
    """Tell whether all processes have measured, and whether any wishes the run to end.

    Args:
        group: the processes.
        state: with the evaluation; None if this process has stopped in the middle of it.
        wish: of this process.
    Raises:
        Unconfirmed: they have measured different things.
    """
    found = None
    if state is not None:
        result, digests = state.history.evaluations[-1], state.history.valid_digests
        found = [result.iteration, result.map.hex(), result.measure, digests.tobytes().hex()]
    said = group.gather(json.dumps([wish.requested, wish.due, found]).encode())
    told = [json.loads(text) for text in said]
    agreed = Wish(any(one[0] for one in told), any(one[1] for one in told))
    results = [one[2] for one in told]
    if None in results:
        return False, agreed
    other = next((n for n, result in enumerate(results) if result != results[0]), None)
    if other is not None:
        raise Unconfirmed(
            f"process {other} of {group.size}",
            "its evaluation has another result than that of process 0",
            "the same pictures and labels on all machines",
            "compare them; if they are the same, test the memory of that machine",
        )
    return True, agreed


def confirmed_digest(group: Group, state: TrainState) -> bytes:
    """Return the digest of a state that every process holds alike.

    Raises:
        Unconfirmed: one does not (which, and in which tensor), or has ended before it said so.
    """
    digest = state.digest()
    try:
        said = group.gather(digest)
        if len(set(said)) == 1:
            return digest
        raise _difference(group, state)
    except Unconfirmed:
        raise
    except RelumeError as error:
        unconfirmed = Unconfirmed(error.place, error.found, error.needed, error.remedy)
        unconfirmed.is_told = error.is_told
        raise unconfirmed from error


def _difference(group: Group, state: TrainState) -> Unconfirmed:
    """Return which process holds another state than the others, and in which number."""
    tensors = [json.loads(text) for text in group.gather(json.dumps(digests_of(state)).encode())]
    names = [name for name in tensors[0] if len({one[name] for one in tensors}) > 1]
    name, more = names[0], len(names) - MOST_TOLD
    of_tensor = [one[name] for one in tensors]
    usual = max(of_tensor, key=of_tensor.count)
    array = dict(named_arrays({"weights": state.weights, **state.groups}))[name]
    held = [
        np.frombuffer(part, array.dtype).reshape(array.shape)
        for part in group.gather(np.ascontiguousarray(array).tobytes())
    ]
    others = [number for number, one in enumerate(of_tensor) if one != usual]
    difference = first_difference_of_arrays(held[others[0]], held[of_tensor.index(usual)])
    listed = ", ".join(map(str, others))
    who = f"process {listed} of {group.size} holds another state than the others"
    if 2 * len(others) >= group.size:  # nobody can tell which of them is right
        who = f"processes {of_tensor.index(usual)} and {listed} of {group.size} differ"
    return Unconfirmed(
        f"iteration {state.iteration + 1}",
        f"{who}, in {', '.join(names[:MOST_TOLD])}{f' and {more} more tensors' * (more > 0)} "
        f"({name} of process {others[0]} and of {of_tensor.index(usual)}: {difference})",
        "the same in all",
        "memory or a processor is at fault; test that machine. The same command goes on from the "
        "checkpoint before",
    )
