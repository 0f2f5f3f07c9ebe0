"""The rate follows Darknet's formulas; for what Debian's darknet prints see parity/."""

from dataclasses import replace
from math import cos, pi

import pytest

from relume.formats.cfg import parse_cfg
from relume.formats.sections import Net
from relume.schedule import learning_rate
from tests.cfg_texts import small_cfg


def _net(**values: object) -> Net:
    net = parse_cfg(small_cfg(max_batches=100), "net.cfg", "train").net
    return replace(net, learning_rate=0.5, burn_in=0, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("iteration", "start", "cycle"),
    [(1, 0, 10), (5, 0, 10), (10, 0, 10), (11, 10, 20), (30, 10, 20), (31, 30, 40), (70, 30, 40)],
)
def test_sgdr_falls_to_its_minimum_in_cycles_that_double(
    iteration: int, start: int, cycle: int
) -> None:
    net = _net(policy="sgdr", sgdr_cycle=10, sgdr_mult=2, learning_rate_min=0.1)
    expected = 0.1 + 0.4 * (1 + cos(pi * (iteration - start) / cycle)) / 2
    # Float32, and Darknet's pi has nine digits.
    assert learning_rate(net, iteration) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("policy", ["constant", "step", "exp", "poly", "sigmoid", "sgdr"])
def test_burn_in_holds_for_every_policy_and_ends_before_its_last_iteration(policy: str) -> None:
    net = replace(_net(policy=policy, sgdr_cycle=100), burn_in=4, power=2.0)
    assert [learning_rate(net, i) for i in (1, 2, 3)] == [0.5 / 16, 0.5 / 4, 0.5 * 9 / 16]
    assert learning_rate(net, 4) == learning_rate(replace(net, burn_in=0), 4)
