"""What all charts share: one fixed style, and a PNG of equal bytes for equal contents."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from relume.errors import StorageError

# A notebook asks every program it starts for a backend of its own, which need not exist here.
os.environ["MPLBACKEND"] = "agg"

# Matplotlib looks for its settings in the current folder first, where data lies; not here.
_exists = os.path.exists
os.path.exists = lambda path: path != "matplotlibrc" and _exists(path)
try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
except OSError as error:
    raise StorageError(
        "Matplotlib",
        "finds no folder for its settings: HOME and the temporary folder cannot be written",
        "one that can",
        "set MPLCONFIGDIR or TMPDIR to a folder that can be written",
    ) from error
finally:
    os.path.exists = _exists

__all__ = [
    "COLOURS",
    "Axes",
    "Figure",
    "FuncFormatter",
    "LogLocator",
    "NullFormatter",
    "fixed_style",
    "png",
]

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000")
"""Okabe and Ito's palette without its yellow: told apart by colour-blind people, and on white."""


@contextmanager
def fixed_style() -> Iterator[None]:
    """Draw inside this block in Matplotlib's own style, whatever the user's settings ask for."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG, without the name of the program."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
