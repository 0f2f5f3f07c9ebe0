"""`relume export`: a trained net as an ONNX model."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from relume.command_table import Values
from relume.commands.outputs import Kind, Outputs
from relume.detector import load_network
from relume.errors import DataFileError, UsageError
from relume.export.form import NEWEST_OPSET, OLDEST_OPSET, Form, Suppression
from relume.formats.cfg import read_cfg
from relume.formats.data_files import read_names
from relume.formats.sections import Cfg
from relume.model.detect import nms_kind
from relume.screen import Screen

MODEL = Kind("ONNX model", is_compared=True)
SEE = "see relume export -h"
THRESH = 0.25
LARGEST_SIDE_PX = 8192


def export(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Write OUT: boxes and probabilities, heads as they are (-raw), or detections (-nms)."""
    cfg_path, weights, out = arguments
    try:
        from relume.export.model import described, onnx_model
    except ImportError as error:
        found = f"needs the package onnx ({error})"
        raise UsageError("relume export", found, "", "pip install onnx") from error

    form = _form(flags)
    cfg = _sized(read_cfg(cfg_path, "detect"), flags)
    names = _names(cfg, flags)
    outputs = Outputs([cfg_path, weights, *([str(flags["-names"])] if names else [])], flags)
    outputs.check(Path(out), MODEL)
    network = load_network(cfg, weights)
    arrays = {name: np.asarray(tensor) for name, tensor in network.darknet_arrays().items()}
    if form.suppression is not None and (kind := nms_kind(cfg.heads)) != "default":
        screen.warn(f"{cfg_path}: nms_kind={kind} cannot be had in ONNX; the model goes by IoU")
    data = onnx_model(network.cfg, arrays, form, names)
    outputs.write(Path(out), MODEL, data)
    for text in described(data):
        screen.line(text)
    screen.line(f"{out}: opset {form.opset}, {len(data):,} bytes")
    return 0


def _form(flags: Values) -> Form:
    """Return the Form that the flags ask for."""
    raw, nms = bool(flags.get("-raw")), flags.get("-nms")
    if raw and nms is not None:
        raise UsageError("-raw -nms", "cannot both be had", "heads as they are, or detections", SEE)
    for name in ("-thresh", "-max_boxes"):
        if nms is None and name in flags:
            raise UsageError(name, "has no effect here", "-nms F, which it belongs to", SEE)
    opset = _within("-opset", flags, NEWEST_OPSET, OLDEST_OPSET, NEWEST_OPSET)
    suppression = None
    if nms is not None:
        largest = _within("-max_boxes", flags, 0, 1) if "-max_boxes" in flags else None
        thresh, overlap = float(flags.get("-thresh", THRESH)), float(nms)
        for name, value in (("-thresh", thresh), ("-nms", overlap)):
            if not 0 <= value <= 1:
                raise UsageError(name, f"{value:g}", "a number from 0 to 1", SEE)
        suppression = Suppression(thresh, overlap, largest)
    return Form(_within("-batch", flags, 1, 0) or None, raw, suppression, opset)


def _within(name: str, flags: Values, standard: int, low: int, high: int = 1_000_000) -> int:
    value = int(flags.get(name, standard))
    if not low <= value <= high:
        raise UsageError(name, str(value), f"a number from {low} to {high}", SEE)
    return value


def _sized(cfg: Cfg, flags: Values) -> Cfg:
    """Return the cfg with the width and height of the flags."""
    width = _within("-width", flags, cfg.net.width, 1, LARGEST_SIDE_PX)
    height = _within("-height", flags, cfg.net.height, 1, LARGEST_SIDE_PX)
    return replace(cfg, net=replace(cfg.net, width=width, height=height))


def _names(cfg: Cfg, flags: Values) -> tuple[str, ...]:
    if "-names" not in flags:
        return ()
    path, classes = Path(str(flags["-names"])), cfg.heads[-1].classes
    names = read_names(path)
    if len(names) != classes:
        raise DataFileError(
            path, f"has {len(names)} names", f"{classes}, the classes of {cfg.path}"
        )
    return names
