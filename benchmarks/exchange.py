"""What processes send and hold for an iteration: measured, and computed to 1,024 of them.

    python -m benchmarks.exchange        (or `make bench`)

Measured are the bytes that a process gives to the system (wchar in /proc/self/io) while a
gradient of 4 MiB goes through the exchange, of the process that sends most. Both tables compare
them with a ring all-reduce, by which each of N processes sends 2 (N - 1) / N gradients. What
else is said in an iteration (losses, batch-norm statistics, digests) is not in it.
"""

import subprocess
import sys

import torch

from benchmarks.processes import bytes_written
from relume.distributed.exchange import Exchange
from relume.distributed.group import Group, is_started_by_torchrun, joined
from relume.distributed.plan import plan_of
from relume.distributed.tree import GradientTree

NUMBERS = 2**20
MEASURED = {8: (2, 3, 4, 5, 6, 7, 8), 6: (2, 3, 4, 5, 6), 64: (2, 3, 4, 6, 8)}
COMPUTED = {
    8: (2, 3, 4, 5, 8),
    64: (2, 3, 4, 6, 8, 16, 32, 48, 64),
    98: (2, 3, 5, 98),
    256: (3, 8, 100, 256),
    1024: (2, 3, 8, 64, 100, 256, 384, 512, 1000, 1024),
}
"""Subdivisions -> processes."""


def computed(subdivisions: int, processes: int) -> tuple[int, int, float, float]:
    """Return the longest share, most subtrees of a process, gradients sent, gradients held.

    What is sent: of each subtree every other process's part, and then one's own part of the
    total to all others.
    """
    plan = plan_of(0, subdivisions, processes)
    subtrees = max(map(len, plan.subtrees))
    sent = (subtrees + 1) * (processes - 1) / processes
    return max(map(len, plan.shares)), subtrees, sent, max(1.0, plan.most_held())


def of_ring(sent: float, processes: int) -> float:
    """Return gradients sent as a multiple of a ring all-reduce's."""
    return sent / (2 * (processes - 1) / processes)


def measure(group: Group) -> None:
    """Print, in the first process, what is sent in groups of this size."""
    parameter = torch.zeros(NUMBERS)
    for subdivisions, sizes in MEASURED.items():
        if group.size not in sizes:
            continue
        plan = plan_of(0, subdivisions, group.size)
        before = bytes_written()
        exchange = Exchange(group, GradientTree(), [parameter], plan)
        for _ in plan.shares[group.rank]:
            exchange.add(0, [torch.ones(NUMBERS)])
        assert exchange.end()
        mine = bytes_written() - before
        sent = max(map(int, group.gather(str(mine).encode()))) / (4 * NUMBERS)
        expected = computed(subdivisions, group.size)[2]
        if group.leads:
            print(
                f"| {subdivisions} | {group.size} | {sent:.3f} | {expected:.3f} "
                f"| {of_ring(sent, group.size):.2f} |",
                flush=True,
            )


def main() -> None:
    """Start groups of every size, or be one of their processes."""
    if is_started_by_torchrun():
        torch.set_num_threads(1)
        with joined(torch.device("cpu")) as group:
            measure(group)
        return
    print("| subdivisions | processes | gradients sent, measured | computed | of a ring's |")
    print("|---|---|---|---|---|", flush=True)
    for processes in sorted({size for sizes in MEASURED.values() for size in sizes}):
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, "-m", *launcher, "-m", "benchmarks.exchange"]
        subprocess.run(command, check=True)
    print("\n| subdivisions | processes | longest share | subtrees | sent, of a ring's | held |")
    print("|---|---|---|---|---|---|")
    for subdivisions, sizes in COMPUTED.items():
        for processes in sizes:
            share, subtrees, sent, held = computed(subdivisions, processes)
            ring = of_ring(sent, processes)
            print(
                f"| {subdivisions} | {processes} | {share} | {subtrees} | {ring:.1f} | {held:.1f} |"
            )


if __name__ == "__main__":
    main()
