"""Sums of subtrees that several processes have -> the gradient tree of the iteration, in each.

The sum of a subtree leaves as soon as it is complete, group of layers by group of layers while
the backward pass is still at work on the ones before. Of each every process gets its own part,
adds it to its part of the tree, and, when the tree is complete, gives the result to all. So each
number is added once, in the order of the tree, and none within a collective; and no process holds
more of other processes' sums than its part of them.

What comes when stands in the plan, which all know. A process that stops before its share is done
therefore sends nothing of value where it should have sent a sum, and says so.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from relume.distributed.group import Group
from relume.distributed.plan import Plan
from relume.distributed.tree import Gradients, GradientTree, spans_of

GROUP_OF_LAYERS = 2**20
"""Numbers from which a group of layers leaves by itself: 4 MiB."""


class Exchange:
    """The gradients of one iteration on their way through a group of processes."""

    def __init__(
        self,
        group: Group,
        before: GradientTree,
        parameters: Sequence[Tensor],
        plan: Plan,
    ) -> None:
        """Begin an iteration.

        Args:
            group: of several processes.
            before: the subdivisions that all processes have the sums of, from 0 on; left as it is.
            parameters: whose gradients they are.
            plan: of the subdivisions that are left.
        """
        self._group, self._plan = group, plan
        self._begins = plan.shares[group.rank].start
        self._steps = plan.steps()
        self._left: list[int] = sorted(self._steps)
        self._layers = [
            _Layers(indexes, [parameters[index] for index in indexes], group.size)
            for indexes in _groups_of(parameters)
        ]
        for layers in self._layers:
            layers.own = GradientTree(self._begins)
            for first, leaves, sums in before.subtrees():
                rows = layers.rows([sums[index] for index in layers.indexes])
                layers.held.add([rows[group.rank].clone()], leaves, first)
        self._is_whole = True
        """Whether every sum that should have come has."""
        self._has_come = [True] * group.size
        """Which processes' sums that come now are of value."""
        self._under_way: list[Future[None]] = []

    @property
    def groups(self) -> list[list[int]]:
        """Which parameters leave together, in the order in which backward passes reach them."""
        return [layers.indexes for layers in self._layers]

    def add(self, number: int, gradients: Gradients) -> None:
        """Add the next subdivision's gradients of a group of layers; they are taken over.

        Args:
            number: of the group, one after another.
            gradients: of its parameters.
        Raises:
            PeerLost: another process has ended.
        """
        layers = self._layers[number]
        if number == 0:
            self._wait()
        layers.own.add(gradients)
        step = layers.own.end - 1 - self._begins
        if step in self._steps:
            if number == 0:
                self._begin(step, has_sum=True)
            sends = self._group.rank in self._steps[step]
            self._send(step, layers, layers.rows(layers.own.total()) if sends else None)

    def end(self) -> bool:
        """End this process's share, be it done or not; tell whether the whole iteration is.

        Raises:
            PeerLost: another process has ended.
        """
        while self._left:
            step = self._left[0]
            self._begin(step, has_sum=False)
            for layers in self._layers:
                sends = self._group.rank in self._steps[step]
                self._send(step, layers, layers.no_rows(1) if sends else None)
        self._wait()
        return self._is_whole

    def total(self) -> GradientTree:
        """Return the tree of a whole iteration, in which there is one sum."""
        tree, sums = GradientTree(), dict[int, Tensor]()
        for layers in self._layers:
            sums.update(zip(layers.indexes, layers.result, strict=True))
        tree.add([sums[index] for index in sorted(sums)])
        return tree

    def prefix(self, done: Sequence[range]) -> GradientTree:
        """Return the tree of what has been done of an iteration that is not whole.

        Args:
            done: of every process, the part of its share that is kept; none after the first
                that is not done.
        """
        end = max(share.stop for share in done)
        waiting = [self._plan.waiting(process, share) for process, share in enumerate(done)]
        order = [span for spans in waiting for span in spans]
        wanted = spans_of(0, end)
        found: list[dict[int, Tensor]] = [{} for _ in wanted]
        for layers in self._layers:
            mine = [layers.rows(sums) for _, _, sums in layers.own.subtrees()]
            sent = torch.stack(mine, 1) if waiting[self._group.rank] else layers.no_rows(0)
            received = self._group.swap(sent, [len(spans) for spans in waiting])
            tree = GradientTree()
            for first, leaves, sums in layers.held.subtrees():
                if first < end:
                    tree.add(sums, leaves, first)
            for (first, leaves), row in zip(order, received.unbind(), strict=True):
                tree.add([row], leaves, first)
            for sums_by_index, (_, _, (part,)) in zip(found, tree.subtrees(), strict=True):
                whole = layers.parted(self._group.collect(part))
                sums_by_index.update(zip(layers.indexes, whole, strict=True))
        result = GradientTree()
        for (_, leaves), sums_by_index in zip(wanted, found, strict=True):
            result.add([sums_by_index[index] for index in sorted(sums_by_index)], leaves)
        return result

    def _begin(self, step: int, has_sum: bool) -> None:
        """Let a step begin, of the one before which nothing is under way any more."""
        self._wait()
        self._left.remove(step)
        self._under_way.append(self._group.later(partial(self._ask_who_sends, step, has_sum)))

    def _ask_who_sends(self, step: int, has_sum: bool) -> None:
        said = self._group.collect(torch.tensor([has_sum], dtype=torch.uint8)).view(-1).tolist()
        self._has_come = [bool(has) for has in said]
        self._is_whole &= all(self._has_come[process] for process in self._steps[step])

    def _send(self, step: int, layers: "_Layers", rows: Tensor | None) -> None:
        sent = layers.no_rows(0) if rows is None else rows.unsqueeze(1)
        self._under_way.append(self._group.later(partial(self._pass_on, step, layers, sent)))

    def _pass_on(self, step: int, layers: "_Layers", sent: Tensor) -> None:
        """Give everyone its part of this process's sum, and take one's own of all sums."""
        senders = self._steps[step]
        counts = [int(process in senders) for process in range(self._group.size)]
        rows = self._group.swap(sent, counts).unbind()
        is_last = step == max(self._steps)
        for (process, (first, leaves)), row in zip(senders.items(), rows, strict=True):
            if self._has_come[process]:
                # Rows share their memory, and some may wait for long.
                held = row if is_last or len(rows) == 1 else row.clone()
                layers.held.add([held], leaves, first)
        if is_last and self._is_whole:
            (part,) = layers.held.total()
            layers.result = layers.parted(self._group.collect(part))

    def _wait(self) -> None:
        for ended in self._under_way:
            ended.result()
        self._under_way.clear()


