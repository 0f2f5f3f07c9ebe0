"""The bytes of a Darknet .weights file: a header, then float32 arrays in layer order.

    filled = parse_weights(data, cfg, "yolov3-tiny.weights")
    filled.arrays["0.weights"]      # [16, 3, 3, 3]

Names follow Darknet: scales and rolling_mean are what PyTorch calls weight and running_mean of
a batch norm; biases are its bias, or that of the convolution where there is no batch norm.

Not covered: what stands behind the last layer (checkpoint/), and whether a file that ends early
may be used: parse_weights only describes it.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from relume.errors import WeightsError
from relume.formats.sections import Cfg, Convolutional

Floats = npt.NDArray[np.float32]
Bytes = bytes | bytearray | memoryview

RELUME_REVISION = 0x6D6C6572
"""Revision in the header of a file that holds a training state: "relm" on disk."""

FLOAT = np.dtype("<f4")

ORDER = "are the arguments in the order that -h shows?"
_NOT_WEIGHTS = (
    (b"<", "a web page, not weights", "download it again"),
    (b"PK", "a ZIP archive (a PyTorch .pt file?), not Darknet weights", "convert it first"),
    (b"\x80", "a pickle (a PyTorch .pt file?), not Darknet weights", "convert it first"),
    (b"\xff\xd8\xff", "a picture (JPEG), not weights", ORDER),
    (b"\x89PNG", "a picture (PNG), not weights", ORDER),
    (b"version https://git-lfs", "a Git LFS pointer, not weights", "run git lfs pull"),
)


@dataclass(frozen=True)
class ArraySpec:
    """One array of the file."""

    name: str
    """Layer and Darknet's name: "13.weights"."""
    layer: int
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return FLOAT.itemsize * prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The version of the format, and how many images training had seen."""

    major: int
    minor: int
    revision: int
    seen: int

    @property
    def size_bytes(self) -> int:
        """20; or 16 before version 0.2, where `seen` has 32 bits."""
        return 20 if self.major * 10 + self.minor >= 2 else 16


@dataclass(frozen=True)
class DarknetWeights:
    """What a file holds of a cfg's arrays."""

    header: Header
    arrays: dict[str, Floats]
    """Read-only views of the file's bytes; of complete leading layers only."""
    layers_filled: int
    """Every layer below this index has all its arrays; len(cfg.layers) if the file is whole."""
    end: Literal["whole", "layer", "inside"]
    """Whole; or cut exactly behind a layer (a pretrained backbone); or cut inside one."""
    end_offset: int
    """Bytes of header and `arrays` together."""
    trailing: int
    """Bytes behind `end_offset`."""
    partial_layer: int | None
    """The layer the file ends inside of."""


def layout(cfg: Cfg) -> tuple[ArraySpec, ...]:
    """Return the arrays of this cfg's weights file in file order.

    Convolution weights are [filters, channels / groups, size, size], the others [filters].

    Source:
        AlexeyAB/darknet src/parser.c save_convolutional_weights.
    """
    return tuple(_layout(cfg))


