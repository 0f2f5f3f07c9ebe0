"""Videos in and out: frames decoded ahead by a thread, and a file that is there when it is whole.

Not covered: what is done with the frames.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import cv2
import numpy as np

from relume.checkpoint import storage
from relume.commands.outputs import Kind, Outputs
from relume.data.image import Pixels
from relume.errors import InputError, StorageError, TooLarge, UsageError
from relume.formats.picture_cost import MAX_PIXELS
from relume.formats.places import is_url
from relume.screen import Screen

VIDEO = Kind("video")
AHEAD = 4
"""Frames that are decoded while the network works on the one before."""
FOURCC = {".avi": "DIVX", ".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v"}
"""The codec of a video by its ending: MPEG-4, which every build of OpenCV has; DIVX as Darknet."""
SIDES = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
LIVE = ("rtsp://", "rtmp://", "udp://", "rtp://")
AT_ONCE = 4
"""A frame may have this part of the pixels of a picture: decoder and queue hold several at once."""
DEFAULT_FPS, MOST_FPS = 25.0, 1000.0
MEASURED = 10
"""Frames of a live source whose pace is the rate of the video that is written of it."""
LONGEST_FAREWELL_S = 1.0
"""Seconds to wait, at the end, for a camera that gives no frame."""


class Frames:
    """The frames of a video or a camera, read in a thread of their own so that nobody waits.

    Of a camera that is faster than who takes them only the newest is kept; of a file all are.

    Args of the constructor:
        capture: an open cv2.VideoCapture.
        name: of the video, for messages.
        is_live: it goes on whether anyone looks or not.
        max_pixels: of a picture.
    Raises:
        InputError: there is not even one frame.
        TooLarge: frames have more than a quarter of `max_pixels`.
    """

    def __init__(
        self, capture: Any, name: str, is_live: bool, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._capture = capture
        self.is_live = is_live
        width_px, height_px = (int(capture.get(side)) for side in SIDES)
        if width_px * height_px * AT_ONCE > max_pixels:
            capture.release()
            raise TooLarge(
                name,
                f"has frames of {width_px}x{height_px} pixels",
                f"at most {max_pixels // AT_ONCE:,} pixels",
                f"set max_pixels = {width_px * height_px * AT_ONCE} in the data file",
            )
        done, first = capture.read()
        if not done:
            capture.release()
            raise InputError(name, "holds no frame that can be decoded", "a video")
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if math.isfinite(fps) and 0 < fps <= MOST_FPS else DEFAULT_FPS
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.announced = 0 if is_live or not math.isfinite(count) else max(0, round(count))
        """Frames that the file says it has; 0: it does not say."""
        self._waiting: deque[Pixels] = deque([first])
        self._is_over = self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="relume-frames", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Pixels]:
        """Yield the frames, [H, W, 3] RGB."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_over)
                if not self._waiting:
                    return
                frame = self._waiting.popleft()
                self._changed.notify()
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)

    def close(self) -> None:
        """Let the video go."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(LONGEST_FAREWELL_S)
        if not self._thread.is_alive():
            self._capture.release()

    def _read(self) -> None:
        while True:
            frame = None
            with suppress(cv2.error):
                frame = self._capture.read()[1]
            with self._changed:
                if frame is None:
                    self._is_over = True
                elif self.is_live:
                    self._waiting.clear()
                else:
                    self._changed.wait_for(lambda: len(self._waiting) < AHEAD or self._is_closed)
                if frame is not None:
                    self._waiting.append(frame)
                self._changed.notify()
                if self._is_over or self._is_closed:
                    return


def frames_of_file(name: str, max_pixels: int, screen: Screen) -> Frames:
    """Return the frames of a video file, a stream's URL, or a row of pictures as `a_%03d.png`.

    Raises:
        InputError: it does not exist, or is no video.
        TooLarge: its frames have too many pixels.
    """
    if not is_url(name):
        if os.path.isdir(name):  # noqa: PTH112 - never an error, whatever the name
            raise InputError(name, "is a folder", "a video file; `detector test` takes folders")
        if not os.path.exists(name) and "%" not in name:
            raise InputError(name, "does not exist", "a video file, or -c N for a camera")
    with screen.silent_libraries():
        capture = cv2.VideoCapture(name)
        if not capture.isOpened():
            raise InputError(name, "cannot be opened as a video", "a file such as AVI, MP4 or MKV")
        return Frames(capture, name, name.lower().startswith(LIVE), max_pixels)


def frames_of_camera(index: int, max_pixels: int, screen: Screen) -> Frames:
    """Return the frames of a camera.

    Raises:
        InputError: there is none of this number.
    """
    with screen.silent_libraries():
        capture = cv2.VideoCapture(index)
        if not capture.isOpened():
            remedy = "give a video file behind WEIGHTS, or another number with -c"
            raise InputError(f"camera {index}", "is not there or cannot be opened", "", remedy)
        return Frames(capture, f"camera {index}", is_live=True, max_pixels=max_pixels)


class VideoFile:
    """A video that is written frame by frame and gets its name when it is whole.

    Args of the constructor:
        path: of the file; the ending decides its form.
        fps: frames per second; None: as they come, measured of the first ones. A camera gives
            more than the network takes, and all would go by too fast.
        outputs: of the command.
    """

    def __init__(self, path: Path, fps: float | None, outputs: Outputs) -> None:
        self._path = path
        self._fps = fps
        self._outputs = outputs
        # Nobody has, or foresees, a file of this name: OpenCV would write over it.
        self._temporary = path.with_name(f".relume-{token_hex(16)}.tmp{path.suffix}")
        self._writer: Any = None
        self._size_px = (0, 0)
        self._frames = 0
        self._kept: list[tuple[float, Pixels]] = []
        """Frames that wait until the pace is known, and when each came."""

    def write(self, rgb: Pixels) -> None:
        """Add a frame; the first one decides the size of all.

        Raises:
            StorageError: the file cannot be made.
        """
        if self._fps is not None:
            self._add(rgb, self._fps)
            return
        self._kept.append((time.perf_counter(), rgb))
        if len(self._kept) == MEASURED:
            self._add_kept()

    def _add_kept(self) -> None:
        """Settle the rate, and add the frames that have waited for it."""
        kept, self._kept = self._kept, []
        # The first frame has waited for nothing; it says nothing of the pace.
        begun_s, ended_s = kept[min(1, len(kept) - 1)][0], kept[-1][0]
        measured = (len(kept) - 2) / max(ended_s - begun_s, 1 / MOST_FPS) if len(kept) > 2 else 0.0
        self._fps = min(measured, MOST_FPS) or DEFAULT_FPS
        for _, rgb in kept:
            self._add(rgb, self._fps)

    def _add(self, rgb: Pixels, fps: float) -> None:
        size_px = (rgb.shape[1], rgb.shape[0])
        if self._writer is None:
            self._size_px = size_px
            fourcc = cv2.VideoWriter.fourcc(*FOURCC[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._temporary), fourcc, fps, size_px)
            if not self._writer.isOpened():
                raise StorageError(self._path, "cannot be written", "a folder that can be written")
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        self._writer.write(bgr if size_px == self._size_px else cv2.resize(bgr, self._size_px))
        self._frames += 1

    def close(self) -> None:
        """Finish the file and put it at its path; without a frame there is none.

        Raises:
            StorageError: it is not whole: the disk is full, perhaps.
        """
        if self._kept:
            self._add_kept()
        if self._writer is None:
            return
        self._writer.release()
        if not _holds_frames(self._temporary, self._frames):
            storage.remove(self._temporary)
            raise StorageError(self._path, "cannot be written whole", "a disk with space")
        try:
            self._outputs.put(self._temporary, self._path, VIDEO)
        except BaseException:
            storage.remove(self._temporary)
            raise


def _holds_frames(path: Path, frames: int) -> bool:
    """Tell whether a video has so many frames, and the last of them can be read.

    Of what a full disk took, some forms can be opened: they count no frames, or those that were
    to be there.
    """
    capture = cv2.VideoCapture(str(path))
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
    capture.set(cv2.CAP_PROP_POS_FRAMES, frames - 1)
    has_last = capture.grab() and capture.get(cv2.CAP_PROP_POS_FRAMES) >= frames
    capture.release()
    return bool(has_last and count >= frames)


def check_ending(path: Path, flag: str) -> None:
    """Raise UsageError if a video cannot be written under this name."""
    if path.suffix.lower() not in FOURCC:
        *most, last = FOURCC
        needed = f"{', '.join(most)} or {last}"
        raise UsageError(flag, f"{path} ends in '{path.suffix}'", needed)


class Pace:
    """Counts frames, and how many there are in a second as Darknet counts them.

    Source: AlexeyAB/darknet 2a8ec66c src/demo.c demo.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.text = ""
        """Darknet's line: a moving pace, and that of the last 3 seconds."""
        self._fps = self._average_fps = 0.0
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._began_s = self._before_s = self._part_began_s = time.perf_counter()
        self._part_frames = 0

    @property
    def seconds(self) -> float:
        """From the beginning to the last frame."""
        return self._before_s - self._began_s

    def frame(self) -> None:
        """Count a frame."""
        now_s = time.perf_counter()
        self._fps = self._fps * 0.9 + 0.1 / max(now_s - self._before_s, 1e-6)
        self._before_s = now_s
        self.frames += 1
        self._part_frames += 1
        if now_s - self._part_began_s >= 3:
            self._average_fps = self._part_frames / (now_s - self._part_began_s)
            self._part_frames, self._part_began_s = 0, now_s
        self.text = f"FPS:{self._fps:.1f} \t AVG_FPS:{self._average_fps:.1f}"

    def summary(self, outputs: Sequence[str]) -> str:
        """Return a line about all frames and where they went."""
        per_second = self.frames / max(self.seconds, 1e-6)
        went = f": {', '.join(outputs)}" * bool(self.frames and outputs)
        many = f"{self.frames} frame{'s' * (self.frames != 1)}"
        return f"{many} in {self.seconds:.1f} s ({per_second:.1f} a second){went}"
