"""Detections in many pictures: read ahead by threads, run through the network in batches.

What comes out depends on the network, the pictures and the batch alone: threads only read and
decode, and results keep the order of the list.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from relume.data.image import IMPATIENT, ReadPicture, read_picture
from relume.data.loaders import Loaders, Task
from relume.data.patience import Patience
from relume.errors import ImageError
from relume.formats.picture_cost import MAX_PIXELS
from relume.model.detect import (
    Detections,
    correct_boxes,
    decode,
    nms_kind,
    nms_sort,
    prepare_image,
)
from relume.model.network import Network

READ_AHEAD = 2
"""Batches that are read while one is computed."""


Named = tuple[Path, str]
"""A picture, and where it was named ("valid.txt:7"), for messages."""


@dataclass(frozen=True)
class Settings:
    """What decides which boxes are found, beside the network."""

    thresh: float = 0.005
    """For objectness, and for objectness * class."""
    nms: float = 0.45
    """Overlap above which the less probable is dropped; 0 drops nothing."""
    letter_box: bool = False
    """Keep the picture's shape."""
    batch: int = 8
    """Pictures that the network sees at once."""
    max_pixels: int = MAX_PIXELS
    """Of a picture; one that has more is not decoded."""


@dataclass(frozen=True)
class Detected:
    """What was found in one picture."""

    index: int
    """Of the picture in the list."""
    size_px: tuple[int, int]
    """Width and height of the picture."""
    detections: Detections
    """Relative to the picture."""
    digest: int
    """XXH3-64 of the picture's file."""


def detect_pictures(
    network: Network,
    pictures: Sequence[Named],
    settings: Settings,
    *,
    workers: int,
    stop: Callable[[], bool] = lambda: False,
    patience: Patience = IMPATIENT,
) -> Generator[list[Detected | ImageError]]:
    """Yield what is found, batch by batch in order; it ends early when `stop` says so.

    The network may be in training: between two batches, and at the end, it is as it was.

    Args:
        workers: threads that read pictures; 0 reads in the calling thread.
        stop: asked before every batch and while one is waited for.
        patience: with a disk that does not give a picture.
    Yields:
        Per picture of a batch what was found, or why it could not be read.
    Raises:
        Unavailable: the disk does not give a picture, however often it is asked.
    """
    channels = network.cfg.net.channels
    with closing(_read_ahead(pictures, channels, settings, workers, stop, patience)) as batches:
        for first, read in batches:
            with _evaluating(network):
                found = _detect_batch(network, first, read, settings)
            yield found


def _detect_batch(
    network: Network, first: int, read: list[ReadPicture | ImageError], settings: Settings
) -> list[Detected | ImageError]:
    net, heads = network.cfg.net, network.cfg.heads
    good = [picture.pixels for picture in read if isinstance(picture, ReadPicture)]
    found: Iterator[Detections] = iter(())
    if good:
        size = (net.width, net.height)
        shape = (len(good), net.channels, net.height, net.width)
        images = torch.empty(shape, memory_format=torch.channels_last)
        for row, pixels in enumerate(good):
            images[row] = prepare_image(pixels, *size, settings.letter_box)[0]
        device = next(network.parameters()).device
        found = iter(decode(network(images.to(device)), heads, *size, settings.thresh))
    results: list[Detected | ImageError] = []
    for index, picture in enumerate(read, first):
        if isinstance(picture, ImageError):
            results.append(picture)
            continue
        height, width = picture.pixels.shape[:2]
        detections = next(found)
        if settings.letter_box:
            detections = correct_boxes(detections, width, height, net.width, net.height)
        if settings.nms:
            kind, beta = nms_kind(heads), heads[-1].beta_nms
            detections = nms_sort(detections, settings.nms, kind, beta)
        results.append(Detected(index, (width, height), detections, picture.digest))
    return results


@contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    """Let a network use its running statistics and leave no trace."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


def _read_ahead(
    pictures: Sequence[Named],
    channels: int,
    settings: Settings,
    workers: int,
    stop: Callable[[], bool],
    patience: Patience,
) -> Generator[tuple[int, list[ReadPicture | ImageError]]]:
    """Yield number of the first and the pictures themselves, batch by batch."""

    def read(named: Named) -> ReadPicture | ImageError:
        path, place = named
        try:
            return read_picture(path, channels, place, patience, max_pixels=settings.max_pixels)
        except ImageError as error:
            return error

    batch = settings.batch
    batches = iter(range(0, len(pictures), batch))
    if not workers:
        for first in batches:
            if stop():
                return
            yield first, [read(one) for one in pictures[first : first + batch]]
        return
    loaders = Loaders(min(workers, batch * (READ_AHEAD + 1)))  # so much is there to do
    under_way: deque[tuple[int, list[Task[ReadPicture | ImageError]]]] = deque()
    try:
        while not stop():
            for first in islice(batches, READ_AHEAD + 1 - len(under_way)):
                own = pictures[first : first + batch]
                under_way.append((first, [loaders.submit(partial(read, one)) for one in own]))
            if not under_way:
                return
            first, tasks = under_way.popleft()
            done = loaders.results(tasks, stop)
            if done is None:
                return
            yield first, done
    finally:
        loaders.close()
