"""When the sums of an iteration are complete and leave, and how many a process then holds."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from relume.distributed.tree import Span, shares_of, spans_of

UNDER_WAY = 0.5
"""Gradients: room for the group of layers that is being summed or sent."""


@dataclass(frozen=True)
class Plan:
    """What leaves when, in a group of processes."""

    shares: Sequence[range]
    """The subdivisions of every process."""
    subtrees: Sequence[Sequence[Span]]
    """Those whose sums every process sends, in order."""

    def steps(self) -> dict[int, dict[int, Span]]:
        """Return subdivision of a share, from 0 on -> process -> subtree that it completes."""
        steps: dict[int, dict[int, Span]] = {}
        for process, (share, subtrees) in enumerate(zip(self.shares, self.subtrees, strict=True)):
            for first, leaves in subtrees:
                steps.setdefault(first + leaves - 1 - share.start, {})[process] = first, leaves
        return steps

    def waiting(self, process: int, done: range) -> list[Span]:
        """Return the subtrees of what a process has done that it has not sent."""
        if not done:
            return []
        sent = [leaves for first, leaves in self.subtrees[process] if first + leaves <= done.stop]
        return spans_of(done.start + sum(sent), done.stop)

    def most_held(self) -> float:
        """Return how many gradients a process holds at most, but for the layers under way.

        These are the sums that it has not sent, the one that is on its way, and its part of what
        all have sent.
        """
        steps, size = self.steps(), len(self.shares)
        last, most = max(steps), 0.0
        before = 0.0
        for step in range(last + 1):
            after = sum(len(spans_of(*run)) for run in self._sent_after(step)) / size
            for process in range(size):
                waits, will_wait = self._waits(process, step)
                is_on_its_way = process in steps.get(step - 1, {})
                sends = process in steps.get(step, {})
                most = max(most, waits + is_on_its_way + before)
                if step < last:  # then one by one groups of layers become their total
                    most = max(most, will_wait + sends + after)
            before = after
        return most

    def _waits(self, process: int, step: int) -> tuple[int, int]:
        """Return how many sums wait in a process before a subdivision of its share and after."""
        subdivision = self.shares[process].start + step
        for first, leaves in self.subtrees[process]:
            if first <= subdivision < first + leaves:
                done = subdivision - first
                return done.bit_count(), (done + 1).bit_count() if done + 1 < leaves else 0
        return 0, 0

    def _sent_after(self, step: int) -> Iterator[Span]:
        """Yield (first, end) of the subdivisions in a row whose sums have been sent."""
        run: Span | None = None
        for share, subtrees in zip(self.shares, self.subtrees, strict=True):
            ends = [first + n for first, n in subtrees if first + n - share.start <= step + 1]
            end = max(ends, default=share.start)
            if run is None or run[1] != share.start:
                if run is not None:
                    yield run
                run = share.start, end
            else:
                run = run[0], end
        if run is not None:
            yield run


@functools.cache
def plan_of(first: int, end: int, processes: int) -> Plan:
    """Return the plan for the subdivisions `first` to `end` - 1.

    The fewest subtrees are sent, unless a process would hold more than log2(end) + 1 gradients;
    then none that is larger than lets it hold less.
    """
    shares = shares_of(first, end, processes)
    room = (end - 1).bit_length() + 1 - UNDER_WAY
    largest = 2 ** (len(max(shares, key=len)).bit_length() - 1)
    plans = []
    while largest:
        subtrees = [_cut(spans_of(share.start, share.stop), largest) for share in shares]
        plan = Plan(shares, subtrees)
        if plan.most_held() <= room:
            return plan
        plans.append(plan)
        largest //= 2
    return min(plans, key=Plan.most_held)


def _cut(spans: Sequence[Span], largest: int) -> list[Span]:
    return [
        (place, min(leaves, largest))
        for first, leaves in spans
        for place in range(first, first + leaves, min(leaves, largest))
    ]
