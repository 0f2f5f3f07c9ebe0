"""`relume detector calc_anchors`: anchors that fit the boxes of a data set."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from relume.checkpoint import storage
from relume.datasets.anchors import (
    RESTARTS,
    Shapes,
    cluster_shapes,
    distinct_shapes,
    format_anchors,
)
from relume.datasets.anchors_chart import draw_clusters
from relume.datasets.boxes import (
    ANY_CLASS,
    Labelled,
    boxes_per_class,
    classes_of,
    read_labelled,
)
from relume.errors import DataFileError, UsageError
from relume.formats.data_files import read_data_file, read_image_list, resolve
from relume.screen import Screen

Values = Mapping[str, str | int | float | bool]

ANCHORS, COUNTERS, PICTURE = Path("anchors.txt"), Path("counters_per_class.txt"), Path("cloud.png")
"""Written into the current folder, under Darknet's names."""
LARGEST_SIDE_PX = 1 << 16


def calc_anchors(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Print and write the anchors of the boxes that DATA's `train` lists.

    Source:
        AlexeyAB/darknet 59596d78 src/detector.c calc_anchors, for what is printed and written.
    """
    count, width, height = _numbers(flags)
    data_file = read_data_file(arguments[0])
    classes = classes_of(data_file)
    images = read_image_list(resolve(data_file.text("train"), data_file.path), data_file.path)
    screen.line(f"num_of_clusters = {count}, width = {width}, height = {height}")
    labelled = read_labelled(images.paths, classes or ANY_CLASS)
    screen.line(f"loaded image: {len(labelled)} box: {sum(len(one.boxes) for one in labelled)}")
    shapes = shapes_px(labelled, width, height)
    if flat := sum(len(one.boxes) for one in labelled) - len(shapes):
        screen.warn(f"{images.path}: {flat} boxes have no size; they are left out")
    if distinct_shapes(shapes) < count:
        found = f"{distinct_shapes(shapes)} different shapes of boxes"
        raise DataFileError(images.path, found, f"at least {count}, one for each anchor")
    seed = int(flags.get("-seed", data_file.integer("seed", 0)))
    clusters = cluster_shapes(shapes, count, seed)
    counters = boxes_per_class([one.boxes for one in labelled], classes or 0)
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
    storage.write_durably(COUNTERS, counted.encode())
    storage.write_durably(ANCHORS, anchors.encode())
    storage.write_durably(PICTURE, draw_clusters(shapes, clusters, title))
    screen.line(f"written: {ANCHORS}, {COUNTERS}, {PICTURE}")
    return 0


def shapes_px(labelled: list[Labelled], width: int, height: int) -> Shapes:
    """Return [N, 2]: the boxes' width and height in pixels of the network's input.

    Those without a size are left out. Those that lie outside their picture count, as in Darknet.
    """
    sizes = [one.boxes[:, 3:5].astype(np.float64) for one in labelled if len(one.boxes)]
    shapes = np.concatenate([*sizes, np.zeros((0, 2))]) * (width, height)
    return shapes[(shapes > 0).all(axis=1)]


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
