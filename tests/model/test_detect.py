"""Detections are Darknet's: their order, what is suppressed, where letterboxing puts them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.errors import CfgError
from relume.formats.cfg import parse_cfg
from relume.formats.sections import Yolo
from relume.model.detect import (
    AT_ONCE,
    Detections,
    NmsKind,
    Picture,
    correct_boxes,
    decode,
    detect_image,
    letterbox_size,
    nms_obj,
    nms_sort,
    prepare_image,
)
from relume.model.network import Network
from tests.cfg_texts import small_cfg
from tests.model.darknet_loops import F, Floats, box_iou

ANCHORS = ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0))
HEAD = Yolo(line=1, classes=2, num=3, mask=(0, 2), anchors_px=ANCHORS)


def random_detections(seed: int, count: int, classes: int = 3) -> Detections:
    """Return boxes of which many overlap, with some probabilities 0 and some equal."""
    generator = np.random.Generator(np.random.Philox(seed))
    boxes = generator.uniform(0.2, 0.6, (count, 4)).astype(F)
    probabilities = generator.integers(0, 12, (count, classes)).astype(F) / F(16)
    return Detections(boxes, np.full(count, 0.9, F), probabilities)


def suppressed_by_loops(found: Detections, thresh: float, exponent: float | None) -> Floats:
    """Return the probabilities that do_nms_sort or diounms_sort leaves."""
    left = found.probabilities.copy()
    for column in range(left.shape[1]):
        order = sorted(range(len(left)), key=lambda row: -found.probabilities[row, column])
        for place, row in enumerate(order):
            if left[row, column] == 0:
                continue
            for other in order[place + 1 :]:
                a, b = found.boxes_xywh_rel[row], found.boxes_xywh_rel[other]
                if overlap_less_distance(a, b, exponent) > F(thresh):
                    left[other, column] = 0
    return left


def overlap_less_distance(a: Floats, b: Floats, exponent: float | None) -> float:
    """Return IoU - (d^2 / c^2)^exponent, or the plain IoU."""
    iou = float(box_iou(a, b))
    if exponent is None:
        return iou
    low = np.minimum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.maximum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    ratio = np.square(a[:2] - b[:2]).sum() / np.square(high - low).sum()
    return iou - float(float(ratio) ** exponent)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 25),
    kind=st.sampled_from([("default", None), ("greedynms", 0.6), ("diounms", 0.9)]),
    thresh=st.sampled_from([0.1, 0.3, 0.45, 0.6]),
)
def test_suppression_is_that_of_darknets_loops(
    seed: int, count: int, kind: tuple[NmsKind, float | None], thresh: float
) -> None:
    found = random_detections(seed, count)
    kept = nms_sort(found, thresh, kind[0], beta_nms=0.9)
    assert np.array_equal(kept.probabilities, suppressed_by_loops(found, thresh, kind[1]))
    assert np.array_equal(kept.boxes_xywh_rel, found.boxes_xywh_rel)


@pytest.mark.parametrize("kind", [("default", None), ("greedynms", 0.6)])
def test_suppression_among_many_boxes_is_that_among_few(kind: tuple[NmsKind, float | None]) -> None:
    # More boxes than AT_ONCE, whose overlaps are computed only as they are needed.
    found = random_detections(8, AT_ONCE + 30, classes=2)
    kept = nms_sort(found, 0.6, kind[0]).probabilities
    assert np.array_equal(kept, suppressed_by_loops(found, 0.6, kind[1]))
    assert 0 < np.count_nonzero(kept) < np.count_nonzero(found.probabilities)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 25))
def test_suppression_by_objectness_is_that_of_darknets_loops(seed: int, count: int) -> None:
    generator = np.random.Generator(np.random.Philox(seed))
    objectness = generator.integers(1, 9, count).astype(F) / F(16)
    found = replace(random_detections(seed, count), objectness=objectness)
    dropped: set[int] = set()
    order = sorted(range(count), key=lambda row: -objectness[row])
    for place, row in enumerate(order):
        if row not in dropped:
            boxes = found.boxes_xywh_rel
            dropped |= {j for j in order[place + 1 :] if box_iou(boxes[row], boxes[j]) > F(0.4)}

    kept = nms_obj(found, 0.4)

    rows = [row for row in range(count) if row not in dropped]
    assert np.array_equal(kept.boxes_xywh_rel, found.boxes_xywh_rel[rows])
    assert np.array_equal(kept.objectness, objectness[rows])
    assert np.array_equal(kept.probabilities, found.probabilities[rows])


@pytest.mark.parametrize("kind", ["cornersnms", "greedy"])
def test_a_kind_of_suppression_that_does_not_exist_is_refused(kind: str) -> None:
    text = small_cfg().replace("[yolo]\n", f"[yolo]\nnms_kind={kind}\n")
    with pytest.raises(CfgError, match="nms_kind"):
        parse_cfg(text, "net.cfg", purpose="detect")


def test_suppression_changes_nothing_in_place_and_twice_is_once() -> None:
    found = random_detections(3, 30)
    before = found.probabilities.copy()
    once = nms_sort(found, 0.4)
    assert np.array_equal(found.probabilities, before)
    assert np.array_equal(nms_sort(once, 0.4).probabilities, once.probabilities)


def test_detections_come_head_by_head_cell_by_cell_anchor_by_anchor() -> None:
    generator = torch.Generator().manual_seed(1)
    raws = [torch.randn(2, 14, *grid, generator=generator) for grid in ((2, 3), (4, 6))]
    heads = [HEAD, replace(HEAD, mask=(1, 2))]
    for image, found in enumerate(decode(raws, heads, 96, 64, thresh=0.4)):
        expected = []
        for raw, head in zip(raws, heads, strict=True):
            _, _, height, width = raw.shape
            rows = raw[image].view(2, 7, height, width).double()
            for j in range(height):
                for i in range(width):
                    for n in range(2):
                        x, y, w, h, *rest = rows[n, :, j, i].tolist()
                        objectness, *classes = (1 / (1 + np.exp(-v)) for v in rest)
                        if objectness > 0.4:
                            anchor = head.anchors_px[head.mask[n]]
                            centre = (i + 1 / (1 + np.exp(-x))) / width
                            middle = (j + 1 / (1 + np.exp(-y))) / height
                            size = np.exp(w) * anchor[0] / 96, np.exp(h) * anchor[1] / 64
                            products = [c * objectness for c in classes]
                            shown = [p if p > 0.4 else 0.0 for p in products]
                            expected.append([centre, middle, *size, objectness, *shown])
        columns = (found.boxes_xywh_rel, found.objectness[:, None], found.probabilities)
        # Float32 against double.
        np.testing.assert_allclose(np.concatenate(columns, 1), expected, rtol=1e-5, atol=1e-6)


def test_nothing_found_is_an_empty_result_of_the_right_shape() -> None:
    (found,) = decode([torch.full((1, 14, 2, 2), -9.0)], [HEAD], 64, 64, thresh=0.5)
    assert found.boxes_xywh_rel.shape == (0, 4)
    assert found.objectness.shape == (0,)
    assert found.probabilities.shape == (0, 2)


def test_a_picture_of_the_networks_size_is_taken_as_it_is() -> None:
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    for letter_box in (False, True):
        image = prepare_image(picture, 6, 4, letter_box)
        expected = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        assert torch.equal(image, expected)


def test_stretching_keeps_the_corners() -> None:
    picture = np.random.Generator(np.random.Philox(5)).integers(0, 256, (7, 9, 3), np.uint8)
    image = prepare_image(picture, 20, 16, letter_box=False)[0]
    ours = image[:, [0, 0, -1, -1], [0, -1, 0, -1]].T.numpy()
    theirs = picture[[0, 0, -1, -1], [0, -1, 0, -1]].astype(F) / 255
    # Interpolation weights of 0 and 1 within float32 rounding.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.tuples(*[st.integers(1, 60)] * 4),
    channels=st.sampled_from([1, 3]),
)
def test_stretching_is_darknets_whatever_the_sizes(
    seed: int, sizes: tuple[int, ...], channels: int
) -> None:
    height, width, net_height, net_width = sizes
    generator = np.random.Generator(np.random.Philox(seed))
    picture = generator.integers(0, 256, (height, width, channels), np.uint8)
    image = prepare_image(picture, net_width, net_height, letter_box=False)[0].numpy()
    # Float32 rounding of positions and of two products.
    np.testing.assert_allclose(
        image, resized_by_loops(picture, net_width, net_height), rtol=0, atol=2e-5
    )


def resized_by_loops(picture: Picture, net_width: int, net_height: int) -> Floats:
    """Return [C, net_height, net_width] as resize_image makes it, in double."""
    height, width, channels = picture.shape
    out = np.zeros((channels, net_height, net_width))
    for r in range(net_height):
        for c in range(net_width):
            y = r * (height - 1) / (net_height - 1) if net_height > 1 else 0.0
            x = c * (width - 1) / (net_width - 1) if net_width > 1 else 0.0
            iy, ix = min(int(y), height - 1), min(int(x), width - 1)
            dy, dx = y - iy, x - ix
            rows = picture[[iy, min(iy + 1, height - 1)]].astype(float)
            pair = rows[:, [ix, min(ix + 1, width - 1)]]
            line = pair[:, 0] * (1 - dx) + pair[:, 1] * dx
            out[:, r, c] = (line[0] * (1 - dy) + line[1] * dy) / 255
    return out.astype(F)


@pytest.mark.parametrize(
    ("width", "height", "inner"),
    [(768, 576, (416, 312)), (576, 768, (312, 416)), (100, 100, (416, 416)), (5000, 1, (416, 1))],
)
def test_letterboxing_keeps_the_shape_and_fills_with_grey(
    width: int, height: int, inner: tuple[int, int]
) -> None:
    assert letterbox_size(width, height, 416, 416) == inner
    image = prepare_image(np.full((height, width, 3), 255, np.uint8), 416, 416, letter_box=True)
    assert int((image[0, 0] > 0.75).sum()) == inner[0] * inner[1]
    assert int((image[0, 0] == 0.5).sum()) == 416 * 416 - inner[0] * inner[1]


@given(
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    box=st.tuples(*[st.floats(0.125, 0.875, width=32)] * 4),
)
def test_correcting_boxes_undoes_the_letterbox(
    width: int, height: int, box: tuple[float, ...]
) -> None:
    net = np.array((416, 608), np.float64)
    inner = np.array(letterbox_size(width, height, 416, 608), np.float64)
    centre, size = np.array(box[:2]), np.array(box[2:])
    boxed = np.concatenate(((centre * inner + (net - inner) / 2) / net, size * inner / net))
    found = Detections(boxed[None].astype(F), np.ones(1, F), np.ones((1, 1), F))
    corrected = correct_boxes(found, width, height, 416, 608).boxes_xywh_rel[0]
    # Float32 rounding of the centre, enlarged by as much as the letterbox shrinks.
    tolerance = 1e-6 * float((net / inner).max())
    np.testing.assert_allclose(corrected, box, rtol=1e-5, atol=tolerance)


def test_detecting_in_a_batch_is_detecting_one_by_one() -> None:
    network = Network(parse_cfg(small_cfg(batch_normalize=0), "net.cfg", purpose="detect")).eval()
    net, heads = network.cfg.net, network.cfg.heads
    pictures = np.random.Generator(np.random.Philox(6)).integers(0, 256, (3, 40, 50, 3), np.uint8)
    images = torch.cat([prepare_image(p, net.width, net.height, False) for p in pictures])
    with torch.no_grad():
        together = decode(network(images), heads, net.width, net.height, 0.25)
    for picture, found in zip(pictures, together, strict=True):
        alone = detect_image(network, picture, thresh=0.25)
        # Convolutions of other batch sizes may add in another order.
        boxes = nms_sort(found).boxes_xywh_rel
        np.testing.assert_allclose(alone.boxes_xywh_rel, boxes, rtol=1e-5)
        assert len(found.objectness) > 0
