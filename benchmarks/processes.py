"""What several processes cost: an iteration of two against DistributedDataParallel, and of more.

    python -m benchmarks.processes [PART ...]      (or `make bench`; PARTS below)

ddp      two processes against DistributedDataParallel
growth   one to eight processes, and more subdivisions: processor time of all of them together,
         since on fewer processors than processes the time of a clock tells nothing

Two processes train yolov3-tiny 416 with one thread each, by relume's whole loop and by a plain
one around PyTorch's DistributedDataParallel, with the same net, loss, optimizer, batch,
subdivisions and loader. They take turns, round by round, so that a noisy machine disturbs them
alike; what counts is the ratio. relume runs twice: as it is, and with nothing saved, which is what
compares with DistributedDataParallel. That gets what makes it fastest: it sends with the last
subdivision only (no_sync), its gradients are views of what it sends, and it sends no batch-norm
statistics. Bytes are those that the second process, which writes no file, gives to the system
while it trains (wchar in /proc/self/io).
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.inputs import write_inputs
from relume.checkpoint.keeper import Keeper
from relume.checkpoint.state import TrainState
from relume.data.batch import MiniBatch
from relume.data.patience import PAUSES_S, Patience
from relume.distributed.group import Group, is_started_by_torchrun, joined
from relume.evaluate.average_precision import Evaluation
from relume.model.loss import Truths, head_loss
from relume.model.network import Network
from relume.schedule import learning_rate
from relume.spec import Flags, RunSpec, read_spec
from relume.train.batches import batches_of
from relume.train.environment import declare, set_up
from relume.train.journal import Journal
from relume.train.loop import Stop, begin, iterations, train
from relume.train.one_start import shared_state
from relume.train.optimizer import build_optimizer, gradient_scale, set_rate
from relume.train.start import StartFlags, starting_state
from relume.train.step import Report, images_to_tensor

SIDE, PROCESSES, THREADS, ROUNDS, ITERATIONS = 416, 2, 1, 8, 4
BATCHES = ((8, 2), (16, 8))
"""(batch, subdivisions) of ddp."""
SMALL_SIDE = 224
GROWTH = ((1, 8), (2, 8), (3, 8), (4, 8), (5, 8), (6, 8), (8, 8), (2, 16), (2, 32), (2, 64))
"""(processes, subdivisions) of growth; one picture in each subdivision."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Cost:
    """Of an iteration, in one process."""

    seconds: float
    processor_s: float
    """Of all threads of the process; on a busy machine steadier than the time of a clock."""
    sent_bytes: float


Contestant = Callable[[], Cost]
"""Trains some iterations."""


class Clock:
    """Takes what all iterations cost but the first, in which the loader fills."""

    def __init__(self) -> None:
        self._ticks: list[tuple[float, float, int]] = []

    def tick(self) -> bool:
        """Note the end of an iteration; tell whether it was the last."""
        self._ticks.append((time.perf_counter(), time.process_time(), bytes_written()))
        return len(self._ticks) > ITERATIONS

    def per_iteration(self) -> Cost:
        """Return the mean."""
        pairs = zip(self._ticks[0], self._ticks[ITERATIONS], strict=True)
        return Cost(*((end - begin) / ITERATIONS for begin, end in pairs))


def bytes_written() -> int:
    """Return how many bytes this process has written, into files and connections."""
    for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        name, _, number = line.partition(": ")
        if name == "wchar":
            return int(number)
    raise OSError("/proc/self/io has no wchar")


def relume_contestant(
    spec: RunSpec, start: TrainState, group: Group, saves: bool = True
) -> Contestant:
    """Return some iterations of the real loop; the first process may save and keep a journal."""
    folder = spec.operation.backup
    number = itertools.count()

    def some_iterations() -> Cost:
        clock, stop = Clock(), Stop()
        backup = folder / f"round{next(number)}"

        def watch(state: TrainState, report: Report | Evaluation) -> None:
            stop.requested = clock.tick()

        live = begin(spec, start, CPU, group)
        if group.leads and saves:
            backup.mkdir(parents=True)
            journal = Journal(backup / "net.journal.jsonl", start.history, print)
            with closing(Keeper(backup, "net", None, 1000, print)) as keeper, closing(journal):
                train(spec, live, keeper, journal, stop, watch)
        else:
            for state, report in iterations(spec, live, stop, print):
                if report is not None:
                    watch(state, report)
        return clock.per_iteration()

    return some_iterations


def plain_contestant(spec: RunSpec, group: Group) -> Contestant:
    """Return some iterations of a plain loop around DistributedDataParallel."""
    cfg, net = spec.recipe.cfg, spec.recipe.cfg.net
    network = Network(cfg, spec.recipe.seed).train()
    parallel = DistributedDataParallel(
        network, broadcast_buffers=False, gradient_as_bucket_view=True
    )
    optimizer = build_optimizer(network.trained_parameters(), net)
    scale = -gradient_scale(net) * group.size  # the mean of the processes is taken of it

    def train_on(mini_batch: MiniBatch) -> None:
        raws = parallel(images_to_tensor(mini_batch.images, CPU), mini_batch.positions)
        truths = Truths(
            torch.from_numpy(mini_batch.boxes_xywh_rel), torch.from_numpy(mini_batch.classes)
        )
        height, width = mini_batch.images.shape[1:3]
        deltas: list[Tensor] = []
        for raw, head in zip(raws, cfg.heads, strict=True):
            found = head_loss(raw.detach(), truths, head, width, height)
            deltas.append(found.delta.mul_(scale))
            float(found.box + found.objectness + found.classification)  # for the screen
        torch.autograd.backward(raws, deltas)
        network.fold_statistics([network.take_statistics()])

    def iterations() -> Cost:
        clock = Clock()
        patience = Patience(PAUSES_S, lambda: False, print)
        with closing(batches_of(spec, 0, patience, group)) as batches:
            for iteration in itertools.count(1):
                share = net.subdivisions // group.size
                for number, mini_batch in enumerate(itertools.islice(batches, share), start=1):
                    with nullcontext() if number == share else parallel.no_sync():
                        train_on(mini_batch)
                set_rate(optimizer, learning_rate(net, iteration), iteration, net)
                optimizer.step()
                parallel.zero_grad(set_to_none=False)
                if clock.tick():
                    break
        return clock.per_iteration()

    return iterations


