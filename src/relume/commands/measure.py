"""`relume detector map` and `recall`: how good a network is on the pictures of `valid`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from relume.command_table import Values
from relume.commands.fractions import fraction_of
from relume.commands.starting_flags import compute_device
from relume.data.loaders import available_processors
from relume.detector import load_network
from relume.errors import DataFileError, ImageError, UsageError
from relume.evaluate.average_precision import POINTS, Counts, Evaluation
from relume.evaluate.coco_measure import NAMES, CocoMeasure, measure_coco, required_library
from relume.evaluate.detected import Detected, Settings, detect_pictures
from relume.evaluate.recall import Covered, with_picture
from relume.evaluate.report import format_evaluation
from relume.evaluate.validation import evaluate_network
from relume.formats.cfg import read_cfg
from relume.formats.data_files import DataFile, read_data_file
from relume.formats.sections import Cfg
from relume.model.detect import nms_obj
from relume.model.inference import run_fused
from relume.model.network import Network
from relume.screen import Screen
from relume.spec import cache_folder, cache_gigabytes, max_pixels_of, names_of
from relume.train import environment
from relume.validation_set import LabelledPicture, read_validation_set

NOT_ALL = 2
"""Exit status if a picture could not be read; the others have been looked at."""
BATCH = 8
"""Pictures that the network sees at once: more are no faster on a processor."""
MAP_THRESH, MAP_IOU_THRESH = 0.25, 0.5
COCO_THRESH, COCO_NMS = 0.001, 0.6
"""Those of `detector valid`, whose results Darknet's published COCO figures come from."""
RECALL_THRESH, RECALL_IOU, RECALL_NMS = 0.001, 0.5, 0.4


@dataclass(frozen=True)
class Job:
    """What is measured, and how."""

    data_file: DataFile
    cfg: Cfg
    names: tuple[str, ...]
    network: Network
    letter_box: bool
    workers: int
    max_pixels: int


class Trouble:
    """Tells of every picture that cannot be read, and remembers."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.pictures: list[str] = []
        """Where they were named."""

    def tell(self, error: ImageError) -> None:
        """Name a picture; the others are looked at all the same."""
        self._screen.error(str(error))
        self.pictures.append(error.place)

    @property
    def status(self) -> int:
        """The exit status."""
        return NOT_ALL if self.pictures else 0


def read_job(arguments: list[str], flags: Values) -> Job:
    """Read DATA, CFG and WEIGHTS.

    Raises:
        InputError: they cannot be used, or do not fit.
    """
    workers = int(flags.get("-workers", 2))
    if workers < 0:
        raise UsageError("-workers", str(workers), "0 or more")
    data_file = read_data_file(arguments[0])
    data_file.text("valid")
    max_pixels = max_pixels_of(data_file)
    cfg = read_cfg(arguments[1], "detect")
    names = names_of(data_file, cfg)
    environment.set_up(available_processors())
    network = run_fused(load_network(cfg, arguments[2]).to(compute_device(flags)))
    letter_box = bool(flags.get("-letter_box")) or cfg.net.letter_box
    return Job(data_file, cfg, names, network, letter_box, workers, max_pixels)


def measure_map(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Print the mean average precision, Darknet's or COCO's; return the exit status."""
    thresh = fraction_of(flags, "-thresh", MAP_THRESH)
    iou_thresh = fraction_of(flags, "-iou_thresh", MAP_IOU_THRESH)
    points = int(flags.get("-points", 0))
    if points not in POINTS:
        raise UsageError("-points", str(points), f"one of {', '.join(map(str, POINTS))}")
    if flags.get("-coco"):
        return _measure_map_of_coco(arguments, flags, screen)
    job = read_job(arguments, flags)
    pictures = _labelled(job, screen)
    trouble, began_s = Trouble(screen), time.monotonic()
    evaluation = evaluate_network(
        job.network,
        pictures,
        thresh=thresh,
        iou_thresh=iou_thresh,
        points=points,
        letter_box=job.letter_box,
        batch=BATCH,
        workers=job.workers,
        on_progress=screen.counter(len(pictures), "pictures", not flags.get("-json")),
        on_bad=trouble.tell,
        max_pixels=job.max_pixels,
    )
    assert evaluation is not None  # nobody asks it to stop
    if flags.get("-json"):
        found = _as_json(evaluation, job.names)
        screen.json({**found, "unread": trouble.pictures})
    else:
        for line in format_evaluation(evaluation, job.names):
            screen.line(line)
        screen.line(f"Total Detection Time: {time.monotonic() - began_s:.0f} Seconds")
    return trouble.status