def _layout(cfg: Cfg) -> Iterator[ArraySpec]:
    for i, layer in enumerate(cfg.layers):
        if not isinstance(layer, Convolutional):
            continue
        vectors = ["biases"]
        if layer.batch_normalize:
            vectors += ["scales", "rolling_mean", "rolling_variance"]
        for name in vectors:
            yield ArraySpec(f"{i}.{name}", i, (layer.filters,))
        channels = cfg.channels[i - 1] if i else cfg.net.channels
        shape = (layer.filters, channels // layer.groups, layer.size, layer.size)
        yield ArraySpec(f"{i}.weights", i, shape)


def parse_header(data: Bytes, place: str) -> Header:
    """Read the header of a weights file.

    Raises:
        WeightsError: `place` is no Darknet weights file, or ends inside the header.
    Source:
        AlexeyAB/darknet src/parser.c load_weights_upto.
    """
    head = bytes(data[:64])
    for beginning, found, remedy in _NOT_WEIGHTS:
        if head.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(beginning):
            raise WeightsError(place, f"is {found}", remedy)
    if head and not head.translate(None, bytes(range(32, 127)) + b"\t\r\n"):
        raise WeightsError(place, "is a text file", "a Darknet weights file")
    if len(head) < 12:
        raise WeightsError(place, f"has {len(head)} bytes", "the header alone has 20")
    major, minor, revision = struct.unpack_from("<3i", head)
    if not any(head):
        raise WeightsError(
            place, "begins with zeros", "a weights file", "damaged, as a power cut may leave a file"
        )
    if major > 1000 or minor > 1000:
        found = f"has version {major}.{minor}"
        needed = "above 1000 Darknet means transposed weights, which are not supported"
        raise WeightsError(place, found, f"{needed}, or the file is no weights file")
    if major < 0 or minor < 0 or major * 10 + minor > 100:
        raise WeightsError(place, f"has version {major}.{minor}", "Darknet writes 0.1 or 0.2")
    size_bytes = Header(major, minor, revision, 0).size_bytes
    if len(head) < size_bytes:
        raise WeightsError(place, f"has {len(head)} bytes", f"the header alone has {size_bytes}")
    (seen,) = struct.unpack_from("<Q" if size_bytes == 20 else "<I", head, 12)
    return Header(major, minor, revision, seen)


def format_header(seen: int, revision: int = 5) -> bytes:
    """Return the header of version 0.2.revision, 20 bytes."""
    return struct.pack("<3iQ", 0, 2, revision, seen)


def parse_weights(data: Bytes, cfg: Cfg, place: str) -> DarknetWeights:
    """Read header and arrays; a file that ends early is described, not refused.

    Args:
        data: the whole file; arrays are views of it.
        place: the file's name, for messages.
    Raises:
        WeightsError: as parse_header.
    """
    header = parse_header(data, place)
    specs = layout(cfg)
    offset, layers_filled = header.size_bytes, len(cfg.layers)
    arrays: dict[str, Floats] = {}
    for layer, group in _by_layer(specs):
        size_bytes = sum(spec.size_bytes for spec in group)
        if len(data) - offset < size_bytes:
            layers_filled = layer
            break
        for spec in group:
            view = np.frombuffer(data, FLOAT, prod(spec.shape), offset).reshape(spec.shape)
            view.flags.writeable = False
            arrays[spec.name] = view
            offset += spec.size_bytes
    trailing = len(data) - offset
    whole = layers_filled == len(cfg.layers)
    inside = bool(trailing) and not whole
    return DarknetWeights(
        header=header,
        arrays=arrays,
        layers_filled=layers_filled,
        end="whole" if whole else "inside" if inside else "layer",
        end_offset=offset,
        trailing=trailing,
        partial_layer=layers_filled if inside else None,
    )


def _by_layer(specs: tuple[ArraySpec, ...]) -> Iterator[tuple[int, list[ArraySpec]]]:
    for layer in dict.fromkeys(spec.layer for spec in specs):
        yield layer, [spec for spec in specs if spec.layer == layer]


def format_weights(
    arrays: Mapping[str, npt.NDArray[Any]],
    cfg: Cfg,
    seen: int,
    revision: int = 5,
    layers: int | None = None,
) -> bytes:
    """Return the bytes of a weights file.

    Args:
        arrays: float32, with the names and shapes of layout(cfg).
        layers: write only the layers below this index, as `darknet partial` does.
    Raises:
        ValueError: an array is missing or has another shape or type (an error of the caller).
    """
    parts: list[bytes | memoryview] = [format_header(seen, revision)]
    for spec in layout(cfg):
        if layers is not None and spec.layer >= layers:
            break
        array = arrays.get(spec.name)
        if array is None or array.shape != spec.shape or array.dtype != FLOAT:
            found = "missing" if array is None else f"{array.dtype} {array.shape}"
            raise ValueError(f"{spec.name} is {found}, needed is {FLOAT} {spec.shape}")
        parts.append(np.ascontiguousarray(array).data.cast("B"))
    return b"".join(parts)


def partial_weights(data: Bytes, cfg: Cfg, layers: int, place: str) -> bytes:
    """Return a weights file with the layers below index `layers` of `data`, and `seen` 0.

    Raises:
        WeightsError: `data` ends before that layer, or the cfg has fewer layers.
    Source:
        pjreddie/darknet f6afaab examples/darknet.c partial.
    """
    if not 0 < layers <= len(cfg.layers):
        found = f"{layers} layers cannot be cut from {len(cfg.layers)}"
        raise WeightsError(place, found, f"a number from 1 to {len(cfg.layers)} is needed")
    filled = parse_weights(data, cfg, place)
    if filled.layers_filled < layers:
        found = f"ends before layer {layers}"
        raise WeightsError(place, found, f"it fills only the {filled.layers_filled} layers before")
    return format_weights(filled.arrays, cfg, seen=0, layers=layers)
