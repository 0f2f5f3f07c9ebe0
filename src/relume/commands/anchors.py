"""`relume detector calc_anchors`: anchors that fit the boxes of a data set."""

import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from relume.command_table import Values
from relume.commands.outputs import Kind, Outputs
from relume.data.loaders import available_processors
from relume.datasets.anchors import (
    RESTARTS,
    Shapes,
    cluster_shapes,
    distinct_shapes,
    format_anchors,
)
from relume.datasets.anchors_chart import draw_clusters
from relume.datasets.boxes import boxes_per_class, classes_of
from relume.errors import DataFileError, StorageError, UsageError
from relume.formats.data_files import ANY_CLASS, Boxes, DataFile, ImageList, read_data_file
from relume.formats.places import RemoteFile
from relume.lists import label_index
from relume.lists.label_block import REMOTE
from relume.lists.label_files import never_used
from relume.screen import Screen
from relume.spec import cache_folder, cache_gigabytes
from relume.training_set import check_labels, read_all_labels, read_images

ANCHORS, COUNTERS, PICTURE = Path("anchors.txt"), Path("counters_per_class.txt"), Path("cloud.png")
"""Written into the current folder, under Darknet's names, and replaced as there."""
KINDS = {
    ANCHORS: Kind("anchors", re.compile(rb"[\d. ]+,[\d., ]+\n?").fullmatch),
    COUNTERS: Kind("counters", re.compile(rb"counters_per_class = [\d, ]*\n?").fullmatch),
    PICTURE: Kind("PNG", re.compile(rb"\x89PNG\r\n").match),
}
LARGEST_SIDE_PX = 1 << 16


def calc_anchors(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Print and write the anchors of the boxes that DATA's `train` lists.

    Source:
        AlexeyAB/darknet 59596d78 src/detector.c calc_anchors, for what is printed and written.
    """
    count, width, height = _numbers(flags)
    data_file = read_data_file(arguments[0])
    classes = classes_of(data_file)
    outputs = Outputs([data_file.path], flags)
    for path, kind in KINDS.items():
        outputs.check(path, kind)
    screen.line(f"num_of_clusters = {count}, width = {width}, height = {height}")
    images, labels = training_boxes(data_file, classes or ANY_CLASS, screen)
    screen.line(f"loaded image: {len(images.paths)} box: {sum(map(len, labels))}")
    shapes = shapes_px(labels, width, height)
    if distinct_shapes(shapes) < count:
        found = f"{distinct_shapes(shapes)} different shapes of boxes"
        raise DataFileError(images.path, found, f"at least {count}, one for each anchor")
    seed = int(flags.get("-seed", data_file.integer("seed", 0)))
    clusters = cluster_shapes(shapes, count, seed)
    counters = boxes_per_class(labels, classes or 0)
    counted = "counters_per_class = " + ", ".join(map(str, counters.tolist()))
    anchors = format_anchors(clusters.anchors_px, width)
    screen.line(f"k-means++ from {RESTARTS} starts, seed {seed}; the best one:")
    screen.line(counted)
    screen.line(f"avg IoU = {100 * clusters.average_iou:2.2f} %")
    screen.line(f"anchors = {anchors}")
    title = (
        f"{Path(images.path).name}: {count} anchors for {width}x{height}, "
        f"avg IoU {100 * clusters.average_iou:.2f} %"
    )
    outputs.reads([images.path, *images.paths])
    outputs.write(COUNTERS, KINDS[COUNTERS], counted.encode())
    outputs.write(ANCHORS, KINDS[ANCHORS], anchors.encode())
    outputs.write(PICTURE, KINDS[PICTURE], draw_clusters(shapes, clusters, title))
    screen.line(f"written: {ANCHORS}, {COUNTERS}, {PICTURE}")
    return 0


def training_boxes(
    data_file: DataFile, classes: int, screen: Screen
) -> tuple[ImageList, tuple[Boxes, ...]]:
    """Return the pictures that `train` of a data file lists, and the boxes that training reads.

    The boxes are in the order of the list: an array a picture, or of a long list one a block of
    its index.

    Raises:
        LabelError, DataFileError: what cannot be trained on.
        Unavailable: an object store does not give it.
    """
    cache, gigabytes = cache_folder(data_file), cache_gigabytes(data_file)
    images = read_images(data_file, cache, gigabytes, screen.warn)
    indexed = _indexed_boxes(images, data_file, classes, screen)
    if indexed is None:
        return images, read_all_labels(images, classes, screen.warn)
    return images, indexed


def _indexed_boxes(
    images: ImageList, data_file: DataFile, classes: int, screen: Screen
) -> tuple[Boxes, ...] | None:
    """Return the boxes of a long list by its index, made or brought up to date; None without one.

    Training uses the same index: who comes second reads only what has changed.
    """
    if images.digest is None or isinstance(images.paths[0], RemoteFile):
        return None
    cache = cache_folder(data_file)
    place = label_index.place_of(images, images.digest, data_file.path, classes, cache)
    with closing(screen.progress(place.rows)) as bar:
        try:
            found = label_index.build(
                place,
                available_processors(),
                lambda done, total: bar.at(done, "labels"),
                stopped=lambda: False,
                again=True,
            )
        except StorageError as error:
            screen.warn(f"the labels of {images.path} are not indexed: {error}")
            return None
    assert found is not None  # nothing has stopped it
    check_labels(images, found, screen.warn)
    blocks = list(label_index.blocks_of(place))
    if any((block.rows["found"] & REMOTE).any() for block in blocks):
        return None
    return tuple(block.boxes for block in blocks)


def shapes_px(labels: Sequence[Boxes], width: int, height: int) -> Shapes:
    """Return [N, 2]: width and height in pixels of the network's input of boxes that are used."""
    used = [boxes[~never_used(boxes), 3:5].astype(np.float64) for boxes in labels]
    return np.concatenate([*used, np.zeros((0, 2))]) * (width, height)


def _numbers(flags: Values) -> tuple[int, int, int]:
    """Return clusters, width and height, the latter two needed as in Darknet."""
    numbers = []
    for name, default in (("-num_of_clusters", 5), ("-width", None), ("-height", None)):
        if name not in flags and default is None:
            raise UsageError(name, "is missing", "the network's, as in the cfg, say 416")
        value, most = int(flags.get(name, default or 0)), LARGEST_SIDE_PX
        if not 1 <= value <= most:
            raise UsageError(name, str(value), f"1 to {most}")
        numbers.append(value)
    return numbers[0], numbers[1], numbers[2]