def _as_json(evaluation: Evaluation, names: Sequence[str]) -> dict[str, object]:
    def of(counts: Counts) -> dict[str, object]:
        return {
            "truths": counts.truths,
            "TP": counts.true_positives,
            "FP": counts.false_positives,
            "FN": counts.false_negatives,
            "precision": counts.precision,
            "recall": counts.recall,
            "F1-score": counts.f1_score,
            "average_IoU": counts.average_iou,
        }

    return {
        "mAP": evaluation.mean_average_precision,
        "iou_thresh": evaluation.iou_thresh,
        "points": evaluation.points,
        "thresh": evaluation.thresh,
        "detections": evaluation.detections,
        **of(evaluation.counts),
        "classes": [
            {"class_id": number, "name": name, "AP": one.average_precision, **of(one.counts)}
            for number, (name, one) in enumerate(zip(names, evaluation.classes, strict=True))
        ],
    }


def _measure_map_of_coco(arguments: list[str], flags: Values, screen: Screen) -> int:
    for name in ("-thresh", "-iou_thresh", "-points"):
        if name in flags:
            what = "has no effect with -coco, which takes IoU .5 to .95 and 101 points"
            raise UsageError(name, what, "", "leave one of them out")
    required_library()
    job = read_job(arguments, flags)
    if "difficult" in job.data_file.values:
        place = f"{job.data_file.path}:{job.data_file.lines['difficult']}"
        raise DataFileError(place, "COCO's measure knows no 'difficult'", "", "take it out")
    pictures, trouble = _labelled(job, screen), Trouble(screen)
    at = screen.counter(len(pictures), "pictures", not flags.get("-json"))
    settings = Settings(COCO_THRESH, COCO_NMS, job.letter_box, BATCH, job.max_pixels)
    named = [(picture.path, picture.place) for picture in pictures]
    found: list[Detected] = []
    done = 0
    for batch in detect_pictures(job.network, named, settings, workers=job.workers):
        for item in batch:
            if isinstance(item, Detected):
                found.append(item)
            else:
                trouble.tell(item)
        at(done := done + len(batch))
    measure: CocoMeasure = measure_coco(len(job.names), pictures, found)
    if flags.get("-json"):
        figures = dict(zip(NAMES, measure.figures, strict=True))
        screen.json({**figures, "unread": trouble.pictures})
    else:
        for line in measure.lines:
            screen.line(line)
    return trouble.status


def recall(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Print after every picture how many truths are covered so far; return the exit status.

    Source: AlexeyAB src/detector.c validate_detector_recall.
    """
    job = read_job(arguments, flags)
    pictures, trouble = _labelled(job, screen), Trouble(screen)
    settings = Settings(RECALL_THRESH, 0.0, job.letter_box, BATCH, job.max_pixels)
    named = [(picture.path, picture.place) for picture in pictures]
    so_far = Covered()
    for batch in detect_pictures(job.network, named, settings, workers=job.workers):
        for item in batch:
            if not isinstance(item, Detected):
                trouble.tell(item)
                continue
            boxes = nms_obj(item.detections, RECALL_NMS).boxes_xywh_rel
            so_far = with_picture(so_far, boxes, pictures[item.index].truths, RECALL_IOU)
            if not flags.get("-json"):
                screen.line(_recall_line(item.index, so_far))
    if flags.get("-json"):
        found = {
            "truths": so_far.truths,
            "correct": so_far.correct,
            "recall": so_far.recall,
            "average_IoU": so_far.average_iou,
            "proposals_per_picture": so_far.proposals_per_picture,
            "unread": trouble.pictures,
        }
        screen.json(found)
    return trouble.status


def _recall_line(index: int, so_far: Covered) -> str:
    return (
        f"{index:5d} {so_far.correct:5d} {so_far.truths:5d}\t"
        f"RPs/Img: {so_far.proposals_per_picture:.2f}\tIOU: {so_far.average_iou * 100:.2f}%\t"
        f"Recall:{so_far.recall * 100:.2f}%"
    )


def _labelled(job: Job, screen: Screen) -> tuple[LabelledPicture, ...]:
    where = (cache_folder(job.data_file), cache_gigabytes(job.data_file))
    return read_validation_set(job.data_file, "valid", len(job.names), *where, screen.warn).pictures
