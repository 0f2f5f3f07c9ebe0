"""How fast pictures are gone through: `relume detector valid` against Debian's darknet's.

    python -m benchmarks.evaluation      (or `make bench`)

The same net (yolov3-tiny 416, COCO), the same pictures (bccd, 640x480), the same processors: all,
then one. Both commands run in turns, each round both; the seconds are those that each says it
detected for (without its start), and those of the whole command. At least 5 times is wanted on all
processors. Each keeps its own thresholds: relume's are the lower ones.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inputs import SHARED_PICTURES
from relume.data.loaders import available_processors

MODEL = SHARED_PICTURES.parents[1] / "models" / "yolov3-tiny"
DARKNET = Path("/usr/bin/darknet")
ROUNDS, PICTURES = 3, 32
SAID = re.compile(r"Total Detection Time: ([0-9.]+) Seconds")


def timed(command: Sequence[str | Path], folder: Path, processors: int) -> tuple[float, float]:
    """Run a command; return the seconds that it says, and those that it took."""
    allowed = sorted(os.sched_getaffinity(0))[:processors]
    began_s = time.perf_counter()
    ended = subprocess.run(
        ["taskset", "-c", ",".join(map(str, allowed)), *command],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    taken_s = time.perf_counter() - began_s
    said = SAID.search(ended.stdout + ended.stderr)
    assert said is not None
    return float(said[1]), taken_s


def main() -> None:
    """Measure and print."""
    if not (DARKNET.is_file() and MODEL.is_dir()):
        print("not measured: needs /usr/bin/darknet (apt-get install darknet) and ../shared")
        return
    arguments = ("obj.data", MODEL / "yolov3-tiny.cfg", MODEL / "yolov3-tiny.weights")
    commands = {
        "darknet": (DARKNET, "detector", "valid", *arguments),
        "relume": (sys.executable, "-m", "relume", "detector", "valid", *arguments, "-letter_box"),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "results").mkdir()
        lines = (SHARED_PICTURES / "train.txt").read_text().split()[:PICTURES]
        (folder / "valid.txt").write_text("".join(f"{SHARED_PICTURES / x}\n" for x in lines))
        names = MODEL / "coco.names"
        (folder / "obj.data").write_text(
            f"classes = 80\nvalid = valid.txt\nnames = {names}\nresults = results\n"
        )
        for processors in dict.fromkeys((available_processors(), 1)):
            rounds = [
                {who: timed(command, folder, processors) for who, command in commands.items()}
                for _ in range(ROUNDS)
            ]
            detecting, whole = (
                [one["darknet"][i] / one["relume"][i] for one in rounds] for i in (0, 1)
            )
            each = {who: statistics.median(one[who][0] for one in rounds) for who in commands}
            print(
                f"{processors} processors: {statistics.median(detecting):.2f} times as fast as "
                f"darknet ({min(detecting):.2f} to {max(detecting):.2f} in {ROUNDS} rounds), "
                f"with their starts {statistics.median(whole):.2f}; per picture "
                + ", ".join(f"{who} {s / PICTURES:.3f} s" for who, s in each.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
