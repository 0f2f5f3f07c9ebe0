"""`relume detector map`, `recall` and `valid`: Darknet's lines and files, and what goes wrong."""

import json
import math
import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.detector import load_network
from relume.evaluate import coco_measure, validation
from relume.evaluate.average_precision import ClassEvaluation, Counts, Evaluation
from relume.evaluate.report import format_evaluation
from relume.formats.cfg import read_cfg
from relume.formats.weights import format_weights
from relume.model.detect import detect_image
from relume.model.network import Network
from tests.cfg_texts import small_cfg
from tests.command_line import Ended, relume

NAMES = ("cat", "dog", "bird")
PICTURES, TRUTHS = 7, 5


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with a net that finds much, and seven labelled pictures."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.Generator(np.random.Philox(4))
    Path("obj.names").write_text("\n".join(NAMES))
    Path("obj.data").write_text("names = obj.names\nvalid = valid.txt\nresults = results\n")
    Path("net.cfg").write_text(small_cfg())
    cfg = read_cfg("net.cfg", "detect")
    arrays = {name: t.numpy() for name, t in Network(cfg, seed=1).darknet_arrays().items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if name.endswith("rolling_variance"):
            array[...] = 0.1
    Path("net.weights").write_bytes(format_weights(arrays, cfg, seen=0))
    network = load_network(cfg, "net.weights")
    for number in range(PICTURES):
        pixels = generator.integers(0, 256, (60 + number, 90, 3), np.uint8)
        cv2.imwrite(f"{number}.png", pixels)
        found = detect_image(network, np.ascontiguousarray(pixels[..., ::-1]), 0.05)
        best = np.argsort(-found.probabilities.max(1), kind="stable")[1 : 2 * TRUTHS : 2]
        rows = [
            f"{found.probabilities[row].argmax()} "
            + " ".join(f"{value:f}" for value in found.boxes_xywh_rel[row])
            for row in best
        ]
        Path(f"{number}.txt").write_text("\n".join(rows))
    Path("valid.txt").write_text("\n".join(f"{number}.png" for number in range(PICTURES)))
    return tmp_path


def run(command: str, *words: object) -> Ended:
    return relume("detector", command, "obj.data", "net.cfg", "net.weights", *words)


MADE = Evaluation(
    (
        ClassEvaluation(0.5, 9, Counts(4, 3, 1, 2.4)),
        ClassEvaluation(0.0, 0, Counts(2, 0, 0, 0.0)),
        ClassEvaluation(0.0, 2, Counts(0, 0, 2, 0.0)),
    ),
    thresh=0.25,
    iou_thresh=0.5,
    points=11,
)


def test_the_lines_are_darknets() -> None:
    lines = format_evaluation(MADE, NAMES)

    assert lines[0] == " detections_count = 11, unique_truth_count = 6  "
    assert lines[1].startswith("class_id = 0, name = cat, ap = 50.00%   \t (TP = 3, FP = 1) ")
    assert lines[1].endswith(
        "   FN = 1, precision = 0.75, recall = 0.75, F1-score = 0.75, average IoU = 60.00 %"
    )
    assert lines[2].startswith("class_id = 1, name = dog, ap = 0.00%   \t (TP = 0, FP = 0) ")
    assert "nan" not in "".join(lines)
    assert lines[4:] == [
        "",
        " for conf_thresh = 0.25, precision = 0.50, recall = 0.50, F1-score = 0.50 ",
        " for conf_thresh = 0.25, TP = 3, FP = 3, FN = 3, average IoU = 40.00 % ",
        "",
        " IoU threshold = 50 %, used 11 Recall-points ",
        " mean average precision (mAP@0.50) = 0.166667, or 16.67 % ",
        " of 3 classes 1 have no truths and count as 0 (first bird); over the others it is 25.00 %",
    ]


def test_map_prints_what_it_measures_and_json_says_the_same(folder: Path) -> None:
    printed = run("map", "-thresh", ".1", "-iou_thresh", ".2", "-points", "101")
    as_json = run("map", "-thresh", ".1", "-iou_thresh", ".2", "-points", "101", "-json")

    assert (printed.status, as_json.status, as_json.err) == (0, 0, "")
    found = json.loads(as_json.out)
    assert found["truths"] == TRUTHS * PICTURES
    assert found["TP"] > 0
    assert 0 < found["mAP"] < 1
    counted = f"TP = {found['TP']}, FP = {found['FP']}, FN = {found['FN']}"
    assert f" for conf_thresh = 0.10, {counted}, average IoU" in printed.out
    assert f"(mAP@0.20) = {found['mAP']:f}, or {found['mAP'] * 100:.2f} %" in printed.out
    assert "used 101 Recall-points" in printed.out
    assert [one["name"] for one in found["classes"]] == list(NAMES)
    assert sum(one["AP"] for one in found["classes"]) / 3 == pytest.approx(found["mAP"])


def test_letter_box_changes_what_is_found(folder: Path) -> None:
    measured = [json.loads(run("map", *more, "-json").out) for more in ((), ("-letter_box",))]
    assert measured[0]["detections"] != measured[1]["detections"]
    text = Path("net.cfg").read_text().replace("[net]", "[net]\nletter_box=1")
    Path("net.cfg").write_text(text)
    assert json.loads(run("map", "-json").out) == measured[1]


def test_a_picture_without_labels_is_one_warning_and_a_damaged_one_is_left_out(
    folder: Path,
) -> None:
    Path("2.txt").unlink()
    Path("4.png").write_bytes(b"no picture")
    for command in ("map", "recall"):
        ended = run(command, "-json")
        assert ended.status == 2
        assert "pictures without a label file: 1 of 7" in ended.err
        assert "valid.txt:5: 4.png cannot be decoded" in ended.error
        assert json.loads(ended.out)["truths"] == TRUTHS * (PICTURES - 2)
        assert json.loads(ended.out)["unread"] == ["valid.txt:5"]
    ended = run("valid")
    assert ended.status == 2
    texts = [path.read_text() for path in Path("results").iterdir()]
    ids = {line.split()[0] for text in texts for line in text.splitlines()}
    assert ids == {str(number) for number in range(PICTURES) if number != 4}


def test_difficult_boxes_are_neither_found_nor_missed(folder: Path) -> None:
    before = json.loads(run("map", "-thresh", "0.05", "-json").out)
    for number in range(PICTURES):
        Path(f"{number}.txt").rename(f"d{number}.txt")
        Path(f"{number}.txt").write_text("")
        Path(f"d{number}.png").write_bytes(b"")
    Path("hard.txt").write_text("\n".join(f"d{number}.png" for number in range(PICTURES)))
    with Path("obj.data").open("a") as file:
        file.write("difficult = hard.txt\n")

    after = json.loads(run("map", "-thresh", "0.05", "-json").out)

    assert (after["truths"], after["mAP"]) == (0, 0)
    assert before["TP"] > 0
    # Whatever found a truth that is difficult now counts nowhere.
    assert after["FP"] <= before["FP"]
    assert after["detections"] < before["detections"]
    assert "knows no 'difficult'" in run("map", "-coco").error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-points", "7"), "-points: 7; one of 0, 11, 101"),
        (("-thresh", "2"), "-thresh: 2; a number from 0 to 1"),
        (("-iou_thresh", "-1"), "-iou_thresh: -1; a number from 0 to 1"),
        (("-workers", "-1"), "-workers: -1; 0 or more"),
        (("-coco", "-points", "11"), "-points: has no effect with -coco"),
    ],
)
def test_a_wrong_flag_is_one_line(folder: Path, words: tuple[str, ...], said: str) -> None:
    ended = run("map", *words)
    assert (ended.status, ended.out) == (2, "")
    assert ended.error.startswith(said)


