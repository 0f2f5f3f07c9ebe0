"""A model says in onnxruntime and OpenCV what our network says, layer kind by layer kind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor

from relume.data.image import read_picture
from relume.detector import load_network
from relume.export.form import NEWEST_OPSET, OLDEST_OPSET, Form, Suppression
from relume.export.model import onnx_model
from relume.formats.cfg import parse_cfg, read_cfg
from relume.formats.keys import ACTIVATIONS
from relume.model.detect import Detections, decode, nms_sort, prepare_image
from relume.model.inference import run_fused
from relume.model.network import Network
from tests import cfg_texts
from tests.export.onnx_models import Both, Outputs, both, run
from tests.shared import SHARED, needs_shared

RAW = Form(raw=True)
CLOSE = 1e-4
"""The promise; float32 sums in other orders differ by about 1e-5 of values near 20."""


def random_net(text: str, channels: int = 3) -> Both:
    """Return a net with weights from a seed, statistics and scales among them."""
    cfg = parse_cfg(text.replace("channels=3", f"channels={channels}"), "net.cfg", "detect")
    network = Network(cfg, seed=5)
    generator = torch.Generator().manual_seed(6)
    for name, tensor in network.darknet_arrays().items():
        if not name.endswith("weights"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return both(network)


def noise(net: Both, count: int = 1) -> Tensor:
    """Return [count, C, H, W] in 0..1."""
    shape = (count, net.cfg.net.channels, net.cfg.net.height, net.cfg.net.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(7))


def of_layers(*sections: str, width: int = 48, height: int = 32, **yolo: object) -> str:
    """Return a cfg that ends in one head behind these sections."""
    head = cfg_texts.head((0, 1), cfg_texts.SMALL_ANCHORS, 3, **yolo)
    return "\n".join((cfg_texts.net(width, height, 2, 1), *sections, *head))


FIRST = cfg_texts.convolution(8)
WIDE = cfg_texts.section("maxpool", size=2, stride=2, padding=7)
"""A pool with windows that lie wholly outside the picture, before it and after it."""
KINDS = {
    "two heads": cfg_texts.small_cfg(),
    "no batch norm": cfg_texts.small_cfg(batch_normalize=0),
    "dropout": cfg_texts.small_cfg(dropout=0.3),
    "residual": cfg_texts.small_residual_cfg(),
    "spp": cfg_texts.yolov3_cfg(width=64, height=96, divide=16, spp=True),
    **{
        f"convolution, {kind}": of_layers(cfg_texts.convolution(6, activation=kind), FIRST)
        for kind in ACTIVATIONS
    },
    "groups": of_layers(FIRST, cfg_texts.convolution(12, groups=4)),
    "depthwise": of_layers(FIRST, cfg_texts.convolution(8, stride=2, groups=8)),
    "dilation": of_layers(FIRST, cfg_texts.convolution(6, size=3, dilation=3)),
    "strides": of_layers(cfg_texts.convolution(6, stride_x=2, stride_y=4)),
    "even window": of_layers(cfg_texts.convolution(6, size=4, stride=2)),
    "maxpool 3, stride 2": of_layers(FIRST, cfg_texts.section("maxpool", size=3, stride=2)),
    "maxpool 2, stride 1": of_layers(FIRST, cfg_texts.section("maxpool", size=2, stride=1)),
    "maxpool 13, stride 1": of_layers(FIRST, cfg_texts.section("maxpool", size=13, stride=1)),
    "maxpool of two strides": of_layers(
        FIRST, cfg_texts.section("maxpool", size=3, stride_x=1, stride_y=2, padding=1)
    ),
    "maxpool, odd size": of_layers(
        FIRST, cfg_texts.section("maxpool", size=2, stride=2), width=45, height=33
    ),
    "maxpool, no padding": of_layers(
        FIRST, cfg_texts.section("maxpool", size=3, stride=2, padding=0)
    ),
    "maxpool, wide padding": of_layers(
        FIRST, cfg_texts.section("maxpool", size=3, stride=2, padding=4)
    ),
    "maxpool of windows outside the picture": of_layers(
        FIRST, WIDE, cfg_texts.section("maxpool", size=5, stride=1)
    ),
    "upsample": of_layers(FIRST, cfg_texts.section("upsample", stride=3)),
    "route, groups": of_layers(
        FIRST, cfg_texts.section("route", layers="-1", groups=2, group_id=1)
    ),
    "route, groups of two": of_layers(
        FIRST, FIRST, cfg_texts.section("route", layers="-1,-2", groups=4, group_id=2)
    ),
    "shortcut": of_layers(
        FIRST,
        cfg_texts.convolution(5),
        FIRST,
        cfg_texts.section("shortcut", from_="-3,-2", activation="swish"),
    ),
    "shortcut of a wider": of_layers(
        cfg_texts.convolution(5), FIRST, cfg_texts.section("shortcut", from_=-2)
    ),
    "scale_x_y": of_layers(FIRST, scale_x_y=1.2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_heads_of_every_kind_of_layer_are_ours(kind: str) -> None:
    net = random_net(KINDS[kind])
    images = noise(net)
    theirs = list(run(net.model(RAW), images).values())

    for ours, their in zip(net.raws(images), theirs, strict=True):
        np.testing.assert_allclose(their, ours, rtol=0, atol=CLOSE)


def test_a_window_outside_the_picture_is_the_lowest_number() -> None:
    net = random_net(of_layers(FIRST, WIDE))
    # Sums of the lowest number overflow, or do not, by their order: only tiny weights leave it.
    for array in (net.arrays["2.weights"], net.arrays["2.biases"]):
        array *= np.float32(1e-38)
    images = noise(net)
    (theirs,) = run(net.model(RAW), images).values()
    (ours,) = net.raws(images)
    (fused,) = (raw.numpy() for raw in run_fused(net.network)(images))
    weights = net.arrays["2.weights"].sum((1, 2, 3), dtype=np.float64)
    outside = weights * np.finfo(np.float32).min

    assert ours.shape[2:] == (19, 27)
    for raw in (ours, theirs, fused):
        np.testing.assert_allclose(raw, ours, rtol=0, atol=CLOSE)
        for row, column in ((0, 9), (18, 9), (9, 0), (9, 26)):
            np.testing.assert_allclose(raw[0, :, row, column], outside, rtol=1e-5)


def ours_of(net: Both, images: Tensor, thresh: float) -> list[Detections]:
    """Return what our own decoding makes of pictures, without suppression."""
    raws = [torch.from_numpy(raw) for raw in net.raws(images)]
    return decode(raws, net.cfg.heads, net.cfg.net.width, net.cfg.net.height, thresh)


FORMS = (RAW, Form(), Form(batch=None), Form(suppression=Suppression(0.2, 0.45)))


@pytest.mark.parametrize("form", FORMS)
def test_onnxruntime_has_nothing_to_warn_of(form: Form, capfd: pytest.CaptureFixture[str]) -> None:
    net = random_net(KINDS["residual"])
    run(net.model(form), noise(net))

    assert capfd.readouterr() == ("", "")


def test_onnxruntimes_warnings_would_be_seen(capfd: pytest.CaptureFixture[str]) -> None:
    net = random_net(KINDS["upsample"])
    model = onnx.load_from_string(net.model(RAW))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3), "unused"))
    run(model.SerializeToString(), noise(net))

    assert "unused" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["two heads", "spp", "scale_x_y"])
@pytest.mark.parametrize("batch", [2, None])
def test_boxes_and_probabilities_are_ours_in_our_order(kind: str, batch: int | None) -> None:
    net = random_net(KINDS[kind])
    images = noise(net, count=2)
    theirs = run(net.model(Form(batch=batch)), images)
    ours = ours_of(net, images, thresh=-1)

    assert list(theirs) == ["boxes_xywh_rel", "probabilities"]
    for number, found in enumerate(ours):
        boxes, probabilities = (output[number] for output in theirs.values())
        np.testing.assert_allclose(boxes, found.boxes_xywh_rel, rtol=0, atol=CLOSE)
        np.testing.assert_allclose(probabilities, found.probabilities, rtol=0, atol=CLOSE)


MODELS = ("yolov3-tiny", "yolo-fastest-1.1", "yoloface-50k")
PICTURES = ("dog.jpg", "eagle.png", "giraffe.png", "horses.png", "kite.png", "person.png")


@needs_shared
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("letter_box", [False, True])
def test_trained_nets_say_the_same_of_pictures(name: str, letter_box: bool) -> None:
    path = SHARED / "models" / name / name
    cfg = read_cfg(f"{path}.cfg", "detect")
    net = both(load_network(cfg, f"{path}.weights"))
    side = (cfg.net.width, cfg.net.height)
    pictures = [read_picture(str(SHARED / "images" / one), 3).pixels for one in PICTURES]
    images = torch.cat([prepare_image(one, *side, letter_box) for one in pictures])
    raws = list(run(net.model(Form(batch=None, raw=True)), images).values())
    boxes, probabilities = run(net.model(Form(batch=None)), images).values()
    kept = run(net.model(Form(batch=None, suppression=Suppression(0.25, 0.45))), images)
    found = ours_of(net, images, thresh=-1)

    for theirs, ours in zip(raws, net.raws(images), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(boxes, [one.boxes_xywh_rel for one in found], rtol=0, atol=CLOSE)
    wanted = [one.probabilities for one in found]
    np.testing.assert_allclose(probabilities, wanted, rtol=0, atol=CLOSE)
    suppressed = [nms_sort(one) for one in ours_of(net, images, thresh=0.25)]
    assert_same_detections(kept, suppressed)
    assert len(kept["probabilities"]) > 6


def assert_same_detections(kept: Outputs, ours: list[Detections]) -> None:
    """Compare what a model keeps with what we keep: by image and class, the likeliest first.

    Two that are as likely but for rounding may change places.
    """
    numbers = (kept["image_numbers"], kept["class_numbers"])
    rows = np.column_stack((*numbers, kept["probabilities"], kept["boxes_xywh_rel"]))
    wanted = [
        (image, kind, of_class[row], *found.boxes_xywh_rel[row])
        for image, found in enumerate(ours)
        for kind, of_class in enumerate(found.probabilities.T)
        for row in np.flatnonzero(of_class)
    ]

    assert len(rows) == len(wanted)
    np.testing.assert_array_equal(rows, rows[np.lexsort((-rows[:, 2], rows[:, 1], rows[:, 0]))])
    np.testing.assert_allclose(in_place(rows), in_place(np.array(wanted)), rtol=0, atol=CLOSE)


def in_place(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return rows (image, class, probability, x, y, w, h) by image, class and place."""
    return rows[np.lexsort((rows[:, 4], rows[:, 3], rows[:, 1], rows[:, 0]))]


