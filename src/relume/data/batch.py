"""Mini-batches in order of position: each sample a pure function of (source, position).

Because of that there is nothing to save and no state in a worker: threads, their number and
how far they read ahead change when a mini-batch is ready, never a byte of it. Threads suffice,
since OpenCV and file reading release Python's lock.
"""

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relume.data.augment import Boxes, apply_to_pixels, apply_to_truths, draw_plan
from relume.data.blur import apply_blur
from relume.data.image import IMPATIENT, Pixels, read_picture
from relume.data.loaders import Loaders, Task
from relume.data.noise import apply_noise
from relume.data.order import rows_for
from relume.data.patience import Patience
from relume.errors import ImageError, Unavailable, Undecodable
from relume.formats.data_files import parse_labels
from relume.formats.rows import Listed
from relume.formats.sections import Net, Yolo
from relume.lists.labels import LabelFiles, shared_digest

MOST_BAD_TOGETHER = 1000
"""Pictures in a row that cannot be decoded: no mishap of single files any more."""


@dataclass(frozen=True)
class Source:
    """Everything a sample is made of, besides its position and the size of the net's input."""

    net: Net
    head: Yolo
    """The last [yolo], whose jitter, resize and max hold for the whole net."""
    seed: int
    image_paths: Listed[Path]
    places: Listed[str]
    """Where each image was named ("train.txt:7"), for messages."""
    labels: Sequence[Boxes] | LabelFiles
    """Per image [n, 5] float32: class, x, y, w, h relative to the picture."""
    skips_bad: bool = False
    """Whether another picture takes the place of one that cannot be decoded."""


@dataclass(frozen=True)
class Sample:
    """One augmented picture and its truths."""

    image: Pixels
    """[height, width, C]."""
    truths: Boxes
    """[n, 5]: class, x, y, w, h relative to `image`."""
    position: int
    index: int
    """Row in the image list."""
    digest: int
    """XXH3-64 of the file's bytes; with a long list its labels share it (lists/labels.py)."""
    skipped: Mapping[int, int]
    """Digest by row of the pictures that could not be decoded, in whose place it stands."""


@dataclass(frozen=True)
class MiniBatch:
    """The samples of one subdivision, b = batch / subdivisions of them."""

    images: Pixels
    """[b, height, width, C], RGB, C-contiguous."""
    boxes_xywh_rel: npt.NDArray[np.float32]
    """[b, T, 4]; T is the largest number of truths in this mini-batch, at least 1."""
    classes: npt.NDArray[np.int64]
    """[b, T]; -1 pads the end of a row."""
    positions: tuple[int, ...]
    indices: tuple[int, ...]
    digests: npt.NDArray[np.uint64]
    """[b]: of the samples."""
    skipped: Mapping[int, int] = field(default_factory=dict)
    """Digest by row of the pictures that could not be decoded, and were replaced."""


def load_sample(
    source: Source, position: int, width: int, height: int, patience: Patience = IMPATIENT
) -> Sample:
    """Return the sample at `position` for a net input of width x height pixels.

    Raises:
        ImageError, Unavailable: its picture cannot be read or decoded.
    """
    index, picture, boxes, digest, skipped = read_usable(source, position, patience)
    height_px, width_px, _ = picture.shape
    head = source.head
    plan = draw_plan(
        source.net, head, (width_px, height_px), (width, height), source.seed, position
    )
    truths = apply_to_truths(boxes, plan, width_px, height_px, width, height, head.max)
    image = apply_to_pixels(picture, plan, width, height)
    image = apply_noise(apply_blur(image, truths, plan.blur), plan.gaussian_noise, plan.noise)
    return Sample(image, truths, position, index, digest, skipped)


def read_usable(
    source: Source, position: int, patience: Patience
) -> tuple[int, Pixels, Boxes, int, dict[int, int]]:
    """Return row, pixels, boxes, digest of the picture at `position`, and those skipped for it.

    Whether a picture can be decoded is a matter of its bytes, so all of this is a function of
    (source, position, the bytes of the files): the same in every thread and after every stop.

    Raises:
        ImageError, Unavailable: a picture cannot be read; or not decoded, and none is skipped.
    """
    skipped: dict[int, int] = {}
    for row in rows_for(source.seed, position, len(source.image_paths)):
        path, place = source.image_paths[row], source.places[row]
        try:
            picture, digest = read_picture(path, source.net.channels, place, patience)
            return row, picture, *_with_labels(source, row, digest, patience), skipped
        except Undecodable as error:
            if not source.skips_bad:
                remedy = f"{error.remedy}, or set bad=skip in the data file"
                raise Undecodable(place, error.found, error.needed, remedy) from error
            _, skipped[row] = _with_labels(source, row, error.digest, patience)
        if len(skipped) == MOST_BAD_TOGETHER:
            break
    row = next(iter(skipped))
    found = f"none of the {len(skipped)} pictures tried from this one on can be decoded"
    raise ImageError(source.places[row], found, "pictures", "`relume check DATA CFG` names them")


