"""An evaluation in words: the lines that Darknet prints."""

from collections.abc import Sequence

from relume.evaluate.average_precision import Evaluation


def format_evaluation(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """Return Darknet's lines; behind what it says of a class stands what else is known.

    Source: AlexeyAB src/detector.c validate_detector_map.
    """
    total = evaluation.counts
    lines = [
        f" detections_count = {evaluation.detections}, unique_truth_count = {total.truths}  ",
    ]
    for number, (name, one) in enumerate(zip(names, evaluation.classes, strict=True)):
        counts = one.counts
        lines.append(
            f"class_id = {number}, name = {name}, ap = {one.average_precision * 100:2.2f}%   \t "
            f"(TP = {counts.true_positives}, FP = {counts.false_positives}) "
            f"  FN = {counts.false_negatives}, precision = {counts.precision:1.2f}, "
            f"recall = {counts.recall:1.2f}, F1-score = {counts.f1_score:1.2f}, "
            f"average IoU = {counts.average_iou * 100:2.2f} %"
        )
    given = f" for conf_thresh = {evaluation.thresh:1.2f}, "
    of = "used Area-Under-Curve for each unique Recall "
    if evaluation.points:
        of = f"used {evaluation.points} Recall-points "
    precision = evaluation.mean_average_precision
    lines += [
        "",
        f"{given}precision = {total.precision:1.2f}, recall = {total.recall:1.2f}, "
        f"F1-score = {total.f1_score:1.2f} ",
        f"{given}TP = {total.true_positives}, FP = {total.false_positives}, "
        f"FN = {total.false_negatives}, average IoU = {total.average_iou * 100:2.2f} % ",
        "",
        f" IoU threshold = {evaluation.iou_thresh * 100:2.0f} %, {of}",
        f" mean average precision (mAP@{evaluation.iou_thresh:0.2f}) = {precision:f}, "
        f"or {precision * 100:2.2f} % ",
    ]
    absent = [
        name for name, one in zip(names, evaluation.classes, strict=True) if not one.counts.truths
    ]
    if absent:
        lines.append(
            f" of {len(names)} classes {len(absent)} have no truths and count as 0 (first "
            f"{absent[0]}); over the others it is {evaluation.mean_over_present * 100:2.2f} %"
        )
    return lines
