"""The boxes of a data set, all together: which can never be learned, balance, sizes, anchors.

Everything here is arithmetic on arrays: training does it before every start.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from relume.checking.findings import Finding, Verdict
from relume.checking.label_lines import BoxSet
from relume.datasets.anchors import nearest_anchors
from relume.formats.layer_shapes import layer_sizes
from relume.formats.sections import Cfg, Yolo
from relume.lists.label_files import never_used

ERROR, WARNING, NOTE = Verdict
EDGE_REL = 0.01
"""What a box may reach over its picture's edge before it is said."""
BAD_FIT = 0.5
"""Average IoU with the best anchor below which anchors want to be computed anew."""
UNEQUAL = 100
"""Boxes of the most frequent class for one of the rarest, from which it is said."""
MOST_CLASSES = 10
Mask = npt.NDArray[np.bool_]


def findings_of_boxes(found: BoxSet, names: Sequence[str], place: str) -> Iterator[Finding]:
    """Yield what can be said of boxes without a net.

    Args:
        found: at least one box.
        names: of the classes.
        place: the list, for what concerns all of it.
    """
    yield from _over_the_edge(found, ~never_used(found.boxes))
    yield from _twice(found)
    yield from _balance(found, names, place)


def findings_of_sizes(found: BoxSet, cfg: Cfg, place: str) -> Iterator[Finding]:
    """Yield how boxes fit the net: its input, its anchors, its strides, its `max`."""
    useful = ~never_used(found.boxes)
    sides_px = (found.boxes[:, 3:] * (cfg.net.width, cfg.net.height)).astype(np.float64)
    size = f"{cfg.net.width}x{cfg.net.height}"
    small = (sides_px < 1).any(axis=1) & useful
    what = f"a box is smaller than a pixel of the net's input ({size}) and is left out"
    remedy = "remove it, or raise width and height in the cfg"
    for row in np.flatnonzero(small).tolist():
        detail = f"{sides_px[row, 0]:.2g}x{sides_px[row, 1]:.2g} pixels"
        yield Finding(WARNING, what, found.place(row), detail, remedy)
    yield from _too_many(found, useful, cfg)
    useful &= ~small
    if not useful.any():
        return
    shapes = sides_px[useful]
    low, middle, high = (np.sqrt(q) for q in np.quantile(shapes.prod(axis=1), (0, 0.5, 1)))
    what = f"size of the boxes in the net's input ({size}), root of the area"
    detail = f"{low:.0f} to {high:.0f} pixels, half of them below {middle:.0f}"
    yield Finding(NOTE, what, place, detail)
    yield from _anchors(found, useful, shapes, cfg, place)


def useless_boxes(found: BoxSet) -> Iterator[Finding]:
    """Yield the boxes that no augmentation can bring into the picture."""
    useless = never_used(found.boxes)
    remedy = "a label line is: class x y width height, relative to the picture, centre first"
    for row in np.flatnonzero(useless).tolist():
        _, x, y, w, h = found.boxes[row].tolist()
        if w <= 0 or h <= 0:
            what = "a box has no size, and is left out"
        elif x == y == 0:
            what = "a box has its centre at 0 0, which Darknet takes for none, and is left out"
        else:
            what = "a box lies outside its picture, and is left out"
        detail = f"{x:.6g} {y:.6g} {w:.6g} {h:.6g}" + " (in pixels?)" * (max(x, y, w, h) > 2)
        yield Finding(WARNING, what, found.place(row), detail, remedy)


def _over_the_edge(found: BoxSet, useful: Mask) -> Iterator[Finding]:
    centres, halves = found.boxes[:, 1:3], found.boxes[:, 3:] / 2
    over = np.maximum(halves - centres, centres + halves - 1).max(axis=1, initial=0)
    for row in np.flatnonzero((over > EDGE_REL) & useful).tolist():
        detail = " ".join(f"{value:.6g}" for value in found.boxes[row, 1:].tolist())
        detail += " (in pixels?)" * bool(found.boxes[row, 1:].max() > 2)
        what = "a box reaches over the edge of its picture, and is cut off there"
        remedy = "check that the numbers are relative to the picture, centre first"
        yield Finding(WARNING, what, found.place(row), detail, remedy)


def _twice(found: BoxSet) -> Iterator[Finding]:
    if len(found.boxes) < 2:
        return
    keyed = np.column_stack([found.owners, found.boxes[:, 1:], found.boxes[:, 0]])
    order = np.lexsort(keyed.T[::-1])
    ordered = keyed[order]
    same_box = (ordered[1:, :5] == ordered[:-1, :5]).all(axis=1)
    for k in np.flatnonzero(same_box).tolist():
        one, other = sorted((order[k], order[k + 1]))
        if ordered[k, 5] == ordered[k + 1, 5]:
            what, remedy = "a box stands twice in its file", "remove one of the lines"
            detail = f"as in line {found.lines[one]}"
        else:
            what = "one box has two classes"
            remedy = "remove one of the lines, unless both are meant"
            detail = f"class {ordered[k, 5]:.0f} and {ordered[k + 1, 5]:.0f}"
        yield Finding(WARNING, what, found.place(other), detail, remedy)


