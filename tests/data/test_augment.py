from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.data.augment import Plan, apply_to_pixels, apply_to_truths, draw_plan
from relume.data.image import Pixels
from relume.draws import draw_words
from relume.formats.data_files import Boxes
from relume.formats.sections import Net, Yolo

NET = Net(
    line=1,
    batch=4,
    written_batch=4,
    subdivisions=2,
    width=64,
    height=64,
    channels=3,
    hue=0.1,
    saturation=1.5,
    exposure=1.5,
)
PLAIN = replace(NET, hue=0.0, saturation=1.0, exposure=1.0, flip=False)
CUTS = st.builds(
    Plan,
    pleft=st.integers(-40, 40),
    pright=st.integers(-40, 40),
    ptop=st.integers(-30, 30),
    pbot=st.integers(-30, 30),
    flip=st.booleans(),
)


def noise(height: int, width: int, channels: int = 3) -> Pixels:
    words = draw_words(1, "noise", (height, width), height * width * channels)
    return (words >> np.uint64(56)).astype(np.uint8).reshape(height, width, channels)


def plan_of(
    net: Net, jitter: float, resize: float, width_px: int, height_px: int, seed: int, position: int
) -> Plan:
    head = Yolo(line=2, jitter=jitter, resize=resize)
    return draw_plan(net, head, (width_px, height_px), (net.width, net.height), seed, position)


def boxes_of(*rows: tuple[float, float, float, float, float]) -> Boxes:
    return np.array(rows, dtype=np.float32).reshape(-1, 5)


# ---- drawing a plan


def test_the_plan_of_a_position_never_changes() -> None:
    # Raise `numerics` if this must change: every run in progress would see other pictures.
    assert plan_of(NET, 0.3, 1.5, 640, 480, seed=1, position=12345) == Plan(
        pleft=-103,
        ptop=102,
        pright=199,
        pbot=91,
        flip=False,
        hue=0.02601412683725357,
        saturation=1.1191093921661377,
        exposure=1.0331573486328125,
        shuffle=703018193580238229,
    )


def test_without_augmentation_a_plan_only_shuffles() -> None:
    plan = plan_of(PLAIN, 0.0, 1.0, 640, 480, 1, 2)
    assert replace(plan, shuffle=None) == Plan()
    assert plan.shuffle is not None


def test_one_kind_of_augmentation_leaves_the_draws_of_the_others() -> None:
    for position in range(20):
        plan = plan_of(NET, 0.3, 1.0, 640, 480, 5, position)
        no_flip = plan_of(replace(NET, flip=False), 0.3, 1.0, 640, 480, 5, position)
        assert no_flip == replace(plan, flip=False)
        no_hue = plan_of(replace(NET, hue=0.0), 0.3, 1.0, 640, 480, 5, position)
        assert no_hue == replace(plan, hue=0.0)
        no_jitter = plan_of(NET, 0.0, 1.0, 640, 480, 5, position)
        assert no_jitter == replace(plan, pleft=0, pright=0, ptop=0, pbot=0)


def test_seeds_and_positions_have_plans_of_their_own() -> None:
    plans = {plan_of(NET, 0.3, 1.0, 640, 480, seed, p) for seed in range(4) for p in range(50)}
    assert len(plans) == 200


def test_draws_fill_their_ranges() -> None:
    plans = [plan_of(NET, 0.3, 1.0, 640, 480, 9, position) for position in range(400)]
    for cuts, most in (
        ([cut for plan in plans for cut in (plan.pleft, plan.pright)], 192),
        ([cut for plan in plans for cut in (plan.ptop, plan.pbot)], 144),
    ):
        assert -most <= min(cuts) < -0.97 * most
        assert 0.97 * most < max(cuts) <= most
        # Uniform: standard error of the mean is most / sqrt(3) / sqrt(800) = most / 49.
        assert abs(float(np.mean(cuts))) < most / 10
    assert 150 < sum(plan.flip for plan in plans) < 250  # 200 expected, standard deviation 10
    assert 150 < sum(plan.hue > 0 for plan in plans) < 250
    assert max(abs(plan.hue) for plan in plans) <= np.float32(0.1)
    for factors in ([p.saturation for p in plans], [p.exposure for p in plans]):
        assert 1 / 1.5 <= min(factors) < 0.68
        assert 1.48 < max(factors) <= 1.5
        assert 150 < sum(factor > 1 for factor in factors) < 250


