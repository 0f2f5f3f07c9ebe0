"""The Python interface: cheap to import, typed, clear about what it does not take."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import relume
from relume.checkpoint.weights_file import read_whole_weights
from relume.data.image import Pixels
from relume.errors import DataFileError, ImageError, Undecodable, WeightsError
from relume.formats.cfg import read_cfg
from relume.formats.weights import format_weights
from relume.model.network import Network
from tests.cfg_texts import small_cfg

THRESH = 0.01
"""At this a net of random weights finds something."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.cfg, net.weights, obj.names, grey.cfg, grey.weights and a.png."""
    folder = tmp_path_factory.mktemp("detector")
    for name, channels in (("net", 3), ("grey", 1)):
        path = folder / f"{name}.cfg"
        path.write_text(small_cfg().replace("channels=3", f"channels={channels}"))
        cfg = read_cfg(str(path), "detect")
        arrays = {n: t.numpy().copy() for n, t in Network(cfg, seed=3).darknet_arrays().items()}
        for array_name, array in arrays.items():
            if array_name.endswith("rolling_variance"):
                array[:] = 1
        (folder / f"{name}.weights").write_bytes(format_weights(arrays, cfg, seen=0))
    (folder / "obj.names").write_text("cat\ndog\n")
    noise = np.random.Generator(np.random.Philox(5)).integers(0, 256, (48, 64, 3), np.uint8)
    cv2.imwrite(str(folder / "a.png"), noise)
    return folder


@pytest.fixture(scope="module")
def detector(folder: Path) -> relume.Detector:
    return relume.load(folder / "net.cfg", folder / "net.weights", folder / "obj.names")


def pixels_of(folder: Path) -> Pixels:
    bgr = cv2.imread(str(folder / "a.png"))
    assert bgr is not None
    return np.ascontiguousarray(bgr[..., ::-1], np.uint8)


def test_importing_relume_imports_neither_torch_nor_opencv() -> None:
    code = "import sys, relume; print(relume.__version__, {'torch', 'cv2'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == f"{relume.__version__} set()\n"
    assert (Path(relume.__file__).parent / "py.typed").exists()


def test_a_detector_is_shown_in_one_line(detector: relume.Detector, folder: Path) -> None:
    weights = str(folder / "net.weights")

    assert repr(detector) == (
        f"Detector(cfg={str(folder / 'net.cfg')!r}, weights={weights!r}, input='64x64', "
        "classes=3, letter_box=False)"
    )


def test_a_shell_that_completes_finds_the_interface() -> None:
    assert dir(relume) == sorted(relume.__all__)


def test_a_name_that_relume_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'relume' has no attribute 'detct'"):
        relume.detct  # type: ignore[attr-defined] # noqa: B018


def test_a_path_the_bytes_and_the_pixels_of_a_picture_give_the_same(
    folder: Path, detector: relume.Detector
) -> None:
    path = folder / "a.png"
    found = detector.detect(path, THRESH)

    assert found
    assert detector.detect(str(path), THRESH) == found
    assert detector.detect(path.read_bytes(), THRESH) == found
    assert detector.detect(pixels_of(folder), THRESH) == found


def test_a_detection_tells_its_class_and_box_in_both_forms(
    folder: Path, detector: relume.Detector
) -> None:
    for one in detector.detect(folder / "a.png", THRESH):
        x, y, w, h = one.box_xywh_rel
        left, top, right, bottom = one.box_xyxy_px
        assert one.name == detector.names[one.class_id]
        assert THRESH < one.confidence <= 1
        assert left == min(max((x - w / 2) * 64, 0), 63)
        assert bottom == min(max((y + h / 2) * 48, 0), 47)
        assert 0 <= left <= right <= 63
        assert 0 <= top <= bottom <= 47


