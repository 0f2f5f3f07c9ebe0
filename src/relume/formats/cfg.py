"""Make the typed values of a .cfg (sections.py) from its text.

    cfg = read_cfg("yolov3-tiny.cfg", purpose="train")

What Darknet ignores in silence is an error here: an unknown key or section (with the nearest
known one), text that is no number, a key that is not supported yet and would change something.
Keys that matter in training only are no obstacle to purpose="detect".

Not covered: lines and comments (lexer.py), the key tables (keys.py), the fit of layers to each
other (layer_shapes.py).
"""

import difflib
from collections.abc import Collection, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from relume.errors import CfgError
from relume.formats.data_files import KEYS as DATA_FILE_KEYS
from relume.formats.keys import (
    ALIASES,
    OTHER_SECTIONS,
    READ,
    is_neutral,
    known_keys,
    unsupported_keys,
)
from relume.formats.layer_shapes import check_shapes, layer_sizes
from relume.formats.lexer import Option, Section, decode_text, excerpt, split_sections
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
from relume.formats.text_files import read_text

__all__ = ["Purpose", "layer_sizes", "parse_cfg", "read_cfg", "recipe_keys"]

Purpose = Literal["train", "detect"]
LATER_KEYS = frozenset(["blur", "gaussian_noise", "mixup", "mosaic", "mosaic_bound"])
"""Fields that came when there were runs already, whose recipes do not name them."""
Values = dict[str, Any]


def read_cfg(path: str | Path, purpose: Purpose) -> Cfg:
    """Read and check a .cfg file.

    Raises:
        CfgError: the file cannot be read, or parse_cfg refuses it.
    """
    try:
        data = read_text(path)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise CfgError(path, f"cannot be read ({found})", "a .cfg file is needed") from error
    if b"\0" in data:  # no text has it, every weights file does
        remedy = "are the arguments in the order that -h shows?"
        raise CfgError(path, "is no text file", "a cfg, which begins with [net]", remedy)
    return parse_cfg(decode_text(data), str(path), purpose)


def parse_cfg(text: str, path: str, purpose: Purpose) -> Cfg:
    """Make a Cfg from text and check that its layers fit each other.

    Args:
        text: the cfg; bytes that were no UTF-8 may stand in it as U+FFFD.
        path: names the cfg in messages.
        purpose: "detect" lets keys pass that matter in training only.
    Raises:
        CfgError: `path:line` and what is wrong there.
    Source:
        AlexeyAB/darknet 59596d78 src/parser.c parse_network_cfg_custom.
    """
    sections, net, layers = parse_layers(text, path, purpose)
    channels = check_shapes(net, layers, sections[1:], path, training=purpose == "train")
    return Cfg(path=path, text=text, net=net, layers=layers, channels=channels)


def parse_layers(
    text: str, path: str, purpose: Purpose
) -> tuple[list[Section], Net, tuple[Layer, ...]]:
    """Do the same, but for the fit of layers to each other; return the sections too."""
    sections = split_sections(text, path)
    if not sections:
        raise CfgError(path, "holds no section", "a cfg begins with [net]")
    for section in sections:
        _check_section(section, path, purpose)
    if _kind(sections[0]) != "net":
        raise CfgError(
            f"{path}:{sections[0].line}",
            f"the first section is [{sections[0].kind}]",
            "a cfg begins with [net]",
        )
    net = _net(sections[0], path, purpose)
    layers = tuple(_layer(section, i, path) for i, section in enumerate(sections[1:]))
    return sections, net, layers


def recipe_keys(cfg: Cfg) -> dict[str, str]:
    """Return every value that can change a number, by name: {"5.convolutional.size": "3", ...}.

    Two cfgs that mean the same give the same mapping, however they are written. A key of
    LATER_KEYS stands there only if it has an effect.
    """
    named: list[tuple[str, Net | Layer]] = [("net", cfg.net)]
    named += [(f"{i}.{type(layer).__name__.lower()}", layer) for i, layer in enumerate(cfg.layers)]
    return {
        f"{name}.{field.name}": repr(getattr(section, field.name))
        for name, section in named
        for field in fields(section)
        if field.name not in ("line", "written_batch", "ignored")
        and not (field.name in LATER_KEYS and getattr(section, field.name) == field.default)
    }


def _kind(section: Section) -> str:
    return ALIASES.get(section.kind, section.kind)


