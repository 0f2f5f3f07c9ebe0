"""`relume detector demo`: frames in, a whole video out, whatever ends it."""

import json
import os
import re
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from relume import detector
from relume.commands import video
from relume.commands.outputs import Outputs
from relume.commands.video import AHEAD, Frames, Pace
from relume.errors import StorageError
from relume.model.detect import Detections, Picture
from tests.command_line import Ended, relume
from tests.commands.test_detect import FOUND, found, net

__all__ = ["found", "net"]  # fixtures
FRAMES = 25
PACE = re.compile(r"FPS:\d+\.\d \t AVG_FPS:\d+\.\d")


@pytest.fixture(autouse=True)
def in_avi(net: Path) -> None:
    """A video in.avi of 25 frames, each brighter than the one before."""
    write_video(Path("in.avi"), FRAMES)


def write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (400, 300))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((300, 400, 3), 10 * (number % 25), np.uint8))
    writer.release()


def frames_of(path: str) -> list[Picture]:
    capture, frames = cv2.VideoCapture(path), []
    while (read := capture.read())[0]:
        frames.append(np.asarray(read[1], np.uint8))
    return frames


def demo(*words: object) -> Ended:
    return relume("detector", "demo", "obj.data", "net.cfg", "net.weights", *words)


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("name", ["out.avi", "out.mp4", "out.MKV"])
def test_a_video_is_written_with_every_frame_drawn(name: str) -> None:
    ended = demo("in.avi", "-out_filename", name)

    frames = frames_of(name)
    assert (ended.status, len(frames)) == (0, FRAMES)
    assert frames[0].shape == (300, 400, 3)
    assert frames[3][150:160, 214:226].std() < 6  # between the boxes, as it was
    assert frames[3][100:200, 290:360].std() > 10  # a box is drawn
    assert ended.err.splitlines()[0] == f"relume: relume opens no window; see {name}"
    assert re.fullmatch(rf"relume: 25 frames in .* a second\): {name}", ended.err.splitlines()[1])
    assert not list(Path().glob(".relume*"))


@pytest.mark.usefixtures("found")
def test_lines_are_darknets() -> None:
    lines = demo("in.avi", "-dont_show").out.splitlines()

    assert lines[0] == "video file: in.avi"
    assert lines[1:6] == ["Objects:", "", "cat: 50%", "dog: 88%", "cat: 38%"]
    assert PACE.fullmatch(lines[7])
    assert lines[-1] == "input video stream closed."
    assert sum(line == "Objects:" for line in lines) == FRAMES
    box = "(left_x:  240   top_y:   90   width:   80   height:  120)"
    assert f"dog: 88%\t{box}" in demo("in.avi", "-dont_show", "-ext_output").out


@pytest.mark.usefixtures("found")
def test_prefix_writes_every_frame_under_darknets_name() -> None:
    demo("in.avi", "-prefix", "frame", "-dontdraw_bbox")

    names = sorted(path.name for path in Path().glob("frame*"))
    assert names == [f"frame_{number:08}.jpg" for number in range(1, FRAMES + 1)]
    third = cv2.imread("frame_00000003.jpg")
    assert third is not None
    assert np.abs(third.astype(int) - 20).max() < 4  # nothing is drawn