class _Layers:
    """A group of layers: its numbers in one row, of which every process has a part."""

    def __init__(self, indexes: list[int], parameters: list[Tensor], processes: int) -> None:
        self.indexes = indexes
        self.own = GradientTree()
        """What this process has summed and not sent yet: a tensor per parameter."""
        self.held = GradientTree()
        """Of all processes, this one's part of the row: one tensor."""
        self.result: Gradients = []
        """The sum of the whole iteration."""
        self._shapes = [parameter.shape for parameter in parameters]
        ends = [0, *accumulate(parameter.numel() for parameter in parameters)]
        self._places = [slice(*pair) for pair in pairwise(ends)]
        self._length = ends[-1]
        self._processes = processes
        self._part = -(-self._length // processes)
        self._like = parameters[0]

    def rows(self, gradients: Gradients) -> Tensor:
        """Return gradients as [processes, numbers]."""
        padding = self._like.new_zeros(self._processes * self._part - self._length)
        flat = torch.cat([*(gradient.detach().reshape(-1) for gradient in gradients), padding])
        return flat.view(self._processes, self._part)

    def no_rows(self, count: int) -> Tensor:
        """Return what is sent where there are no sums, or none of value."""
        if count == 0:
            return self._like.new_zeros((self._processes, 0, self._part))
        return self._like.new_zeros((self._processes, self._part))

    def parted(self, rows: Tensor) -> Gradients:
        """Return [processes, numbers] as gradients, which share the memory."""
        flat = rows.view(-1)
        pairs = zip(self._places, self._shapes, strict=True)
        return [flat[place].view(shape) for place, shape in pairs]


def _groups_of(parameters: Sequence[Tensor]) -> list[list[int]]:
    """Return the indexes of parameters from the last to the first, in groups."""
    groups: list[list[int]] = [[]]
    numbers = 0
    for index in reversed(range(len(parameters))):
        if numbers >= GROUP_OF_LAYERS:
            groups.append([])
            numbers = 0
        groups[-1].append(index)
        numbers += parameters[index].numel()
    return groups
