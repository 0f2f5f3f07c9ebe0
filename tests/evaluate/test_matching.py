"""What a detection has found is what Darknet's loops say."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from relume.evaluate.matching import NO_TRUTH, Records, joined, match_detections
from tests.model.darknet_loops import F, Floats, box_iou

CLASSES = 3


def random_boxes(generator: np.random.Generator, count: int) -> Floats:
    """Return boxes on a coarse grid, so that many overlap and some are equal."""
    return (generator.integers(2, 8, (count, 4)) / 10).astype(F)


def random_truths(generator: np.random.Generator, count: int) -> Floats:
    classes = generator.integers(0, CLASSES, (count, 1)).astype(F)
    return np.concatenate((classes, random_boxes(generator, count)), axis=1)


def matched_by_loops(
    boxes: Floats, probabilities: Floats, truths: Floats, difficult: Floats, iou_thresh: float
) -> list[tuple[float, int, int, float]]:
    """Return (probability, class, truth, IoU) as validate_detector_map writes them down."""
    records = []
    for box, of_box in zip(boxes, probabilities, strict=True):
        for class_id, probability in enumerate(of_box):
            if probability > 0:
                truth_index, max_iou = NO_TRUTH, F(0)
                for j, truth in enumerate(truths):
                    iou = box_iou(box, truth[1:])
                    if iou > F(iou_thresh) and class_id == truth[0] and iou > max_iou:
                        truth_index, max_iou = j, iou
                if truth_index == NO_TRUTH and any(
                    box_iou(box, one[1:]) > F(iou_thresh) and class_id == one[0]
                    for one in difficult
                ):
                    continue
                records.append((float(probability), class_id, truth_index, float(max_iou)))
    return records


def rows_of(records: Records) -> list[tuple[float, int, int, float]]:
    columns = (records.probabilities, records.classes, records.truths, records.ious)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(
    seed=st.integers(0, 2**32),
    found=st.integers(0, 12),
    truths=st.integers(0, 6),
    difficult=st.integers(0, 4),
    iou_thresh=st.sampled_from([0.0, 0.3, 0.5, 0.75]),
)
def test_records_are_those_of_darknets_loops(
    seed: int, found: int, truths: int, difficult: int, iou_thresh: float
) -> None:
    generator = np.random.Generator(np.random.Philox(seed))
    boxes = random_boxes(generator, found)
    probabilities = np.maximum(generator.integers(-4, 4, (found, CLASSES)), 0).astype(F) / F(4)
    there, doubtful = random_truths(generator, truths), random_truths(generator, difficult)

    records = match_detections(boxes, probabilities, there, doubtful, iou_thresh)

    assert rows_of(records) == matched_by_loops(boxes, probabilities, there, doubtful, iou_thresh)


def test_of_two_truths_that_overlap_alike_the_first_is_found() -> None:
    box = np.array([[0.5, 0.5, 0.2, 0.2]], F)
    truths = np.array([[0, 0.5, 0.5, 0.2, 0.2], [0, 0.5, 0.5, 0.2, 0.2]], F)

    records = match_detections(box, np.ones((1, 1), F), truths, truths[:0], 0.5, first_truth=10)

    assert records.truths.tolist() == [10]


def test_a_difficult_box_takes_nothing_from_a_truth_of_its_place() -> None:
    box = np.array([[0.5, 0.5, 0.2, 0.2]], F)
    truths = np.array([[0, 0.5, 0.5, 0.2, 0.2]], F)

    assert match_detections(box, np.ones((1, 1), F), truths, truths, 0.5).truths.tolist() == [0]
    assert len(match_detections(box, np.ones((1, 1), F), truths[:0], truths, 0.5).truths) == 0


def test_no_pictures_have_no_records() -> None:
    assert rows_of(joined([])) == []


def test_a_box_beyond_all_numbers_finds_nothing_and_says_nothing() -> None:
    boxes = np.array([[0.5, 0.5, 1e30, 1e30], [0.5, 0.5, 0.2, 0.2]], F)
    truths = np.array([[0, 0.5, 0.5, 0.2, 0.2]], F)

    records = match_detections(boxes, np.ones((2, 1), F), truths, truths[:0], 0.5)

    assert records.truths.tolist() == [NO_TRUTH, 0]
    assert records.ious[0] == 0
