"""`relume detector test`: Darknet's lines, its JSON, predictions.jpg, pictures from a list."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume import detection, detector
from relume.checkpoint.state import TrainState
from relume.commands import detect
from relume.drawing import Label, Pixels, draw_labels
from relume.formats.cfg import read_cfg
from relume.formats.weights import format_weights
from relume.model.detect import Detections
from relume.model.network import Network
from tests.cfg_texts import small_cfg
from tests.command_line import Ended, relume
from tests.contract.small_runs import sgd_cfg, train_until, write_run
from tests.shared import SHARED, needs_shared

NAMES = ("cat", "dog", "dont_show this")
PREDICTED = re.compile(r"(.+): Predicted in \d+\.\d{6} milli-seconds\.")

# Two boxes: the right one first, which is two things; the left one has a class not to be shown.
FOUND = Detections(
    boxes_xywh_rel=np.array([[0.7, 0.5, 0.2, 0.4], [0.3, 0.5, 0.4, 0.25]], np.float32),
    objectness=np.array([0.9, 0.8], np.float32),
    probabilities=np.array([[0.375, 0.875, 0], [0.5, 0, 0.625]], np.float32),
)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with obj.data, a net and its weights, and a picture a.png."""
    monkeypatch.chdir(tmp_path)
    Path("obj.names").write_text("\n".join(NAMES))
    Path("obj.data").write_text("classes = 3\nnames = obj.names\n")
    Path("net.cfg").write_text(small_cfg())
    cfg = read_cfg("net.cfg", "detect")
    arrays = {name: t.numpy() for name, t in Network(cfg, seed=1).darknet_arrays().items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    Path("net.weights").write_bytes(format_weights(arrays, cfg, seen=0))
    cv2.imwrite("a.png", np.full((100, 200, 3), 60, np.uint8))
    return tmp_path


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network finds FOUND in every picture."""
    monkeypatch.setattr(detector, "detect_image", lambda *args, **keys: FOUND)


def run(*words: object, stdin: str = "") -> Ended:
    return relume("detector", "test", "obj.data", "net.cfg", "net.weights", *words, stdin=stdin)


@pytest.mark.usefixtures("net", "found")
def test_lines_are_darknets_from_left_to_right_and_the_likeliest_class_first() -> None:
    ended = run("a.png")

    first, *rest = ended.out.splitlines()
    match = PREDICTED.fullmatch(first)
    assert match is not None
    assert match[1] == "a.png"
    assert rest == ["cat: 50%", "dog: 88%", "cat: 38%"]
    assert (ended.status, ended.err) == (0, "relume: drawn into predictions.jpg\n")


@pytest.mark.usefixtures("net", "found")
def test_ext_output_adds_the_box_in_pixels() -> None:
    box = "(left_x:  120   top_y:   30   width:   40   height:   40)"

    assert run("a.png", "-ext_output").out.splitlines()[2] == f"dog: 88%\t{box}"


@pytest.mark.usefixtures("net", "found")
def test_out_writes_json_in_darknets_form() -> None:
    run("-out", "found.json", "a.png")

    (frame,) = json.loads(Path("found.json").read_text())
    assert list(frame) == ["frame_id", "filename", "objects"]
    assert (frame["frame_id"], frame["filename"]) == (1, "a.png")
    assert frame["objects"][1] == {
        "class_id": 1,
        "name": "dog",
        "relative_coordinates": {"center_x": 0.7, "center_y": 0.5, "width": 0.2, "height": 0.4},
        "confidence": 0.875,
    }
    assert [item["class_id"] for item in frame["objects"]] == [0, 1, 0]


@pytest.mark.usefixtures("net", "found")
def test_predictions_jpg_shows_every_box_once_with_all_its_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts: list[str] = []

    def noted(picture: Pixels, labels: list[Label]) -> Pixels:
        texts.extend(label.text for label in labels)
        return draw_labels(picture, labels)

    monkeypatch.setattr(detection, "draw_labels", noted)
    run("a.png", "-dont_show")

    assert texts == ["cat 50%", "dog 88%, cat 38%"]  # the most confident is drawn last
    picture = cv2.imread("predictions.jpg")
    assert picture is not None
    assert picture.shape == (300, 600, 3)  # enlarged threefold to be readable


@pytest.mark.usefixtures("net", "found")
def test_pictures_are_taken_from_standard_input_and_a_bad_one_does_not_stop_the_rest() -> None:
    Path("broken.jpg").write_bytes(b"\xff\xd8 no picture")
    ended = run("-out", "found.json", stdin="a.png\n\nbroken.jpg\nmissing.png\na.png\n")

    asked = [line for line in ended.out.splitlines() if PREDICTED.fullmatch(line)]
    frames = json.loads(Path("found.json").read_text())
    errors = ended.err.splitlines()
    assert len(asked) == 2
    assert [frame["frame_id"] for frame in frames] == [1, 2]
    assert ended.status == 2
    assert errors[0].startswith("relume: error: broken.jpg: cannot be decoded (13 bytes); ")
    assert errors[1].startswith("relume: error: missing.png: cannot be read: No such file")
    assert errors[2:] == ["relume: drawn into predictions.jpg, the last of 2 pictures"]


@pytest.mark.usefixtures("net", "found")
@pytest.mark.parametrize("out", ["net.cfg", "[.data", "link.json"])
def test_out_never_replaces_what_is_read(out: str) -> None:
    Path("[.data").write_text("[\nclasses = 3\n")
    Path("link.json").symlink_to("net.cfg")  # which begins with [ as JSON does
    before = Path(out).read_bytes()

    ended = relume(
        *("detector", "test", "[.data", "net.cfg", "net.weights", "a.png"),
        *("-dont_draw", "-out", out),
    )

    assert ended.status == 2
    assert " itself; another file to write" in ended.error
    assert Path(out).read_bytes() == before


@pytest.mark.usefixtures("net")
def test_a_box_that_is_no_box_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = FOUND.boxes_xywh_rel.copy()
    boxes[0, 2], boxes[1, 0] = np.inf, 3e38
    monkeypatch.setattr(
        detector, "detect_image", lambda *args, **keys: replace(FOUND, boxes_xywh_rel=boxes)
    )
    ended = run("a.png", "-out", "found.json")

    assert (ended.status, ended.out.splitlines()[1:]) == (0, ["cat: 50%"])
    assert len(json.loads(Path("found.json").read_text())[0]["objects"]) == 1


@pytest.mark.usefixtures("net")
def test_no_path_on_standard_input_is_said() -> None:
    ended = run("-out", "found.json", stdin="\n")

    assert (ended.status, ended.out) == (2, "")
    assert ended.error == (
        "standard input: names no picture; paths, one a line; or give IMAGE behind WEIGHTS"
    )
    assert json.loads(Path("found.json").read_text()) == []


@pytest.mark.usefixtures("net")
def test_letter_box_changes_what_the_network_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def noted(*args: object) -> Detections:
        seen.append(bool(args[-1]))
        return FOUND

    monkeypatch.setattr(detector, "detect_image", noted)
    run("a.png")
    run("a.png", "-letter_box")
    Path("net.cfg").write_text(Path("net.cfg").read_text().replace("[net]", "[net]\nletter_box=1"))
    run("a.png")

    assert seen == [False, True, True]


@pytest.mark.usefixtures("net")
def test_classes_without_a_name_are_numbers() -> None:
    Path("obj.data").write_text("classes = 3\n")
    assert detect.class_names("obj.data", read_cfg("net.cfg", "detect")) == ("0", "1", "2")
    Path("obj.data").write_text("names = obj.names\n")
    Path("obj.names").write_text("cat\n")
    assert detect.class_names("obj.data", read_cfg("net.cfg", "detect")) == ("cat", "1", "2")


@pytest.mark.usefixtures("net")
@pytest.mark.parametrize("thresh", ["-0.1", "1.5", "nan", "25"])
def test_a_threshold_that_is_no_probability_is_an_error(thresh: str) -> None:
    ended = run("a.png", "-thresh", thresh)

    assert ended.status == 2
    assert ended.error == f"-thresh: {thresh}; a number from 0 to 1; for example -thresh .5"


@pytest.mark.usefixtures("net")
def test_a_folder_missing_for_out_is_said_before_any_work() -> None:
    ended = run("a.png", "-out", "no/such/f.json")

    assert ended.error == ("-out: no/such does not exist; an existing folder; mkdir -p no/such")
    assert ended.out == ""


@pytest.mark.usefixtures("net")
def test_weights_that_do_not_fill_the_net_are_refused() -> None:
    whole = Path("net.weights").read_bytes()
    for data, message in (
        (whole[:-4], "net.weights: fills 19 of 21 layers; the weights of net.cfg; give the CFG"),
        (whole + b"1234", "net.weights: 4 bytes follow the last layer"),
        (b"<!DOCTYPE html><html>", "net.weights: is a web page, not weights; download it again"),
    ):
        Path("net.weights").write_bytes(data)
        ended = run("a.png")
        assert ended.status == 2
        assert ended.error.startswith(message)
        assert ended.out == ""


def test_a_checkpoint_with_its_state_detects_like_the_plain_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", sgd_cfg(max_batches=2, batch_normalize=0))
    state: TrainState = train_until(folder)
    monkeypatch.chdir(folder)
    picture = Path("valid.txt").read_text().split()[0]
    lines = []
    for kind in ("last", "final"):
        words = ["detector", "test", "obj.data", "net.cfg", f"backup/net_{kind}.weights"]
        ended = relume(*words, picture, "-thresh", "0.01", "-out", f"{kind}.json")
        lines.append(ended.out.splitlines()[1:])

    assert state.iteration == 2
    assert lines[0] == lines[1] != []
    assert Path("last.json").read_bytes() == Path("final.json").read_bytes()


@needs_shared
def test_the_lines_are_those_of_the_original_darknet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, images = SHARED / "models" / "yolov3-tiny", SHARED / "images"
    Path("coco.data").write_text(f"names = {model / 'coco.names'}\n")
    golden = SHARED / "golden" / "inference" / "yolov3-tiny.test-thresh0.3.txt"
    expected: dict[str, list[str]] = {}
    for line in golden.read_text().splitlines():
        if line.startswith("# "):
            lines = expected.setdefault(line.removeprefix("# ").strip(), [])
        else:
            lines.append(line)
    ended = relume(
        *("detector", "test", "coco.data", model / "yolov3-tiny.cfg"),
        *(model / "yolov3-tiny.weights", "-thresh", 0.3, "-letter_box"),
        stdin="".join(f"{images / name}\n" for name in expected),
    )

    printed: dict[str, list[str]] = {}
    for line in ended.out.splitlines():
        match = PREDICTED.fullmatch(line)
        if match:
            lines = printed.setdefault(Path(match[1]).name, [])
        else:
            lines.append(line)
    assert ended.status == 0
    # The original prints in the order of its last sort, AlexeyAB's and ours from left to right.
    assert {k: sorted(v) for k, v in printed.items()} == {k: sorted(v) for k, v in expected.items()}


@needs_shared
def test_a_model_of_one_class_and_one_that_needs_no_training_keys_detect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("any.data").write_text("classes = 80\n")
    for name in ("yoloface-50k", "yolo-fastest-1.1"):
        model = SHARED / "models" / name / name
        ended = relume(
            *("detector", "test", "any.data", f"{model}.cfg", f"{model}.weights"),
            SHARED / "images" / "person.png",
        )
        assert (ended.status, ended.err) == (0, "relume: drawn into predictions.jpg\n")
        assert len(ended.out.splitlines()) > 1
