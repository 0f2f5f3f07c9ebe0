"""The main job on the real pictures: killed at random moments, equal to an undisturbed run.

Takes some minutes: make prove
"""

import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import SHARED, needs_shared

BCCD = SHARED / "data" / "bccd"
MODEL = SHARED / "models" / "yolov3-tiny"
ITERATIONS, KILLS = 110, 3
TRAIN = ["detector", "train", "obj.data", "bccd-tiny.cfg", "yolov3-tiny.conv.15", "-map"]
"""Evaluated after 100 iterations and at the end."""

pytestmark = [pytest.mark.long, needs_shared]


def prepared(folder: Path) -> Path:
    """Make a folder like ../shared/data/bccd with a 3-class yolov3-tiny of 256x256 in it."""
    folder.mkdir()
    (folder / "img").symlink_to(BCCD / "img")
    for name in ("obj.data", "obj.names", "train.txt", "valid.txt"):
        (folder / name).write_bytes((BCCD / name).read_bytes())
    text = (MODEL / "yolov3-tiny.cfg").read_text()
    for key, value in {
        "width": 256,
        "height": 256,
        "max_batches": ITERATIONS,
        "burn_in": 20,
        "steps": "80,90",
        "filters=255": "filters=24",
        "classes": 3,
        "random": 0,
    }.items():
        old = re.escape(key) if "=" in key else rf"{key} *=.*"
        new = value if "=" in key else f"{key}={value}"
        text = re.sub(rf"^{old}$", str(new), text, flags=re.MULTILINE)
    text = re.sub(r"^batch=1$", "batch=16", text, count=1, flags=re.MULTILINE)
    (folder / "bccd-tiny.cfg").write_text(text)
    partial = ["partial", MODEL / "yolov3-tiny.cfg", MODEL / "yolov3-tiny.weights", TRAIN[4], 15]
    started(folder, [str(word) for word in partial]).wait()
    return folder


def started(folder: Path, words: list[str]) -> subprocess.Popen[bytes]:
    """Start a relume command in `folder`, its output added to a file."""
    with (folder / "output.txt").open("ab") as output:
        command = [sys.executable, "-m", "relume", *words]
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = prepared(tmp_path_factory.mktemp("bccd") / "straight")
    assert started(folder, TRAIN).wait() == 0
    return folder


def test_the_loss_falls_on_real_pictures(straight: Path) -> None:
    text = (straight / "backup" / "bccd-tiny.journal.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    measured = [line for line in lines if "map" in line]
    lines = [line for line in lines if "map" not in line]

    assert [one["after_iteration"] for one in measured] == [100, 110]
    # So short a training finds little (4.2 % was measured), but not nothing.
    assert measured[-1]["best_map"] > 0.02
    assert lines[-1]["average_loss"] < lines[9]["average_loss"] / 3
    early = sum(line["box_loss"] for line in lines[5:15])
    late = sum(line["box_loss"] for line in lines[-10:])
    assert late < early / 2


def test_three_kills_at_random_moments_change_no_byte(straight: Path, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "killed")
    moments = random.Random(7)
    for _ in range(KILLS):
        trainer = started(folder, TRAIN)
        try:
            trainer.wait(moments.uniform(12, 40))
        except subprocess.TimeoutExpired:
            trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    assert started(folder, TRAIN).wait() == 0

    files, expected = (
        {
            path.name: path.read_bytes()
            for path in (run / "backup").iterdir()
            if path.suffix in (".weights", ".backup", ".jsonl", ".png")
        }
        for run in (folder, straight)
    )
    assert files == expected
