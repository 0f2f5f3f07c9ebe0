"""`make demo`: the main job on drawn pictures. Train, be killed, go on, compare, detect.

Everything runs through the ordinary command line, as a user would type it. Two trainers run
side by side on the same recipe: one is left alone, one is killed with SIGKILL again and again
and started with the same command.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from relume.demo_pictures import CLASS_NAMES, write_data_set
from relume.drawing import Label, draw_labels
from relume.formats.cfg import read_cfg

RELUME = (sys.executable, "-P", "-m", "relume")
"""The command line; -P keeps modules in the current folder from being imported."""
CFG = Path(__file__).with_name("demo_signs.cfg")
MAX_BATCHES = read_cfg(CFG, "train").net.max_batches
SEED = 1
TRAINING, HELD_OUT, SIDE_PX = 240, 24, 208
KILLS_AFTER = (MAX_BATCHES // 7, MAX_BATCHES // 3, MAX_BATCHES // 2, MAX_BATCHES * 4 // 5)
"""The iteration after which each SIGKILL falls, wherever the trainer then is."""
MARK = "signs.cfg"
"""The first file that a demo writes: a folder with this copy of CFG is its own."""
LEFT = (
    *("img", "straight", "killed", "train.txt", "valid.txt", "obj.names", "obj.data"),
    *("straight.data", "straight.txt", "killed.data", "killed.txt", "signs.cfg"),
    *("predictions.jpg", "predictions.json", "predictions"),
)
"""What a demo leaves in its folder."""
MATCH_IOU = 0.5
SHEET = (4, 2)
"""Columns and rows of pictures in predictions.jpg."""


def main() -> int:
    """Run the demo in the folder named on the command line; return 0 if all files are equal."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    check_own(folder)
    os.chdir(folder)
    remove_what_an_earlier_demo_left()
    Path(MARK).write_bytes(CFG.read_bytes())
    began = time.monotonic()
    say(f"draws {TRAINING} pictures to train on and {HELD_OUT} to test with in {folder}")
    write_data_set(folder, SEED, TRAINING, HELD_OUT, SIDE_PX)
    for name in ("straight", "killed"):
        text = Path("obj.data").read_text().replace("backup = backup", f"backup = {name}")
        Path(f"{name}.data").write_text(text)
    train_both()
    equal = compare("straight", "killed")
    found, truths, false = detect()
    say("")
    say(f"all files equal: {'yes' if equal else 'NO'}, after {len(KILLS_AFTER)} SIGKILLs")
    say(
        f"found {found} of {truths} signs on {HELD_OUT} pictures it was not trained on "
        f"(threshold .25, {false} false alarms)"
    )
    say(f"chart:       {folder / 'killed' / 'chart.png'}")
    say(f"predictions: {folder / 'predictions.jpg'}")
    say(f"took {time.monotonic() - began:.0f} s")
    return 0 if equal else 1


def check_own(folder: Path) -> None:
    """End the process unless a folder is empty, or an earlier demo's by the cfg in it."""
    mark = folder / MARK
    is_own = not mark.is_symlink() and mark.is_file() and mark.read_bytes() == CFG.read_bytes()
    if any(folder.iterdir()) and not is_own:
        found = "holds files, and no earlier demo made it; a folder of its own"
        raise SystemExit(f"{folder}: {found}; move it away, or name another")


