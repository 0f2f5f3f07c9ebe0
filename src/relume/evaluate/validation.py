"""How good is this network? Its mean average precision on labelled pictures."""

from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from relume.data.image import IMPATIENT
from relume.data.patience import Patience
from relume.errors import ImageError, Undecodable
from relume.evaluate.average_precision import Evaluation, evaluate_records
from relume.evaluate.detected import Detected, Settings, detect_pictures
from relume.evaluate.matching import Records, joined, match_detections
from relume.formats.picture_cost import MAX_PIXELS
from relume.model.detect import Detections
from relume.model.network import Network
from relume.validation_set import LabelledPicture


def evaluate_network(
    network: Network,
    pictures: Sequence[LabelledPicture],
    *,
    thresh: float = 0.25,
    iou_thresh: float = 0.5,
    points: int = 0,
    letter_box: bool = False,
    batch: int = 8,
    workers: int = 2,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], None] = lambda done: None,
    on_digest: Callable[[int, int], None] = lambda row, digest: None,
    on_bad: Callable[[ImageError], None] | None = None,
    patience: Patience = IMPATIENT,
    max_pixels: int = MAX_PIXELS,
) -> Evaluation | None:
    """Return how well the truths are found; None if `stop` ended it.

    The network is left as it was, even in the middle of a training. The result depends on the
    network, the pictures, `batch` and the number of PyTorch's threads, bit for bit.

    Args:
        thresh: of the counts of true and false positives; average precision takes all above .005.
        iou_thresh: a truth is found by what overlaps it by more.
        points: one of average_precision.POINTS.
        letter_box: keep the pictures' shape.
        batch: pictures that the network sees at once.
        workers: threads that read pictures.
        on_progress: hears how many pictures are done.
        on_digest: hears the row of every picture whose file was read, and XXH3-64 of that.
        on_bad: hears of a picture that cannot be used, and is left out; None: that is an error.
        patience: with a disk that does not give a picture.
        max_pixels: that a picture may have.
    Raises:
        ImageError: a picture cannot be read.
        Unavailable: the disk does not give it, however often it is asked.

    Source: AlexeyAB src/detector.c validate_detector_map.
    """
    settings = Settings(letter_box=letter_box, batch=batch, max_pixels=max_pixels)
    named = [(picture.path, picture.place) for picture in pictures]
    matched = _Matched(network.cfg.heads[-1].classes, iou_thresh)
    done = 0
    with closing(
        detect_pictures(network, named, settings, workers=workers, stop=stop, patience=patience)
    ) as batches:
        for found in batches:
            for row, item in enumerate(found, done):
                if isinstance(item, Detected | Undecodable):
                    on_digest(row, item.digest)
                if isinstance(item, Detected):
                    matched.add(item.detections, pictures[row])
                elif on_bad is None:
                    raise item
                else:
                    on_bad(item)
            done += len(found)
            on_progress(done)
    return matched.evaluation(thresh, points) if done == len(pictures) else None


class _Matched:
    """The records of the pictures so far, and the number of truths per class."""

    def __init__(self, classes: int, iou_thresh: float) -> None:
        self._parts: list[Records] = []
        self._truths = np.zeros(classes, np.int64)
        self._iou_thresh = iou_thresh

    def add(self, detections: Detections, picture: LabelledPicture) -> None:
        """Match what was found in the next picture."""
        boxes, probabilities = detections.boxes_xywh_rel, detections.probabilities
        first, iou_thresh = int(self._truths.sum()), self._iou_thresh
        self._parts.append(
            match_detections(
                boxes, probabilities, picture.truths, picture.difficult, iou_thresh, first
            )
        )
        classes = picture.truths[:, 0].astype(np.int64)
        self._truths += np.bincount(classes, minlength=len(self._truths))

    def evaluation(self, thresh: float, points: int) -> Evaluation:
        """Return what all records are worth."""
        return evaluate_records(
            joined(self._parts),
            self._truths.tolist(),
            thresh=thresh,
            iou_thresh=self._iou_thresh,
            points=points,
        )
