"""Training speed: seconds per image of yolov3-tiny 416, batch 8, against its floor.

    python -m benchmarks.training        (or `make bench`)

All contestants take turns in one process, round by round, so that a noisy machine disturbs
them alike; what counts is the ratio. Measured are
    relume      the whole loop: pictures read, augmented, trained, journal, checkpoints
    plain       the same net in plain PyTorch, channels_last, torch.optim.SGD(fused), made-up
                input and gradient: nothing but forward, backward, update
    convolutions    forward and backward of its convolutions alone
    darknet     Debian's original in C, if installed
"""

import itertools
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.inputs import write_inputs
from relume.checkpoint.keeper import Keeper
from relume.checkpoint.state import TrainState
from relume.data.loaders import available_processors
from relume.evaluate.average_precision import Evaluation
from relume.spec import Flags, read_spec
from relume.train.environment import declare, set_up
from relume.train.journal import Journal
from relume.train.loop import Stop, begin, train
from relume.train.start import StartFlags, starting_state
from relume.train.step import Report

BATCH, SIDE, ROUNDS, ITERATIONS = 8, 416, 6, 6


class PlainTiny(nn.Module):
    """yolov3-tiny as anyone would write it in PyTorch."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        widths = [3, 16, 32, 64, 128, 256, 512, 1024]
        self.stem = nn.ModuleList(_block(i, o, 3) for i, o in itertools.pairwise(widths))
        self.neck = _block(1024, 256, 1)
        self.coarse = nn.Sequential(_block(256, 512, 3), nn.Conv2d(512, outputs, 1))
        self.lateral = _block(256, 128, 1)
        self.fine = nn.Sequential(_block(384, 256, 3), nn.Conv2d(256, outputs, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of both heads."""
        skip = x
        for number, block in enumerate(self.stem):
            x = block(x)
            if number == 4:
                skip = x
            if number < 5:
                x = F.max_pool2d(x, 2)
            elif number == 5:
                x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-1e30), 2, 1)
        neck = self.neck(x)
        up = F.interpolate(self.lateral(neck), scale_factor=2.0)
        return [self.coarse(neck), self.fine(torch.cat([up, skip], 1))]


def _block(inputs: int, outputs: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1, inplace=True))


def plain_contestant(classes: int) -> Callable[[], None]:
    """Return one iteration of plain PyTorch."""
    network = PlainTiny(3 * (classes + 5)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1e-6, momentum=0.9, weight_decay=0.0005, fused=True
    )
    images = torch.zeros(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)

    def iteration() -> None:
        outputs = network(images)
        torch.autograd.backward(outputs, [torch.full_like(o, 1e-6) for o in outputs])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return iteration


def convolution_contestant(classes: int) -> Callable[[], None]:
    """Return forward and backward of the convolutions alone, each on its own input."""
    network = PlainTiny(3 * (classes + 5)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shapes: list[tuple[nn.Conv2d, Tensor, Tensor]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given = torch.zeros_like(inputs[0]).requires_grad_(inputs[0].requires_grad)
        shapes.append((module, given, torch.zeros_like(output)))  # type: ignore[arg-type]

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record)
    network(torch.zeros(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last))
    pairs = list(shapes)
    for module in network.modules():
        module._forward_hooks.clear()

    def iteration() -> None:
        for module, given, gradient in pairs:
            module(given).backward(gradient)
            given.grad = None
            module.weight.grad = None

    return iteration


def relume_contestant(folder: Path, savelast: int | None) -> Callable[[], float]:
    """Return some iterations of the real loop; it returns seconds per iteration.

    The first iteration of each call, in which the loader fills, is not counted.
    """
    spec = read_spec(str(folder / "obj.data"), str(folder / "net.cfg"), Flags(), print)
    backup = folder / f"savelast{savelast}"
    spec = replace(spec, operation=replace(spec.operation, savelast=savelast, backup=backup))
    backup.mkdir()
    device = torch.device("cpu")
    environment = declare(torch.get_num_threads(), device)
    start = starting_state(spec, StartFlags(), environment, lambda text: None)

    keeper = Keeper(backup, "net", savelast, 1000, print)

    def iterations() -> float:
        stop = Stop()
        times: list[float] = []

        def watch(state: TrainState, report: Report | Evaluation) -> None:
            times.append(time.perf_counter())
            stop.requested = len(times) > ITERATIONS

        journal = Journal(backup / "net.journal.jsonl", start.history, print)
        train(spec, begin(spec, start, device), keeper, journal, stop, watch)
        journal.close()
        return (times[-1] - times[0]) / ITERATIONS

    return iterations


def timed(iteration: Callable[[], None]) -> Callable[[], float]:
    """Return `iteration` repeated; it returns seconds per iteration."""

    def iterations() -> float:
        iteration()
        began = time.perf_counter()
        for _ in range(ITERATIONS):
            iteration()
        return (time.perf_counter() - began) / ITERATIONS

    return iterations


def darknet_seconds(folder: Path) -> float | None:
    """Return seconds per iteration of Debian's darknet, or None where it is missing."""
    if shutil.which("darknet") is None:
        return None
    text = (folder / "net.cfg").read_text().replace("max_batches=1000", "max_batches=2")
    (folder / "two.cfg").write_text(text)
    (folder / "darknet").mkdir()
    data = (folder / "obj.data").read_text()
    (folder / "two.data").write_text(f"{data}backup = darknet\n".replace("backup = backup\n", ""))
    said = subprocess.run(
        ["darknet", "detector", "train", "two.data", "two.cfg"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    seconds = [float(x) for x in re.findall(r"rate, ([0-9.]+) seconds", said)]
    return min(seconds) if seconds else None


def main() -> None:
    """Run all contestants in turns; print seconds per image and ratios to plain PyTorch."""
    set_up(available_processors())
    with tempfile.TemporaryDirectory(prefix="relume-bench-") as name:
        folder = Path(name)
        classes = write_inputs(folder, "yolov3-tiny", SIDE, BATCH, subdivisions=1)
        contestants = {
            "relume": relume_contestant(folder, None),
            "relume, savelast=1": relume_contestant(folder, 1),
            "plain PyTorch": timed(plain_contestant(classes)),
            "its convolutions": timed(convolution_contestant(classes)),
        }
        rounds: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(ROUNDS):
            for name, iterations in contestants.items():
                rounds[name].append(iterations())
            print(f"round {number + 1} of {ROUNDS}", flush=True)
        darknet = darknet_seconds(folder)
    plain = rounds["plain PyTorch"]
    print(f"\nyolov3-tiny {SIDE}, batch {BATCH}, {torch.get_num_threads()} threads")
    print(f"{'':24}{'s/image, min':>14}{'median':>10}{'ratio to plain: median':>26}{'of mins':>10}")
    for name, seconds in rounds.items():
        ratio = statistics.median(s / p for s, p in zip(seconds, plain, strict=True))
        low, middle = min(seconds) / BATCH, statistics.median(seconds) / BATCH
        print(f"{name:24}{low:14.4f}{middle:10.4f}{ratio:26.3f}{min(seconds) / min(plain):10.3f}")
    if darknet is None:
        print("darknet is not installed (Debian's package darknet)")
    else:
        ratio = darknet / statistics.median(plain)
        print(f"{'darknet':24}{darknet / BATCH:14.4f}{'':10}{ratio:26.3f}")


if __name__ == "__main__":
    main()
