"""Rate and input size against numbers that Darknet's own C formulas gave (gcc, x86-64)."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from relume.formats.cfg import parse_cfg
from relume.formats.sections import Cfg, Net
from relume.schedule import input_size, learning_rate
from tests.cfg_texts import small_cfg

KEYS: dict[str, Any] = {
    "learning_rate": 0.001, "learning_rate_min": 0.00001, "burn_in": 20, "power": 4.0,
    "step": 37, "scale": 0.7, "gamma": 0.99, "max_batches": 500, "steps": (400, 450),
    "scales": (0.1, 0.1), "sgdr_cycle": 60, "sgdr_mult": 2,
}  # fmt: skip


def net_of(policy: str, **keys: object) -> Net:
    net = parse_cfg(small_cfg(), "net.cfg", "train").net
    return replace(net, policy=policy, **(KEYS | keys))


@pytest.mark.parametrize(
    ("policy", "keys", "rates"),
    [
        (
            "constant",
            {},
            {
                1: "6.25000052e-09",
                19: "0.00081450626",
                20: "0.00100000005",
                111: "0.00100000005",
                399: "0.00100000005",
                400: "0.00100000005",
                450: "0.00100000005",
                500: "0.00100000005",
            },
        ),
        (
            "step",
            {},
            {
                1: "6.25000052e-09",
                19: "0.00081450626",
                20: "0.00100000005",
                111: "0.000342999992",
                399: "2.82475212e-05",
                400: "2.82475212e-05",
                450: "1.38412852e-05",
                500: "9.68889981e-06",
            },
        ),
        (
            "steps",
            {},
            {
                1: "6.25000052e-09",
                19: "0.00081450626",
                20: "0.00100000005",
                111: "0.00100000005",
                399: "0.00100000005",
                400: "0.000100000005",
                450: "1.00000007e-05",
                500: "1.00000007e-05",
            },
        ),
        (
            "exp",
            {},
            {
                1: "6.25000052e-09",
                19: "0.00081450626",
                20: "0.000817907159",
                111: "0.00032772313",
                399: "1.81319429e-05",
                400: "1.79506242e-05",
                450: "1.08602417e-05",
                500: "6.57051487e-06",
            },
        ),
        (
            "poly",
            {"power": 0.9},
            {
                1: "6.74641487e-05",
                19: "0.000954885443",
                20: "0.000963926956",
                111: "0.000797777262",
                399: "0.000237037093",
                400: "0.000234923791",
                450: "0.000125892577",
                500: "0",
            },
        ),
        (
            "sigmoid",
            {"gamma": 0.03, "step": 200},
            {
                1: "6.25000052e-09",
                19: "0.00081450626",
                20: "0.000995503739",
                111: "0.000935233082",
                399: "2.54773454e-06",
                400: "2.47262324e-06",
                450: "5.52778658e-07",
                500: "1.23394585e-07",
            },
        ),
        (
            "sgdr",
            {},
            {
                1: "6.25000052e-09",
                19: "0.00081450626",
                20: "0.000752500084",
                111: "0.000620555482",
                399: "2.858466e-05",
                400: "2.68667172e-05",
                450: "0.000990488799",
                500: "0.000933682662",
            },
        ),
    ],
)
def test_the_rate_is_darknets_to_the_bit(
    policy: str, keys: dict[str, object], rates: dict[int, str]
) -> None:
    found = {i: f"{learning_rate(net_of(policy, **keys), i):.9g}" for i in rates}

    assert found == rates


def test_a_rate_is_a_float32() -> None:
    for policy in ("constant", "step", "steps", "exp", "poly", "sigmoid", "sgdr"):
        for iteration in (1, 19, 20, 123, 500, 501):
            rate = learning_rate(net_of(policy), iteration)

            assert rate == float(np.float32(rate)), (policy, iteration)


def test_a_rate_beyond_all_bounds_is_infinite_as_in_c() -> None:
    assert learning_rate(net_of("step", scale=10.0, step=1), 500) == float("inf")
    assert learning_rate(net_of("exp", gamma=1e30), 500) == float("inf")
    assert learning_rate(net_of("sigmoid", gamma=1e6), 500) == 0.0


def multi_scale(size: int = 416, max_batches: int = 500, random: object = 1) -> Cfg:
    return parse_cfg(
        small_cfg(size=size, max_batches=max_batches, yolo={"random": random}), "net.cfg", "train"
    )


def sizes(cfg: Cfg, seed: int, iterations: range) -> list[tuple[int, int]]:
    return [input_size(cfg, seed, i) for i in iterations]


def test_without_random_the_size_is_the_cfgs() -> None:
    assert set(sizes(multi_scale(random=0), 0, range(1, 500))) == {(416, 416)}


def test_ten_iterations_share_a_size_and_the_ends_have_the_largest() -> None:
    cfg = multi_scale()
    found = sizes(cfg, 0, range(1, 501))

    assert [len(set(found[i : i + 10])) for i in range(0, 500, 10)] == [1] * 50
    assert set(found[:10]) == {(608, 608)}
    assert set(found[410:]) == {(608, 608)}
    assert len(set(found[10:410])) > 5


def test_sizes_span_what_darknets_do() -> None:
    """416 gives 320 to 608 in steps of 32 (AlexeyAB's train_detector)."""
    found = {size for seed in range(20) for size in sizes(multi_scale(), seed, range(11, 401, 10))}

    assert found == {(side, side) for side in range(320, 609, 32)}


def test_a_factor_other_than_1_widens_the_span() -> None:
    found = {w for w, _ in sizes(multi_scale(random=2), 0, range(11, 401, 10))}

    assert max(found) > 608
    assert min(found) < 320


def test_sizes_belong_to_seed_and_iteration() -> None:
    cfg = multi_scale()
    blocks = range(11, 401, 10)

    assert sizes(cfg, 5, blocks) == sizes(cfg, 5, blocks)
    assert sizes(cfg, 5, blocks) != sizes(cfg, 6, blocks)
    longer = multi_scale(max_batches=900)
    assert sizes(longer, 5, blocks) == sizes(cfg, 5, blocks)


def test_the_first_drawn_sizes_are_pinned() -> None:
    # Another sequence would be another training: raise NUMERICS.
    assert [w for w, _ in sizes(multi_scale(), 0, range(11, 111, 10))] == [
        352,
        320,
        384,
        544,
        448,
        416,
        512,
        384,
        352,
        384,
    ]
