"""The chart follows from the history alone, to the byte."""

import io
import os
import subprocess
import sys
from dataclasses import replace

import cv2
import matplotlib
import numpy as np
import pytest

from relume.checkpoint.state import History, Mark, Measured
from relume.train.chart import MOST_POINTS, Rhythm, draw_chart
from tests.checkpoint.states import history_of


def pixels(png: bytes) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded)


def test_equal_histories_give_equal_bytes_whatever_was_drawn_before() -> None:
    one = draw_chart(history_of(50), "net", 100)
    draw_chart(history_of(3), "other", 5)

    assert draw_chart(history_of(50), "net", 100) == one


def test_the_users_own_style_has_no_say() -> None:
    one = draw_chart(history_of(50), "net", 100)

    with matplotlib.rc_context({"axes.facecolor": "black", "lines.linewidth": 9}):
        assert draw_chart(history_of(50), "net", 100) == one
        assert matplotlib.rcParams["axes.facecolor"] == "black"


@pytest.mark.parametrize("name", ["a$x_{$", "$\\frac$", "日本語", "x\udcff", "a\nb"])
def test_every_name_can_be_drawn(name: str) -> None:
    assert pixels(draw_chart(history_of(5), name, 10)).shape == (750, 1000, 3)


def test_a_notebooks_backend_does_not_matter() -> None:
    drawn = subprocess.run(
        [sys.executable, "-c", "import relume.train.chart"],
        env={**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (drawn.returncode, drawn.stderr) == (0, "")


@pytest.mark.parametrize(
    "history",
    [
        history_of(1),
        history_of(50, (Mark(20, "change", "x"),)),
        history_of(50, start=5),
        replace(history_of(50), records=history_of(50).records[:49]),
    ],
)
def test_every_difference_in_the_history_shows(history: History) -> None:
    assert draw_chart(history, "net", 100) != draw_chart(history_of(50), "net", 100)


def measured(*values: float, measure: int = 1) -> History:
    done = tuple(Measured(10 * i, value, measure) for i, value in enumerate(values, 1))
    return replace(history_of(50), evaluations=done)


@pytest.mark.parametrize(
    "history",
    [
        measured(),
        measured(0.25),
        measured(0.25, 0.5),
        measured(0.5, 0.25),
        replace(
            measured(0.25, 0.75),
            evaluations=(Measured(10, 0.25, 1), Measured(20, 0.75, 2)),
        ),
    ],
)
def test_every_difference_in_map_shows_and_the_size_stays(history: History) -> None:
    png = draw_chart(history, "net", 100)

    assert png != draw_chart(measured(0.25, 0.75), "net", 100)
    assert png == draw_chart(history, "net", 100)
    assert pixels(png).shape == (750, 1000, 3)


def test_a_chart_is_a_picture_of_1000_by_750_pixels_even_of_nothing() -> None:
    for history in (History(), history_of(0, start=7), history_of(2 * MOST_POINTS + 1)):
        assert pixels(draw_chart(history, "net", 100)).shape == (750, 1000, 3)


def test_no_time_and_no_program_stands_in_the_file() -> None:
    png = draw_chart(history_of(5), "net", 100)

    assert b"tEXt" not in png
    assert b"tIME" not in png


def test_a_loss_of_zero_can_be_drawn() -> None:
    history = history_of(5)
    history.records["class_loss"] = 0

    assert io.BytesIO(draw_chart(history, "net", 100)).read(4) == b"\x89PNG"


def test_charts_that_take_long_are_drawn_more_rarely() -> None:
    now = 0.0
    rhythm = Rhythm(lambda: now)
    drawn = []
    for iteration in range(1, 1001):
        now += 0.1
        if rhythm.is_due(iteration):
            drawn.append(iteration)
            with rhythm.measured():
                now += 0.25  # so 25 s until the next

    assert drawn == [100, 400, 700, 1000]