def _check_section(section: Section, path: str, purpose: Purpose) -> None:
    """Raise CfgError for a section or key that is unknown or not supported."""
    kind, place = _kind(section), f"{path}:{section.line}"
    if kind in OTHER_SECTIONS:
        raise CfgError(place, f"[{section.kind}] is not supported yet", _words("supported", READ))
    if kind not in READ:
        found = f"[{excerpt(section.kind)}] is no section of Darknet"
        raise CfgError(place, found, _nearest(kind, [*READ, *ALIASES, *OTHER_SECTIONS]))
    known = known_keys(kind)
    unsupported = unsupported_keys(kind, training=purpose == "train")
    for option in section.options.values():
        place = f"{path}:{option.line}"
        if option.key not in known:
            found = f"[{section.kind}] has no key '{excerpt(option.key)}'"
            if kind == "net" and option.key in DATA_FILE_KEYS:
                raise CfgError(place, found, "it is a key of the data file: move the line there")
            raise CfgError(place, found, _nearest(option.key, known))
        neutral = unsupported.get(option.key)
        if option.key in unsupported and not is_neutral(option.value, neutral):
            raise CfgError(
                place,
                f"[{section.kind}] {option.key}={excerpt(option.value)} is not supported yet"
                + (" in training" if option.key not in unsupported_keys(kind, False) else ""),
                "" if neutral is None else f"only {option.key}={neutral} is",
                "remove the line to do without",
            )


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name[:60], sorted(known), n=1)
    return f"did you mean '{near[0]}'?" if near else "remove the line or correct it"


def _words(title: str, words: Iterable[str]) -> str:
    return f"{title} are {', '.join(f'[{word}]' for word in words)}"


def _values(section: Section, path: str) -> Values:
    """Convert the options that have an effect."""
    table = READ[_kind(section)]
    return {
        option.key: _convert(section, option, path)
        for option in section.options.values()
        if option.key in table
    }


def _convert(section: Section, option: Option, path: str) -> object:
    try:
        return READ[_kind(section)][option.key](option.value)
    except ValueError as error:
        raise CfgError(
            f"{path}:{option.line}",
            f"[{section.kind}] {option.key}={excerpt(option.value)}",
            f"{option.key} needs {error}",
        ) from None


def _net(section: Section, path: str, purpose: Purpose) -> Net:
    values = _values(section, path)
    for key in ("width", "height", "channels"):
        if key not in values:
            raise CfgError(f"{path}:{section.line}", f"[net] has no {key}", "it has no default")
    written_batch = values.pop("batch", 1)
    subdivisions = values.pop("subdivisions", 1)
    values.setdefault("sgdr_cycle", values.get("max_batches", 0))
    net = Net(
        line=section.line,
        batch=written_batch // subdivisions * subdivisions,
        written_batch=written_batch,
        subdivisions=subdivisions,
        **_mixing(values),
        **values,
    )
    if net.channels not in (1, 3):
        raise CfgError(
            f"{path}:{section.line_of('channels')}",
            f"[net] channels={net.channels}",
            "pictures have 3 channels, or 1 (grey)",
        )
    if purpose == "train":
        _check_training(net, section, path)
    return net


def _mixing(values: Values) -> Values:
    """Take out the keys that mix pictures; return what they mean for a detector.

    Source:
        AlexeyAB/darknet 59596d78 src/parser.c parse_net_options, where cutmix is mixup=2, mosaic
        is 3 and both are 4, and data.c load_data_detection, which does without cutmix.
    """
    written, cutmix, mosaic = (values.pop(key, 0) for key in ("mixup", "cutmix", "mosaic"))
    mixup = 4 if cutmix and mosaic else 2 if cutmix else 3 if mosaic else written
    ignored = {"cutmix": mixup in (2, 4), "mixup": written and written != mixup}
    return {
        "mixup": mixup == 1,
        "mosaic": mixup in (3, 4),
        "mosaic_bound": values.pop("mosaic_bound", False) and mixup in (3, 4),
        "ignored": tuple(key for key, is_ignored in ignored.items() if is_ignored),
    }


