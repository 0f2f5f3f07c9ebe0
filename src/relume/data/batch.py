"""Mini-batches in order of position: each sample a pure function of (source, position).

Because of that there is nothing to save and no state in a worker: threads, their number and
how far they read ahead change when a mini-batch is ready, never a byte of it. Threads suffice,
since OpenCV and file reading release Python's lock.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt

from relume.data.image import Pixels
from relume.data.loaders import Loaders, Task
from relume.data.patience import Patience
from relume.data.sample import Sample, Source, load_sample
from relume.errors import Unavailable


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
    pictures: tuple[int, ...]
    """[b]: how many pictures every sample is made of."""
    indices: tuple[int, ...]
    """Row in the image list of every picture used, sample after sample."""
    digests: npt.NDArray[np.uint64]
    """Of those files, as in `Sample`."""
    skipped: Mapping[int, int] = field(default_factory=dict)
    """Digest by row of the pictures that could not be decoded, and were replaced."""

    def pictures_of(self, row: int) -> slice:
        """Return where in `indices` and `digests` the pictures of one sample stand."""
        start = sum(self.pictures[:row])
        return slice(start, start + self.pictures[row])


def load_mini_batch(source: Source, first_position: int, width: int, height: int) -> MiniBatch:
    """Return the mini-batch that starts at `first_position`, loaded in the calling thread.

    Raises:
        ImageError: a picture cannot be read or decoded.
    """
    positions = range(first_position, first_position + source.net.mini_batch)
    return _joined([load_sample(source, position, width, height) for position in positions])


def mini_batches(
    source: Source,
    firsts: Iterable[int],
    size_of: Callable[[int], tuple[int, int]],
    workers: int,
    read_ahead: int,
    patience: Patience | None = None,
) -> Generator[MiniBatch]:
    """Yield the mini-batches that begin at the positions `firsts`, in their order.

    An error is raised where its mini-batch would have come. Closing the generator drops what
    was read ahead and does not wait for a picture that hangs.

    Args:
        firsts: first position of each; there may be any number of them.
        size_of: first position of a mini-batch -> (width, height) of the net's input; it is
            asked up to `read_ahead` mini-batches early.
        workers: loader threads; 0 loads in the calling thread, with no reading ahead.
        read_ahead: mini-batches under way while the caller works on the one yielded last.
        patience: with a disk that does not give a picture. It is asked while a mini-batch is
            waited for (without workers: before each picture): if it is over, the generator
            ends. It is over for the loader threads when the generator ends. A picture that is
            read ahead is asked for from then on: when it is needed, its tries may be over
            although the disk answers again, and the same command goes on.
    Raises:
        ImageError, Unavailable: a picture cannot be read or decoded.
    """
    patience = patience or Patience()
    if workers == 0:
        for first in firsts:
            samples = _loaded_here(_tasks(source, first, size_of, patience), patience)
            if samples is None:
                return
            yield _joined(samples)
        return
    loaders = Loaders(min(workers, source.net.mini_batch * (read_ahead + 1)))
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
        pictures=tuple(len(sample.indices) for sample in samples),
        indices=tuple(index for sample in samples for index in sample.indices),
        digests=np.array([d for sample in samples for d in sample.digests], dtype=np.uint64),
        skipped=dict(sorted(item for sample in samples for item in sample.skipped.items())),
    )
