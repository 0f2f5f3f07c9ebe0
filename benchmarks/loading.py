"""Loading speed: pictures per second of processor time, against plain decoding and resizing.

    python -m benchmarks.loading [PART ...]      (or `make bench`; PARTS below)

small, large    one thread loads and augments; beside it the floor, OpenCV's decode and resize
                of the same files to the same size, in turns. Small: bccd, 640x480 JPEGs (or
                drawn ones); large: photographs of 4032x3024
darknet         Debian's original in C, if installed: a net so small that it only waits for
                pictures
waiting         the share of a training iteration that the trainer waits for pictures, with
                two loader threads (yolov3-tiny 416, batch 8)
"""

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.inputs import AUGMENTATION, SHARED_PICTURES, write_inputs
from relume.data.batch import MiniBatch
from relume.data.loaders import available_processors
from relume.data.sample import Source, load_sample
from relume.spec import Flags, RunSpec, read_spec
from relume.train import loop
from relume.train.batches import source_of, unchanged
from relume.train.environment import declare, set_up
from relume.train.loop import Stop, begin, iterations
from relume.train.start import StartFlags, starting_state

SIDE, ROUNDS = 416, 5
LARGE_PX = (4032, 3024)
CPU = torch.device("cpu")


def read(folder: Path) -> RunSpec:
    """Return the run in `folder`."""
    return read_spec(str(folder / "obj.data"), str(folder / "net.cfg"), Flags(), print)


def floor(paths: list[Path]) -> None:
    """Decode and resize as anyone would."""
    for path in paths:
        decoded = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        cv2.resize(decoded, (SIDE, SIDE))


def ours(source: Source, count: int) -> list[Path]:
    """Load and augment; return the files in the order they were used."""
    samples = [load_sample(source, position, SIDE, SIDE) for position in range(count)]
    return [Path(source.image_paths[row]) for sample in samples for row in sample.indices]


