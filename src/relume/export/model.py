"""A trained net as an ONNX model: its input, its outputs, and what it says of itself.

Equal inputs give equal bytes, with one version of the package onnx.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from relume import __version__
from relume.export.form import Form, Suppression
from relume.export.heads import (
    BOXES,
    CLASS_NUMBERS,
    IMAGE_NUMBERS,
    PROBABILITIES,
    Heads,
    add_boxes,
    add_suppression,
)
from relume.export.layers import IMAGES, Graph, add_layers
from relume.formats.sections import Cfg

BATCH = "batch"
"""Name of a number of pictures that is not fixed."""

Dimensions = Sequence[int | str]
FLOAT, INTEGER = TensorProto.FLOAT, TensorProto.INT64


def onnx_model(
    cfg: Cfg,
    arrays: Mapping[str, npt.NDArray[np.float32]],
    form: Form,
    names: Sequence[str] = (),
) -> bytes:
    """Return the bytes of the model.

    Args:
        cfg: without batch norm; its width and height are those of the model's input.
        arrays: "N.weights" and "N.biases" of every [convolutional].
        names: of the classes, or none.
    Raises:
        CfgError: the layers do not fit each other at this width and height.
    """
    graph = Graph()
    heads = add_layers(graph, cfg, arrays)
    net = cfg.net
    batch = BATCH if form.batch is None else form.batch
    image = _value(IMAGES, FLOAT, batch, net.channels, net.height, net.width)
    if form.raw:
        outputs = [_value(name, FLOAT, batch, *size) for name, _, size in heads]
    elif form.suppression is None:
        add_boxes(graph, heads, net)
        rows, classes = _rows(heads), heads[0][1].classes
        outputs = [
            _value(BOXES, FLOAT, batch, rows, 4),
            _value(PROBABILITIES, FLOAT, batch, rows, classes),
        ]
    else:
        outputs = _add_detections(graph, heads, cfg, form.suppression)
    constants = list(graph.constants.values())
    body = helper.make_graph(graph.nodes, PurePath(cfg.path).stem, [image], outputs, constants)
    opsets = [helper.make_opsetid("", form.opset)]
    model = helper.make_model(
        body,
        producer_name="relume",
        producer_version=__version__,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
    )
    helper.set_model_props(model, _properties(cfg, form, names))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def described(data: bytes) -> list[str]:
    """Return a line for the input and every output of a model: name, type, dimensions."""
    graph = onnx.load_from_string(data).graph
    lines = []
    for way, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            kind = "float32" if tensor.elem_type == FLOAT else "int64"
            sizes = ", ".join(str(d.dim_param or d.dim_value) for d in tensor.shape.dim)
            lines.append(f"{way} {value.name}: {kind} [{sizes}]")
    return lines


def _value(name: str, kind: int, *dimensions: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dimensions)


def _rows(heads: Heads) -> int:
    return sum(len(head.mask) * size[1] * size[2] for _, head, size in heads)


def _add_detections(
    graph: Graph, heads: Heads, cfg: Cfg, suppression: Suppression
) -> list[onnx.ValueInfoProto]:
    boxes, probabilities = add_boxes(graph, heads, cfg.net, "all.")
    largest = _rows(heads) if suppression.largest is None else suppression.largest
    add_suppression(graph, boxes, probabilities, suppression.thresh, suppression.nms, largest)
    count = "detections"
    return [
        _value(BOXES, FLOAT, count, 4),
        _value(PROBABILITIES, FLOAT, count),
        _value(CLASS_NUMBERS, INTEGER, count),
        _value(IMAGE_NUMBERS, INTEGER, count),
    ]


def _properties(cfg: Cfg, form: Form, names: Sequence[str]) -> dict[str, str]:
    """Return what the model says of itself to those who use it."""
    colours = "RGB" if cfg.net.channels == 3 else "grey"
    shape = "letter-boxed with 0.5" if cfg.net.letter_box else "stretched to this size"
    said = {
        "cfg": PurePath(cfg.path).name,
        "input": f"{colours}, 0 to 1, {shape}",
    }
    if form.raw:
        said["output"] = "per head and anchor x, y, w, h, objectness, classes, before activation"
        heads = [
            {"mask": head.mask, "anchors_px": head.anchors_px, "scale_x_y": head.scale_x_y}
            for head in cfg.heads
        ]
        said["heads"] = json.dumps(heads)
    else:
        said[BOXES] = "centre x, centre y, width, height, relative to the input"
        said[PROBABILITIES] = "objectness * class"
    if form.suppression is not None:
        said["thresh"] = f"{form.suppression.thresh:g}"
        said["nms"] = f"{form.suppression.nms:g}"
    if names:
        said["names"] = json.dumps(names, ensure_ascii=False)
    return said
