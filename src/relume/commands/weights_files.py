"""Commands on the numbers in weights files: strip, average, statistics."""

import io
from pathlib import Path

import numpy as np

from relume.checkpoint import container
from relume.checkpoint.weights_file import check_finite, read_weights_file, read_whole_weights
from relume.command_table import Values
from relume.commands.outputs import Kind, Outputs
from relume.errors import Damaged
from relume.formats.cfg import read_cfg
from relume.formats.weights import Floats, format_weights, parse_header
from relume.screen import Screen

WEIGHTS = Kind("weights", is_compared=True)
NAMES = {
    "scales": "Scales",
    "biases": "Biases",
    "rolling_mean": "Rolling mean",
    "rolling_variance": "Rolling variance",
    "weights": "Weights",
}
"""What an array is called on the screen, in Darknet's order."""


def strip(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Write the plain weights of a checkpoint."""
    weights, out = arguments
    outputs = Outputs([weights], flags)
    outputs.check(Path(out), WEIGHTS)
    data = read_weights_file(weights)
    header = parse_header(data, weights)
    if container.holds_state(data, weights):
        try:
            plain = container.plain_from(io.BytesIO(data), weights)
        except Damaged:
            container.verify(data, weights)  # says more exactly where
            raise
        left = f"left out: {len(data) - len(plain):,} bytes of training state"
    else:
        plain, left = data, f"{weights} holds no training state: the same bytes"
    outputs.write(Path(out), WEIGHTS, plain)
    screen.line(f"{out}: {len(plain):,} bytes, seen {header.seen}; {left}")
    return 0


def average(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Write the mean of several weights files, float32 sums in the order given.

    Source:
        AlexeyAB/darknet src/darknet.c average (groups are not ignored here).
    """
    cfg_path, out, *paths = arguments
    outputs = Outputs([cfg_path, *paths], flags)
    outputs.check(Path(out), WEIGHTS)
    cfg = read_cfg(cfg_path, "detect")
    first = read_whole_weights(cfg, paths[0])
    check_finite(first.arrays, paths[0])
    sums = {name: array.copy() for name, array in first.arrays.items()}
    for other in screen.each(paths[1:], len(paths) - 1, "files read"):
        arrays = read_whole_weights(cfg, other).arrays
        check_finite(arrays, other)
        for name, array in arrays.items():
            sums[name] += array
    for total in sums.values():
        total *= np.float32(1 / len(paths))
    data = format_weights(sums, cfg, first.header.seen)
    outputs.write(Path(out), WEIGHTS, data)
    many = f"{len(paths)} file{'s' * (len(paths) > 1)}"
    screen.line(
        f"{out}: the mean of {many}, {len(data):,} bytes, seen {first.header.seen} as "
        f"in {paths[0]}; plain weights, no training state"
    )
    return 0


def statistics(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Print Darknet's three numbers of every array, layer by layer.

    Source:
        pjreddie/darknet f6afaab examples/darknet.c statistics_net,
        src/connected_layer.c statistics_connected_layer, src/utils.c print_statistics.
    """
    cfg = read_cfg(arguments[0], "detect")
    arrays = read_whole_weights(cfg, arguments[1]).arrays
    for layer in dict.fromkeys(int(name.partition(".")[0]) for name in arrays):
        screen.line(f"Convolutional Layer {layer}")
        for key, said in NAMES.items():
            if (array := arrays.get(f"{layer}.{key}")) is not None:
                screen.line(f"{said} {statistics_of(array)}")
        screen.line("")
    return 0


def statistics_of(array: Floats) -> str:
    """Return Darknet's line: the root of the mean square, the mean, the variance (by n)."""
    values = array.astype(np.float64)
    root = np.sqrt(np.mean(values * values))
    return f"MSE: {root:.6f}, Mean: {values.mean():.6f}, Variance: {values.var():.6f}"
