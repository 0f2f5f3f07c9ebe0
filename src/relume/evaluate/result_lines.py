"""Detections as Darknet writes them for other programs: PASCAL VOC's lines, COCO's JSON.

Not covered: which boxes are written (`detected.py`), the files (`commands/valid.py`).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from relume.errors import DataFileError
from relume.evaluate.detected import Detected
from relume.evaluate.matching import Floats

COCO_IDS = tuple(
    i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
)  # fmt: skip
"""COCO's category of each of its 80 classes."""


@np.errstate(over="ignore")  # a huge box ends at infinity, and is then cut to the picture
def edges_xyxy_px(found: Detected) -> Floats:
    """Return [N, 4]: left, top, right and bottom in pixels of the picture, not cut to it."""
    size = np.array(found.size_px, np.float32)
    boxes = found.detections.boxes_xywh_rel
    # As in Darknet, float32 pixels and edges in double.
    centres, sizes = (boxes[:, :2] * size).astype(float), (boxes[:, 2:] * size).astype(float)
    return np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1).astype(np.float32)


def voc_image_id(path: Path) -> str:
    """Return the file's name up to its first dot.

    Source: AlexeyAB src/utils.c basecfg.
    """
    return path.name.partition(".")[0]


def voc_lines(found: Detected, path: Path) -> Iterator[tuple[int, str]]:
    """Yield class and line `id probability xmin ymin xmax ymax` of everything in a picture.

    Pixels count from 1; the id is the file's name up to its first dot.

    Source: AlexeyAB src/detector.c print_detector_detections.
    """
    name = voc_image_id(path)
    last = np.array(found.size_px * 2, np.float32)
    edges = edges_xyxy_px(found) + np.float32(1)
    edges[:, :2] = np.maximum(edges[:, :2], 1)
    edges[:, 2:] = np.minimum(edges[:, 2:], last[2:])
    for row, kind in np.argwhere(found.detections.probabilities).tolist():
        probability = found.detections.probabilities[row, kind]
        xyxy = " ".join(f"{value:f}" for value in edges[row])
        yield kind, f"{name} {probability:f} {xyxy}\n"


def coco_entries(found: Detected, image_id: int) -> Iterator[str]:
    """Yield a JSON object for everything in a picture.

    Source: AlexeyAB src/detector.c print_cocos.
    """
    size = np.array(found.size_px, np.float32)
    edges = edges_xyxy_px(found)
    low, high = np.maximum(edges[:, :2], 0), np.minimum(edges[:, 2:], size)
    boxes = np.concatenate((low, high - low), axis=1)
    for row, kind in np.argwhere(found.detections.probabilities).tolist():
        score = found.detections.probabilities[row, kind]
        box = ", ".join(f"{value:f}" for value in boxes[row])
        yield (
            f'{{"image_id":{image_id}, "category_id":{COCO_IDS[kind]}, '
            f'"bbox":[{box}], "score":{score:f}}}'
        )


def coco_image_id(path: Path, place: str) -> int:
    """Return the number that is a picture's name, or that ends it behind an underscore.

    Raises:
        DataFileError: there is none.

    Source: AlexeyAB src/detector.c print_cocos (the whole name), pjreddie examples/detector.c
        get_coco_image_id (COCO_val2014_000000000042).
    """
    name = path.name.partition(".")[0]
    number = re.fullmatch(r"(?:.*_)?([0-9]{1,18})", name, re.ASCII)
    if number is None:
        needed = (
            "COCO knows its pictures by number: 000000000139.jpg, COCO_val2014_000000000042.jpg"
        )
        raise DataFileError(place, f"{path.name} has none", needed, "or take eval = voc")
    return int(number[1])