def test_the_same_frames_give_the_same_bytes_of_json() -> None:
    files = []
    for name in ("one.json", "two.json"):
        assert demo("in.avi", "-json_file_output", name, "-thresh", "0.001").status == 0
        files.append(Path(name).read_bytes())

    frames = json.loads(files[0])
    assert files[0] == files[1]
    assert [frame["frame_id"] for frame in frames] == list(range(1, FRAMES + 1))
    assert frames[0].keys() == {"frame_id", "objects"}


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_ends_a_demo_leaves_a_whole_video_and_json(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    looked_at: list[object] = []

    def detect(*args: object) -> Detections:
        looked_at.append(args)
        if len(looked_at) == 4:
            os.kill(os.getpid(), getattr(signal, how))
        return FOUND

    monkeypatch.setattr(detector, "detect_image", detect)
    ended = demo("in.avi", "-out_filename", "out.mp4", "-json_file_output", "found.json")

    assert ended.status == 130
    assert 3 <= len(frames_of("out.mp4")) <= 4
    assert 3 <= len(json.loads(Path("found.json").read_text())) <= 4
    assert ended.err.splitlines()[-1] == "relume: interrupted"
    assert not list(Path().glob(".relume*"))


@pytest.mark.usefixtures("found")
def test_under_nohup_a_terminal_that_closes_ends_no_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    def detect(*args: object) -> Detections:
        os.kill(os.getpid(), signal.SIGHUP)
        return FOUND

    monkeypatch.setattr(detector, "detect_image", detect)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert demo("in.avi", "-out_filename", "out.mp4").status == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(frames_of("out.mp4")) == FRAMES


@pytest.mark.usefixtures("found")
def test_a_time_limit_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = demo("in.avi", "-json_file_output", "found.json", "-time_limit_sec", "1e-9")

    assert ended.status == 0
    assert len(json.loads(Path("found.json").read_text())) == 1
    assert demo("in.avi", "-dont_show", "-time_limit_sec", "0").error.startswith("-time_limit_sec")


def test_without_a_place_for_the_frames_it_says_which_to_give() -> None:
    ended = demo("in.avi")

    assert ended.status == 2
    assert ended.error == (
        "relume detector demo: relume opens no window; -out_filename VIDEO, -prefix PREFIX or "
        "-json_file_output FILE; or add -dont_show for the lines alone"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.avi"], "none.avi: does not exist; a video file, or -c N for a camera"),
        (["obj.data"], "obj.data: cannot be opened as a video; a file such as AVI, MP4 or MKV"),
        (["empty.avi"], "empty.avi: cannot be opened as a video; a file such as AVI, MP4 or MKV"),
        (["frameless.avi"], "frameless.avi: "),
        (["."], ".: is a folder; a video file; `detector test` takes folders"),
        (["in.avi", "-c", "1"], "-c: in.avi is given too; a video, or a camera"),
        (["-c", "77"], "camera 77: is not there or cannot be opened; give a video file"),
        (["in.avi", "-out_filename", "a.gif"], "-out_filename: a.gif ends in '.gif'; .avi, .mp4"),
        (["in.avi", "-out_filename", "no/a.avi"], "-out_filename: no does not exist; an existing"),
        (["in.avi", "-out_filename", "in.avi"], "in.avi: is in.avi itself; another file to write"),
        (["in.avi", "-json_file_output", "net.cfg"], "net.cfg: is net.cfg itself; another file"),
        (["in.avi", "-prefix", "no/frame"], "-prefix: no does not exist; an existing folder"),
    ],
)
def test_what_cannot_be_is_one_line(words: list[str], message: str) -> None:
    Path("empty.avi").touch()
    write_video(Path("frameless.avi"), 0)
    ended = demo(*words, "-dont_show")

    assert (ended.status, ended.out) == (2, "")
    assert ended.error.startswith(message)
    assert len(frames_of("in.avi")) == FRAMES


@pytest.mark.usefixtures("found")
def test_what_is_there_is_replaced_with_force_only() -> None:
    Path("out.avi").write_bytes(b"mine")
    Path("frame_00000077.jpg").write_bytes(b"mine")
    Path("frame_7.jpg").write_bytes(b"mine")  # no name that demo gives
    for words, named in (
        (("-out_filename", "out.avi"), "out.avi: there already"),
        (("-prefix", "frame"), "frame_00000077.jpg: there already"),
    ):
        ended = demo("in.avi", *words)
        assert (ended.status, ended.out) == (2, "")
        assert ended.error == f"{named}; -force replaces it"
    assert not Path("frame_00000001.jpg").exists()

    assert demo("in.avi", "-out_filename", "out.avi", "-prefix", "frame", "-force").status == 0
    assert len(frames_of("out.avi")) == FRAMES
    assert Path("frame_00000001.jpg").exists()
    Path("folder.avi").mkdir()
    ended = demo("in.avi", "-out_filename", "folder.avi", "-force")
    assert ended.error == "-out_filename: folder.avi is a folder; a file to write"


@pytest.mark.usefixtures("found")
def test_a_prefix_may_be_a_folder_as_in_darknet() -> None:
    assert demo("in.avi", "-prefix", "frames/").error.startswith("-prefix: frames does not exist")
    Path("frames").mkdir()

    assert demo("in.avi", "-prefix", "frames/").status == 0
    assert len(list(Path("frames").glob("_000000??.jpg"))) == FRAMES


