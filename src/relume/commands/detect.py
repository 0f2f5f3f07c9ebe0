"""`relume detector test`: Darknet's lines, predictions.jpg, JSON."""

import json
import math
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from relume.checkpoint import container, storage
from relume.command_table import Values
from relume.commands.train import compute_device
from relume.data.image import read_picture
from relume.drawing import Label, draw_labels
from relume.errors import ImageError, UsageError, WeightsError
from relume.formats.cfg import read_cfg
from relume.formats.data_files import read_data_file, read_names, resolve
from relume.formats.sections import Cfg
from relume.formats.weights import parse_weights
from relume.model.detect import Detections, detect_image
from relume.model.network import Network, fold_batch_norm
from relume.screen import Screen

JPEG_QUALITY = 92
NOT_ALL = 2
"""Exit status if a picture could not be read; the others have been looked at."""
HIDDEN = "dont_show"
"""Classes whose names begin with this are neither printed nor drawn, as in Darknet."""


@dataclass(frozen=True)
class Found:
    """One detection of one class; a box that is two things is two of these."""

    kind: int
    name: str
    confidence: float
    box_xywh_rel: tuple[float, float, float, float]

    def box_xyxy_px(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the edges, cut to a picture of `width` x `height` pixels."""
        x, y, w, h = self.box_xywh_rel
        left, right = ((x + side * w / 2) * width for side in (-1, 1))
        top, bottom = ((y + side * h / 2) * height for side in (-1, 1))
        return (
            min(max(left, 0), width - 1),
            min(max(top, 0), height - 1),
            min(max(right, 0), width - 1),
            min(max(bottom, 0), height - 1),
        )


def test(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Detect in one picture, or in those whose paths come on standard input."""
    data, cfg_path, weights = arguments[:3]
    thresh = _thresh(flags)
    out = _out(flags)
    cfg = read_cfg(cfg_path, "detect")
    names = class_names(data, cfg)
    network = load_network(cfg, weights).to(compute_device(flags))
    letter_box = bool(flags.get("-letter_box")) or cfg.net.letter_box
    frames: list[dict[str, Any]] = []
    status = 0
    for path in arguments[3:] or _asked_for(screen):
        try:
            picture = read_picture(path, cfg.net.channels).pixels
        except ImageError as error:
            screen.error(str(error))
            status = NOT_ALL
            continue
        began = time.perf_counter()
        detections = detect_image(network, picture, thresh, letter_box=letter_box)
        milliseconds = (time.perf_counter() - began) * 1000
        screen.line(f"{path}: Predicted in {milliseconds:f} milli-seconds.")
        found = named_detections(detections, names)
        height, width = picture.shape[:2]
        for item in found:
            screen.line(_line(item, width, height, bool(flags.get("-ext_output"))))
        _write_picture(Path("predictions.jpg"), picture, found)
        frames.append(_frame(len(frames) + 1, path, found))
    if out is not None:
        storage.write_durably(out, json.dumps(frames, indent=1).encode() + b"\n")
    return status


def _thresh(flags: Values) -> float:
    thresh = float(flags.get("-thresh", 0.25))
    if not 0 <= thresh <= 1:
        raise UsageError("-thresh", f"{thresh:g}", "a number from 0 to 1", "for example -thresh .5")
    return thresh


def _out(flags: Values) -> Path | None:
    """Return where the JSON goes, before any work is done for it."""
    if "-out" not in flags:
        return None
    out = Path(str(flags["-out"]))
    if not out.parent.is_dir():
        remedy = f"mkdir -p {shlex.quote(str(out.parent))}"
        raise UsageError("-out", f"{out.parent} does not exist", "an existing folder", remedy)
    return out


def class_names(data: str, cfg: Cfg) -> tuple[str, ...]:
    """Return the names of the data file, or numbers where it has none."""
    data_file = read_data_file(data)
    classes = cfg.heads[-1].classes
    if "names" not in data_file.values:
        return tuple(str(i) for i in range(classes))
    names = read_names(resolve(data_file.text("names"), data_file.path))
    return names + tuple(str(i) for i in range(len(names), classes))


def load_network(cfg: Cfg, path: str) -> Network:
    """Return a network for detection with the weights of a file, batch norm folded.

    Raises:
        WeightsError: the file does not fill the whole network.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise WeightsError(path, f"cannot be read ({error.strerror})", "a weights file") from error
    if container.holds_state(data, path):
        container.verify(data, path)
        data = data[: container.read_manifest(data)["darknet"]["bytes"]]
    weights = parse_weights(data, cfg, path)
    if weights.end != "whole" or weights.trailing:
        raise WeightsError(
            path,
            f"fills {weights.layers_filled} of {len(cfg.layers)} layers"
            if weights.end != "whole"
            else f"{weights.trailing:,} bytes follow the last layer",
            f"the weights of {cfg.path}",
            "give the CFG that these weights were trained with, or a whole file",
        )
    network = Network(cfg, seed=None)
    live = network.darknet_arrays()
    with torch.no_grad():
        for name, array in weights.arrays.items():
            live[name].copy_(torch.from_numpy(np.array(array)))
    return fold_batch_norm(network.eval())


def named_detections(detections: Detections, names: tuple[str, ...]) -> list[Found]:
    """Return what is to be shown, from left to right; within a box the likeliest class first.

    Source:
        AlexeyAB/darknet 59596d78 src/image.c get_actual_detections, draw_detections_v3.
    """
    boxes = detections.boxes_xywh_rel
    found = []
    for row in np.argsort(boxes[:, 0] - boxes[:, 2] / 2, kind="stable"):
        probabilities = detections.probabilities[row]
        kinds = [k for k in np.flatnonzero(probabilities) if not names[k].startswith(HIDDEN)]
        best = max(kinds, key=probabilities.__getitem__, default=None)
        kinds.sort(key=lambda kind: kind != best)
        x, y, w, h = (float(value) for value in boxes[row])
        if not math.isfinite(x + y + w + h):
            continue  # a net that has hardly been trained says such things
        for kind in kinds:
            found.append(Found(int(kind), names[kind], float(probabilities[kind]), (x, y, w, h)))
    return found


def _line(item: Found, width: int, height: int, extended: bool) -> str:
    line = f"{item.name}: {item.confidence * 100:.0f}%"
    if not extended:
        return line
    x, y, w, h = item.box_xywh_rel
    return (
        f"{line}\t(left_x: {(x - w / 2) * width:4.0f}   top_y: {(y - h / 2) * height:4.0f}   "
        f"width: {w * width:4.0f}   height: {h * height:4.0f})"
    )


def _write_picture(path: Path, picture: npt.NDArray[np.uint8], found: list[Found]) -> None:
    """Draw what was found, the most confident on top; a box that is two things is drawn once."""
    height, width = picture.shape[:2]
    rgb = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    boxes: dict[tuple[float, ...], list[Found]] = {}
    for item in sorted(found, key=lambda item: -item.confidence):
        boxes.setdefault(item.box_xywh_rel, []).append(item)
    labels = []
    for items in reversed(boxes.values()):
        text = ", ".join(f"{item.name} {item.confidence * 100:.0f}%" for item in items)
        labels.append(Label(text, items[0].kind, items[0].box_xyxy_px(width, height)))
    drawn = cv2.cvtColor(draw_labels(rgb, labels), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    storage.write_durably(path, data.tobytes())


def _frame(number: int, path: str, found: list[Found]) -> dict[str, Any]:
    """Return one picture's detections in the form of Darknet's JSON, six decimals included."""
    sides = ("center_x", "center_y", "width", "height")
    objects = [
        {
            "class_id": item.kind,
            "name": item.name,
            "relative_coordinates": {
                side: round(value, 6) for side, value in zip(sides, item.box_xywh_rel, strict=True)
            },
            "confidence": round(item.confidence, 6),
        }
        for item in found
    ]
    return {"frame_id": number, "filename": path, "objects": objects}


def _asked_for(screen: Screen) -> Iterator[str]:
    """Yield the paths that come on standard input, one a line; ask for them on a terminal."""
    while True:
        if sys.stdin.isatty():
            screen.line("Enter Image Path:")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