def test_wrong_files_are_one_line(folder: Path) -> None:
    Path("obj.names").write_text("cat\ndog\n")
    assert "2 names; 3, since net.cfg" in run("map").error
    Path("obj.data").write_text("names = obj.names\n")
    for command in ("map", "valid", "recall"):
        assert "key 'valid' is missing" in run(command).error
    assert "cannot be read" in relume("detector", "map", "none.data", "net.cfg", "w").error


@pytest.mark.parametrize(
    "words",
    [
        ("detector", "map", "obj.data", "net.cfg", "nan.weights"),
        ("detector", "recall", "obj.data", "net.cfg", "nan.weights"),
        ("detector", "valid", "obj.data", "net.cfg", "nan.weights"),
        ("detector", "test", "obj.data", "net.cfg", "nan.weights", "1.png"),
        ("export", "net.cfg", "nan.weights", "out.onnx"),
        ("average", "net.cfg", "out.weights", "net.weights", "nan.weights"),
        ("average", "net.cfg", "out.weights", "nan.weights", "net.weights"),
    ],
)
def test_weights_of_a_training_that_diverged_are_no_bad_result_but_an_error(
    folder: Path, words: tuple[str, ...]
) -> None:
    data = bytearray(Path("net.weights").read_bytes())
    data[20:24] = struct.pack("<f", math.nan)
    Path("nan.weights").write_bytes(data)
    before = sorted(folder.iterdir())

    ended = relume(*words)

    assert ended.status == 2
    assert ended.error.startswith("nan.weights: layer 0: 1 of 4 numbers in 0.biases are NaN")
    assert ended.out == ""
    assert sorted(folder.iterdir()) == before


