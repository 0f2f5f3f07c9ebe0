"""`relume detector test`: what is in pictures, as Darknet's lines, drawings, JSON and labels."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from relume.command_table import Values
from relume.commands.asked_pictures import (
    Asked,
    asked_pictures,
    pictures_from_standard_input,
    read_ahead,
    read_at_once,
)
from relume.commands.fractions import fraction_of
from relume.commands.outputs import Kind, Outputs
from relume.commands.prediction_files import Drawings, LabelFiles
from relume.commands.starting_flags import compute_device
from relume.data.image import Pixels, read_picture
from relume.detection import Detection, detection_frame, detection_line
from relume.detector import THRESH, Detector, load_network, names_of_all
from relume.errors import ImageError, InputError, UsageError
from relume.formats.cfg import read_cfg
from relume.formats.data_files import read_data_file, read_names, resolve
from relume.formats.sections import Cfg
from relume.model.inference import run_fused
from relume.screen import Screen
from relume.spec import max_pixels_of

NOT_ALL = 2
"""Exit status if a picture could not be read; the others have been looked at."""
FOLDER = Path("predictions")
"""Where several pictures are drawn."""
_JSON = re.compile(rb'\s*\[\s*(\{\s*"frame_id"|\]\s*$)')
DETECTIONS = Kind("detections", lambda head: not head or _JSON.match(head))
"""Darknet's JSON, which is replaced as there; and an empty file."""


class FoundAsJson:
    """What was found in pictures or frames, written as Darknet's JSON when it is closed.

    Args of the constructor:
        path: of the file; None: nothing is kept or written.
        outputs: of the command.
    """

    def __init__(self, path: Path | None, outputs: Outputs) -> None:
        self._path = path
        self._outputs = outputs
        self._frames: list[Mapping[str, Any]] = []

    def add(self, found: Sequence[Detection], filename: str | None = None) -> None:
        """Add what was found in the next picture, or frame of a video."""
        if self._path is not None:
            self._frames.append(detection_frame(len(self._frames) + 1, found, filename))

    def close(self) -> None:
        """Write the file."""
        if self._path is not None:
            text = json.dumps(self._frames, indent=1) + "\n"
            self._outputs.write(self._path, DETECTIONS, text.encode())


def test(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Detect in pictures, or in those whose paths come on standard input."""
    thresh = fraction_of(flags, "-thresh", THRESH)
    extended = bool(flags.get("-ext_output"))
    out = Path(str(flags["-out"])) if "-out" in flags else None
    words = arguments[3:]
    asked = asked_pictures(words, arguments[0], screen.warn)
    outputs = Outputs([*arguments, *(item.path for item in asked)], flags)
    if out is not None:
        outputs.check(out, DETECTIONS, "-out")
    drawings = Drawings(_drawn_into(flags, words, asked), outputs)
    labels = LabelFiles(outputs) if "-save_labels" in flags else None
    if "-dont_draw" not in flags:
        drawings.check(asked)
    labelled = labels.there(asked) if labels is not None else []
    detector = detector_of(arguments, flags)
    if labels is not None:
        _check_labels(labels, labelled, detector, thresh)
    channels = detector.network.cfg.net.channels
    if words:
        pictures = read_ahead(asked, channels, detector.max_pixels)
    else:
        pictures = read_at_once(pictures_from_standard_input(screen), channels, detector.max_pixels)
    status = 0
    with closing(FoundAsJson(out, outputs)) as as_json:
        for item, reading in pictures:
            outputs.reads([item.path])
            try:
                pixels = reading.result()
                found = _look_at(item, pixels, detector, thresh, extended, screen)
                as_json.add(found, item.name)
                if "-dont_draw" not in flags:
                    drawings.write(item, pixels, found)
                if labels is not None:
                    labels.write(item, found)
            except InputError as error:
                screen.error(str(error))
                status = NOT_ALL
    if drawings.count:
        screen.warn(drawings.summary)
    return status


def _check_labels(
    labels: LabelFiles, labelled: Sequence[Asked], detector: Detector, thresh: float
) -> None:
    """See by the first of the pictures with labels, before the others, whether those may stay.

    Raises:
        UsageError: they are other labels than would be written.
    """
    channels = detector.network.cfg.net.channels
    for item in labelled:
        with suppress(ImageError):  # told when it is its turn
            pixels = read_picture(
                item.path, channels, item.place, max_pixels=detector.max_pixels
            ).pixels
            labels.check(item, detector.detect(pixels, thresh))
            return


def _look_at(
    item: Asked,
    pixels: Pixels,
    detector: Detector,
    thresh: float,
    extended: bool,
    screen: Screen,
) -> list[Detection]:
    """Detect in one picture and print what there is."""
    began_s = time.perf_counter()
    found = detector.detect(pixels, thresh)
    milliseconds = (time.perf_counter() - began_s) * 1000
    screen.line(f"{item.name}: Predicted in {milliseconds:f} milli-seconds.")
    size_px = (pixels.shape[1], pixels.shape[0]) if extended else None
    for thing in found:
        screen.line(detection_line(thing, size_px))
    if not found:
        screen.line(f"nothing found above {thresh:g}")
    return found


def _drawn_into(flags: Values, words: list[str], asked: Sequence[Asked]) -> Path | None:
    """Return the folder that drawings go into; None: Darknet's predictions.jpg takes them."""
    if "-out_folder" in flags:
        if "-dont_draw" in flags:
            raise UsageError("-out_folder", "nothing is drawn with -dont_draw", "", "leave one out")
        return Path(str(flags["-out_folder"]))
    one = not words or [item.name for item in asked] == words[:1]
    return None if one else FOLDER


def detector_of(arguments: Sequence[str], flags: Values) -> Detector:
    """Return the detector of DATA, CFG and WEIGHTS."""
    data, cfg_path, weights = arguments[:3]
    cfg = read_cfg(cfg_path, "detect")
    names, max_pixels = class_names(data, cfg), max_pixels_of(read_data_file(data))
    network = run_fused(load_network(cfg, weights).to(compute_device(flags)))
    letter_box = "-letter_box" in flags or cfg.net.letter_box
    return Detector(network, names, letter_box, weights, max_pixels)


def class_names(data: str, cfg: Cfg) -> tuple[str, ...]:
    """Return the names of the data file, or numbers where it has none."""
    data_file = read_data_file(data)
    named = "names" in data_file.values
    names = read_names(resolve(data_file.text("names"), data_file.path)) if named else ()
    return names_of_all(names, cfg)
