"""COCO's average precision, computed by faster-coco-eval from detections and labels."""

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relume.errors import UsageError
from relume.evaluate.detected import Detected
from relume.evaluate.result_lines import edges_xyxy_px
from relume.validation_set import LabelledPicture

NAMES = (
    *("AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge"),
    *("AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge"),
)
"""Of the twelve figures, in COCO's order."""
_QUIET = logging.getLogger(__name__).debug


@dataclass(frozen=True)
class CocoMeasure:
    """COCO's twelve figures; -1 where there are no truths of that size."""

    figures: tuple[float, ...]
    lines: tuple[str, ...]
    """As COCO's own program prints them; behind a -1 the reason."""


def required_library() -> Any:
    """Return the library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("faster_coco_eval")
    except ImportError as error:
        found = f"faster-coco-eval cannot be imported ({error})"
        raise UsageError("-coco", found, "", "pip install faster-coco-eval") from error


def measure_coco(
    classes: int, pictures: Sequence[LabelledPicture], found: Sequence[Detected]
) -> CocoMeasure:
    """Return COCO's figures.

    Args:
        classes: of the network; every one is a category.
        pictures: of the list.
        found: what was found in them; `index` tells in which. Those left out do not count.
    Raises:
        UsageError: the library is not installed.
    """
    library = required_library()
    truths = library.COCO(_annotations(classes, pictures, found), print_function=_QUIET)
    lines: list[str] = []
    evaluation = library.COCOeval_faster(
        truths, truths.loadRes(_results(found)), "bbox", print_function=_QUIET
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.print_function = lines.append
    evaluation.summarize()
    # The library adds figures of its own behind COCO's twelve.
    figures = tuple(float(x) for x in evaluation.stats[: len(NAMES)])
    explained = (
        line
        + ("" if figure >= 0 else f" (no truths{'' if 'area=   all' in line else ' of this size'})")
        for line, figure in zip(lines, figures, strict=False)
    )
    return CocoMeasure(figures, tuple(explained))


def _annotations(
    classes: int, pictures: Sequence[LabelledPicture], found: Sequence[Detected]
) -> dict[str, Any]:
    """Return the truths in COCO's form; ids count from 1, since 0 means none to its program."""
    annotations: list[dict[str, Any]] = []
    for item in found:
        width, height = item.size_px
        for kind, x, y, w, h in pictures[item.index].truths.astype(float).tolist():
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": item.index + 1,
                    "category_id": int(kind) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    images = [
        {"id": item.index + 1, "width": item.size_px[0], "height": item.size_px[1]}
        for item in found
    ]
    categories = [{"id": kind + 1, "name": str(kind)} for kind in range(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _results(found: Sequence[Detected]) -> Any:
    """Return [N, 7]: image, left, top, width, height, score, category."""
    rows = [np.zeros((0, 7))]
    for item in found:
        edges = edges_xyxy_px(item)
        low = np.maximum(edges[:, :2], 0)
        high = np.minimum(edges[:, 2:], np.array(item.size_px, np.float32))
        row, kind = np.nonzero(item.detections.probabilities)
        image = np.full(len(row), item.index + 1)
        score = item.detections.probabilities[row, kind]
        rows.append(np.column_stack((image, low[row], (high - low)[row], score, kind + 1)))
    return np.concatenate(rows)