def test_resize_zooms_both_ways_and_below_one_only_outwards() -> None:
    both = [plan_of(PLAIN, 0.0, 1.5, 600, 300, 9, position) for position in range(300)]
    assert -150 <= min(plan.pleft for plan in both) < -145
    assert 90 < max(plan.pleft for plan in both) <= 100
    # One draw moves left and top, the other right and bottom, as in Darknet.
    assert all(abs(plan.pleft - 2 * plan.ptop) <= 2 for plan in both)
    assert all(abs(plan.pright - 2 * plan.pbot) <= 2 for plan in both)
    assert any(abs(plan.pleft - plan.pright) > 100 for plan in both)
    outwards = [plan_of(PLAIN, 0.0, 0.5, 600, 300, 9, position) for position in range(300)]
    assert min(p.pright for p in outwards) < -290
    assert max(p.pright for p in outwards) <= 0


@settings(deadline=None)
@given(
    st.floats(0, 3, width=32),
    st.floats(0.125, 8, width=32),
    st.integers(1, 500),
    st.integers(1, 500),
    st.integers(0, 2**40),
)
def test_a_plan_always_leaves_some_of_the_picture(
    jitter: float, resize: float, width_px: int, height_px: int, position: int
) -> None:
    plan = plan_of(NET, jitter, resize, width_px, height_px, 3, position)
    assert max(plan.pleft, 0) + max(plan.pright, 0) < width_px
    assert max(plan.ptop, 0) + max(plan.pbot, 0) < height_px


def test_a_factor_of_zero_means_one() -> None:
    plan = plan_of(replace(NET, saturation=0.0, exposure=0.0), 0.3, 1.0, 640, 480, 1, 2)
    assert (plan.saturation, plan.exposure) == (1.0, 1.0)


def test_a_letter_box_gives_the_crop_the_shape_of_the_net() -> None:
    boxed = replace(PLAIN, letter_box=True)

    def cuts(picture_px: tuple[int, int], input_px: tuple[int, int]) -> tuple[int, ...]:
        plan = draw_plan(boxed, Yolo(line=2, jitter=0), picture_px, input_px, 1, 2)
        return plan.pleft, plan.ptop, plan.pright, plan.pbot

    assert cuts((640, 480), (416, 416)) == (0, -80, 0, -80)
    assert cuts((480, 640), (416, 416)) == (-80, 0, -80, 0)
    assert cuts((100, 75), (96, 32)) == (-62, 0, -62, 0)  # 62.5, truncated as in C
    assert cuts((96, 32), (96, 32)) == (0, 0, 0, 0)


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.sampled_from([(64, 64), (96, 32), (32, 608)]),
    st.integers(0, 2**40),
)
def test_a_letter_box_only_adds_borders_to_what_jitter_and_resize_cut(
    picture_px: tuple[int, int], input_px: tuple[int, int], position: int
) -> None:
    head = Yolo(line=2, jitter=0.3, resize=1.5)
    plain = draw_plan(NET, head, picture_px, input_px, 3, position)
    boxed = draw_plan(replace(NET, letter_box=True), head, picture_px, input_px, 3, position)

    (width_px, height_px), (width, height) = picture_px, input_px
    wider = [plain.pleft - boxed.pleft, plain.pright - boxed.pright]
    higher = [plain.ptop - boxed.ptop, plain.pbot - boxed.pbot]
    # Truncation of both cuts, and of the border, moves each by less than a pixel.
    needed = max(0.0, height_px * width / height - width_px) / 2
    assert all(needed - 1 <= border <= needed + 1 for border in wider)
    needed = max(0.0, width_px * height / width - height_px) / 2
    assert all(needed - 1 <= border <= needed + 1 for border in higher)


def test_blur_and_noise_are_drawn_beside_the_others() -> None:
    head = Yolo(line=2, jitter=0.3)
    both = replace(NET, blur=5, gaussian_noise=300)
    plans = [draw_plan(both, head, (640, 480), (64, 64), 9, position) for position in range(900)]

    for position, plan in enumerate(plans[:50]):
        plain = draw_plan(NET, head, (640, 480), (64, 64), 9, position)
        assert replace(plan, blur=0, gaussian_noise=0, noise=0) == plain
    for blur in (0, 1, 5):  # 300 expected, standard deviation 14
        assert 240 < sum(plan.blur == blur for plan in plans) < 360
    noisy = [plan for plan in plans if plan.gaussian_noise]
    assert {plan.gaussian_noise for plan in noisy} == {127}  # as large as Darknet lets it be
    assert 375 < len(noisy) < 525  # 450 expected, standard deviation 15
    assert len({plan.noise for plan in noisy}) == len(noisy)