WRITING = (
    ("detector", "valid", "obj.data", "net.cfg", "net.weights", "-out", "x"),
    ("detector", "test", "obj.data", "net.cfg", "net.weights", "1.png", "-out", "results/xcat.txt"),
    ("detector", "test", "obj.data", "net.cfg", "net.weights", "1.png", "-dont_draw", "-out", "R"),
    ("detector", "demo", "obj.data", "net.cfg", "net.weights", "1.png", "-json_file_output", "R"),
    ("export", "net.cfg", "net.weights", "R", "-force"),
    ("strip", "net.weights", "R", "-force"),
    ("average", "net.cfg", "R", "net.weights", "-force"),
)
"""Commands that write results/xcat.txt (R)."""


@pytest.mark.parametrize("words", WRITING, ids=" ".join)
def test_what_is_no_file_is_not_replaced_by_one_and_no_work_is_done_before(
    folder: Path, words: tuple[str, ...]
) -> None:
    """/dev/null, for whoever may, would be a file from then on."""
    target = folder / "results" / "xcat.txt"
    target.parent.mkdir()
    os.mkfifo(target)

    ended = relume(*(word if word != "R" else "results/xcat.txt" for word in words))

    assert ended.status == 2
    assert "results/xcat.txt: is no regular file; a file to write; " in ended.error
    assert ended.out == ""
    assert target.is_fifo()
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("words", WRITING, ids=" ".join)
def test_a_folder_that_cannot_be_written_is_told_before_there_is_any_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (folder / "results").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "results")

    ended = relume(*(word if word != "R" else "results/xcat.txt" for word in words))

    assert ended.status == 2
    assert "results: cannot be written (Permission denied)" in ended.error
    assert ended.out == ""
    assert list((folder / "results").iterdir()) == []


def test_coco_is_measured_and_without_the_library_the_way_to_it_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, as_json = run("map", "-coco"), run("map", "-coco", "-json")
    assert (printed.status, as_json.status) == (0, 0)
    figures = json.loads(as_json.out)
    assert list(figures) == [*coco_measure.NAMES, "unread"]
    assert len(printed.out.splitlines()) == 12
    assert f"area=   all | maxDets=100 ] = {figures['AP']:.3f}" in printed.out
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    ended = run("map", "-coco")
    assert (ended.status, ended.out) == (2, "")
    assert ended.error.endswith("pip install faster-coco-eval")


def test_recall_says_a_line_after_every_picture(folder: Path) -> None:
    ended = run("recall")
    form = re.compile(
        r" +(\d+) +(\d+) +(\d+)\tRPs/Img: (\d+\.\d\d)\tIOU: (\d+\.\d\d)%\tRecall:(\d+\.\d\d)%"
    )
    rows = [form.fullmatch(line) for line in ended.out.splitlines()]
    assert ended.status == 0
    assert [row and int(row[1]) for row in rows] == list(range(PICTURES))
    assert [row and int(row[3]) for row in rows] == [TRUTHS * n for n in range(1, PICTURES + 1)]
    last = json.loads(run("recall", "-json").out)
    assert rows[-1] is not None
    assert int(rows[-1][2]) == last["correct"] > 0
    assert rows[-1][6] == f"{last['recall'] * 100:.2f}"