def _with_labels(source: Source, row: int, digest: int, patience: Patience) -> tuple[Boxes, int]:
    """Return the boxes of a picture that was just read, and the digest that the state keeps."""
    if not isinstance(source.labels, LabelFiles):
        return source.labels[row], digest
    image, path, place = source.image_paths[row], source.labels.path(row), source.places[row]
    data = patience.read_if_there(path, place)
    if data is None and not image.exists():
        # Not the file is missing but the disk: its labels may be there when it comes back.
        patience.read_bytes(image, place, f"{image} ")
        data = patience.read_if_there(path, place)
    boxes = parse_labels(data, source.labels.classes, path)
    return boxes, shared_digest(digest, boxes)


def load_mini_batch(source: Source, first_position: int, width: int, height: int) -> MiniBatch:
    """Return the mini-batch that starts at `first_position`, loaded in the calling thread.

    Raises:
        ImageError: a picture cannot be read or decoded.
    """
    positions = range(first_position, first_position + source.net.mini_batch)
    return _joined([load_sample(source, position, width, height) for position in positions])


def mini_batches(
    source: Source,
    first_position: int,
    size_of: Callable[[int], tuple[int, int]],
    workers: int,
    read_ahead: int,
    end_position: int,
    patience: Patience | None = None,
) -> Generator[MiniBatch]:
    """Yield the mini-batches from `first_position` up to `end_position`, in order.

    An error is raised where its mini-batch would have come. Closing the generator drops what
    was read ahead and does not wait for a picture that hangs.

    Args:
        size_of: first position of a mini-batch -> (width, height) of the net's input; it is
            asked up to `read_ahead` mini-batches early.
        workers: loader threads; 0 loads in the calling thread, with no reading ahead.
        read_ahead: mini-batches under way while the caller works on the one yielded last.
        end_position: position after the last one; whole mini-batches from `first_position`.
        patience: with a disk that does not give a picture. It is asked while a mini-batch is
            waited for (without workers: before each picture): if it is over, the generator
            ends. It is over for the loader threads when the generator ends.
    Raises:
        ImageError, Unavailable: a picture cannot be read or decoded.
    """
    firsts = range(first_position, end_position, source.net.mini_batch)
    patience = patience or Patience()
    if workers == 0:
        for first in firsts:
            samples = _loaded_here(_tasks(source, first, size_of, patience), patience)
            if samples is None:
                return
            yield _joined(samples)
        return
    loaders = Loaders(workers)
    under_way: deque[list[Task[Sample]]] = deque()
    rest = iter(firsts)
    try:
        while True:
            for first in islice(rest, read_ahead + 1 - len(under_way)):
                # A task per sample, not per mini-batch: all help with the next one needed.
                tasks = _tasks(source, first, size_of, patience)
                under_way.append([loaders.submit(task) for task in tasks])
            if not under_way:
                return
            loaded = loaders.results(under_way.popleft(), patience.is_over)
            if loaded is None:
                return
            yield _joined(loaded)
    finally:
        patience.end()
        loaders.close()


def _loaded_here(tasks: list[Callable[[], Sample]], patience: Patience) -> list[Sample] | None:
    """Load in this thread; return None if a stop comes first."""
    samples = []
    for task in tasks:
        if patience.is_over():
            return None
        try:
            samples.append(task())
        except Unavailable:
            if patience.is_over():  # which ended the waiting for this picture
                return None
            raise
    return samples


def _tasks(
    source: Source,
    first_position: int,
    size_of: Callable[[int], tuple[int, int]],
    patience: Patience,
) -> list[Callable[[], Sample]]:
    """Return what loads the samples of the mini-batch at `first_position`."""
    width, height = size_of(first_position)
    positions = range(first_position, first_position + source.net.mini_batch)
    return [partial(load_sample, source, p, width, height, patience) for p in positions]


def _joined(samples: Sequence[Sample]) -> MiniBatch:
    """Stack samples of one size, padding their truths to one length."""
    count = max(1, *(len(sample.truths) for sample in samples))
    boxes_xywh_rel = np.zeros((len(samples), count, 4), dtype=np.float32)
    classes = np.full((len(samples), count), -1, dtype=np.int64)
    for row, sample in enumerate(samples):
        boxes_xywh_rel[row, : len(sample.truths)] = sample.truths[:, 1:]
        classes[row, : len(sample.truths)] = sample.truths[:, 0]
    return MiniBatch(
        images=np.stack([sample.image for sample in samples]),
        boxes_xywh_rel=boxes_xywh_rel,
        classes=classes,
        positions=tuple(sample.position for sample in samples),
        indices=tuple(sample.index for sample in samples),
        digests=np.array([sample.digest for sample in samples], dtype=np.uint64),
        skipped=dict(sorted(item for sample in samples for item in sample.skipped.items())),
    )
