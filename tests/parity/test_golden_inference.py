"""Detections on real pictures are those of the original Darknet."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.formats.cfg import read_cfg
from relume.model.detect import Detections, Picture, detect_image, nms_sort
from relume.model.inference import run_fused
from relume.model.network import Network, fold_batch_norm
from tests.parity.weights_files import fill
from tests.shared import SHARED, needs_shared

GOLDEN = SHARED / "golden" / "inference"
MODELS = ("yolov3-tiny", "yolo-fastest-1.1")
THRESH = 0.005


@dataclass(frozen=True)
class Row:
    """One line of `detector valid`: a box in pixels, counted from 1, cut to the picture."""

    probability: float
    box_px: tuple[float, ...]


Rows = dict[tuple[str, str], list[Row]]
"""By (picture, class), the most probable first."""


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_with_darknets_batch_norm_formula_every_row_is_the_same(name: str) -> None:
    network = _network(name)
    for key, tensor in network.darknet_arrays().items():
        if key.endswith("rolling_variance"):
            # The original divides by sqrt(v) + 1e-6, this project by sqrt(v + 1e-5).
            tensor.copy_((tensor.double().sqrt() + 1e-6) ** 2 - 1e-5)
    golden, ours = _read(GOLDEN / f"{name}.valid.tsv"), _detect(network, name)
    pairs, alone = _matched(golden, ours)
    assert alone == []
    probability, pixels = _largest_differences(pairs)
    # golden/inference/README.md: float32 rounding of two implementations.
    assert probability < 1e-5
    assert pixels < 0.01


@needs_shared
@pytest.mark.parametrize("form", ["as trained", "folded", "fused"])
@pytest.mark.parametrize("name", MODELS)
def test_with_our_batch_norm_formula_detections_hardly_change(name: str, form: str) -> None:
    network = _network(name)
    if form != "as trained":
        network = fold_batch_norm(network)
    if form == "fused":
        network = run_fused(network)
    golden, ours = _read(GOLDEN / f"{name}.valid.tsv"), _detect(network, name)
    pairs, alone = _matched(golden, ours)
    probability, pixels = _largest_differences(pairs)
    # golden/inference/README.md: rows near a threshold, that of suppression included, may go.
    assert all(row.probability < THRESH + 1e-3 or near for row, near in alone)
    assert len(alone) <= 2
    assert probability < 1e-3
    assert pixels < 0.5


@needs_shared
@pytest.mark.parametrize("name", MODELS)
def test_what_detector_test_prints_is_found(name: str) -> None:
    network = _network(name)
    printed: dict[str, list[str]] = {}
    for line in (GOLDEN / f"{name}.test-thresh0.3.txt").read_text().splitlines():
        if line.startswith("# "):
            picture = line.removeprefix("# ").strip()
            printed[picture] = []
        else:
            printed[picture].append(line)
    names = _names()
    for file, lines in printed.items():
        found = _original_detections(network, _picture(file), 0.3)
        ours = [
            f"{names[column]}: {probability * 100:.0f}%"
            for row in found.probabilities
            for column, probability in enumerate(row)
            if probability > 0
        ]
        # The order is that of Darknet's last, unstable sort.
        assert sorted(ours) == sorted(lines)


def _network(name: str) -> Network:
    folder = SHARED / "models" / name
    network = Network(read_cfg(folder / f"{name}.cfg", purpose="detect"), seed=None).eval()
    fill(network, folder / f"{name}.weights")
    return network


def _original_detections(network: Network, picture: Picture, thresh: float) -> Detections:
    """Detect as the original does: letterboxed, and whatever the cfg says, plain suppression."""
    found = detect_image(network, picture, thresh, nms=1.0, letter_box=True)
    return nms_sort(found, 0.45)


def _detect(network: Network, name: str) -> Rows:
    names, rows = _names(), defaultdict(list)
    for path in sorted((SHARED / "images").glob("*.png")):
        picture = _picture(path.name)
        height, width = picture.shape[:2]
        found = _original_detections(network, picture, THRESH)
        centres, sizes = found.boxes_xywh_rel[:, :2], found.boxes_xywh_rel[:, 2:]
        edges = np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1)
        last = np.array((width, height, width, height), np.float32)
        boxes = np.clip(edges * last + 1, 1, last)
        for row, column in np.argwhere(found.probabilities):
            box = tuple(map(float, boxes[row]))
            rows[path.stem, names[column]].append(Row(float(found.probabilities[row, column]), box))
    return _sorted(rows)


def _read(path: Path) -> Rows:
    rows = defaultdict(list)
    for line in path.read_text().splitlines():
        picture, name, *numbers = line.split("\t")
        probability, *box = map(float, numbers)
        rows[picture, name].append(Row(probability, tuple(box)))
    return _sorted(rows)


def _sorted(rows: Rows) -> Rows:
    return {key: sorted(of_key, key=lambda row: -row.probability) for key, of_key in rows.items()}


def _matched(golden: Rows, ours: Rows) -> tuple[list[tuple[Row, Row]], list[tuple[Row, bool]]]:
    """Return rows that mean the same box, and the others.

    Of each row alone: whether it overlaps a more probable one by nearly what suppresses it.
    """
    pairs, alone = [], []
    for key in golden.keys() | ours.keys():
        left = list(ours.get(key, []))
        of_key = [*golden.get(key, []), *left]
        for row in golden.get(key, []):
            same = [other for other in left if _apart_px(row, other) < 0.5]
            if same:
                pairs.append((row, same[0]))
                left.remove(same[0])
            else:
                alone.append((row, _nearly_suppressed(row, of_key)))
        alone += [(row, _nearly_suppressed(row, of_key)) for row in left]
    return pairs, alone


def _nearly_suppressed(row: Row, of_key: list[Row]) -> bool:
    return any(abs(_iou(row, other) - 0.45) < 1e-3 for other in of_key)


def _iou(a: Row, b: Row) -> float:
    (ax, ay, au, av), (bx, by, bu, bv) = a.box_px, b.box_px
    shared = max(min(au, bu) - max(ax, bx), 0) * max(min(av, bv) - max(ay, by), 0)
    return shared / ((au - ax) * (av - ay) + (bu - bx) * (bv - by) - shared)


def _apart_px(a: Row, b: Row) -> float:
    return float(np.abs(np.subtract(a.box_px, b.box_px)).max())


def _largest_differences(pairs: list[tuple[Row, Row]]) -> tuple[float, float]:
    """Return the largest difference in probability and in pixels."""
    return (
        max(abs(a.probability - b.probability) for a, b in pairs),
        max(_apart_px(a, b) for a, b in pairs),
    )


def _names() -> list[str]:
    return (SHARED / "models" / "yolov3-tiny" / "coco.names").read_text().splitlines()


def _picture(name: str) -> Picture:
    pixels = cv2.imread(str(SHARED / "images" / name))
    assert pixels is not None
    return np.ascontiguousarray(pixels[:, :, ::-1], np.uint8)
