"""chart.png: loss and mAP of the whole run, drawn from the history alone.

Equal histories give equal pictures: fixed size, fixed style, no times, and points thinned by
iteration number instead of by what happened to be on the screen.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import numpy.typing as npt

from relume.checkpoint.evaluations import best_of
from relume.checkpoint.state import History, Measured
from relume.control_characters import escape_controls
from relume.figures import Axes, Figure, fixed_style, png
from relume.train.step import updated_average

Curve = npt.NDArray[np.float64 | np.int64]

EVERY = 100
"""Iterations between two charts, while drawing costs no more than COST_SHARE of the time."""
COST_SHARE = 0.01
MAP_COLOUR = "#000000"
MOST_POINTS = 2000
"""Beyond this a curve is thinned; the chart is 1000 pixels wide."""

_PARTS = (
    ("box_loss", "box", "#0072b2"),
    ("objectness_loss", "objectness", "#009e73"),
    ("class_loss", "class", "#cc79a7"),
)


class Rhythm:
    """When the next chart is worth drawing: a long history takes a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_at = 0.0

    def is_due(self, iteration: int) -> bool:
        """Tell whether to draw a chart after this iteration."""
        return iteration % EVERY == 0 and self._clock() >= self._next_at

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure what drawing inside this block costs, and put the next chart off accordingly."""
        began = self._clock()
        yield
        now = self._clock()
        self._next_at = now + (now - began) / COST_SHARE


def draw_chart(history: History, title: str, max_batches: int) -> bytes:
    """Return a PNG of average loss, its parts, mAP and the rate over the iterations.

    Args:
        history: of the run so far.
        title: shown above the chart.
        max_batches: right end of the axis.
    """
    iterations, average, parts, rates, last_average = _curves(history)
    with fixed_style():
        figure = Figure(figsize=(10, 7.5), dpi=100)
        loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        for (_, label, colour), values in zip(_PARTS, parts, strict=True):
            loss.plot(iterations, values, color=colour, linewidth=1, alpha=0.7, label=label)
        loss.plot(iterations, average, color="#d55e00", linewidth=2, label="average loss")
        for mark in history.marks:
            loss.axvline(mark.iteration, color="0.5", linewidth=1, linestyle=":")
        loss.set_yscale("log")
        loss.set_ylabel("loss per image")
        loss.grid(True, which="both", color="0.9")
        if last_average is not None:
            loss.set_title(
                f"{escape_controls(title)}: iteration {history.iteration} of {max_batches}, "
                f"average loss {last_average:.4f}",
                parse_math=False,
                pad=24 if history.evaluations else None,
            )
            loss.legend(loc="upper right")
        if history.evaluations:
            _draw_map(loss, history.evaluations)
        rate.plot(iterations, rates, color="0.3", linewidth=1)
        rate.set_ylabel("rate")
        rate.set_xlabel("iteration")
        rate.set_xlim(history.start, max(max_batches, history.iteration, history.start + 1))
        rate.grid(True, color="0.9")
        right, top = (0.92, 0.91) if history.evaluations else (0.97, 0.94)
        figure.subplots_adjust(left=0.09, right=right, top=top, bottom=0.08, hspace=0.08)
        figure.align_ylabels()
        return png(figure)


def _draw_map(loss: Axes, evaluations: Sequence[Measured]) -> None:
    """Draw mAP on an axis at the right, the last and the best marked, and what all lines are.

    Where something else was measured from then on, the line is broken.
    """
    axis = loss.twinx()
    groups = [list(group) for _, group in groupby(evaluations, key=lambda one: one.measure)]
    for group in groups:
        points = zip(*((one.iteration, 100 * one.map) for one in group), strict=True)
        axis.plot(*points, color=MAP_COLOUR, linewidth=2, marker=".")
    axis.set_ylim(0, 100)
    axis.set_ylabel("mAP in %", color=MAP_COLOUR)
    best, last = best_of(groups[-1]), groups[-1][-1]
    assert best is not None
    for one, marker, size, name in ((last, "o", 8, "last"), (best, "*", 15, "best")):
        axis.plot(
            one.iteration,
            100 * one.map,
            color=MAP_COLOUR,
            linestyle="none",
            marker=marker,
            markersize=size,
            clip_on=False,
            label=f"{name} mAP {100 * one.map:.2f} % ({one.iteration})",
        )
    (lines, names), (marks, values) = (part.get_legend_handles_labels() for part in (loss, axis))
    # Above the axes: mAP runs where there is room for it otherwise.
    loss.legend(
        lines + marks,
        names + values,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
        ncols=6,
        columnspacing=1.2,
        handlelength=1.5,
    )


def _curves(history: History) -> tuple[Curve, Curve, list[Curve], Curve, float | None]:
    """Return iterations, average losses, smoothed parts and rates, thinned alike.

    And the average loss of the last iteration, which thinning may drop.
    """
    records = history.records
    stride = -(-len(records) // MOST_POINTS) or 1
    columns = ["loss", *(name for name, _, _ in _PARTS)]
    averages = []
    last_average = None
    for column in columns:
        value: float | None = None
        smooth = []
        for x in records[column].tolist():
            value = updated_average(value, x)
            smooth.append(value)
        last_average = value if column == "loss" else last_average
        averages.append(np.array(smooth[stride - 1 :: stride]))
    iterations = np.arange(history.start + stride, history.iteration + 1, stride)
    rates = records["rate"][stride - 1 :: stride].astype(float)
    return iterations, averages[0], averages[1:], rates, last_average
