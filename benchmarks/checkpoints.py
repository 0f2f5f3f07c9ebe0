"""What checkpoints cost: time, memory, bandwidth, and how fast a run goes on.

python -m benchmarks.checkpoints [PART ...]      (or `make bench`; PARTS below)

tiny, yolov3, auto   an iteration with a checkpoint at every one against one without, in
                     alternating blocks of one run; beside it the writer's processor time
stall                how long the training stands still for a save, against a memory copy
bandwidth            a save against a plain write and fsync of the same bytes
memory               what saving takes on top, against the size of the state
start                from the command to the first iteration: fresh, and going on at
                     iteration 10 and 1,000,000
"""

import ctypes
import dataclasses
import gc
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.inputs import write_inputs
from relume.checkpoint import container, storage
from relume.checkpoint.file_image import FileImage
from relume.checkpoint.folder import newest_good
from relume.checkpoint.hands import Hands
from relume.checkpoint.keeper import Keeper
from relume.checkpoint.state import RECORD, TrainState
from relume.data.loaders import available_processors
from relume.spec import Flags, RunSpec, read_spec
from relume.train.environment import declare, set_up
from relume.train.journal import lines
from relume.train.loop import Stop, begin, iterations
from relume.train.start import StartFlags, starting_state

SIDE = 416
CPU = torch.device("cpu")
MILLION = 1_000_000


def begun(folder: Path) -> tuple[RunSpec, TrainState]:
    """Return the run in `folder` and its fresh state."""
    spec = read_spec(str(folder / "obj.data"), str(folder / "net.cfg"), Flags(), print)
    spec.operation.backup.mkdir(exist_ok=True)
    environment = declare(torch.get_num_threads(), CPU)
    return spec, starting_state(spec, StartFlags(), environment, lambda text: None)


def cost(net: str, batch: int, subdivisions: int, savelast: int | None, rounds: int) -> None:
    """Print what saving adds to an iteration, in blocks S N N S of one run."""
    with tempfile.TemporaryDirectory(prefix="relume-bench-", dir=".") as name:
        folder = Path(name).resolve()
        write_inputs(folder, net, SIDE, batch, subdivisions)
        spec, start = begun(folder)
        keeper = Keeper(spec.operation.backup, "net", savelast, 1000, print)
        written, writer_s = [0], [0.0]
        taken_by_hands = keeper._hands.taken_processor_s

        def measured() -> float:
            seconds = taken_by_hands()
            writer_s[0] += seconds
            written[0] += 1
            return seconds

        keeper._hands.taken_processor_s = measured  # type: ignore[method-assign]
        block = 1 if savelast is not None else 4
        pattern = [saves for saves in (True, False, False, True) for _ in range(block)] * rounds
        seconds: dict[bool, list[float]] = {True: [], False: []}
        processor: dict[bool, list[float]] = {True: [], False: []}
        states = iterations(spec, begin(spec, start, CPU), Stop())
        with closing(states), closing(keeper):
            state, _ = next(states)
            keeper.offer(state)  # makes memory and caches warm
            state, _ = next(states)
            for saves in pattern:
                if not saves:
                    keeper._wait()
                began, began_s = time.perf_counter(), time.process_time()
                if saves:
                    keeper.offer(state, state.history.records[-1]["digest"].tobytes())
                state, _ = next(states)
                seconds[saves].append(time.perf_counter() - began)
                processor[saves].append(time.process_time() - began_s)
        writer_s[0] += keeper._writer.taken_processor_s()
        ratios = [
            statistics.mean(seconds[True][i : i + 2 * block])
            / statistics.mean(seconds[False][i : i + 2 * block])
            for i in range(0, len(seconds[True]), 2 * block)
        ]
        print_cost(f"{net} {SIDE} batch {batch}/{subdivisions}", savelast, ratios, seconds)
        per_save_s = writer_s[0] / max(written[0], 1)
        share = writer_s[0] / sum(seconds[True]) / available_processors()
        work = statistics.mean(processor[True]) / statistics.mean(processor[False])
        print(
            f"    {written[0]} saves, each {per_save_s:.3f} s of processor time, {share:.4f} of "
            f"all processors; processor time of an iteration with a save, to without: {work:.4f}",
            flush=True,
        )


