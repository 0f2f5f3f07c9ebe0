"""Lines and entries for other programs hold numbers, whatever a net finds."""

import json
from pathlib import Path

import numpy as np

from relume.evaluate.detected import Detected
from relume.evaluate.result_lines import coco_entries, voc_lines
from relume.model.detect import Detections, correct_boxes


def found(*boxes: tuple[float, float, float, float]) -> Detected:
    rows = np.array(boxes, np.float32)
    ones = np.ones((len(rows), 1), np.float32)
    return Detected(0, (100, 50), Detections(rows, ones[:, 0], ones), 0)


def test_a_box_of_any_size_is_cut_to_the_picture() -> None:
    huge = found((0.5, 0.5, 3e38, 3e38))

    ((_, line),) = voc_lines(huge, Path("a.jpg"))
    (entry,) = coco_entries(huge, 7)

    assert line == "a 1.000000 1.000000 1.000000 100.000000 50.000000\n"
    assert json.loads(entry)["bbox"] == [0, 0, 100, 50]


def test_a_box_of_any_size_is_taken_out_of_the_letterbox() -> None:
    (box,) = correct_boxes(found((0.5, 0.5, 3e38, 3e38)).detections, 10, 100, 64, 64).boxes_xywh_rel

    assert box.tolist()[:2] == [0.5, 0.5]
    assert np.isinf(box[2])
