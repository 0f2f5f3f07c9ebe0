"""What a run will take: memory at its largest input, time to its end, room for its checkpoints."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from relume.checking.findings import Finding, Verdict
from relume.formats.net_memory import least_training_bytes, weights_bytes
from relume.formats.sections import Cfg
from relume.schedule import input_size
from relume.spec import Operation

ERROR, WARNING, NOTE = Verdict
GB = 1e9
LIBRARIES_BYTES = 0.5 * GB
"""Of a process that trains, beside the net: PyTorch, OpenCV, pictures on their way."""
FORWARD_SHARE = 1 / 3
"""Of forward, loss and backward: the two gradients of a convolution cost what it costs itself."""
MOST_SIZES = 2000
"""Iterations whose input size is looked at for the average."""


@dataclass(frozen=True)
class Trial:
    """What one subdivision took on this machine."""

    images: int
    width: int
    height: int
    seconds: float
    """Forward, loss and backward."""
    held_bytes: int
    """Of what forward leaves for backward."""

    @property
    def pixels(self) -> int:
        """Of all images."""
        return self.images * self.width * self.height


def largest_size(cfg: Cfg, seed: int) -> tuple[int, int]:
    """Return (width, height) of the largest input: that of the first iteration."""
    return input_size(cfg, seed, 1)


def memory_bytes(cfg: Cfg, seed: int, trial: Trial) -> int:
    """Return about how much a training will hold at its largest input.

    Weights, their gradients and those of finished subdivisions, optimizer, the copies that a
    save is written from, and what forward leaves, half of which backward needs once more.
    """
    width, height = largest_size(cfg, seed)
    pixels = cfg.net.mini_batch * width * height
    levels = max(cfg.net.subdivisions - 1, 0).bit_length()
    moments = 2 if cfg.net.adam else 1
    copies = 1 + moments + 1 + levels + 2 * (1 + moments)
    held = trial.held_bytes * pixels / trial.pixels
    return int(copies * weights_bytes(cfg) + 1.5 * held + LIBRARIES_BYTES)


def seconds_left(
    cfg: Cfg, seed: int, trial: Trial, done: int, load_s: float, measured: int = 0
) -> float:
    """Return about how long the iterations that are left take, and their evaluations.

    Args:
        cfg: of the run.
        seed: of the run.
        trial: what a subdivision took; others take as long per pixel.
        done: iterations done already.
        load_s: to load one picture, by all threads together; it goes on beside the training.
        measured: pictures that evaluations look at.
    """
    net = cfg.net
    left = range(done + 1, net.max_batches + 1)
    sampled = left[:: max(1, len(left) // MOST_SIZES)]
    areas = [w * h for w, h in (input_size(cfg, seed, i) for i in sampled)]
    if not areas:
        return 0.0
    per_image = max(trial.seconds / trial.pixels * sum(areas) / len(areas), load_s)
    whole = trial.seconds / trial.pixels * net.width * net.height
    return len(left) * net.batch * per_image + measured * max(FORWARD_SHARE * whole, load_s)


def too_large(cfg: Cfg, free_bytes: int) -> Finding | None:
    """Return that one image alone does not fit into memory, if it does not."""
    least = least_training_bytes(cfg, 1, cfg.net.width, cfg.net.height)
    if least <= free_bytes:
        return None
    what = "one image at a time takes more memory than is free"
    detail = f"at least {_size(least)}; {_size(free_bytes)} are free"
    return Finding(WARNING, what, cfg.path, detail, "lower width and height, or take another net")


def findings_of_cost(
    cfg: Cfg,
    seed: int,
    trial: Trial,
    free_bytes: int,
    done: int,
    load_s: float,
    measured: int = 0,
) -> Iterator[Finding]:
    """Yield memory and time."""
    width, height = largest_size(cfg, seed)
    needed = memory_bytes(cfg, seed, trial)
    verdict = WARNING if needed > free_bytes else NOTE
    remedy = "raise subdivisions, or lower width, height or random" if verdict is WARNING else ""
    what = "memory at the largest input, about"
    detail = f"{_size(needed)} (mini-batches of {cfg.net.mini_batch}, {width}x{height}); "
    yield Finding(verdict, what, cfg.path, f"{detail}{_size(free_bytes)} are free", remedy)
    if done >= cfg.net.max_batches:
        return
    left_s = seconds_left(cfg, seed, trial, done, load_s, measured)
    detail = f"{_duration(left_s)} for {cfg.net.max_batches - done:,} iterations; measured "
    if measured:
        evaluations_s = left_s - seconds_left(cfg, seed, trial, done, load_s)
        detail = detail.replace("; ", f", {_duration(evaluations_s)} of it for evaluations; ")
    detail += f"{trial.seconds / trial.images:.2g} s per image of {trial.width}x{trial.height}"
    yield Finding(NOTE, "time to the end on this machine, about", cfg.path, detail)


def findings_of_disk(cfg: Cfg, operation: Operation, measures: bool = False) -> Iterator[Finding]:
    """Yield whether the checkpoints of a run will find room, and a folder that can be written.

    Args:
        cfg: of the run.
        operation: of the run.
        measures: it also keeps the best state, by -map.
    """
    folder = operation.backup
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        what = "the folder for checkpoints cannot be written"
        yield Finding(
            ERROR, what, str(operation.backup), "", "set another backup= in the data file"
        )
        return
    arrays = weights_bytes(cfg)
    whole = (3 if cfg.net.adam else 2) * arrays + 48 * cfg.net.max_batches
    milestones = cfg.net.max_batches // operation.saveweights
    with_state = milestones if operation.keepstate is None else operation.keepstate
    with_state = min(milestones, with_state)
    # Beside them: _last, the one before, one being written, the copy of a milestone, _final.
    needed = (with_state + 4 + measures) * whole + (milestones - with_state + 1) * arrays
    free = shutil.disk_usage(folder).free
    detail = f"{_size(needed)} ({milestones:,} milestones); {_size(free)} are free"
    verdict = WARNING if needed > free else NOTE
    remedy = "free some, or set keepstate or a larger saveweights" if verdict is WARNING else ""
    what = "room for checkpoints, about"
    yield Finding(verdict, what, str(operation.backup), detail, remedy)


def _size(size_bytes: float) -> str:
    return f"{size_bytes / GB:.1f} GB" if size_bytes >= GB / 10 else f"{size_bytes / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
