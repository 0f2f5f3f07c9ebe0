"""The picture of the clusters: every box a point, every anchor a numbered mark."""

import numpy as np

from relume.control_characters import escape_controls
from relume.datasets.anchors import Clusters, Shapes
from relume.datasets.make_cfg import pixel_text
from relume.figures import (
    COLOURS,
    Axes,
    Figure,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    fixed_style,
    png,
)

MOST_POINTS = 20_000
"""Of more boxes every n-th is drawn."""
LEGEND_ROWS = 24


def draw_clusters(boxes_px: Shapes, clusters: Clusters, title: str) -> bytes:
    """Return a PNG: width and height of the boxes on logarithmic axes, coloured by anchor.

    Args:
        boxes_px: [N, 2], those that the clusters were made from.
        clusters: the anchors, and which of them every box belongs to.
        title: shown above the picture.
    """
    with fixed_style():
        figure = Figure(figsize=(10, 7.5), dpi=100)
        axes = figure.add_axes((0.08, 0.09, 0.66, 0.84))
        _draw_points(axes, boxes_px, clusters)
        _draw_scales(axes)
        axes.set_title(escape_controls(title), parse_math=False)
        columns = -(-len(clusters.anchors_px) // LEGEND_ROWS)
        figure.legend(
            loc="upper left",
            bbox_to_anchor=(0.75, 0.94),
            ncols=columns,
            frameon=False,
            title="anchor (share of boxes)",
            markerscale=0.6,
            fontsize=9 if columns == 1 else 6,
        )
        return png(figure)


def _draw_points(axes: Axes, boxes_px: Shapes, clusters: Clusters) -> None:
    stride = -(-len(boxes_px) // MOST_POINTS)
    members = np.bincount(clusters.assignments, minlength=len(clusters.anchors_px))
    for index, anchor in enumerate(clusters.anchors_px.tolist()):
        colour = COLOURS[index % len(COLOURS)]
        own = boxes_px[clusters.assignments == index][::stride]
        axes.scatter(own[:, 0], own[:, 1], s=6, color=colour, alpha=0.45, linewidths=0)
        share = members[index] / len(boxes_px)
        axes.scatter(
            anchor[0],
            anchor[1],
            s=230,
            color=colour,
            edgecolors="white",
            linewidths=1.5,
            zorder=3,
            label=f"{index + 1}: {pixel_text(anchor[0])} x {pixel_text(anchor[1])}  ({share:.0%})",
        )
        axes.text(
            anchor[0],
            anchor[1],
            str(index + 1),
            color="white",
            weight="bold",
            fontsize=9,
            ha="center",
            va="center",
            zorder=4,
        )


def _draw_scales(axes: Axes) -> None:
    for axis, name in ((axes.xaxis, "width"), (axes.yaxis, "height")):
        axis.set_label_text(f"{name} in pixels of the network's input")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