def inputs_of(
    group: Group, folder: Path, side: int, batch: int, subdivisions: int
) -> tuple[RunSpec, TrainState]:
    """Return what to train, and from which state."""
    if group.leads:
        folder.mkdir()
        write_inputs(folder, "yolov3-tiny", side, batch, subdivisions)
    group.gather(b"")
    spec = read_spec(str(folder / "obj.data"), str(folder / "net.cfg"), Flags(), print)
    spec = replace(spec, operation=replace(spec.operation, workers=1, backup=folder / "backup"))
    environment = declare(THREADS, CPU)
    start = starting_state(spec, StartFlags(), environment, lambda text: None)
    return spec, shared_state(group, start if group.leads else None) or start


def compare(group: Group, folder: Path, batch: int, subdivisions: int) -> None:
    """Let the contestants take turns; the last process prints what it has seen."""
    folder = folder / f"{batch}_{subdivisions}"
    spec, start = inputs_of(group, folder, SIDE, batch, subdivisions)
    contestants = {
        "relume": relume_contestant(spec, start, group),
        "nothing saved": relume_contestant(spec, start, group, saves=False),
        "DDP": plain_contestant(spec, group),
    }
    rounds: dict[str, list[Cost]] = {name: [] for name in contestants}
    for number in range(ROUNDS):
        names = list(contestants) if number % 2 else list(contestants)[::-1]
        for name in names:
            group.gather(b"")
            rounds[name].append(contestants[name]())
    if group.rank == group.size - 1:
        report(batch, subdivisions, rounds)


def report(batch: int, subdivisions: int, rounds: dict[str, list[Cost]]) -> None:
    """Print what the contestants have taken, and how that compares with the last one's."""
    print(
        f"\nyolov3-tiny {SIDE}, batch {batch}, subdivisions {subdivisions}, {PROCESSES} processes "
        f"with {THREADS} thread, {ROUNDS} rounds of {ITERATIONS} iterations"
    )
    print(f"{'':28}{'median':>14}{'to DDP, median':>16}{'from':>8}{'to':>8}")
    *_, last = rounds.values()
    for field in fields(Cost):
        others = [getattr(one, field.name) for one in last]
        for name, costs in rounds.items():
            values = [getattr(one, field.name) for one in costs]
            ratios = sorted(a / b for a, b in zip(values, others, strict=True))
            print(
                f"{field.name:14}{name:14}{statistics.median(values):14,.3f}"
                f"{statistics.median(ratios):16.3f}{ratios[0]:8.3f}{ratios[-1]:8.3f}",
                flush=True,
            )


def grow(group: Group, folder: Path, subdivisions: int) -> None:
    """Print what all processes together take for an iteration in which nothing is saved."""
    spec, start = inputs_of(group, folder / "run", SMALL_SIDE, subdivisions, subdivisions)
    cost = relume_contestant(spec, start, group, saves=False)()
    said = [json.loads(text) for text in group.gather(json.dumps(astuple(cost)).encode())]
    if group.leads:
        seconds, processor_s, sent_bytes = zip(*said, strict=True)
        print(
            f"yolov3-tiny {SMALL_SIDE}, {subdivisions} subdivisions of a picture, {group.size} "
            f"processes: {sum(processor_s):.3f} processor seconds in all, {max(seconds):.3f} s; "
            f"sends at most {max(sent_bytes) / 1e6:.1f} MB",
            flush=True,
        )


def launch(processes: int, *words: object) -> None:
    """Run this module in so many processes."""
    with tempfile.TemporaryDirectory(prefix="relume-bench-") as name:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, "-m", *launcher, "-m", "benchmarks.processes", name]
        subprocess.run([*command, *map(str, words)], check=True)


def be_one(folder: Path, part: str, *numbers: str) -> None:
    """Be one of the processes."""
    set_up(THREADS)
    with joined(CPU) as group:
        if part == "ddp":
            for batch, subdivisions in BATCHES:
                compare(group, folder, batch, subdivisions)
        else:
            grow(group, folder, int(numbers[0]))


def ddp() -> None:
    """Compare two processes with DistributedDataParallel."""
    launch(PROCESSES, "ddp")


def growth() -> None:
    """Show what more processes and more subdivisions cost."""
    for processes, subdivisions in GROWTH:
        launch(processes, "growth", subdivisions)


PARTS: dict[str, Callable[[], None]] = {"ddp": ddp, "growth": growth}


def main() -> None:
    """Run the parts named on the command line, or all; or be one of their processes."""
    if is_started_by_torchrun():
        be_one(Path(sys.argv[1]), *sys.argv[2:])
        return
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()
