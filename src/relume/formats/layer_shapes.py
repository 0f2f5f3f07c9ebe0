"""Which layer feeds which, the sizes of all outputs, and the checks that layers fit each other.

Not covered: a single section's values (cfg.py).
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from relume.errors import CfgError
from relume.formats.lexer import Section
from relume.formats.sections import (
    Cfg,
    Convolutional,
    Dropout,
    Layer,
    Maxpool,
    Net,
    Route,
    Shortcut,
    Upsample,
    Yolo,
)

Size = tuple[int, int, int]
"""(channels, height, width)"""
IMAGE = -1
"""The index under which layer 0 finds its source."""


def layer_sources(cfg: Cfg) -> tuple[tuple[int, ...], ...]:
    """Return of every layer those whose outputs it takes; the first gives its channels."""
    sources: list[tuple[int, ...]] = []
    for index, layer in enumerate(cfg.layers):
        match layer:
            case Route():
                named = layer.layers
            case Shortcut():
                named = (index - 1, *layer.sources)
            case _:
                named = (index - 1,)
        sources.append(tuple(_behind_dropout(cfg, source, index) for source in named))
    return tuple(sources)


def _behind_dropout(cfg: Cfg, source: int, reader: int) -> int:
    """Return the layer to read for `source`, which is a [dropout] behind it if there is one.

    Darknet's [dropout] works in its input's place: who names the layer before it reads what
    it left.

    Source: AlexeyAB src/parser.c parse_network_cfg_custom (l.output of DROPOUT).
    """
    while 0 <= source < reader - 1 and isinstance(cfg.layers[source + 1], Dropout):
        source += 1
    return source


def layer_sizes(cfg: Cfg, width: int, height: int) -> tuple[Size, ...]:
    """Return (channels, height, width) of every layer's output for an input of this size.

    Raises:
        CfgError: the layers do not fit each other at this size.
    Source:
        AlexeyAB/darknet src/convolutional_layer.c convolutional_out_height,
        src/maxpool_layer.c make_maxpool_layer, src/parser.c parse_route.
    """
    return _sizes(cfg.layers, (cfg.net.channels, height, width), cfg.path)


def check_shapes(
    net: Net, layers: tuple[Layer, ...], sections: Sequence[Section], path: str, training: bool
) -> tuple[int, ...]:
    """Check that layers fit each other and their heads; return every layer's channels.

    Args:
        sections: of the layers, for the lines of their keys.
        training: also check the next size of a multi-scale training.
    Raises:
        CfgError: see the messages.
    """
    sizes = _sizes(layers, (net.channels, net.height, net.width), path)
    channels = tuple(size[0] for size in sizes)
    heads = [layer for layer in layers if isinstance(layer, Yolo)]
    if not heads:
        raise CfgError(path, "holds no [yolo]", "a detector needs at least one")
    for wrong in _wrong_heads(layers, (net.channels, *channels), sections, path):
        raise wrong
    for layer, size in zip(layers, sizes, strict=True):
        normalized = isinstance(layer, Convolutional) and layer.batch_normalize
        if training and normalized and net.mini_batch * size[1] * size[2] == 1:
            raise CfgError(
                f"{path}:{layer.line}",
                "batch_normalize=1 over one picture of 1x1",
                "more than one value per channel in training",
                "raise batch, lower subdivisions, or enlarge width and height",
            )
    if training and heads[-1].random:
        _check_multi_scale(net, layers, path)
    return channels


def wrong_heads(
    net: Net, layers: tuple[Layer, ...], sections: Sequence[Section], path: str
) -> list[CfgError]:
    """Return what is wrong with each head, where check_shapes raises the first.

    Raises:
        CfgError: the layers do not fit each other.
    """
    sizes = _sizes(layers, (net.channels, net.height, net.width), path)
    channels = (net.channels, *(size[0] for size in sizes))
    return list(_wrong_heads(layers, channels, sections, path))


def _wrong_heads(
    layers: tuple[Layer, ...], channels: Sequence[int], sections: Sequence[Section], path: str
) -> Iterator[CfgError]:
    """Yield an error for every head; `channels` are those before each layer."""
    heads = [layer for layer in layers if isinstance(layer, Yolo)]
    for index, layer in enumerate(layers):
        if isinstance(layer, Yolo):
            try:
                _check_head(layer, heads[0], index, channels[index], sections, path)
            except CfgError as error:
                yield error


def _check_multi_scale(net: Net, layers: tuple[Layer, ...], path: str) -> None:
    """Check sizes that `random` can draw: an even and an odd multiple of resize_step."""
    steps = max(net.width, net.height) // net.resize_step
    for side in ((steps + 1) * net.resize_step, (steps + 2) * net.resize_step):
        try:
            _sizes(layers, (net.channels, side, side), path)
        except CfgError as error:
            raise CfgError(
                f"{path}:{net.line}",
                f"[net] resize_step={net.resize_step} with random lets the input be {side}x{side}",
                f"there {error}",
            ) from error


def _check_head(
    head: Yolo, first: Yolo, index: int, channels: int, sections: Sequence[Section], path: str
) -> None:
    needed = len(head.mask) * (head.classes + 5)
    if channels != needed:
        before = sections[index - 1] if index else sections[index]
        raise CfgError(
            f"{path}:{before.line_of('filters')}",
            f"[{before.kind}] {'filters=' if 'filters' in before.options else 'channels '}"
            f"{channels}, but the [yolo] below needs {needed} = {len(head.mask)} masks"
            f" * ({head.classes} classes + 5)",
        )
    if head.classes != first.classes:
        raise CfgError(
            f"{path}:{sections[index].line_of('classes')}",
            f"[yolo] classes={head.classes}, but the first [yolo] has {first.classes}",
            "all heads detect the same classes",
        )


def _sizes(layers: tuple[Layer, ...], before: Size, path: str) -> tuple[Size, ...]:
    sizes: list[Size] = []
    for index, layer in enumerate(layers):
        place = f"{path}:{layer.line}"
        if index and isinstance(layers[index - 1], Yolo) and not isinstance(layer, Route):
            raise CfgError(place, "a layer takes the output of [yolo]", "begin anew with [route]")
        match layer:
            case Convolutional():
                size = _convolved(layer, before, place)
            case Maxpool():
                size = (before[0], *_windows(layer, layer.padding, before, place))
            case Upsample():
                size = (before[0], before[1] * layer.stride, before[2] * layer.stride)
            case Route():
                size = _routed(layer, layers, sizes, place)
            case Shortcut():
                size = _added(layer, layers, sizes, place)
            case _:
                size = before
        sizes.append(size)
        before = size
    return tuple(sizes)


def _convolved(layer: Convolutional, before: Size, place: str) -> Size:
    for what, count in (("channels before it", before[0]), ("filters", layer.filters)):
        if count % layer.groups:
            found = f"[convolutional] groups={layer.groups} does not divide the {count} {what}"
            raise CfgError(place, found, "equal groups are needed")
    return layer.filters, *_windows(layer, 2 * layer.padding, before, place)


def _windows(
    layer: Convolutional | Maxpool, padding: int, before: Size, place: str
) -> tuple[int, int]:
    """Return (height, width): how often the window fits; `padding` is that of both sides."""
    height = (before[1] + padding - layer.size) // layer.stride_y + 1
    width = (before[2] + padding - layer.size) // layer.stride_x + 1
    if height < 1 or width < 1:
        raise CfgError(
            place,
            f"a window of size={layer.size} finds only {before[2]}x{before[1]} pixels",
            "make width and height larger",
        )
    return height, width


def _routed(layer: Route, layers: tuple[Layer, ...], sizes: list[Size], place: str) -> Size:
    _check_sources("[route]", layer.layers, layers, sizes, sizes[layer.layers[0]], place)
    if layer.group_id >= layer.groups:
        raise CfgError(place, f"[route] group_id={layer.group_id} of groups={layer.groups}")
    for source in layer.layers:
        if sizes[source][0] % layer.groups:
            found = f"[route] groups={layer.groups}, but layer {source} has {sizes[source][0]}"
            raise CfgError(place, f"{found} channels", "equal groups are needed")
    channels = sum(sizes[source][0] for source in layer.layers) // layer.groups
    return channels, *sizes[layer.layers[0]][1:]


def _added(layer: Shortcut, layers: tuple[Layer, ...], sizes: list[Size], place: str) -> Size:
    _check_sources("[shortcut]", layer.sources, layers, sizes, sizes[-1], place)
    for source in layer.sources:
        if sizes[source][0] > sizes[-1][0]:
            raise CfgError(
                place,
                f"[shortcut] adds the {sizes[source][0]} channels of layer {source}"
                f" to {sizes[-1][0]}",
                "a source may not have more channels than the layer before",
            )
    return sizes[-1]


def _check_sources(
    name: str,
    sources: tuple[int, ...],
    layers: tuple[Layer, ...],
    sizes: list[Size],
    like: Size,
    place: str,
) -> None:
    """Raise CfgError unless all sources have the height and width of `like` and are no heads."""
    for source in sources:
        if isinstance(layers[source], Yolo):
            raise CfgError(place, f"{name} takes the output of [yolo] (layer {source})")
        if sizes[source][1:] != like[1:]:
            raise CfgError(
                place,
                f"{name} joins {like[2]}x{like[1]} with"
                f" {sizes[source][2]}x{sizes[source][1]} (layer {source})",
                f"make width and height multiples of {_total_stride(layers)}",
            )


def _total_stride(layers: tuple[Layer, ...]) -> int:
    """Return how many input pixels one cell of the coarsest layer covers."""
    strides: list[Fraction] = []
    before = Fraction(1)
    for layer in layers:
        match layer:
            case Convolutional() | Maxpool():
                before *= max(layer.stride_x, layer.stride_y)
            case Upsample():
                before /= layer.stride
            case Route():
                before = strides[layer.layers[0]]
        strides.append(before)
    return max(1, int(max(strides)))