def _balance(found: BoxSet, names: Sequence[str], place: str) -> Iterator[Finding]:
    classes = found.boxes[:, 0].astype(np.int64)
    counts = np.bincount(classes, minlength=len(names))[: len(names)]
    for number in np.flatnonzero(counts == 0).tolist():
        what = "a class has no box to learn it from"
        remedy = "label some, or take the class out of names and cfg"
        yield Finding(WARNING, what, place, f"{number} {names[number]}", remedy)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    if not order.size:
        return
    shown = [f"{names[i]} {counts[i]:,}" for i in order]
    if len(shown) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        shown = [*shown[:half], "...", *shown[-half:]]
    empty = found.pictures - len(np.unique(found.owners))
    what = "boxes by class"
    detail = f"{len(found.boxes):,} in {found.pictures:,} pictures: {', '.join(shown)}"
    detail += f"; {empty:,} pictures without" * bool(empty)
    yield Finding(NOTE, what, place, detail)
    most, least = order[0], order[-1]
    if counts[most] >= UNEQUAL * counts[least]:
        detail = f"{counts[most]:,} of {names[most]}, {counts[least]:,} of {names[least]}"
        remedy = "more pictures of the rare one, or list those it has several times"
        yield Finding(WARNING, "classes are very unequal", place, detail, remedy)


def _too_many(found: BoxSet, useful: Mask, cfg: Cfg) -> Iterator[Finding]:
    most = cfg.heads[-1].max
    counts = np.bincount(found.owners[useful], minlength=found.pictures)
    for picture in np.flatnonzero(counts > most):
        what = "a picture has more boxes than `max` of the last [yolo]; the rest is left out"
        row = int(np.flatnonzero(found.owners == picture)[0])
        detail, remedy = f"{counts[picture]} boxes, max={most}", f"set max={counts.max()} or more"
        yield Finding(WARNING, what, found.place(row).rpartition(found.word)[0], detail, remedy)


def _anchors(
    found: BoxSet, useful: Mask, shapes: npt.NDArray[np.float64], cfg: Cfg, place: str
) -> Iterator[Finding]:
    """Yield how the boxes fit the anchors: each belongs to the one of the nearest shape."""
    anchors = np.array(cfg.heads[-1].anchors_px, np.float64)
    nearest = nearest_anchors(shapes, anchors)
    best, fit, where = nearest.assignments, nearest.average_iou, f"{cfg.path}:{cfg.heads[-1].line}"
    verdict = NOTE if fit >= BAD_FIT else WARNING
    remedy = "" if fit >= BAD_FIT else "`relume detector calc_anchors` computes better ones"
    what = "average IoU of the boxes with their nearest anchor"
    yield Finding(verdict, what, where, f"{100 * fit:.1f} %", remedy)
    counts = np.bincount(best, minlength=len(anchors))
    idle = [f"{w:g},{h:g}" for (w, h), n in zip(anchors, counts, strict=True) if n == 0]
    if idle:
        yield Finding(NOTE, "anchors that no box is nearest to", where, "  ".join(idle))
    strides = head_strides(cfg)
    cells: dict[int, tuple[int, int]] = {}
    for head, stride in zip(cfg.heads, strides, strict=True):
        cells |= dict.fromkeys(head.mask, stride)
        if not counts[list(head.mask)].any():
            what = "a [yolo] has no anchor that any box is nearest to: it learns nothing"
            remedy = "`relume detector calc_anchors` computes anchors for these boxes"
            yield Finding(NOTE, what, f"{cfg.path}:{head.line}", "", remedy)
    yield from _below_the_stride(shapes, strides, place)
    yield from _in_one_cell(found, useful, best, cells, cfg)


def head_strides(cfg: Cfg) -> list[tuple[int, int]]:
    """Return the pixels of the input that one cell of every head covers: (across, down)."""
    sizes = layer_sizes(cfg, cfg.net.width, cfg.net.height)
    of_heads = [size for layer, size in zip(cfg.layers, sizes, strict=True) if _is_head(layer)]
    return [(cfg.net.width // w, cfg.net.height // h) for _, h, w in of_heads]


def _is_head(layer: object) -> bool:
    return isinstance(layer, Yolo)


def _below_the_stride(
    shapes: npt.NDArray[np.float64], strides: list[tuple[int, int]], place: str
) -> Iterator[Finding]:
    finest = min(max(stride) for stride in strides)
    small = int((shapes.max(axis=1) < finest).sum())
    if small:
        verdict = WARNING if 2 * small > len(shapes) else NOTE
        what = f"boxes smaller than a cell of the finest [yolo] ({finest} pixels), hard to find"
        remedy = "raise width and height, or add a finer [yolo]" if verdict is WARNING else ""
        yield Finding(verdict, what, place, f"{small:,} of {len(shapes):,}", remedy)


def _in_one_cell(
    found: BoxSet,
    useful: Mask,
    best: npt.NDArray[np.intp],
    cells: dict[int, tuple[int, int]],
    cfg: Cfg,
) -> Iterator[Finding]:
    """Yield how many boxes share cell and anchor with another: the last one counts."""
    owned = np.array([anchor in cells for anchor in best])
    strides = np.array([cells.get(int(anchor), (1, 1)) for anchor in best])
    grid = np.array([cfg.net.width, cfg.net.height]) // strides
    cell = np.minimum((found.boxes[useful, 1:3] * grid).astype(np.int64), grid - 1)
    keys = np.column_stack([found.owners[useful], best, cell])[owned]
    lost = len(keys) - len(np.unique(keys, axis=0))
    if lost:
        what = "boxes that share cell and anchor with another of their picture: only one is learned"
        detail = f"{lost:,} of {len(best):,} at {cfg.net.width}x{cfg.net.height}"
        yield Finding(NOTE, what, f"{cfg.path}:{cfg.heads[-1].line}", detail)