def test_a_higher_threshold_leaves_what_is_above_it(
    folder: Path, detector: relume.Detector
) -> None:
    found = detector.detect(folder / "a.png", THRESH)
    middle = sorted(one.confidence for one in found)[len(found) // 2]

    assert detector.detect(folder / "a.png", middle) == [
        one for one in found if one.confidence > middle
    ]


def test_grey_and_colour_are_turned_into_what_the_network_takes(
    folder: Path, detector: relume.Detector
) -> None:
    grey = cv2.cvtColor(pixels_of(folder), cv2.COLOR_RGB2GRAY)
    three = np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    of_grey = relume.load(folder / "grey.cfg", folder / "grey.weights")

    assert detector.detect(grey, THRESH) == detector.detect(three, THRESH) != []
    assert of_grey.detect(pixels_of(folder), THRESH) == of_grey.detect(grey, THRESH) != []


def test_names_may_be_given_as_such_and_a_class_without_one_is_its_number(folder: Path) -> None:
    files = (folder / "net.cfg", folder / "net.weights")

    assert relume.load(*files, ["a"]).names[:2] == ("a", "1")
    assert relume.load(*files).names[:2] == ("0", "1")
    assert relume.load(*files, folder / "obj.names").names[:3] == ("cat", "dog", "2")


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (
            7,
            TypeError,
            "image is of type int; a path, the bytes of a picture file, or an array of uint8",
        ),
        (np.zeros((4, 4, 3)), TypeError, "image is an array of float64; uint8 is needed, 0 to 255"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"shape \(4, 4, 4\); \[H, W, 3\] or \[H, W\]"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"image has the shape \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), ValueError, r"image has the shape \(4,\)"),
        (b"", Undecodable, r"image: cannot be decoded \(0 bytes\); a picture such as JPEG"),
        ("none.jpg", ImageError, "none.jpg: cannot be read: No such file"),
    ],
)
def test_what_is_no_picture_is_said(
    detector: relume.Detector, image: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        detector.detect(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["thresh", "nms"])
def test_a_threshold_that_is_no_probability_is_an_error(
    folder: Path, detector: relume.Detector, name: str
) -> None:
    with pytest.raises(ValueError, match=f"{name} is 25; a number from 0 to 1 is needed"):
        detector.detect(folder / "a.png", **{name: 25})


@pytest.mark.parametrize(("names", "kind"), [([1, 2, 3], "int"), (b"obj.names", "int")])
def test_names_that_are_no_strings_are_told_when_they_are_given(
    folder: Path, names: list[str], kind: str
) -> None:
    with pytest.raises(TypeError, match=f"names holds a {kind}; the path of a .names file, or str"):
        relume.load(folder / "net.cfg", folder / "net.weights", names)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_a_matrix_is_a_grey_picture(folder: Path, detector: relume.Detector) -> None:
    grey = pixels_of(folder)[..., 0]

    assert detector.detect(np.asmatrix(grey), THRESH) == detector.detect(grey, THRESH) != []


@pytest.mark.parametrize(
    ("name", "number", "found"),
    [
        ("0.biases", np.nan, "layer 0: 1 of 4 numbers in 0.biases are NaN or infinite; finite w"),
        ("2.weights", -np.inf, "layer 2: 1 of 216 numbers in 2.weights are NaN or infinite; "),
        ("0.rolling_variance", -1.0, "layer 0: its weights are not finite after batch norm; "),
    ],
)
def test_weights_that_are_no_numbers_are_an_error_that_names_the_layer(
    folder: Path, tmp_path: Path, name: str, number: float, found: str
) -> None:
    cfg = read_cfg(str(folder / "net.cfg"), "detect")
    arrays = read_whole_weights(cfg, str(folder / "net.weights")).arrays
    changed = arrays[name].copy()
    changed.ravel()[1] = number
    path = tmp_path / "net.weights"
    path.write_bytes(format_weights({**arrays, name: changed}, cfg, seen=0))

    with pytest.raises(WeightsError, match=re.escape(f"{path}: {found}")):
        relume.load(folder / "net.cfg", path)


def test_files_that_cannot_be_used_are_errors_with_their_names(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.weights: cannot be read"):
        relume.load(folder / "net.cfg", folder / "none.weights")
    with pytest.raises(DataFileError, match=r"none\.names: cannot be read"):
        relume.load(folder / "net.cfg", folder / "net.weights", folder / "none.names")


def test_a_drawing_shows_the_boxes_and_leaves_the_pixels_alone(
    folder: Path, detector: relume.Detector
) -> None:
    pixels = pixels_of(folder)
    drawn = relume.draw(pixels, detector.detect(pixels, THRESH))

    np.testing.assert_array_equal(pixels, pixels_of(folder))
    assert drawn.shape == (336, 448, 3)  # enlarged sevenfold
    assert (drawn != relume.draw(pixels, [])).any()
