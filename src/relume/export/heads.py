"""What heads mean, as ONNX nodes: boxes and probabilities, and suppression.

Legend: B images, N = cells and anchors of all heads in Darknet's order (head, cell row by row,
anchor), K classes, M detections.

Not covered: the layers before (`layers.py`).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from relume.export.layers import Graph
from relume.formats.layer_shapes import Size
from relume.formats.sections import Net, Yolo

Heads = Sequence[tuple[str, Yolo, Size]]
Floats = npt.NDArray[np.float32]

BOXES = "boxes_xywh_rel"
PROBABILITIES = "probabilities"
CLASS_NUMBERS = "class_numbers"
IMAGE_NUMBERS = "image_numbers"


def add_boxes(graph: Graph, heads: Heads, net: Net, before: str = "") -> tuple[str, str]:
    """Add boxes [B, N, 4] and probabilities [B, N, K] (objectness * class); return their names.

    Boxes are centre and size relative to the network's input.

    Args:
        before: what the two names begin with.

    Source: AlexeyAB src/yolo_layer.c get_yolo_box, forward_yolo_layer.
    """
    classes = heads[0][1].classes
    parts = [_add_rows(graph, *head) for head in heads]
    rows = graph.add("Concat", parts, "rows", axis=1)
    columns = graph.integers("columns", 2, 2, 1, classes)
    split = [f"rows.{what}" for what in ("centres", "sizes", "objectness", "classes")]
    graph.add("Split", [rows, columns], *split, axis=2)
    centres, sizes, objectness, kinds = split

    offsets = graph.add("Sigmoid", [centres], "offsets")
    if any(head.scale_x_y != 1 for _, head, _ in heads):
        scales = [np.full((_count(head, size), 1), head.scale_x_y) for _, head, size in heads]
        factors = graph.constant("cells.scale_x_y", _float32(np.concatenate(scales)))
        offsets = graph.add("Mul", [offsets, factors], "offsets.scaled")
    corners, grids, anchors = (
        graph.constant(name, _float32(np.concatenate(values)))
        for name, values in (
            ("cells.corners", [_corners(head, size) for _, head, size in heads]),
            ("cells.grid", [_grid(head, size) for _, head, size in heads]),
            ("cells.anchors_rel", [_anchors_rel(head, size, net) for _, head, size in heads]),
        )
    )
    in_cells = graph.add("Add", [offsets, corners], "centres.cells")
    xy = graph.add("Div", [in_cells, grids], "centres")
    wh = graph.add("Mul", [graph.add("Exp", [sizes], "sizes.anchors"), anchors], "sizes")
    boxes = graph.add("Concat", [xy, wh], f"{before}{BOXES}", axis=2)
    certain = graph.add("Sigmoid", [objectness], "objectness")
    likely = graph.add("Sigmoid", [kinds], "objectness.classes")
    return boxes, graph.add("Mul", [certain, likely], f"{before}{PROBABILITIES}")


def _add_rows(graph: Graph, tensor: str, head: Yolo, size: Size) -> str:
    """Add [B, H * W * A, 5 + K]: a row per cell and anchor."""
    cells = graph.add("Transpose", [tensor], f"{tensor}.cells", perm=[0, 2, 3, 1])
    shape = graph.integers(f"{tensor}.shape", 0, _count(head, size), 5 + head.classes)
    return graph.add("Reshape", [cells, shape], f"{tensor}.rows")


def _count(head: Yolo, size: Size) -> int:
    _, height, width = size
    return height * width * len(head.mask)


def _corners(head: Yolo, size: Size) -> npt.NDArray[np.float64]:
    """Return [N, 2]: where offsets of a cell begin, in cells; scaled ones begin before it."""
    _, height, width = size
    row, column = np.divmod(np.arange(height * width), width)
    corners = np.repeat(np.stack((column, row), axis=1), len(head.mask), axis=0)
    return corners - 0.5 * (head.scale_x_y - 1)


def _grid(head: Yolo, size: Size) -> npt.NDArray[np.float64]:
    """Return [N, 2]: the cells of a row and of a column."""
    _, height, width = size
    return np.tile(np.array([[width, height]], np.float64), (_count(head, size), 1))


def _anchors_rel(head: Yolo, size: Size, net: Net) -> npt.NDArray[np.float64]:
    """Return [N, 2]: width and height of the anchors relative to the network's input."""
    _, height, width = size
    used = np.array([head.anchors_px[number] for number in head.mask])
    return np.tile(used / (net.width, net.height), (height * width, 1))


def _float32(values: npt.NDArray[np.float64]) -> Floats:
    return values.astype(np.float32)


def add_suppression(
    graph: Graph, boxes: str, probabilities: str, thresh: float, nms: float, largest: int
) -> None:
    """Add suppression class by class, and what it leaves: M detections of all images.

    They are in the order of images, classes and falling probability: boxes_xywh_rel [M, 4],
    probabilities, class_numbers and image_numbers [M].

    Args:
        boxes, probabilities: names of what add_boxes gave.
        thresh: a probability that is not above it is none.
        nms: overlap (IoU) above which the less probable is dropped.
        largest: detections of one class in one image, at most.
    Source: AlexeyAB src/box.c do_nms_sort.
    """
    # A net that has hardly been trained says e^100 at times; that is no box. Less itself it is
    # no number, and neither is then its score, which is above no threshold.
    zeros = graph.add("Sub", [boxes, boxes], "nms.zeros")
    sides = graph.integers("nms.sides", 2)
    nothing = graph.add("ReduceSum", [zeros, sides], "nms.nothing", keepdims=1)
    certain = graph.add("Add", [probabilities, nothing], "nms.probabilities")
    scores = graph.add("Transpose", [certain], "nms.scores", perm=[0, 2, 1])
    limits = [
        graph.integers("nms.largest", largest),
        graph.constant("nms.overlap", np.array([nms], np.float32)),
        graph.constant("nms.thresh", np.array([thresh], np.float32)),
    ]
    inputs = [boxes, scores, *limits]
    kept = graph.add("NonMaxSuppression", inputs, "nms.kept", center_point_box=1)
    ones = graph.integers("nms.ones", 1, 1, 1)
    columns = [f"nms.{what}" for what in ("image", "class", "row")]
    graph.add("Split", [kept, ones], *columns, axis=1)
    image, kind, row = columns
    places = graph.add("Concat", [image, row], "nms.places", axis=1)
    graph.add("GatherND", [boxes, places], BOXES)
    graph.add("GatherND", [scores, kept], PROBABILITIES)
    axis = graph.integers("nms.axis", 1)
    graph.add("Squeeze", [kind, axis], CLASS_NUMBERS)
    graph.add("Squeeze", [image, axis], IMAGE_NUMBERS)