def test_the_plans_of_the_pictures_of_a_sample_never_change() -> None:
    # Raise `numerics` if this must change.
    net = replace(NET, blur=5, gaussian_noise=20)
    head = Yolo(line=2, jitter=0.3, resize=1.5)
    found = [draw_plan(net, head, (640, 480), (64, 64), 1, 12345, picture) for picture in (0, 3)]

    assert found == [
        Plan(
            pleft=-103,
            ptop=102,
            pright=199,
            pbot=91,
            flip=False,
            hue=0.02601412683725357,
            saturation=1.1191093921661377,
            exposure=1.0331573486328125,
            shuffle=703018193580238229,
            blur=1,
            gaussian_noise=20,
            noise=13790364132872738092,
        ),
        Plan(
            pleft=-121,
            ptop=-126,
            pright=-69,
            pbot=89,
            flip=True,
            hue=-0.03549236059188843,
            saturation=1.1313918828964233,
            exposure=0.7934315204620361,
            shuffle=15028740834772329759,
            blur=5,
            gaussian_noise=20,
            noise=10124061551268989986,
        ),
    ]


# ---- pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_the_neutral_plan_gives_the_picture_itself(channels: int) -> None:
    picture = noise(37, 53, channels)
    np.testing.assert_array_equal(apply_to_pixels(picture, Plan(), 53, 37), picture)


@settings(deadline=None, max_examples=40)
@given(CUTS, st.sampled_from([1, 3]))
def test_a_cut_is_what_darknet_cuts(plan: Plan, channels: int) -> None:
    picture = noise(90, 120, channels)
    width, height = 120 - plan.pleft - plan.pright, 90 - plan.ptop - plan.pbot
    canvas = np.empty((height, width, channels), dtype=np.uint8)
    canvas[:] = np.rint(picture.mean(axis=(0, 1)))
    for y in range(max(0, -plan.ptop), min(height, 90 - plan.ptop)):
        for x in range(max(0, -plan.pleft), min(width, 120 - plan.pleft)):
            canvas[y, x] = picture[y + plan.ptop, x + plan.pleft]
    sized = cv2.resize(canvas, (64, 48)).reshape(48, 64, channels)
    expected = sized[:, ::-1] if plan.flip else sized
    np.testing.assert_array_equal(apply_to_pixels(picture, plan, 64, 48), expected)


def changed(channel: Pixels, factor: float = 1.0, plus: float = 0.0) -> Pixels:
    """Round half to even and saturate, as OpenCV does; it rounds what it adds beforehand."""
    values = channel.astype(np.float32) * np.float32(factor) + np.rint(np.float32(plus))
    saturated: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return saturated


@pytest.mark.parametrize(("hue", "sat", "exp"), [(0.1, 1.5, 0.67), (-0.2, 0.4, 1.4), (0.5, 1, 1)])
def test_colours_change_in_saturating_8_bit_hsv(hue: float, sat: float, exp: float) -> None:
    picture = noise(60, 80)
    h, s, v = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV))
    hsv = np.stack([changed(h, plus=179 * hue), changed(s, sat), changed(v, exp)], axis=2)
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    plan = Plan(hue=hue, saturation=sat, exposure=exp)
    np.testing.assert_array_equal(apply_to_pixels(picture, plan, 80, 60), expected)


def test_a_hue_below_zero_stays_red() -> None:
    orange = np.full((4, 4, 3), (255, 128, 0), dtype=np.uint8)
    assert apply_to_pixels(orange, Plan(hue=-0.5), 4, 4)[0, 0].tolist() == [255, 0, 0]


def test_a_grey_picture_only_changes_its_exposure() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    plan = Plan(hue=0.1, saturation=1.5, exposure=1.3)
    np.testing.assert_array_equal(apply_to_pixels(grey, plan, 16, 16), changed(grey, 1.3))


# ---- truths