def print_cost(
    what: str, savelast: int | None, ratios: list[float], seconds: dict[bool, list[float]]
) -> None:
    """Print the ratio of iterations with saving to those without."""
    saving = "savelast=auto" if savelast is None else "a checkpoint every iteration"
    print(
        f"{what}, {saving}: {statistics.median(seconds[False]):.2f} s an iteration; ratio to none: "
        f"median {statistics.median(ratios):.4f} (min {min(ratios):.4f}, max {max(ratios):.4f} "
        f"of {len(ratios)} blocks)"
    )


def made_state(net: str) -> TrainState:
    """Return a state of the size of `net`, its arrays filled."""
    with tempfile.TemporaryDirectory(prefix="relume-bench-") as name:
        write_inputs(Path(name), net, SIDE, 1, 1)
        _, state = begun(Path(name))
    groups = {
        group: {n: np.array(array) for n, array in arrays.items()}
        for group, arrays in {**state.groups, "": state.weights}.items()
    }
    for array in groups["momentum"].values():
        array[...] = 0.5
    return dataclasses.replace(state, weights=groups.pop(""), groups=groups)


def size_bytes(state: TrainState) -> int:
    """Return the bytes of all arrays."""
    groups = [state.weights, *state.groups.values()]
    return sum(array.nbytes for arrays in groups for array in arrays.values())


def best(times: int, action: Callable[[], object]) -> float:
    """Return the seconds of the fastest run, after one that is not counted."""
    action()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def stall() -> None:
    """Print how long a copy of the state takes, against a warm copy of as many bytes."""
    for net in ("yolov3-tiny", "yolov3"):
        state, image, hands = made_state(net), FileImage(), Hands(1)
        size = size_bytes(state)
        copy = best(15, partial(np.copyto, np.ones(size, np.uint8), np.ones(size, np.uint8)))
        ours = best(15, partial(image.hold, state, bytes(16), hands))
        print(
            f"{net}: stands still for {1e3 * ours:.1f} ms per save; a warm copy of {size:,} bytes "
            f"takes {1e3 * copy:.1f} ms; ratio {ours / copy:.2f}",
            flush=True,
        )


def bandwidth() -> None:
    """Print how fast a save is, against a plain write and fsync of the same bytes."""
    with tempfile.TemporaryDirectory(prefix="relume-bench-", dir=".") as name:
        folder, hands = Path(name), Hands(2)
        for net in ("yolov3-tiny", "yolov3"):
            state, image = made_state(net), FileImage()
            data = container.pack(state)
            ratios: dict[str, list[float]] = {"writing": [], "whole": []}
            for _ in range(8):
                image.hold(state, bytes(16))
                began = time.perf_counter()
                plain_write(folder / "plain", data)
                plain = time.perf_counter() - began
                began = time.perf_counter()
                pieces = image.pieces(hands)
                storage.write_stream_durably(folder / "ours", pieces, None, hands)
                ratios["whole"].append(plain / (time.perf_counter() - began))
                began = time.perf_counter()
                storage.write_durably(folder / "ours", image.file())
                ratios["writing"].append(plain / (time.perf_counter() - began))
            print(
                f"{net}: {len(data):,} bytes; bandwidth against a plain write and fsync: "
                f"{statistics.median(ratios['writing']):.2f} writing, "
                f"{statistics.median(ratios['whole']):.2f} with digests and rename "
                f"(last plain: {len(data) / plain / 1e9:.2f} GB/s)",
                flush=True,
            )


def plain_write(path: Path, data: bytes) -> None:
    """Write a file as anyone would."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def memory() -> None:
    """Print the peak of resident memory that saves add, against the state's size."""
    code = "from benchmarks.checkpoints import print_memory; print_memory({!r})"
    for net in ("yolov3-tiny", "yolov3"):
        subprocess.run([sys.executable, "-c", code.format(net)], check=True)


def print_memory(net: str) -> None:
    """Measure in a process of its own: three saves of a state that exists already."""
    state = made_state(net)
    set_up(available_processors())
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what making the state left would be used for saving it
    with tempfile.TemporaryDirectory(prefix="relume-bench-", dir=".") as name:
        keeper = Keeper(Path(name), "net", 1, 1000, print)
        before = peak_bytes(reset=True)
        for iteration in (1, 2, 3):
            history = dataclasses.replace(state.history, records=np.zeros(iteration, RECORD))
            keeper.offer(dataclasses.replace(state, history=history))
            keeper._wait()
        after = peak_bytes()
        keeper.close()
    size = size_bytes(state)
    print(
        f"{net}: saving takes {after - before:,} bytes on top, {(after - before) / size:.3f} times "
        f"the state's {size:,}",
        flush=True,
    )


