"""COCO's figures are those of COCO's own program."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relume.evaluate.coco_measure import measure_coco
from relume.evaluate.detected import Detected
from relume.model.detect import Detections
from relume.validation_set import LabelledPicture
from tests.model.darknet_loops import F

pycocotools = pytest.importorskip("pycocotools.coco", reason="needs pycocotools (extra dev)")
CLASSES = 3


def made(seed: int, pictures: int, most: int) -> tuple[list[LabelledPicture], list[Detected]]:
    """Return truths of all sizes, and detections of which many are near them, some equal."""
    generator = np.random.Generator(np.random.Philox(seed))
    labelled, found = [], []
    for index in range(pictures):
        size_px = (int(generator.integers(100, 900)), int(generator.integers(100, 900)))
        there = int(generator.integers(0, most))
        truths = generator.uniform(0.02, 0.5, (there, 5)).astype(F)
        truths[:, 0] = generator.integers(0, CLASSES - 1, there)  # one class without truths
        truths[:, 1:3] += F(0.25)
        near = np.repeat(truths[:, 1:], 2, axis=0)
        boxes = near * generator.uniform(0.85, 1.15, near.shape).astype(F)
        probabilities = np.maximum(generator.integers(-9, 9, (len(boxes), CLASSES)), 0) / 9
        detections = Detections(boxes, np.ones(len(boxes), F), probabilities.astype(F))
        labelled.append(LabelledPicture(Path(f"{index}.png"), "", truths))
        found.append(Detected(index, size_px, detections, 0))
    return labelled, found


def figures_of_pycocotools(labelled: list[LabelledPicture], found: list[Detected]) -> Any:
    """Return the twelve figures, from dictionaries written out here."""
    from pycocotools.cocoeval import COCOeval

    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for item in found:
        width, height = item.size_px
        images.append({"id": item.index + 1, "width": width, "height": height})
        for kind, x, y, w, h in labelled[item.index].truths.astype(float):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": item.index + 1,
                    "bbox": box,
                    "category_id": int(kind) + 1,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        for box32, of_box in zip(
            item.detections.boxes_xywh_rel, item.detections.probabilities, strict=True
        ):
            x, y, w, h = (float(v) for v in box32 * np.array([width, height] * 2, F))
            left, top = max(F(x - w / 2), F(0)), max(F(y - h / 2), F(0))
            right, bottom = min(F(x + w / 2), F(width)), min(F(y + h / 2), F(height))
            box = [float(v) for v in (left, top, right - left, bottom - top)]
            results += [
                {
                    "image_id": item.index + 1,
                    "category_id": kind + 1,
                    "bbox": box,
                    "score": float(probability),
                }
                for kind, probability in enumerate(of_box)
                if probability > 0
            ]
    truths = pycocotools.COCO()
    truths.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": kind + 1, "name": str(kind)} for kind in range(CLASSES)],
    }
    truths.createIndex()
    evaluation = COCOeval(truths, truths.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


@settings(max_examples=25, deadline=None)
@example(seed=68180, pictures=1, most=6)  # boxes without a class
@given(seed=st.integers(0, 2**32), pictures=st.integers(1, 9), most=st.sampled_from([2, 6, 30]))
def test_figures_are_those_of_pycocotools(seed: int, pictures: int, most: int) -> None:
    labelled, found = made(seed, pictures, most)
    if not any(item.detections.probabilities.any() for item in found):
        return  # pycocotools takes no empty list

    measure = measure_coco(CLASSES, labelled, found)

    # Equal but for the order in which doubles are added up.
    np.testing.assert_allclose(
        measure.figures, figures_of_pycocotools(labelled, found), rtol=0, atol=1e-12
    )
    assert len(measure.lines) == 12


def test_nothing_found_is_worth_0() -> None:
    labelled, found = made(1, 3, 6)
    nothing = Detections(np.zeros((0, 4), F), np.zeros(0, F), np.zeros((0, CLASSES), F))
    found = [Detected(item.index, item.size_px, nothing, 0) for item in found]

    assert measure_coco(CLASSES, labelled, found).figures[0] == 0


def test_pictures_without_truths_are_worth_nothing_known() -> None:
    labelled, found = made(1, 3, 6)
    labelled = [LabelledPicture(one.path, "", one.truths[:0]) for one in labelled]

    measure = measure_coco(CLASSES, labelled, found)

    assert measure.figures == (-1,) * 12
    assert measure.lines[0].endswith("area=   all | maxDets=100 ] = -1.000 (no truths)")


def test_behind_minus_one_stands_which_truths_are_missing() -> None:
    labelled, found = made(1, 3, 6)
    large = np.array([[0, 0.5, 0.5, 0.9, 0.9]], F)
    labelled = [LabelledPicture(one.path, "", large) for one in labelled]
    found = [Detected(item.index, (640, 480), item.detections, 0) for item in found]

    measure = measure_coco(CLASSES, labelled, found)

    for figure, line in zip(measure.figures, measure.lines, strict=True):
        is_missing = "area= small" in line or "area=medium" in line
        assert (figure == -1) == is_missing
        assert line.endswith("] = -1.000 (no truths of this size)") == is_missing
