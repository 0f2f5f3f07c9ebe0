"""The layers of a cfg as ONNX nodes.

Nodes and tensors are named by number and kind of the layer: what layer 4 gives is
`4.convolutional`, what leads there `4.convolutional.sums`; its arrays are `4.weights` and
`4.biases`, as in a weights file.

Not covered: what heads mean (`heads.py`); the model around the graph (`model.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from relume.formats.layer_shapes import IMAGE, Size, layer_sizes, layer_sources
from relume.formats.sections import (
    Cfg,
    Convolutional,
    Maxpool,
    Route,
    Shortcut,
    Upsample,
    Yolo,
)

Array = npt.NDArray[np.float32] | npt.NDArray[np.int64]

IMAGES = "images"
"""The model's input."""
LEAK = 0.1


class Graph:
    """Nodes and constants, as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node, named after its first output, and return that name."""
        node = helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes)
        self.nodes.append(node)
        return outputs[0]

    def constant(self, name: str, array: Array) -> str:
        """Add a constant and return its name."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def integers(self, name: str, *values: int) -> str:
        """Add a constant of a few integers and return its name."""
        return self.constant(name, np.array(values, np.int64))


def add_layers(
    graph: Graph, cfg: Cfg, arrays: Mapping[str, npt.NDArray[np.float32]]
) -> list[tuple[str, Yolo, Size]]:
    """Add every layer up to the heads; return (tensor, section, size) of what each head sees.

    Args:
        cfg: without batch norm, which is folded; its width and height are those of the model.
        arrays: "N.weights" and "N.biases" of every [convolutional].
    Source: relume's own `model/layers.py`, whose numbers these nodes give.
    """
    sizes = {IMAGE: (cfg.net.channels, cfg.net.height, cfg.net.width)}
    sizes |= dict(enumerate(layer_sizes(cfg, cfg.net.width, cfg.net.height)))
    tensors = {IMAGE: IMAGES}
    heads = []
    for index, (layer, sources) in enumerate(zip(cfg.layers, layer_sources(cfg), strict=True)):
        name = f"{index}.{type(layer).__name__.lower()}"
        inputs = [tensors[source] for source in sources]
        given = [sizes[source] for source in sources]
        match layer:
            case Convolutional():
                weights, biases = (
                    graph.constant(key, arrays[key])
                    for key in (f"{index}.weights", f"{index}.biases")
                )
                output = _add_convolutional(graph, layer, name, [*inputs, weights, biases])
            case Maxpool():
                output = _add_maxpool(graph, layer, name, inputs[0], given[0], sizes[index])
            case Upsample():
                output = _add_upsample(graph, layer, name, inputs[0])
            case Route():
                output = _add_route(graph, layer, name, inputs, given)
            case Shortcut():
                output = _add_shortcut(graph, layer, name, inputs, given)
            case Yolo():
                output = graph.add("Identity", inputs, name)
                heads.append((output, layer, sizes[index]))
            case _:  # [dropout] does nothing outside training
                output = inputs[0]
        tensors[index] = output
    return heads


def _add_convolutional(graph: Graph, layer: Convolutional, name: str, inputs: Sequence[str]) -> str:
    padding = layer.padding * layer.dilation
    sums = graph.add(
        "Conv",
        inputs,
        _before(layer.activation, name),
        kernel_shape=[layer.size, layer.size],
        strides=[layer.stride_y, layer.stride_x],
        pads=[padding] * 4,
        dilations=[layer.dilation] * 2,
        group=layer.groups,
    )
    return _activate(graph, sums, layer.activation, name)


def _add_maxpool(
    graph: Graph, layer: Maxpool, name: str, images: str, given: Size, wanted: Size
) -> str:
    """Add windows that begin at -(padding // 2), framed by what never wins."""
    strides = (layer.stride_y, layer.stride_x)
    before = layer.padding // 2
    after = [
        max(0, (count - 1) * stride + layer.size - before - size)
        for count, stride, size in zip(wanted[1:], strides, given[1:], strict=True)
    ]
    pads = [before, before, *after]
    if max(pads) >= layer.size:  # ONNX knows no windows that lie outside altogether
        frame = graph.integers(f"{name}.frame", 0, 0, before, before, 0, 0, *after)
        lowest = graph.constant(f"{name}.lowest", np.array(np.finfo(np.float32).min))
        images = graph.add("Pad", [images, frame, lowest], f"{name}.framed")
        pads = [0, 0, 0, 0]
    window = [layer.size, layer.size]
    return graph.add(
        "MaxPool", [images], name, kernel_shape=window, strides=list(strides), pads=pads
    )


def _add_upsample(graph: Graph, layer: Upsample, name: str, images: str) -> str:
    scales = np.array([1, 1, layer.stride, layer.stride], np.float32)
    inputs = [images, "", graph.constant(f"{name}.scales", scales)]
    how = {"mode": "nearest", "nearest_mode": "floor"}
    return graph.add("Resize", inputs, name, coordinate_transformation_mode="asymmetric", **how)


def _add_route(graph: Graph, layer: Route, name: str, inputs: list[str], given: list[Size]) -> str:
    parts = inputs
    if layer.groups > 1:
        axis = graph.integers(f"{name}.axis", 1)
        parts = []
        for number, (source, size) in enumerate(zip(inputs, given, strict=True)):
            width = size[0] // layer.groups
            starts = graph.integers(f"{name}.start{number}", layer.group_id * width)
            ends = graph.integers(f"{name}.end{number}", (layer.group_id + 1) * width)
            output = name if len(inputs) == 1 else f"{name}.part{number}"
            parts.append(graph.add("Slice", [source, starts, ends, axis], output))
    return parts[0] if len(parts) == 1 else graph.add("Concat", parts, name, axis=1)


def _add_shortcut(
    graph: Graph, layer: Shortcut, name: str, inputs: list[str], given: list[Size]
) -> str:
    """Add the sources to the first input; a narrower one joins its first channels."""
    total, *sources = inputs
    for number, (source, size) in enumerate(zip(sources, given[1:], strict=True)):
        added = source
        if missing := given[0][0] - size[0]:
            frame = graph.integers(f"{name}.frame{number}", 0, 0, 0, 0, 0, missing, 0, 0)
            added = graph.add("Pad", [source, frame], f"{name}.widened{number}")
        last = number == len(sources) - 1
        output = _before(layer.activation, name) if last else f"{name}.sum{number}"
        total = graph.add("Add", [total, added], output)
    return _activate(graph, total, layer.activation, name)


def _before(activation: str, name: str) -> str:
    """Return the name of what an activation takes."""
    return name if activation == "linear" else f"{name}.sums"


def _activate(graph: Graph, sums: str, activation: str, name: str) -> str:
    match activation:
        case "linear":
            return sums
        case "leaky":
            return graph.add("LeakyRelu", [sums], name, alpha=LEAK)
        case "logistic":
            return graph.add("Sigmoid", [sums], name)
        case "relu":
            return graph.add("Relu", [sums], name)
        case "mish":
            return graph.add("Mish", [sums], name)
        case "swish":
            gate = graph.add("Sigmoid", [sums], f"{name}.gate")
            return graph.add("Mul", [sums, gate], name)
        case _:
            raise ValueError(f"the activation {activation} has no node")
