"""A reduced picture shows what the whole one would, to half a pixel of the net's input."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relume.data import reduction
from relume.data.augment import Plan, apply_to_pixels
from relume.data.reduction import REDUCTIONS, reduced_plan, reduction_for
from relume.data.sample import Source, load_sample
from relume.formats.cfg import parse_cfg
from tests.cfg_texts import small_cfg

SIDES = st.integers(1, 6000)
CUTS = st.integers(-3000, 3000)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (640, 480, 1),
        (831, 832, 1),
        (832, 832, 2),
        (1664, 9999, 4),
        (4032, 3327, 4),
        (3328, 3328, 8),
    ],
)
def test_what_is_cut_out_is_never_smaller_than_the_input(
    width: int, height: int, expected: int
) -> None:
    assert reduction_for(Plan(), (width, height), (416, 416)) == expected
    cut = Plan(pleft=100, pright=-30, ptop=-50, pbot=20)
    assert reduction_for(cut, (width + 70, height - 30), (416, 416)) == expected


@given(SIDES, SIDES, CUTS, CUTS, st.sampled_from(REDUCTIONS))
def test_cuts_move_by_half_a_reduced_pixel_at_most(
    width: int, height: int, start: int, end: int, part: int
) -> None:
    if max(start, 0) + max(end, 0) >= width:
        start = end = 0
    reduced_px = -(-width // part), -(-height // part)
    pixels = np.broadcast_to(np.uint8(0), (reduced_px[1], reduced_px[0], 3))
    plan = reduced_plan(Plan(pleft=start, pright=end), (width, height), pixels)

    assert max(plan.pleft, 0) + max(plan.pright, 0) < reduced_px[0]
    enough_is_left = width - max(start, 0) - max(end, 0) >= 2 * part
    if enough_is_left:
        assert abs(plan.pleft * width / reduced_px[0] - start) <= 0.5 * width / reduced_px[0]
        assert abs(plan.pright * width / reduced_px[0] - end) <= 0.5 * width / reduced_px[0]


def test_a_picture_that_was_not_reduced_keeps_its_plan() -> None:
    plan = Plan(pleft=7, pbot=-3)

    assert reduced_plan(plan, (640, 480), np.zeros((480, 640, 3), np.uint8)) is plan


def test_a_smooth_picture_comes_out_the_same_within_a_few_levels() -> None:
    """Half a pixel of a ramp of 256 levels over 104 pixels is 1.2 levels; the JPEG adds its own."""
    ramp = np.linspace(0, 255, 1664)
    picture = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 128), axis=2).astype(np.uint8)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
    whole = cv2.imdecode(data, cv2.IMREAD_COLOR)
    part = cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_8)
    assert whole is not None
    assert part is not None
    plan = Plan(pleft=333, pright=-201, ptop=-59, pbot=501, flip=True)

    one = apply_to_pixels(whole, plan, 104, 104).astype(int)
    other = apply_to_pixels(part, reduced_plan(plan, (1664, 1664), part), 104, 104)

    inside = np.s_[6:, 20:]  # the edge of the border may fall on the next pixel
    assert np.abs(one - other)[inside].max() <= 5


def test_a_large_photograph_is_trained_on_as_if_it_had_been_decoded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for its fine detail: the samples agree in every smooth place, and in every box."""
    ramp = np.linspace(0, 255, 900)
    picture = np.stack(np.broadcast_arrays(ramp, ramp[:600, None], 128), axis=2)
    cv2.imwrite(str(tmp_path / "a.jpg"), picture.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 100])
    boxes = np.array([[0, 0.4, 0.5, 0.3, 0.2], [1, 0.7, 0.7, 0.1, 0.1]], np.float32)
    source = Source(
        net=parse_cfg(small_cfg(yolo={"jitter": 0.2}), "net.cfg", "train").net,
        head=parse_cfg(small_cfg(yolo={"jitter": 0.2}), "net.cfg", "train").heads[-1],
        seed=0,
        image_paths=[tmp_path / "a.jpg"],
        places=["train.txt:1"],
        labels=[boxes],
    )
    reduced = [load_sample(source, position, 64, 64) for position in range(12)]
    monkeypatch.setattr(reduction, "REDUCTIONS", ())
    wholes = [load_sample(source, position, 64, 64) for position in range(12)]

    differ = 0
    for one, other in zip(reduced, wholes, strict=True):
        assert one.truths.tobytes() == other.truths.tobytes()
        distance = np.abs(one.image.astype(int) - other.image)
        # Half a pixel of the input is two levels of the ramp; JPEG and colour add as much.
        assert np.percentile(distance, 90) <= 6
        differ += int(distance.any())
    assert differ > 6
