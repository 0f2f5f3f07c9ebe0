"""A trained detector: made of a cfg and weights, asked for what is in a picture.

    detector = relume.load("yolov3-tiny.cfg", "yolov3-tiny.weights", "coco.names")
    for found in detector.detect("dog.jpg"):
        print(found.name, found.confidence, found.box_xyxy_px)

What a package shows of this is in `relume` itself, which imports it when it is asked for.
Not covered: how detections are told or drawn (detection.py).
"""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from relume.checkpoint.weights_file import check_finite, read_whole_weights
from relume.data.image import Pixels, decode_picture, read_picture
from relume.detection import Detection, draw_detections, edges_px
from relume.errors import Undecodable, WeightsError
from relume.formats.cfg import read_cfg
from relume.formats.data_files import read_names
from relume.formats.net_memory import check_memory, least_detecting_bytes
from relume.formats.picture_cost import MAX_PIXELS
from relume.formats.sections import Cfg
from relume.model.detect import Detections, detect_image
from relume.model.inference import run_fused
from relume.model.network import Network, fold_batch_norm

Image = str | os.PathLike[str] | bytes | Pixels
"""A path, the bytes of a picture file, or pixels."""

THRESH, NMS = 0.25, 0.45
HIDDEN = "dont_show"
"""Classes whose names begin with this are not told, as in Darknet."""