def remove_what_an_earlier_demo_left() -> None:
    """Delete it from the current folder; a link is deleted, not followed."""
    for name in LEFT:
        path = Path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def train_both() -> None:
    """Train twice side by side: undisturbed, and killed again and again."""
    threads = max(len(os.sched_getaffinity(0)) // 2, 1)
    command = ["detector", "train", "signs.cfg", "-threads", str(min(threads, 4))]
    straight = start([*command[:2], "straight.data", *command[2:]], "straight.txt")
    for number, iteration in enumerate(KILLS_AFTER, start=1):
        trainer = start([*command[:2], "killed.data", *command[2:]], "killed.txt")
        wait_for_iteration("killed", iteration, trainer)
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
        say(f"SIGKILL {number} at iteration {iterations_done('killed')}; the same command again")
    trainer = start([*command[:2], "killed.data", *command[2:]], "killed.txt")
    for process, log in ((trainer, "killed.txt"), (straight, "straight.txt")):
        show_progress(process)
        if process.wait() != 0:
            raise SystemExit(f"the trainer failed, see {Path(log).resolve()}")
    say("")


def start(arguments: list[str], log: str) -> subprocess.Popen[bytes]:
    """Start one relume command, its output added to a file."""
    with Path(log).open("ab") as file:
        return subprocess.Popen([*RELUME, *arguments], stdout=file, stderr=subprocess.STDOUT)


def iterations_done(run: str) -> int:
    """Return the lines in a run's journal."""
    path = Path(run) / "signs.journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_iteration(run: str, iteration: int, trainer: subprocess.Popen[bytes]) -> None:
    """Return when a run's journal has more than `iteration` lines."""
    while iterations_done(run) <= iteration:
        if trainer.poll() is not None:
            raise SystemExit(f"the trainer ended early, see {Path(run + '.txt').resolve()}")
        show_counts()
        time.sleep(0.05)


def show_progress(process: subprocess.Popen[bytes]) -> None:
    """Show how far both runs are until `process` ends."""
    while process.poll() is None:
        show_counts()
        time.sleep(0.1)


def show_counts() -> None:
    """Write both runs' iterations over the current line, if a person is looking."""
    if sys.stdout.isatty():
        counts = ", ".join(f"{run} {iterations_done(run)}" for run in ("straight", "killed"))
        say(f"iteration of {MAX_BATCHES}: {counts}   ", end="\r")


def compare(one: str, other: str) -> bool:
    """Compare every file under the promise, byte for byte."""
    names = sorted(
        {path.name for folder in (one, other) for path in Path(folder).glob("*.*")}
        - {"signs.log", "signs.lock"}
    )
    equal = True
    for name in names:
        pair = [Path(folder) / name for folder in (one, other)]
        same = all(p.exists() for p in pair) and pair[0].read_bytes() == pair[1].read_bytes()
        say(f"  {'equal' if same else 'DIFFERENT'}  {name}")
        equal &= same
    return equal and bool(names)


def detect() -> tuple[int, int, int]:
    """Detect on the held-out pictures; return objects found, objects there, false alarms."""
    weights = "killed/signs_final.weights"
    arguments = ["detector", "test", "obj.data", "signs.cfg", weights, "-out", "predictions.json"]
    subprocess.run(
        [*RELUME, *arguments],
        input=Path("valid.txt").read_bytes(),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    frames = json.loads(Path("predictions.json").read_text())
    found = truths = false = 0
    for frame in frames:
        boxes = np.loadtxt(Path(frame["filename"]).with_suffix(".txt"), ndmin=2)
        matched = set(matches(frame["objects"], boxes))
        found += len(matched)
        truths += len(boxes)
        false += len(frame["objects"]) - len(matched)
    draw_sheet(frames)
    return found, truths, false


def matches(objects: list[dict[str, Any]], truths: npt.NDArray[np.float64]) -> Iterator[int]:
    """Yield the rows of `truths` [N,5] that an object of the same class overlaps."""
    for item in sorted(objects, key=lambda item: -float(item["confidence"])):
        for row, (kind, *box) in enumerate(truths):
            if kind == item["class_id"] and iou(corners(item), xywh_corners(*box)) > MATCH_IOU:
                yield row


def corners(item: dict[str, Any]) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of one object, relative to the picture."""
    c = item["relative_coordinates"]
    return xywh_corners(c["center_x"], c["center_y"], c["width"], c["height"])


def xywh_corners(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of a box."""
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return intersection over union of two boxes given by their corners."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)


def draw_sheet(frames: list[dict[str, Any]]) -> None:
    """Draw the first held-out pictures with what was found into predictions.jpg."""
    columns, rows = SHEET
    side = 2 * SIDE_PX
    tiles = []
    for frame in frames[: columns * rows]:
        picture = cv2.cvtColor(cv2.imread(frame["filename"]), cv2.COLOR_BGR2RGB)
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
        labels = []
        for item in frame["objects"]:
            left, top, right, bottom = (side * value for value in corners(item))
            text = f"{CLASS_NAMES[item['class_id']]} {item['confidence'] * 100:.0f}%"
            labels.append(Label(text, item["class_id"], (left, top, right, bottom)))
        tiles.append(draw_labels(picture, labels))
    lines = [np.hstack(tiles[row * columns : (row + 1) * columns]) for row in range(rows)]
    cv2.imwrite("predictions.jpg", cv2.cvtColor(np.vstack(lines), cv2.COLOR_RGB2BGR))


def say(text: str, end: str = "\n") -> None:
    """Show one line."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