def peak_bytes(reset: bool = False) -> int:
    """Return the largest resident memory of this process so far, or from here on."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition("VmHWM:")[2].split()[0])


def start() -> None:
    """Print seconds from the command to the first iteration: fresh, at 10, at a million."""
    with tempfile.TemporaryDirectory(prefix="relume-bench-", dir=".") as name:
        for net in ("yolov3-tiny", "yolov3"):
            folder = Path(name).resolve() / net
            folder.mkdir()
            write_inputs(folder, net, SIDE, 1, 1, max_batches=2 * MILLION)
            rows: dict[str, list[float]] = {"fresh": [], "at 10": [], "at 1,000,000": []}
            prepared = dict(zip(rows, prepare_starts(folder), strict=True))
            for _ in range(5):
                for row, backup in prepared.items():
                    shutil.rmtree(folder / "backup")
                    shutil.copytree(backup, folder / "backup")
                    rows[row].append(seconds_to_first_iteration(folder))
            size = (prepared["at 10"] / "net_last.weights").stat().st_size
            fresh = statistics.median(rows["fresh"])
            print(f"{net}: fresh {fresh:.2f} s to the first iteration; file {size:,} bytes")
            for row in ("at 10", "at 1,000,000"):
                more = statistics.median(rows[row]) - fresh
                print(f"    going on {row}: {more:+.2f} s (bound {size / 1e9 + 0.2:+.2f} s)")
            sys.stdout.flush()


def prepare_starts(folder: Path) -> Iterator[Path]:
    """Yield backup folders: empty, of iteration 10, and the same made one of iteration 10**6."""
    (folder / "backup").mkdir()
    yield Path(shutil.copytree(folder / "backup", folder / "empty"))
    wait_for_iterations(folder, 10)
    yield Path(shutil.copytree(folder / "backup", folder / "ten"))
    found, _ = newest_good(folder / "ten", "net")
    assert found is not None
    million = Path(shutil.copytree(folder / "ten", folder / "million"))
    records = np.resize(found.state.history.records, MILLION)
    records["seen"] = np.arange(1, MILLION + 1)
    history = dataclasses.replace(found.state.history, records=records)
    progress = dataclasses.replace(found.state.progress, seen=MILLION)
    state = dataclasses.replace(found.state, history=history, progress=progress)
    for file in ("net_last.weights", "net.backup"):
        storage.write_durably(million / file, *container.packed_parts(state))
    text = "".join(f"{line}\n" for line in lines(history))
    (million / "net.journal.jsonl").write_text(text)
    yield million


def wait_for_iterations(folder: Path, count: int) -> float:
    """Train until `count` lines have come, then stop; return the seconds until then."""
    words = [sys.executable, "-m", "relume", "detector", "train", "obj.data", "net.cfg"]
    began = time.perf_counter()
    with subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        for _ in range(count):
            assert b" avg loss" in process.stdout.readline(), "no iteration came"
        seconds = time.perf_counter() - began
        process.send_signal(signal.SIGTERM)
        process.communicate()
    return seconds


def seconds_to_first_iteration(folder: Path) -> float:
    """Return the seconds from the command to the end of its first iteration."""
    return wait_for_iterations(folder, 1)


PARTS: dict[str, Callable[[], None]] = {
    "stall": stall,
    "bandwidth": bandwidth,
    "memory": memory,
    "start": start,
    "tiny": lambda: cost("yolov3-tiny", 64, 8, 1, rounds=10),
    "auto": lambda: cost("yolov3-tiny", 8, 1, None, rounds=12),
    "yolov3": lambda: cost("yolov3", 16, 8, 1, rounds=4),
}


def main() -> None:
    """Run the parts named on the command line, or all."""
    set_up(available_processors())
    for part in sys.argv[1:] or PARTS:
        print(f"-- {part}", flush=True)
        PARTS[part]()


if __name__ == "__main__":
    main()