@pytest.mark.usefixtures("found")
def test_a_video_that_is_cut_is_said_and_what_there_is_is_written() -> None:
    write_video(Path("in.avi"), 100)
    data = Path("in.avi").read_bytes()
    # The index at the end still tells of 100 frames; the bytes of most are not there any more.
    Path("in.avi").write_bytes(data[: len(data) // 3])
    ended = demo("in.avi", "-out_filename", "out.mp4")

    written = len(frames_of("out.mp4"))
    assert 0 < written < 50
    assert ended.status == 2
    assert ended.error.startswith(f"in.avi: ends after {written} of ")


@pytest.mark.parametrize(("frames", "fps"), [(30, 4), (7, 4), (2, 25), (1, 25)])
def test_a_live_video_has_the_rate_at_which_its_frames_came(
    monkeypatch: pytest.MonkeyPatch, frames: int, fps: float
) -> None:
    clock = iter([0.0, *(2 + 0.25 * i for i in range(30))])  # the first one at another pace
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    file = video.VideoFile(Path("live.avi"), None, Outputs())
    for number in range(frames):
        file.write(np.full((30, 40, 3), number, np.uint8))
    file.close()

    capture = cv2.VideoCapture("live.avi")
    assert capture.get(cv2.CAP_PROP_FPS) == fps
    assert len(frames_of("live.avi")) == frames


@pytest.mark.parametrize("ending", video.FOURCC)
def test_a_video_that_the_disk_took_a_part_of_is_none(ending: str) -> None:
    """Some forms can be opened all the same, and hold a part of the frames."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.Generator(np.random.Philox(1)).integers(0, 256, (30, 120, 160, 3), np.uint8)
    file = video.VideoFile(Path(f"out{ending}"), 10, Outputs())
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        for frame in noise:
            file.write(frame)
        with pytest.raises(StorageError, match=f"out{ending}: cannot be written whole"):
            file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(Path().glob("*out*"))


def test_a_full_disk_is_no_video(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Full:
        def __init__(self, path: str) -> None:
            self.path = Path(path)

        def isOpened(self) -> bool:
            return True

        def write(self, frame: object) -> None:
            self.path.write_bytes(b"\0" * 100)

        def release(self) -> None:
            pass

    file = video.VideoFile(Path("out.mp4"), 10, Outputs())
    with monkeypatch.context() as patch:
        patch.setattr(
            cv2,
            "VideoWriter",
            type("W", (), {"__new__": lambda *args: Full(args[1]), "fourcc": max}),
        )
        file.write(np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(StorageError, match=r"out\.mp4: cannot be written whole"):
        file.close()
    assert not list(Path().glob("*.mp4")) + list(Path().glob(".*.mp4"))


class Camera:
    """Gives numbered frames, each when it is let."""

    def __init__(self, frames: int) -> None:
        self.given, self._frames = 0, frames
        self.may_give = threading.Semaphore(frames + 1)

    def read(self) -> tuple[bool, Picture | None]:
        self.may_give.acquire()
        if self.given == self._frames:
            return False, None
        self.given += 1
        return True, np.full((4, 4, 3), self.given, np.uint8)

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_FPS: float("nan"), cv2.CAP_PROP_FRAME_COUNT: -1.0}.get(what, 4.0)

    def release(self) -> None:
        pass


def test_a_file_is_read_ahead_so_far_and_no_further() -> None:
    camera: Any = Camera(20)
    frames = Frames(camera, "file", is_live=False)
    taken = iter(frames)
    next(taken)
    assert camera.given <= AHEAD + 3
    assert [int(frame[0, 0, 0]) for frame in taken] == list(range(2, 21))
    assert frames.fps == 25
    frames.close()


def test_of_a_camera_only_the_newest_frame_waits() -> None:
    camera: Any = Camera(20)
    frames = Frames(camera, "camera 0", is_live=True)
    frames._thread.join()
    assert [int(frame[0, 0, 0]) for frame in frames] == [20]
    frames.close()


def test_the_pace_is_a_moving_one_and_that_of_three_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 0.0, *(0.5 * i for i in range(1, 9))])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    pace = Pace()
    pace.begin()
    texts = []
    for _ in range(8):
        pace.frame()
        texts.append(pace.text)

    assert texts[0] == "FPS:0.2 \t AVG_FPS:0.0"
    assert texts[-1] == "FPS:1.1 \t AVG_FPS:2.0"
    assert pace.summary(["a.avi"]) == "8 frames in 4.0 s (2.0 a second): a.avi"