def _check_training(net: Net, section: Section, path: str) -> None:
    """Raise CfgError for a [net] that no training can follow."""

    def refuse(key: str, found: str, needed: str) -> None:
        raise CfgError(f"{path}:{section.line_of(key)}", f"[net] {found}", needed)

    if net.batch < 1:
        found = f"batch={net.written_batch} is less than subdivisions={net.subdivisions}"
        refuse("batch", found, "every subdivision needs an image")
    if net.max_batches < 1:
        refuse("max_batches", f"max_batches={net.max_batches}", "training needs at least 1")
    if net.policy == "random":
        refuse("policy", "policy=random is not supported", "it draws the rate by chance")
    if net.policy == "steps" and not (net.steps and len(net.steps) == len(net.scales)):
        found = f"policy=steps with {len(net.steps)} steps and {len(net.scales)} scales"
        refuse("steps", found, "steps and scales need one value each per step")
    if net.letter_box and net.mosaic:
        refuse("letter_box", "letter_box=1 with mosaic=1", "one of the two, as in Darknet")


def _layer(section: Section, index: int, path: str) -> Layer:
    values = _values(section, path)
    match _kind(section):
        case "convolutional":
            return _convolutional(section, values, path)
        case "maxpool":
            _set_strides(values)
            values.setdefault("size", values.pop("stride"))
            values.setdefault("padding", values["size"] - 1)
            return Maxpool(line=section.line, **values)
        case "upsample":
            return Upsample(line=section.line, **values)
        case "route":
            values["layers"] = _sources(section, "layers", values, index, path)
            return Route(line=section.line, **values)
        case "shortcut":
            sources = _sources(section, "from", values, index, path)
            activation = values.get("activation", "linear")
            return Shortcut(line=section.line, sources=sources, activation=activation)
        case "dropout":
            return Dropout(line=section.line, **values)
        case "yolo":
            return _yolo(section, values, path)
    raise CfgError(f"{path}:{section.line}", f"a second [{section.kind}]", "a cfg holds one [net]")


def _set_strides(values: Values) -> None:
    """Replace an absent stride_x or stride_y by stride; leave stride for the caller."""
    stride = values.setdefault("stride", 1)
    values.setdefault("stride_x", stride)
    values.setdefault("stride_y", stride)


def _convolutional(section: Section, values: Values, path: str) -> Convolutional:
    _set_strides(values)
    values.pop("stride")
    size = values.get("size", 1)
    if values.pop("pad", False):
        values["padding"] = size // 2
    if size == 1:
        values["dilation"] = 1
    if values.get("dilation", 1) > 1 and 2 * values.get("padding", 0) != size - 1:
        raise CfgError(
            f"{path}:{section.line_of('dilation')}",
            f"[convolutional] dilation={values['dilation']} with size={size}"
            f" and padding={values.get('padding', 0)}",
            "Darknet's output size is right only for an odd size and pad=1",
        )
    batch_normalize = bool(values.pop("batch_normalize", 0))
    return Convolutional(line=section.line, batch_normalize=batch_normalize, **values)


def _sources(section: Section, key: str, values: Values, index: int, path: str) -> tuple[int, ...]:
    """Return absolute layer indices; negative ones count back from this layer."""
    place = f"{path}:{section.line_of(key)}"
    if key not in values:
        raise CfgError(place, f"[{section.kind}] has no '{key}'", "it names the layers to use")
    sources = tuple(source + index if source < 0 else source for source in values[key])
    for written, source in zip(values[key], sources, strict=True):
        if not 0 <= source < index:
            raise CfgError(
                place,
                f"[{section.kind}] {key}={written} is no layer before this one (layer {index})",
                f"{-index}..-1 or 0..{index - 1} is" if index else "the first layer has none",
            )
    return sources


def _yolo(section: Section, values: Values, path: str) -> Yolo:
    num: int = values.get("num", 1)
    anchors = values.pop("anchors", ())

    def refuse(key: str, found: str, needed: str) -> None:
        raise CfgError(f"{path}:{section.line_of(key)}", f"[yolo] {found}", needed)

    if len(anchors) != 2 * num:
        found = f"num={num}, but anchors has {len(anchors)} values"
        refuse("anchors", found, f"{2 * num} are needed: a width and a height per anchor")
    mask = values.setdefault("mask", tuple(range(num)))
    if max(mask) >= num:
        refuse("mask", f"mask={max(mask)}", f"num={num}: the anchors are 0..{num - 1}")
    if len(set(mask)) != len(mask):
        refuse("mask", "mask names an anchor twice", "every anchor may stand once")
    if 0 < values.get("random", 0) < 1:
        found = f"random={values['random']}"
        refuse("random", found, "0 (one size), 1 (factor 1.4) or a factor above 1 is needed")
    pairs = tuple(zip(anchors[::2], anchors[1::2], strict=True))
    return Yolo(line=section.line, anchors_px=pairs, **values)
