"""A small file that says it is a huge picture costs neither memory nor the run its course."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

import relume as api
from relume.commands.video import Frames
from relume.data.image import read_picture
from relume.drawing import Label, draw_labels
from relume.errors import ImageError, Unavailable
from relume.formats.cfg import read_cfg
from relume.formats.weights import format_weights
from relume.model.network import Network
from tests.command_line import relume
from tests.contract.small_runs import promised_files, sgd_cfg, write_run

SIDE_PX = 32000
"""Below what OpenCV refuses by itself: 3 GB of pixels, 8 GB at the peak."""
MOST_BYTES = 1_500_000_000
"""Of a whole command; PyTorch alone takes a third."""
CFG = sgd_cfg(max_batches=2, batch=4, subdivisions=2)


def huge_jpeg() -> bytes:
    """Return a progressive JPEG of a few hundred bytes."""
    grey = np.full((8, 8, 3), 90, np.uint8)
    data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    at = data.index(b"\xff\xc2") + 5
    return data[:at] + struct.pack(">HH", SIDE_PX, SIDE_PX) + data[at + 4 :]


def huge_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 8, 2, 0, 0, 0)
    picture = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", picture)


def huge_bmp() -> bytes:
    header = struct.pack("<IIIIiiHH", 0, 0, 54, 40, SIDE_PX, SIDE_PX, 1, 8)
    return b"BM" + header + struct.pack("<IIIIII", 1, 0, 0, 0, 1, 0) + bytes(100)  # RLE8


HUGE = {"a.jpg": huge_jpeg(), "b.png": huge_png(), "c.bmp": huge_bmp()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of seven pictures that nothing has disturbed."""
    folder = write_run(tmp_path_factory.mktemp("straight") / "run", CFG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert relume("detector", "train", "obj.data", "net.cfg").status == 0
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run before its start, the current folder."""
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    return tmp_path / "run"


def first_picture(run: Path) -> Path:
    return Path((run / "train.txt").read_text().splitlines()[0])


def write_weights(folder: Path) -> None:
    cfg = read_cfg(str(folder / "net.cfg"), "detect")
    arrays = {name: t.numpy() for name, t in Network(cfg, seed=1).darknet_arrays().items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    (folder / "net.weights").write_bytes(format_weights(arrays, cfg, seen=0))


def peak_of(*words: str) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run a command in a process of its own; return what it said, and its peak of memory."""
    code = (
        "import re, sys; from relume.cli import main; status = main(sys.argv[1:]); "
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]); "
        "sys.exit(status)"
    )
    command = [sys.executable, "-c", code, *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended, 1024 * int(ended.stdout.splitlines()[-1])


def test_check_names_huge_pictures_and_decodes_none(run: Path) -> None:
    for name, data in HUGE.items():
        (run / name).write_bytes(data)
        (run / name).with_suffix(".txt").write_text("")
    with (run / "train.txt").open("a") as train:
        train.writelines(f"{name}\n" for name in HUGE)

    ended, peak_bytes = peak_of("check", "obj.data", "net.cfg")

    assert peak_bytes < MOST_BYTES
    assert ended.returncode == 2
    assert "error        3  a picture has more pixels than may be decoded" in ended.stdout
    for name in HUGE:
        assert f"{name}: has 32000x32000 pixels" in ended.stdout


def test_training_stops_at_a_huge_picture_and_never_skips_it(run: Path) -> None:
    picture = first_picture(run)
    picture.write_bytes(huge_jpeg())
    with (run / "obj.data").open("a") as data:
        data.write("bad = skip\n")

    ended, peak_bytes = peak_of("detector", "train", "obj.data", "net.cfg")

    assert peak_bytes < MOST_BYTES
    assert ended.returncode == 2
    error = ended.stderr.splitlines()[-1]
    assert error.startswith("relume: error: train.txt:1: ")
    assert f"{picture.name} has 32000x32000 pixels, which take 6.2 GB to decode; " in error
    assert error.endswith(
        "at most 268,435,456 pixels; replace it or take it off the list, "
        "or set max_pixels = 1024000000"
    )


def test_a_run_that_max_pixels_has_stopped_goes_on_exactly_when_it_is_raised(
    run: Path, straight: Path
) -> None:
    with (run / "obj.data").open("a") as data:
        data.write("bad = skip\nmax_pixels = 5000\n")  # they have 72x72

    stopped = relume("detector", "train", "obj.data", "net.cfg")
    text = (run / "obj.data").read_text()
    (run / "obj.data").write_text(text.replace("max_pixels = 5000", "max_pixels = 5184"))
    went_on = relume("detector", "train", "obj.data", "net.cfg")

    assert (stopped.status, went_on.status) == (2, 0)
    assert "has 72x72 pixels" in stopped.error
    assert promised_files(run) == promised_files(straight)


def test_detecting_goes_on_behind_a_huge_picture(run: Path) -> None:
    write_weights(run)
    (run / "a.jpg").write_bytes(huge_jpeg())
    picture = str(first_picture(run))

    ended, peak_bytes = peak_of(
        *("detector", "test", "obj.data", "net.cfg", "net.weights", "a.jpg", picture)
    )

    assert peak_bytes < MOST_BYTES
    assert ended.returncode == 2
    assert "relume: error: a.jpg: has 32000x32000 pixels" in ended.stderr
    assert f"{picture}: Predicted in " in ended.stdout


def test_a_program_gets_an_error_for_a_huge_picture(run: Path) -> None:
    write_weights(run)
    detector = api.load("net.cfg", "net.weights", max_pixels=5000)

    with pytest.raises(ImageError, match=r"image: has 32000x32000 pixels.* max_pixels = 1024000"):
        detector.detect(huge_png())
    with pytest.raises(ImageError, match=r": has 72x72 pixels"):
        detector.detect(first_picture(run))


def test_a_long_and_narrow_picture_is_drawn_in_bounded_memory() -> None:
    label = Label("a", 0, (10.0, 0.0, 50.0, 1.0))
    for height, width in ((1, 10000), (10000, 1), (1, 65500), (2, 30000)):
        drawn = draw_labels(np.zeros((height, width, 3), np.uint8), [label])
        assert drawn.nbytes <= 3 << 24
        assert max(drawn.shape) <= 65500


def test_a_huge_video_is_refused_before_a_frame_is_decoded() -> None:
    class Huge:
        def get(self, what: int) -> float:
            return 32000.0

        def release(self) -> None:
            pass

    with pytest.raises(ImageError, match=r"^v\.avi: has frames of 32000x32000 pixels"):
        Frames(Huge(), "v.avi", is_live=False)


def test_a_picture_for_which_memory_is_short_is_not_undecodable(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((6000, 6000, 3), np.uint8))[1].tobytes())
    code = (
        "import resource, sys\n"
        "from relume.data.image import read_picture\n"
        "from relume.errors import RelumeError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)\n"
        "try:\n    print(read_picture(sys.argv[1], 3).size_px)\n"
        "except RelumeError as error:\n    print(type(error).__name__, error)\n"
    )
    said = []
    for megabytes in (20, 150, 400):  # nothing fits; the decoder's part; all
        command = [sys.executable, "-c", code, str(path), str(megabytes)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        said.append(ended.stdout)

    for text in said[:2]:
        assert text.startswith(f"Unavailable {path}: cannot be decoded now (0.22 GB at its peak)")
    assert said[2] == "(6000, 6000)\n"


def test_a_decoder_without_memory_skips_no_picture(
    run: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (run / "obj.data").open("a") as data:
        data.write("bad = skip\n")
    decode, calls = cv2.imdecode, iter(range(10**9))

    def without_memory(data: object, flag: int) -> object:
        if next(calls) == 6:
            error = cv2.error("Insufficient memory")
            error.code = cv2.Error.StsNoMem
            raise error
        return decode(data, flag)

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "imdecode", without_memory)
        stopped = relume("detector", "train", "obj.data", "net.cfg")
    went_on = relume("detector", "train", "obj.data", "net.cfg")

    assert (stopped.status, went_on.status) == (75, 0)
    assert "of memory are free; free some, or use fewer -workers" in stopped.error
    assert promised_files(run) == promised_files(straight)


def test_memory_that_others_take_stops_a_picture_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((5000, 5000, 3), np.uint8))[1].tobytes())
    monkeypatch.setattr("relume.data.decoding.free_memory_bytes", lambda with_swap: 10**8)

    with pytest.raises(Unavailable, match=r"train\.txt:7: .*a\.png cannot be decoded now"):
        read_picture(path, 3, "train.txt:7")