def one_thread(what: str, folder: Path, count: int) -> None:
    """Print pictures per second of processor time, of ours and of the floor."""
    source = source_of(read(folder))
    paths = ours(source, count)
    floor(paths)
    rates: dict[str, list[float]] = {"ours": [], "floor": []}
    for _ in range(ROUNDS):
        rates["floor"].append(count / processor_s(lambda: floor(paths)))
        rates["ours"].append(count / processor_s(lambda: ours(source, count)))
    ratios = [o / f for o, f in zip(rates["ours"], rates["floor"], strict=True)]
    print(
        f"{what}: {statistics.median(rates['ours']):.0f} pictures per second of a processor; "
        f"plain decode and resize {statistics.median(rates['floor']):.0f}; "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def processor_s(action: Callable[[], object]) -> float:
    """Return the seconds of processor time that an action takes."""
    began = time.process_time()
    action()
    return time.process_time() - began


def small() -> None:
    """Measure on bccd, with and without changes of colour."""
    with tempfile.TemporaryDirectory(prefix="relume-bench-") as name:
        folder = Path(name)
        write_inputs(folder, "yolov3-tiny", SIDE, 8, 1)
        one_thread("640x480 JPEGs", folder, 128)
        text = (folder / "net.cfg").read_text().replace(AUGMENTATION, "")
        (folder / "net.cfg").write_text(text)
        one_thread("640x480 JPEGs, no changes of colour", folder, 128)


def large() -> None:
    """Measure on photographs, which are bccd's or drawn ones made larger, with noise."""
    with tempfile.TemporaryDirectory(prefix="relume-bench-") as name:
        folder = Path(name)
        write_inputs(folder, "yolov3-tiny", SIDE, 8, 1)
        write_large(folder)
        one_thread("4032x3024 JPEGs", folder, 12)


def write_large(folder: Path) -> None:
    """Put large pictures in the place of the first of the list."""
    lines = (folder / "train.txt").read_text().split()[:12]
    random = np.random.default_rng(0)
    entries = []
    for number, line in enumerate(lines):
        picture = cv2.imread(str(folder / line))
        assert picture is not None
        enlarged = cv2.resize(picture, LARGE_PX, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        enlarged += random.integers(-6, 7, enlarged.shape, np.int16)
        path = folder / f"{number:02}.jpg"
        cv2.imwrite(str(path), np.clip(enlarged, 0, 255).astype(np.uint8))
        path.with_suffix(".txt").write_bytes((folder / line).with_suffix(".txt").read_bytes())
        entries.append(str(path))
    (folder / "train.txt").write_text("\n".join(entries) + "\n")


def darknet() -> None:
    """Measure the original, which loads with 64 threads."""
    program = shutil.which("darknet")
    if program is None or not SHARED_PICTURES.is_dir():
        print("darknet: not installed, or bccd is missing")
        return
    with tempfile.TemporaryDirectory(prefix="relume-bench-") as name:
        folder = Path(name)
        write_inputs(folder, "yolov3-tiny", SIDE, 64, 1)
        (folder / "backup").mkdir()
        (folder / "net.cfg").write_text(
            f"[net]\nbatch=64\nsubdivisions=1\nwidth={SIDE}\nheight={SIDE}\nchannels=3\n"
            "learning_rate=0\nmax_batches=6\nsaturation=1.5\nexposure=1.5\nhue=.1\n"
            "[convolutional]\nfilters=8\nsize=1\nstride=32\n"
            "activation=linear\n[yolo]\nmask=0\nanchors=50,50\nclasses=3\nnum=1\njitter=.3\n"
        )
        words = [program, "detector", "train", "obj.data", "net.cfg"]
        began = time.perf_counter()
        shown = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    loaded = [float(text) for text in re.findall(r"Loaded: ([\d.]+) seconds", shown.stdout)]
    if not loaded:  # it may crash when it is done, which is no matter
        print(f"darknet: ended with {shown.returncode}: {shown.stderr[-200:]}")
        return
    print(
        f"darknet: {64 * len(loaded) / seconds:.0f} pictures per second on "
        f"{available_processors()} "
        f"processors, {64 * len(loaded) / seconds / available_processors():.0f} per processor "
        f"(waits {statistics.median(loaded):.2f} s for 64)",
        flush=True,
    )


def waiting() -> None:
    """Measure how long the trainer stands at the loader."""
    with tempfile.TemporaryDirectory(prefix="relume-bench-") as name:
        folder = Path(name).resolve()
        write_inputs(folder, "yolov3-tiny", SIDE, 8, 1)
        spec = read(folder)
        spec.operation.backup.mkdir()
        waited: list[float] = []

        def timed(*arguments: Any) -> Iterator[MiniBatch]:
            passed_on = unchanged(*arguments)
            while True:
                began = time.perf_counter()
                mini_batch = next(passed_on, None)
                waited.append(time.perf_counter() - began)
                if mini_batch is None:
                    return
                yield mini_batch

        loop.unchanged = timed  # type: ignore[attr-defined, assignment]
        environment = declare(torch.get_num_threads(), CPU)
        start = starting_state(spec, StartFlags(), environment, lambda text: None)
        with closing(iterations(spec, begin(spec, start, CPU), Stop())) as states:
            next(states)
            waited.clear()
            began = time.perf_counter()
            for _ in range(20):
                next(states)
            seconds = time.perf_counter() - began
        print(
            f"waiting: {sum(waited) / seconds:.4f} of the time, {1e3 * sum(waited) / 20:.2f} ms of "
            f"{seconds / 20:.2f} s an iteration (longest {1e3 * max(waited):.1f} ms)",
            flush=True,
        )


PARTS: dict[str, Callable[[], None]] = {
    "small": small,
    "large": large,
    "darknet": darknet,
    "waiting": waiting,
}


def main() -> None:
    """Run the parts named on the command line, or all."""
    set_up(available_processors())
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()