def darknet_truths(boxes: Boxes, plan: Plan, max_boxes: int) -> Boxes:
    """Darknet's steps one box at a time, after the shuffle: picture 120 x 90, net 64 x 64."""
    one, two = np.float32(1), np.float32(2)
    is_kept: list[bool] = []
    truths = boxes[:max_boxes].copy()
    for label, x, y, w, h in boxes[:max_boxes]:
        left, right, top, bottom = x - w / two, x + w / two, y - h / two, y + h / two
        is_wrong = (x == 0 and y == 0) or right < 0 or bottom < 0 or left > 1 or top > 1
        part_x = np.float32(120 - plan.pleft - plan.pright) / np.float32(120)
        part_y = np.float32(90 - plan.ptop - plan.pbot) / np.float32(90)
        dx = np.float32(plan.pleft) / np.float32(120) / part_x
        dy = np.float32(plan.ptop) / np.float32(90) / part_y
        left, right = left * (one / part_x) - dx, right * (one / part_x) - dx
        top, bottom = top * (one / part_y) - dy, bottom * (one / part_y) - dy
        if plan.flip:
            left, right = one - right, one - left
        left, right, top, bottom = (min(max(e, 0 * e), one) for e in (left, right, top, bottom))
        x, y, w, h = (left + right) / two, (top + bottom) / two, right - left, bottom - top
        truths[len(is_kept)] = label, x, y, w, h
        is_large = w >= 1 / 64 and h >= 1 / 64
        is_kept.append(bool(is_large and not is_wrong and 0 < x <= 1 and 0 < y <= 1))
    kept: Boxes = truths[np.array(is_kept, dtype=bool)]
    return kept


@settings(deadline=None)
@given(
    CUTS,
    st.lists(
        st.tuples(
            st.integers(0, 9).map(float),
            *[st.floats(-0.25, 1.25, width=32)] * 2,
            *[st.floats(-0.125, 1.5, width=32)] * 2,
        ),
        max_size=8,
    ),
    st.integers(1, 9),
)
def test_truths_are_darknets(
    plan: Plan, rows: list[tuple[float, float, float, float, float]], max_boxes: int
) -> None:
    boxes = boxes_of(*rows)
    truths = apply_to_truths(boxes, plan, 120, 90, 64, 64, max_boxes)
    np.testing.assert_array_equal(truths, darknet_truths(boxes, plan, max_boxes))
    assert truths.dtype == np.float32


@settings(deadline=None, max_examples=60)
@given(CUTS, st.integers(0, 90), st.integers(0, 60), st.integers(8, 30), st.integers(8, 30))
def test_boxes_follow_the_pixels(plan: Plan, left: int, top: int, w: int, h: int) -> None:
    picture = np.zeros((90, 120, 3), dtype=np.uint8)
    picture[top : top + h, left : left + w] = 255
    box = boxes_of((0, (left + w / 2) / 120, (top + h / 2) / 90, w / 120, h / 90))
    sized = apply_to_pixels(picture, plan, 416, 416)
    rows, columns = np.nonzero(sized[:, :, 0] > 127)
    truths = apply_to_truths(box, plan, 120, 90, 416, 416, 200)
    if len(rows) == 0:
        assert len(truths) == 0
        return
    ((_, x, y, w_rel, h_rel),) = truths * np.float32(416)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    told = [x - w_rel / 2, y - h_rel / 2, x + w_rel / 2, y + h_rel / 2]
    # Half-way between white and black is within half a pixel of the edge, rounded to a pixel.
    np.testing.assert_allclose(told, found, atol=1.01)


@settings(deadline=None, max_examples=40)
@given(CUTS, st.sampled_from([1, 3]))
def test_cuts_and_flips_of_pixels_invert(plan: Plan, channels: int) -> None:
    """Cut without resizing, then cut back: what was seen is the picture again."""
    picture = noise(90, 120, channels)
    width, height = 120 - plan.pleft - plan.pright, 90 - plan.ptop - plan.pbot
    left, right = (plan.pright, plan.pleft) if plan.flip else (plan.pleft, plan.pright)
    back = Plan(-left, -plan.ptop, -right, -plan.pbot, plan.flip)

    again = apply_to_pixels(apply_to_pixels(picture, plan, width, height), back, 120, 90)

    rows = slice(max(plan.ptop, 0), 90 - max(plan.pbot, 0))
    columns = slice(max(plan.pleft, 0), 120 - max(plan.pright, 0))
    np.testing.assert_array_equal(again[rows, columns], picture[rows, columns])


