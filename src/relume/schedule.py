"""Rate and input size as pure functions of (cfg, seed, iteration): there is nothing to save.

`iteration` counts updates with the one in question included, so the first is 1: Darknet raises
`seen` before the forward pass and reads the rate after it.
"""

import math

import numpy as np

from relume.draws import draw_uniforms
from relume.formats.sections import Cfg, Net

LEAST_INTERVAL = 100
"""Iterations between two evaluations, at least."""
RESIZE_EVERY = 10
"""Iterations that share one multi-scale size."""
FULL_SIZE_AT_END = 100
"""The last iterations are trained at the largest size."""


@np.errstate(over="ignore", invalid="ignore")
def learning_rate(net: Net, iteration: int) -> float:
    """Return the rate that Darknet applies in update `iteration` (>= 1).

    The value is a float32, computed in Darknet's order from float32 keys; it is per image,
    before the division of the gradient's sum by `batch` and the layer's own `learning_rate`.

    Source:
        AlexeyAB/darknet 59596d78 src/network.c get_current_rate.
    """
    rate = _float32(net.learning_rate)
    scale, gamma, power = (_float32(value) for value in (net.scale, net.gamma, net.power))
    if iteration < net.burn_in:
        return _float32(rate * _power(np.float32(iteration) / np.float32(net.burn_in), power))
    match net.policy:
        case "constant":
            return rate
        case "step":
            return _float32(rate * _power(scale, iteration // net.step))
        case "steps":
            return _rate_after_steps(net, iteration)
        case "exp":
            return _float32(rate * _power(gamma, iteration))
        case "poly":
            part = np.float32(1) - np.float32(iteration) / np.float32(net.max_batches)
            return _float32(rate * _power(max(part, np.float32(0)), power))
        case "sigmoid":
            exponent = min(float(np.float32(gamma) * np.float32(iteration - net.step)), 700.0)
            return _float32(rate / (1.0 + math.exp(exponent)))  # exp(710) overflows
        case "sgdr":
            return _rate_in_cycle(net, iteration)
    raise AssertionError(f"policy {net.policy} passed the cfg's checks")


def _rate_after_steps(net: Net, iteration: int) -> float:
    rate = np.float32(net.learning_rate)
    for step, scale in zip(net.steps, net.scales, strict=True):
        if step > iteration:
            break
        rate = rate * np.float32(scale)
    return float(rate)


def _rate_in_cycle(net: Net, iteration: int) -> float:
    start, cycle = 0, net.sgdr_cycle
    if net.sgdr_mult == 1:  # all cycles are alike: no need to count them one by one
        start = (iteration - 1) // cycle * cycle
    while start + cycle < iteration:
        start += cycle
        cycle *= net.sgdr_mult
    part = (iteration - start) * 3.14159265 / cycle  # Darknet's pi
    low = np.float32(net.learning_rate_min)
    span = float(np.float32(net.learning_rate) - low)
    return _float32(float(low) + 0.5 * span * (1 + math.cos(part)))


@np.errstate(over="ignore")
def input_size(cfg: Cfg, seed: int, iteration: int) -> tuple[int, int]:
    """Return (width, height) in pixels of the network's input in update `iteration` (>= 1).

    With `random` in the last [yolo] section every ten iterations share a size between
    size / 1.4 and size * 1.4 (or by the factor `random` > 1). The first ten and the last
    hundred use the largest: memory that is short shows at once, and the rolling statistics
    settle on one size. Darknet draws from a counter that restarts with the process; here
    the draw belongs to the iteration.

    Source:
        AlexeyAB/darknet 59596d78 src/detector.c train_detector.
    """
    net = cfg.net
    random = cfg.heads[-1].random
    if random == 0:
        return net.width, net.height
    factor = np.float32(1.4 if random == 1 else random)
    block = (iteration - 1) // RESIZE_EVERY
    if block == 0 or block * RESIZE_EVERY > net.max_batches - FULL_SIZE_AT_END:
        return _resized(net, factor)
    upon, inverted = draw_uniforms(seed, "input size", (block,), 2)
    value = np.float32(1) + (factor - np.float32(1)) * upon
    if inverted < 0.5:
        value = np.float32(1) / value
    width, height = _resized(net, value)
    if value < 1 and (width > net.width or height > net.height):
        return net.width, net.height
    return width, height


def evaluation_interval(net: Net, images: int, epochs: int) -> int:
    """Return the iterations from one evaluation of `-map` to the next.

    Args:
        net: of the run.
        images: lines of the list that is trained on.
        epochs: as -mAP_epochs says.
    Source:
        AlexeyAB/darknet 59596d78 src/detector.c train_detector (calc_map_for_each).
    """
    return max(LEAST_INTERVAL, epochs * images // net.batch)


def is_evaluated(net: Net, interval: int, iteration: int) -> bool:
    """Tell whether the state after `iteration` is evaluated.

    That is the last one, and those at whole intervals behind the first, which comes no sooner
    than the end of burn_in. Darknet counts intervals from the start of the process.

    Source:
        AlexeyAB/darknet 59596d78 src/detector.c train_detector (next_map_calc).
    """
    behind_first = iteration - max(net.burn_in, interval)
    return iteration == net.max_batches or (behind_first >= 0 and behind_first % interval == 0)


def count_evaluations(net: Net, interval: int, iteration: int) -> int:
    """Return how many states after `iteration` are evaluated."""

    def at_intervals(until: int) -> int:
        return max((until - max(net.burn_in, interval)) // interval + 1, 0)

    if iteration >= net.max_batches:
        return 0
    before_last = net.max_batches - 1
    return at_intervals(before_last) - at_intervals(iteration) + 1


def next_evaluation(net: Net, interval: int, iteration: int) -> int:
    """Return the first iteration behind `iteration` that is evaluated."""
    first = max(net.burn_in, interval)
    done = max((iteration - first) // interval, -1)
    following = first + (done + 1) * interval
    return net.max_batches if iteration < net.max_batches < following else following


def _resized(net: Net, value: np.float32) -> tuple[int, int]:
    def fit(side: int) -> int:
        steps = math.floor(float(value * np.float32(side) / net.resize_step) + 1 + 0.5)
        return max(steps, 1) * net.resize_step

    return fit(net.width), fit(net.height)


def _power(base: float | np.float32, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except (OverflowError, ValueError):
        return math.inf  # as C's pow; the loss of the next iteration will tell


def _float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))