@pytest.mark.parametrize("nms", [0.2, 0.45])
@pytest.mark.parametrize("largest", [None, 3])
def test_suppression_keeps_what_ours_keeps(nms: float, largest: int | None) -> None:
    net = random_net(KINDS["two heads"])
    images = noise(net, count=3)
    form = Form(batch=3, suppression=Suppression(0.2, nms, largest))
    kept = run(net.model(form), images)
    ours = [nms_sort(found, nms) for found in ours_of(net, images, thresh=0.2)]
    if largest:
        for found in ours:
            for of_class in found.probabilities.T:
                of_class[np.argsort(-of_class, kind="stable")[largest:]] = 0

    assert_same_detections(kept, ours)
    assert len(kept["probabilities"]) > 3


def test_what_is_no_box_is_no_detection() -> None:
    net = random_net(KINDS["two heads"])
    net.arrays["12.biases"][2] = 100  # the width of the first anchor is e^100
    images = noise(net)
    kept = run(net.model(Form(suppression=Suppression(0.2, 1.0))), images)
    every = run(net.model(Form()), images)["boxes_xywh_rel"]

    assert np.isinf(every).any()
    assert np.isfinite(kept["boxes_xywh_rel"]).all()
    assert_same_detections(kept, ours_of(net, images, thresh=0.2))