def test_valid_writes_a_file_per_class(folder: Path) -> None:
    ended = run("valid")
    assert ended.status == 0
    files = [Path("results") / f"comp4_det_test_{name}.txt" for name in NAMES]
    assert ended.out.splitlines()[:3] == [str(file) for file in files]
    for file in files:
        for line in file.read_text().splitlines():
            name, probability, *box = line.split()
            left, top, right, bottom = map(float, box)
            assert 0.001 < float(probability) <= 1
            assert 1 <= left <= right + 1
            assert right <= 90
            assert top >= 1
            assert bottom <= 60 + int(name)
    before = {file: file.read_bytes() for file in files}
    run("valid", "-out", "mine_")
    for file in files:
        mine = Path("results") / file.name.replace("comp4_det_test_", "mine_")
        assert mine.read_bytes() == before[file]


def test_valid_tells_of_names_that_results_of_voc_cannot_tell_apart(folder: Path) -> None:
    for name in ("a.1.png", "a.2.png", "a b.png"):
        Path(name).write_bytes(Path("3.png").read_bytes())
    assert run("valid").err == ""
    Path("valid.txt").write_text("3.png\na.1.png\na.2.png\na b.png\n")

    ended = run("valid")

    read = "by programs that read results of VOC"
    assert ended.status == 0
    assert ended.err.splitlines() == [
        "relume: valid.txt:3: a.2.png has the id 'a', as valid.txt:2: taken for one picture "
        + read,
        "relume: valid.txt:4: a b.png has the id 'a b', which is not one word: hard to read "
        + read,
    ]


def test_valid_writes_cocos_json(folder: Path) -> None:
    with Path("obj.data").open("a") as file:
        file.write("eval = coco\n")
    assert run("valid").status == 0
    text = Path("results/coco_results.json").read_text()
    entries = json.loads(text)
    assert {entry["image_id"] for entry in entries} == set(range(PICTURES))
    assert {entry["category_id"] for entry in entries} <= {1, 2, 3}
    assert len(text.splitlines()) == len(entries) + 2
    with Path("valid.txt").open("a") as file:
        file.write("\na_3.png\n")
    Path("a_3.png").write_bytes(Path("3.png").read_bytes())
    assert "a_3.png has the image id 3, as valid.txt:4" in run("valid").error
    Path("a_3.png").rename("dog.png")
    Path("valid.txt").write_text("dog.png")
    assert "dog.png has none; COCO knows its pictures by number" in run("valid").error


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("eval = bdd", "obj.data:4: eval = bdd, a form of Darknet that relume does not write"),
        ("eval = vocs", "obj.data:4: eval = vocs; voc or coco"),
        ("map = coco.map", "obj.data:4: map = ...; it numbers the classes of [region] trees"),
    ],
)
def test_forms_that_are_not_written_are_refused_by_name(folder: Path, line: str, said: str) -> None:
    with Path("obj.data").open("a") as file:
        file.write(line + "\n")
    assert run("valid").error.startswith(said)
    assert not Path("results").exists()


def test_a_class_that_names_no_file_is_refused(folder: Path) -> None:
    Path("obj.names").write_text("cat\n../dog\nbird\n")
    assert "class '../dog'" in run("valid").error
    Path("obj.names").write_text("cat\ndog\ncat\n")
    assert "class 'cat' is there twice" in run("valid").error
    assert "-out: 'a/b'" in run("valid", "-out", "a/b").error


def test_an_interrupted_measurement_says_one_line_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **keys: object) -> Iterator[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(validation, "detect_pictures", interrupted)
    monkeypatch.setattr("relume.commands.valid.detect_pictures", interrupted)
    for command in ("map", "valid"):
        ended = run(command)
        assert (ended.status, ended.err) == (130, "relume: interrupted\n")
    assert not Path("results").exists()
