"""`relume detector demo`: what is in the frames of a video or a camera.

It opens no window: the frames go into a video (-out_filename) or pictures (-prefix), what is in
them into JSON and lines. Whatever ends it, Ctrl-C or a closed pipe, the video is finished.
"""

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from relume.command_table import Values
from relume.commands.detect import DETECTIONS, NOT_ALL, FoundAsJson, detector_of
from relume.commands.ending import ENDING
from relume.commands.fractions import fraction_of
from relume.commands.outputs import Kind, Outputs, names_in
from relume.commands.prediction_files import encoded
from relume.commands.video import (
    VIDEO,
    Frames,
    Pace,
    VideoFile,
    check_ending,
    frames_of_camera,
    frames_of_file,
)
from relume.data.image import Pixels
from relume.detection import Detection, detection_line, draw_detections
from relume.detector import THRESH
from relume.errors import UsageError
from relume.formats.data_files import read_data_file
from relume.screen import Screen
from relume.spec import max_pixels_of

FRAMES = Kind("frame")


@dataclass(frozen=True)
class Wanted:
    """Where the frames go, and what is in them."""

    video: Path | None
    prefix: str | None
    """Of the path of a JPEG for every frame."""
    json: Path | None

    @property
    def given(self) -> list[str]:
        """Those that are wanted, for messages."""
        pictures = None if self.prefix is None else f"{self.prefix}_*.jpg"
        return [str(output) for output in (self.video, pictures, self.json) if output is not None]


def demo(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Detect in the frames of a video or a camera; return the exit status."""
    thresh, draws = fraction_of(flags, "-thresh", THRESH), "-dontdraw_bbox" not in flags
    limit_s = _time_limit_s(flags)
    wanted, outputs = _wanted(flags), Outputs(arguments, flags)
    _check_outputs(wanted, outputs)
    pace = Pace()
    with ExitStack() as stack:
        frames = stack.enter_context(closing(_frames(arguments, flags, screen)))
        detector = detector_of(arguments, flags)
        if "-dont_show" not in flags:
            screen.warn(f"relume opens no window; see {', '.join(wanted.given)}")
        stack.enter_context(_endings_as_interrupt())
        stack.callback(lambda: screen.warn(pace.summary(wanted.given)))
        as_json = stack.enter_context(closing(FoundAsJson(wanted.json, outputs)))
        video = None
        if wanted.video is not None:
            fps = None if frames.is_live else frames.fps
            video = stack.enter_context(closing(VideoFile(wanted.video, fps, outputs)))
        pace.begin()
        for frame in frames:
            found = detector.detect(frame, thresh)
            as_json.add(found)
            if video is not None or wanted.prefix is not None:
                drawn = draw_detections(frame, found) if draws else frame
                if video is not None:
                    video.write(drawn)
                if wanted.prefix is not None:
                    path = _picture_path(wanted.prefix, pace.frames + 1)
                    outputs.write_replaceable(path, FRAMES, encoded(drawn))
            pace.frame()
            screen.lines(_lines(found, frame if "-ext_output" in flags else None, pace))
            if pace.seconds > limit_s:
                return 0
        screen.line("input video stream closed.")
    return _checked(frames, pace.frames, arguments, screen)


def _time_limit_s(flags: Values) -> float:
    limit_s = float(flags.get("-time_limit_sec", "inf"))
    if not limit_s > 0:
        raise UsageError("-time_limit_sec", f"{limit_s:g}", "seconds above 0")
    return limit_s


def _wanted(flags: Values) -> Wanted:
    """Return where everything goes."""
    video, json = (
        Path(str(flags[name])) if name in flags else None
        for name in ("-out_filename", "-json_file_output")
    )
    wanted = Wanted(video, str(flags["-prefix"]) if "-prefix" in flags else None, json)
    if not wanted.given and "-dont_show" not in flags:
        raise UsageError(
            "relume detector demo",
            "relume opens no window",
            "-out_filename VIDEO, -prefix PREFIX or -json_file_output FILE",
            "or add -dont_show for the lines alone",
        )
    return wanted


def _check_outputs(wanted: Wanted, outputs: Outputs) -> None:
    """Raise UsageError or StorageError, before there is any work, if something must stay."""
    if wanted.video is not None:
        check_ending(wanted.video, "-out_filename")
        outputs.check(wanted.video, VIDEO, "-out_filename")
    if wanted.json is not None:
        outputs.check(wanted.json, DETECTIONS, "-json_file_output")
    if wanted.prefix is not None:
        first = _picture_path(wanted.prefix, 1)
        outputs.check(first, FRAMES, "-prefix")
        picture = re.compile(re.escape(first.name.removesuffix("00000001.jpg")) + r"\d{8,}\.jpg")
        there = sorted(filter(picture.fullmatch, names_in(first.parent, "-prefix")))
        outputs.check([first.with_name(name) for name in there], FRAMES)


def _frames(arguments: Sequence[str], flags: Values, screen: Screen) -> Frames:
    max_pixels = max_pixels_of(read_data_file(arguments[0]))
    if len(arguments) == 3:
        index = int(flags.get("-c", 0))
        frames = frames_of_camera(index, max_pixels, screen)
        screen.line(f"Webcam index: {index}")
        return frames
    if "-c" in flags:
        raise UsageError("-c", f"{arguments[3]} is given too", "a video, or a camera")
    frames = frames_of_file(arguments[3], max_pixels, screen)
    screen.line(f"video file: {arguments[3]}")
    return frames


@contextmanager
def _endings_as_interrupt() -> Iterator[None]:
    """Let `timeout`, services and a terminal that closes end a demo as Ctrl-C does: in order.

    Under nohup a terminal that closes ends nothing.
    """
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _picture_path(prefix: str, number: int) -> Path:
    return Path(f"{prefix}_{number:08}.jpg")


def _lines(found: Sequence[Detection], frame: Pixels | None, pace: Pace) -> list[str]:
    """Return Darknet's lines about a frame; given the frame, with the boxes."""
    size_px = None if frame is None else (frame.shape[1], frame.shape[0])
    things = [detection_line(item, size_px) for item in found]
    return ["Objects:", "", *things, "", pace.text, ""]


def _checked(frames: Frames, seen: int, arguments: Sequence[str], screen: Screen) -> int:
    """Return the exit status; say so if a file ends more than a second before it should."""
    if seen >= frames.announced - frames.fps:
        return 0
    found = f"ends after {seen} of {frames.announced} frames; it may be cut or damaged"
    screen.error(f"{arguments[3]}: {found}")
    return NOT_ALL
