"""Whatever the number of processes, the final checkpoint is the same: real pictures, whole nets.

Takes some minutes: make prove
"""

import re
from pathlib import Path

import pytest

from tests.cfg_texts import small_residual_cfg, yolov3_tiny_cfg
from tests.contract.small_runs import AUGMENTED, MOVING, copied_run, promised_files
from tests.contract.workers import Workers
from tests.shared import SHARED, needs_shared

BCCD = SHARED / "data" / "bccd"
ITERATIONS = 4
ADAM = {"adam": 1, "B1": 0.9, "B2": 0.999}

pytestmark = [pytest.mark.long, needs_shared]


def net_options(subdivisions: int, adam: bool) -> dict[str, object]:
    """Return augmentation of every kind, a rate that changes, and two pictures a subdivision."""
    options: dict[str, object] = {"batch": 2 * subdivisions, "subdivisions": subdivisions}
    options |= {
        "max_batches": ITERATIONS,
        "burn_in": 2,
        "mosaic": 1,
        "flip": 1,
        **AUGMENTED,
        "resize_step": 32,
    }
    return options | (ADAM if adam else {"momentum": 0.9})


def tiny_cfg(subdivisions: int, adam: bool) -> str:
    """Return yolov3-tiny itself, for pictures of about 160x160."""
    text = yolov3_tiny_cfg(160, 160, classes=3)
    text = text.replace("jitter=0", "jitter=.3").replace("random=0", "random=1")
    for key, value in net_options(subdivisions, adam).items():
        text = re.sub(rf"^{key}=.*\n", "", text, flags=re.MULTILINE)
        text = text.replace("[net]\n", f"[net]\n{key}={value}\n", 1)
    return text


def residual_cfg(subdivisions: int, adam: bool) -> str:
    return small_residual_cfg(size=96, yolo=MOVING, **net_options(subdivisions, adam))  # type: ignore[arg-type]


CFGS = {"yolov3-tiny": tiny_cfg, "residual": residual_cfg}


@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
@pytest.mark.parametrize("subdivisions", [8, 6])
@pytest.mark.parametrize("net", CFGS)
def test_one_process_up_to_one_for_every_subdivision_leave_the_same_bytes(
    tmp_path: Path, net: str, subdivisions: int, adam: bool
) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    entries = [BCCD / line for line in (BCCD / "train.txt").read_text().split()]
    (inputs / "train.txt").write_text("".join(f"{entry}\n" for entry in entries))
    (inputs / "obj.names").write_bytes((BCCD / "obj.names").read_bytes())
    (inputs / "obj.data").write_text("train=train.txt\nnames=obj.names\nsaveweights=2\n")
    (inputs / "net.cfg").write_text(CFGS[net](subdivisions, adam))
    assert "random=1" in (inputs / "net.cfg").read_text()

    left = {}
    for size in range(1, subdivisions + 1):
        folder = copied_run(inputs, tmp_path / str(size))
        workers = Workers(folder, size)
        assert workers.ended() == [0] * size, workers.said
        left[size] = promised_files(folder)

    assert {"net_final.weights", "net_2.weights", "net.journal.jsonl"} <= left[1].keys()
    for size in range(2, subdivisions + 1):
        assert left[size] == left[1], size
