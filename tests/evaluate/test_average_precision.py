"""Average precision is Darknet's, and what Darknet leaves open is settled."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relume.evaluate.average_precision import Evaluation, average_precision, evaluate_records
from relume.evaluate.matching import NO_TRUTH, Records, joined, match_detections
from tests.model.darknet_loops import F, Floats
from tests.shared import SHARED, needs_shared

GOLDEN = SHARED / "golden" / "map"
CLASSES = 3


def evaluated(records: Records, truths: list[int], points: int = 0) -> Evaluation:
    return evaluate_records(records, truths, thresh=0.25, iou_thresh=0.5, points=points)


def made(rows: list[tuple[float, int, int]]) -> Records:
    """Return records of (probability, class, truth)."""
    probabilities, classes, truths = (np.array(column) for column in zip(*rows, strict=True))
    ious = np.where(truths == NO_TRUTH, 0, 0.75).astype(F)
    return Records(probabilities.astype(F), classes, truths, ious)


def precision_by_loops(records: Records, truths: list[int], points: int) -> list[float]:
    """Return the AP of every class, with the tables of validate_detector_map."""
    order = sorted(range(len(records.truths)), key=lambda row: -records.probabilities[row])
    table = [[(0.0, 0.0)] * len(order) for _ in truths]
    tp, fp, seen = [0] * len(truths), [0] * len(truths), set()
    for rank, row in enumerate(order):
        kind, truth = int(records.classes[row]), int(records.truths[row])
        if truth != NO_TRUTH and truth not in seen:
            seen.add(truth)
            tp[kind] += 1
        else:
            fp[kind] += 1
        for i, count in enumerate(truths):
            precision = tp[i] / (tp[i] + fp[i]) if tp[i] + fp[i] else 0.0
            table[i][rank] = (precision, tp[i] / count if count else 0.0)
    return [area(ranks) if points == 0 else mean_of(ranks, points) for ranks in table]


def area(ranks: list[tuple[float, float]]) -> float:
    total, (largest, last) = 0.0, ranks[-1]
    for precision, recall in ranks[-2::-1]:
        largest, step, last = max(largest, precision), last - recall, recall
        total += step * largest
    return total + last * largest


def mean_of(ranks: list[tuple[float, float]], points: int) -> float:
    levels = [point / (points - 1) for point in range(points)]
    return sum(max((p for p, r in ranks if r >= level), default=0.0) for level in levels) / points


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), points=st.sampled_from([0, 11, 101]))
def test_average_precision_is_that_of_darknets_tables(seed: int, count: int, points: int) -> None:
    generator = np.random.Generator(np.random.Philox(seed))
    classes = generator.integers(0, CLASSES, count)
    truths = classes + CLASSES * generator.integers(-1, 8, count)  # of the record's own class
    truths = np.where(truths < 0, NO_TRUTH, truths)
    probabilities = generator.integers(1, 9, count) / 9  # many are equal
    records = Records(probabilities.astype(F), classes, truths, np.ones(count, F))
    there = [8 + int(generator.integers(0, 3)) for _ in range(CLASSES - 1)] + [9]

    ours = [one.average_precision for one in evaluated(records, there, points).classes]

    # Sums of doubles in another order.
    np.testing.assert_allclose(ours, precision_by_loops(records, there, points), rtol=1e-12)


def golden_records(iou_thresh: float) -> tuple[Records, int]:
    """Return the records of seven published pictures, and the number of their truths."""
    parts, truths = [], 0
    for path in sorted((GOLDEN / "groundtruths").glob("*.txt")):
        there = lines_of(path)
        found = lines_of(GOLDEN / "detections" / path.name)
        rows = np.concatenate((np.zeros((len(there), 1), F), there), axis=1)
        parts.append(
            match_detections(found[:, 1:], found[:, :1], rows, rows[:0], iou_thresh, truths)
        )
        truths += len(there)
    return joined(parts), truths


def lines_of(path: Path) -> Floats:
    """Return rows of (probability,) centre and size in pixels; the file has left and top."""
    rows = np.array([line.split()[1:] for line in path.read_text().splitlines()], F)
    rows[:, -2:] += 1  # the published figures count the pixel of the last edge
    rows[:, -4:-2] += rows[:, -2:] / 2
    return rows


@needs_shared
@pytest.mark.parametrize(
    ("points", "percent", "exact"),
    [
        # Published as a sum of products of rounded numbers: 24.56; unrounded it is 24.5687.
        (0, 24.56, (1 + 2 / 3 + 4 * 3 / 7 + 7 / 23) / 15),
        (11, 26.84, (1 + 2 / 3 + 3 * 3 / 7) / 11),
    ],
)
def test_published_average_precision_comes_out_to_the_printed_digits(
    points: int, percent: float, exact: float
) -> None:
    records, truths = golden_records(0.3)

    evaluation = evaluate_records(records, [truths], thresh=0.25, iou_thresh=0.3, points=points)

    assert (truths, evaluation.detections) == (15, 24)
    assert evaluation.mean_average_precision == pytest.approx(exact, rel=1e-12)  # order of a sum
    assert abs(evaluation.mean_average_precision * 100 - percent) < 0.01


def test_equal_probabilities_keep_the_order_of_pictures_and_cells() -> None:
    right_first = made([(0.5, 0, 0), (0.5, 0, NO_TRUTH)])
    wrong_first = made([(0.5, 0, NO_TRUTH), (0.5, 0, 0)])

    assert evaluated(right_first, [1]).mean_average_precision == 1
    assert evaluated(wrong_first, [1]).mean_average_precision == 0.5


def test_of_several_detections_of_a_truth_the_most_probable_is_right() -> None:
    records = made([(0.3, 0, 0), (0.9, 0, 0), (0.1, 0, 1)])

    counts = evaluated(records, [3]).counts

    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (1, 1, 2)
    assert counts.iou_sum == 0.75
    assert counts.average_iou == 0.375  # Darknet divides by right and wrong ones


def test_a_probability_at_the_threshold_is_not_above_it() -> None:
    assert evaluated(made([(0.25, 0, 0)]), [1]).counts.true_positives == 0


def test_a_network_that_finds_nothing_is_worth_nothing() -> None:
    nothing = evaluated(joined([]), [2, 1])

    assert nothing.mean_average_precision == 0
    assert nothing.counts.false_negatives == 3
    for value in (nothing.counts.precision, nothing.counts.recall, nothing.counts.f1_score):
        assert value == 0


@pytest.mark.parametrize("points", [0, 11, 101])
def test_a_class_without_truths_counts_as_0_and_its_detections_as_wrong(points: int) -> None:
    evaluation = evaluated(made([(0.9, 0, 0), (0.8, 1, NO_TRUTH)]), [1, 0, 0], points)

    assert [one.average_precision for one in evaluation.classes] == [1, 0, 0]
    assert evaluation.mean_average_precision == 1 / 3
    assert evaluation.classes[1].counts.false_positives == 1
    assert evaluation.classes[1].counts.recall == 0


def test_all_right_is_1_and_one_more_wrong_one_behind_changes_nothing() -> None:
    perfect = [(0.9, 0, 0), (0.8, 0, 1)]
    for points in (0, 11, 101):
        assert evaluated(made(perfect), [2], points).mean_average_precision == 1
        worse = made([*perfect, (0.1, 0, NO_TRUTH)])
        assert evaluated(worse, [2], points).mean_average_precision == 1


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 5))
def test_area_lies_between_0_and_recall(right: list[bool], more: int) -> None:
    truths = sum(right) + more
    found = average_precision(np.array(right, bool), truths, 0)

    assert 0 <= found <= (sum(right) / truths if truths else 0) + 1e-12  # rounding of a sum


def test_the_counts_of_all_classes_are_the_sums() -> None:
    evaluation = evaluated(made([(0.9, 0, 0), (0.8, 1, 1), (0.7, 1, NO_TRUTH)]), [2, 1])

    counts = evaluation.counts
    assert (counts.truths, counts.true_positives, counts.false_positives) == (3, 2, 1)
    assert (counts.precision, counts.recall) == (2 / 3, 2 / 3)
    assert counts.f1_score == pytest.approx(2 / 3)
    assert replace(counts, iou_sum=0.0).average_iou == 0