def test_suppression_of_nothing_leaves_no_rows() -> None:
    net = random_net(KINDS["two heads"])
    kept = run(net.model(Form(suppression=Suppression(1.0, 0.45))), noise(net))

    assert {name: output.shape for name, output in kept.items()} == {
        "boxes_xywh_rel": (0, 4),
        "probabilities": (0,),
        "class_numbers": (0,),
        "image_numbers": (0,),
    }


@pytest.mark.parametrize("form", [RAW, Form(), Form(suppression=Suppression(0.2, 0.45))])
def test_equal_inputs_give_equal_bytes_and_other_weights_others(form: Form) -> None:
    net = random_net(KINDS["residual"])
    changed = {name: array.copy() for name, array in net.arrays.items()}
    changed["0.weights"][0, 0, 0, 0] += 1

    assert onnx_model(net.cfg, net.arrays, form) == onnx_model(net.cfg, dict(net.arrays), form)
    assert onnx_model(net.cfg, net.arrays, form) != onnx_model(net.cfg, changed, form)


@pytest.mark.parametrize("opset", range(OLDEST_OPSET, NEWEST_OPSET + 1))
def test_every_opset_gives_the_same_numbers(opset: int) -> None:
    net = random_net(of_layers(*(cfg_texts.convolution(6, activation=a) for a in ACTIVATIONS)))
    images = noise(net)
    form = Form(suppression=Suppression(0.2, 0.45), opset=opset)
    theirs, newest = (
        run(net.model(one), images) for one in (form, replace(form, opset=NEWEST_OPSET))
    )

    assert all(np.array_equal(theirs[name], newest[name]) for name in newest)