@settings(deadline=None)
@given(CUTS, *[st.floats(0.0625, 0.25, width=32)] * 2, *[st.floats(0.25, 0.75, width=32)] * 2)
def test_cuts_and_flips_of_boxes_invert(plan: Plan, w: float, h: float, x: float, y: float) -> None:
    """A box that is not cut comes back to where it was."""
    width, height = 120 - plan.pleft - plan.pright, 90 - plan.ptop - plan.pbot
    left, right = (plan.pright, plan.pleft) if plan.flip else (plan.pleft, plan.pright)
    back = Plan(-left, -plan.ptop, -right, -plan.pbot, plan.flip)
    box = boxes_of((3, x, y, w, h))
    starts, ends = box[0, 1:3] - box[0, 3:5] / 2, box[0, 1:3] + box[0, 3:5] / 2
    is_whole = (starts * (120, 90) >= (plan.pleft, plan.ptop)).all()
    is_whole &= (ends * (120, 90) <= (120 - plan.pright, 90 - plan.pbot)).all()

    cut = apply_to_truths(box, plan, 120, 90, 4000, 4000, 9)
    again = apply_to_truths(cut, back, width, height, 4000, 4000, 9)

    if is_whole and (starts >= 0).all() and (ends <= 1).all():
        np.testing.assert_allclose(again, box, atol=1e-6)  # float32, a few roundings


def chi_square(values: list[float], low: float, high: float) -> float:
    """Return how far values are from a uniform distribution: 9 degrees of freedom."""
    counts, _ = np.histogram(values, bins=10, range=(low, high))
    assert counts.sum() == len(values)
    return float(((counts - len(values) / 10) ** 2 / (len(values) / 10)).sum())


def test_cuts_and_colours_are_distributed_as_darknet_draws_them() -> None:
    plans = [plan_of(NET, 0.25, 1.0, 4000, 4000, 6, position) for position in range(3000)]
    uniform: dict[str, tuple[list[float], float, float]] = {
        "pleft": ([plan.pleft for plan in plans], -1000, 1000),
        "pright": ([plan.pright for plan in plans], -1000, 1000),
        "ptop": ([plan.ptop for plan in plans], -1000, 1000),
        "pbot": ([plan.pbot for plan in plans], -1000, 1000),
        "hue": ([plan.hue for plan in plans], -0.1, 0.1000001),
    }
    for name in ("saturation", "exposure"):  # uniform above 1, and so are the inverses below
        factors = [getattr(plan, name) for plan in plans]
        uniform[f"{name} up"] = ([f for f in factors if f > 1], 1, 1.5000001)
        uniform[f"{name} down"] = ([1 / f for f in factors if f <= 1], 0.9999999, 1.5000001)
        # 1500 expected, standard deviation 27.
        assert 1390 < len(uniform[f"{name} up"][0]) < 1610
    for name, (values, low, high) in uniform.items():
        assert chi_square(values, low, high) < 33.7, name  # 99.99 % lie below


def test_small_outside_and_wrong_boxes_are_dropped() -> None:
    good = (1.0, 0.5, 0.5, 0.25, 0.25)
    boxes = boxes_of(
        (0, 0.5, 0.5, 0.01, 0.5),  # narrower than one of 64 pixels
        (0, 0.0, 0.0, 0.5, 0.5),  # Darknet's mark for a wrong label
        (0, 1.5, 0.5, 0.5, 0.5),  # outside the picture
        good,
        (0, 0.5, 0.5, -0.2, 0.5),  # negative
    )
    truths = apply_to_truths(boxes, Plan(), 100, 100, 64, 64, 200)
    np.testing.assert_array_equal(truths, boxes_of(good))


def test_dropped_boxes_count_towards_max() -> None:
    boxes = boxes_of((0, 0.5, 0.5, 0, 0), (1, 0.5, 0.5, 0.5, 0.5), (2, 0.5, 0.5, 0.5, 0.5))
    assert apply_to_truths(boxes, Plan(), 100, 100, 64, 64, 2)[:, 0].tolist() == [1]


def test_a_picture_without_boxes_has_no_truths() -> None:
    plan = plan_of(NET, 0.3, 1.0, 100, 100, 1, 2)
    assert apply_to_truths(boxes_of(), plan, 100, 100, 64, 64, 200).shape == (0, 5)


def test_a_shuffle_keeps_every_box() -> None:
    boxes = boxes_of(*((i, 0.5, 0.5, 0.25, 0.25) for i in range(30)))
    orders = []
    for shuffle in range(5):
        truths = apply_to_truths(boxes, Plan(shuffle=shuffle), 100, 100, 64, 64, 200)
        assert sorted(truths[:, 0]) == list(range(30))
        orders.append(tuple(truths[:, 0]))
    assert len(set(orders)) == 5