@dataclass(frozen=True, repr=False)
class Detector:
    """A network that detects, and the names of what it finds."""

    network: Network
    """For detection: batch norm folded."""
    names: tuple[str, ...]
    """One for every class."""
    letter_box: bool = False
    """Keep the picture's shape instead of stretching it to the network's input."""
    weights: str = ""
    """The file that the weights are from."""
    max_pixels: int = MAX_PIXELS
    """Of a picture; one that has more is not decoded."""

    def __repr__(self) -> str:
        """Return one line about it; the network itself would fill pages."""
        cfg = self.network.cfg
        return (
            f"Detector(cfg={cfg.path!r}, weights={self.weights!r}, "
            f"input='{cfg.net.width}x{cfg.net.height}', classes={len(self.names)}, "
            f"letter_box={self.letter_box})"
        )

    def detect(self, image: Image, thresh: float = THRESH, nms: float = NMS) -> list[Detection]:
        """Return what is in a picture, from left to right; of one box the likeliest class first.

        Args:
            image: the path of a picture; the bytes of a picture file; or uint8 pixels, RGB
                [H, W, 3] (OpenCV's BGR must be turned: `pixels[..., ::-1]`) or grey [H, W].
            thresh: smallest confidence, for objectness and for objectness * class.
            nms: overlap above which the less probable of two of a class is dropped.
        Raises:
            ImageError: the file cannot be read, is no picture, or has more than `max_pixels`.
            Unavailable: memory to decode it is short.
            TypeError, ValueError: `image` is nothing of these, or a threshold is not 0 to 1.
        """
        for name, value in (("thresh", thresh), ("nms", nms)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; a number from 0 to 1 is needed")
        pixels = read_pixels(image, self.network.cfg.net.channels, self.max_pixels)
        height, width = pixels.shape[:2]
        found = detect_image(self.network, pixels, thresh, nms, self.letter_box)
        return named_detections(found, self.names, width, height)


def load(
    cfg: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    names: str | os.PathLike[str] | Sequence[str] | None = None,
    *,
    device: str | torch.device = "cpu",
    letter_box: bool | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Detector:
    """Return a detector.

    Args:
        cfg: path of the cfg.
        weights: path of a Darknet weights file, or of a checkpoint of relume.
        names: path of a .names file, or the names; a class without a name is its number.
        device: "cpu", "cuda", ...
        letter_box: keep the picture's shape; None: as the cfg says.
        max_pixels: that a picture may have to be decoded.
    Raises:
        CfgError, WeightsError, DataFileError: a file cannot be used.
        TypeError: a name is no string.
    """
    read = read_cfg(os.fspath(cfg), "detect")
    given = read_names(os.fspath(names)) if isinstance(names, str | os.PathLike) else names or ()
    for name in given:
        if not isinstance(name, str):
            needed = "the path of a .names file, or strings, is needed"
            raise TypeError(f"names holds a {type(name).__name__}; {needed}")
    network = run_fused(load_network(read, os.fspath(weights)).to(device))
    return Detector(
        network,
        names_of_all(given, read),
        read.net.letter_box if letter_box is None else letter_box,
        os.fspath(weights),
        max_pixels,
    )


def draw(image: Image, found: Sequence[Detection], *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return RGB pixels with boxes and labels drawn; a small picture is enlarged for them.

    Args:
        image: as of Detector.detect.
        found: what that returned.
        max_pixels: that a picture may have to be decoded.
    """
    return draw_detections(read_pixels(image, 3, max_pixels), found)


def load_network(cfg: Cfg, path: str) -> Network:
    """Return a network for detection with the weights of a file, batch norm folded.

    Raises:
        WeightsError, Damaged: as read_whole_weights; or a weight is NaN or infinite.
        CfgError: the net and one picture need more memory than there is.
    """
    what = f"one picture of {cfg.net.width}x{cfg.net.height}"
    check_memory(cfg, least_detecting_bytes(cfg), what, "lower width and height")
    weights = read_whole_weights(cfg, path)
    check_finite(weights.arrays, path)
    network = Network(cfg, seed=None)
    live = network.darknet_arrays()
    with torch.no_grad():
        for name, array in weights.arrays.items():
            live[name].copy_(torch.from_numpy(np.array(array)))
    folded = fold_batch_norm(network.eval())
    for index, layer in enumerate(folded.layers):
        if not all(bool(tensor.isfinite().all()) for tensor in layer.parameters()):
            found = f"layer {index}: its weights are not finite after batch norm"
            needed = "rolling variances from 0 on"
            raise WeightsError(path, found, needed, "the file is damaged: take an earlier one")
    return folded


def names_of_all(names: Iterable[str], cfg: Cfg) -> tuple[str, ...]:
    """Return a name for every class of a cfg: those given, then numbers."""
    given = tuple(names)
    return given + tuple(str(i) for i in range(len(given), cfg.heads[-1].classes))


def read_pixels(image: Image, channels: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return a picture as a network of so many channels takes it: [H, W, channels].

    Raises:
        ImageError, TypeError, ValueError: as Detector.detect.
    """
    if isinstance(image, str | os.PathLike):
        return read_picture(os.fspath(image), channels, max_pixels=max_pixels).pixels
    if isinstance(image, bytes):
        decoded = decode_picture(image, channels, max_pixels=max_pixels)
        if decoded is None:
            found = f"cannot be decoded ({len(image)} bytes)"
            raise Undecodable("image", found, "a picture such as JPEG, PNG or BMP is needed")
        return decoded
    if not isinstance(image, np.ndarray):
        needed = "a path, the bytes of a picture file, or an array of uint8 is needed"
        raise TypeError(f"image is of type {type(image).__name__}; {needed}")
    if image.dtype != np.uint8:
        raise TypeError(f"image is an array of {image.dtype}; uint8 is needed, 0 to 255")
    plain = np.asarray(image)  # a np.matrix stays flat whatever its index says
    pixels = plain[:, :, None] if plain.ndim == 2 else plain
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"image has the shape {image.shape}; [H, W, 3] or [H, W] is needed")
    if channels == pixels.shape[2]:
        return pixels
    code = cv2.COLOR_RGB2GRAY if channels == 1 else cv2.COLOR_GRAY2RGB
    height, width = pixels.shape[:2]
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8).reshape(height, width, channels)


def named_detections(
    detections: Detections, names: tuple[str, ...], width_px: int, height_px: int
) -> list[Detection]:
    """Return what is to be told, from left to right; within a box the likeliest class first.

    Args:
        width_px, height_px: of the picture.

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
        box = (x, y, w, h)
        edges = edges_px(box, width_px, height_px)
        for kind in kinds:
            confidence = float(probabilities[kind])
            found.append(Detection(int(kind), names[kind], confidence, box, edges))
    return found