@pytest.mark.parametrize("kind", ["two heads", "residual", "spp", "groups", "route, groups"])
def test_opencv_reads_the_heads(kind: str, tmp_path: Path) -> None:
    net = random_net(KINDS[kind])
    images = noise(net)
    path = tmp_path / "net.onnx"
    path.write_bytes(net.model(RAW))
    theirs = cv2.dnn.readNetFromONNX(str(path))
    theirs.setInput(images.numpy())
    heads = theirs.forward([f"{i}.yolo" for i, layer in enumerate(net.cfg.layers) if head(layer)])

    for ours, their in zip(net.raws(images), heads, strict=True):
        np.testing.assert_allclose(their, ours, rtol=0, atol=CLOSE)


def head(layer: object) -> bool:
    """Tell whether a layer is a head."""
    return type(layer).__name__ == "Yolo"


def test_names_say_which_layer_of_the_cfg_a_node_and_an_array_belong_to() -> None:
    net = random_net(of_layers(FIRST, cfg_texts.section("maxpool", size=2, stride=2)))
    graph = onnx.load_from_string(net.model(RAW)).graph

    assert [node.name for node in graph.node] == [
        *("0.convolutional.sums", "0.convolutional", "1.maxpool", "2.convolutional", "3.yolo"),
    ]
    assert sorted(array.name for array in graph.initializer) == [
        *("0.biases", "0.weights", "2.biases", "2.weights"),
    ]


def test_a_model_of_grey_pictures_takes_one_channel() -> None:
    net = random_net(KINDS["two heads"], channels=1)
    images = noise(net)
    theirs = list(run(net.model(RAW), images).values())

    assert images.shape[1] == 1
    np.testing.assert_allclose(theirs[0], net.raws(images)[0], rtol=0, atol=CLOSE)
