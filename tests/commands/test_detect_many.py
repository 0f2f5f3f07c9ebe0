"""`relume detector test` on lists, folders and several pictures; what it does not replace."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume import detector
from relume.commands.prediction_files import MARK
from relume.model.detect import Detections
from tests.command_line import Ended
from tests.commands.test_detect import PREDICTED, found, net, run

__all__ = ["found", "net"]  # fixtures
pytestmark = pytest.mark.usefixtures("net", "found")


@pytest.fixture(autouse=True)
def pictures(net: Path) -> None:
    """A folder img with a.png, b.jpg and notes.txt, and more/a.jpg."""
    for name in ("img/a.png", "img/b.jpg", "more/a.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        cv2.imwrite(name, np.full((300, 400, 3), 90, np.uint8))
    Path("img/notes.md").write_text("no picture")


def looked_at(ended: Ended) -> list[str]:
    return [match[1] for line in ended.out.splitlines() if (match := PREDICTED.fullmatch(line))]


def test_of_a_folder_every_picture_is_drawn_under_its_name() -> None:
    ended = run("img")

    assert looked_at(ended) == ["img/a.png", "img/b.jpg"]
    assert sorted(path.name for path in Path("predictions").iterdir()) == ["a.jpg", "b.jpg"]
    assert not Path("predictions.jpg").exists()
    assert (ended.status, ended.err) == (0, "relume: 2 pictures drawn into predictions\n")


def test_pictures_of_one_name_are_both_kept_and_one_named_twice_is_drawn_once() -> None:
    run("img", "more/a.jpg", "./img/a.png", "-out_folder", "drawn/here")

    assert sorted(path.name for path in Path("drawn/here").iterdir()) == [
        *("a.jpg", "a_2.jpg", "b.jpg"),
    ]


def test_a_list_names_its_bad_lines_and_the_others_go_on() -> None:
    Path("img/list.txt").write_text("a.png\n\nmissing.jpg\nimg/b.jpg\nnotes.md\n")
    ended = run("img/list.txt", "-out", "found.json")

    errors = ended.err.splitlines()
    assert ended.status == 2
    assert looked_at(ended) == ["a.png", "img/b.jpg"]
    assert errors[0].startswith(
        "relume: error: img/list.txt:3: missing.jpg cannot be read: No such"
    )
    assert errors[1].startswith("relume: error: img/list.txt:5: img/notes.md cannot be decoded")
    assert errors[2:] == ["relume: 2 pictures drawn into predictions"]
    frames = json.loads(Path("found.json").read_text())
    assert [(f["frame_id"], f["filename"]) for f in frames] == [(1, "a.png"), (2, "img/b.jpg")]


def test_entries_of_a_list_may_be_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{Path('img/b.jpg').resolve()}"
    Path("list.txt").write_text(f"{url}\nfile:///no/such.jpg\n")
    ended = run("list.txt")

    assert looked_at(ended) == [url]
    assert Path("predictions/b.jpg").exists()
    assert "list.txt:2: file:///no/such.jpg cannot be read: No such file" in ended.error
    assert "on an object store" in run("list.txt", "-save_labels").error


def test_a_folder_without_pictures_and_a_list_that_is_missing_are_errors() -> None:
    Path("empty").mkdir()

    needed = "files in it that end in .bmp, .jpeg, .jpg, .png, .ppm or .tiff"
    assert run("empty").error == f"empty: holds no picture; {needed}"
    assert run("none.txt").error.startswith("none.txt: cannot be read (No such file")
    assert run("none").error.startswith("none: cannot be read: No such file")


def test_a_picture_that_relume_has_not_drawn_is_not_replaced_unasked() -> None:
    Path("predictions").mkdir()
    Path("predictions/b.jpg").write_bytes(Path("img/b.jpg").read_bytes())
    ended = run("img")

    found = "predictions/b.jpg: there already and holds no picture drawn by relume"
    assert ended.error == f"{found}; -force replaces it"
    assert ended.out == ""  # said before any work
    assert run("img", "-force").status == 0
    assert Path("predictions/b.jpg").read_bytes().startswith(MARK)
    assert run("img").status == 0  # what relume has drawn it replaces


@pytest.mark.parametrize(
    "words", [("img", "-out_folder", "img"), ("more/a.jpg", "-out_folder", "more")]
)
def test_an_input_is_never_replaced(words: tuple[str, ...]) -> None:
    before = Path(words[0]).joinpath("b.jpg") if words[0] == "img" else Path(words[0])
    content = before.read_bytes()
    ended = run(*words, "-force")

    assert ended.error == f"{before}: is {before} itself; another file to write"
    assert before.read_bytes() == content


def test_predictions_jpg_itself_can_be_looked_at_but_not_drawn_over() -> None:
    run("a.png")
    assert run("predictions.jpg").error.startswith("predictions.jpg: is predictions.jpg it")
    assert run("predictions.jpg", "-dont_draw").status == 0
    assert "predictions.jpg: is predictions.jpg itself" in run(stdin="predictions.jpg\n").error


def test_dont_draw_draws_nothing() -> None:
    assert run("img", "-dont_draw").err == ""
    assert not Path("predictions").exists()
    assert run("img", "-dont_draw", "-out_folder", "x").error.startswith("-out_folder: nothing is")


def test_labels_are_darknets_with_the_likeliest_class_of_each_box() -> None:
    ended = run("img", "-save_labels")

    assert ended.status == 0
    assert (
        Path("img/a.txt").read_text()
        == "0 0.3000 0.5000 0.4000 0.2500\n1 0.7000 0.5000 0.2000 0.4000\n"
    )
    assert Path("img/a.txt").read_bytes() == Path("img/b.txt").read_bytes()


def test_labels_that_are_there_are_somebodys_work() -> None:
    Path("img/a.txt").write_text("2 0.5 0.5 0.1 0.1\n")
    ended = run("img", "-save_labels")

    assert ended.error == "img/a.txt: there already; -force replaces it"
    assert ended.out == ""
    assert Path("img/a.txt").read_text() == "2 0.5 0.5 0.1 0.1\n"
    assert not Path("img/b.txt").exists()
    assert run("img", "-save_labels", "-force").status == 0
    assert len(Path("img/a.txt").read_text().splitlines()) == 2
    Path("img/a.txt").write_text("2 0.5 0.5 0.1 0.1\n")
    assert "img/a.txt: there already" in run("-save_labels", stdin="img/a.png\n").error


def test_labels_of_the_same_command_interrupted_before_are_no_hindrance() -> None:
    assert run("img", "-save_labels").status == 0
    kept = Path("img/a.txt").stat()
    whole = Path("img/b.txt").read_bytes()
    Path("img/b.txt").unlink()
    ended = run("img", "-save_labels")

    assert (ended.status, Path("img/b.txt").read_bytes()) == (0, whole)
    assert Path("img/a.txt").stat().st_mtime_ns == kept.st_mtime_ns


def test_labels_somebody_made_behind_such_are_told_and_stay_and_the_others_are_written() -> None:
    assert run("img", "-save_labels").status == 0
    Path("img/b.txt").write_text("2 0.5 0.5 0.1 0.1\n")
    Path("img/c.png").write_bytes(Path("img/a.png").read_bytes())

    ended = run("img", "-save_labels")

    assert ended.status == 2
    assert ended.error.startswith("img/b.txt: there already; -force")
    assert Path("img/b.txt").read_text() == "2 0.5 0.5 0.1 0.1\n"
    assert Path("img/c.txt").exists()
    Path("img/a.txt").write_text("")
    assert "img/a.txt: there already; -force" in run("img", "-save_labels").error


def test_a_picture_named_twice_has_its_labels_written_twice() -> None:
    assert run("img/a.png", "img/a.png", "-save_labels").status == 0


def test_a_picture_without_anything_in_it_says_so_and_has_an_empty_label_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = Detections(*(np.zeros(shape, np.float32) for shape in ((0, 4), (0,), (0, 3))))
    monkeypatch.setattr(detector, "detect_image", lambda *args: nothing)
    ended = run("img/a.png", "-save_labels", "-out", "found.json", "-thresh", ".4")

    assert (ended.status, ended.out.splitlines()[1:]) == (0, ["nothing found above 0.4"])
    assert Path("img/a.txt").read_bytes() == b""
    assert json.loads(Path("found.json").read_text())[0]["objects"] == []


@pytest.mark.parametrize("there", ["a.jpg\n", '{"images": []}', "\n[net]\n"])
def test_json_replaces_no_file_that_is_no_list_of_json(there: str) -> None:
    Path("list.txt").write_text(there)
    ended = run("img", "-out", "list.txt")

    assert ended.status == 2
    assert ended.error == "list.txt: there already and holds no detections; -force replaces it"
    assert Path("list.txt").read_text() == there
    assert not Path("predictions").exists()


def test_json_replaces_an_earlier_one_and_an_empty_file() -> None:
    Path("found.json").touch()
    assert run("img", "-out", "found.json").status == 0
    assert run("img/a.png", "-out", "found.json").status == 0

    assert len(json.loads(Path("found.json").read_text())) == 1
    assert "-out: img is a folder; a file to write" in run("img", "-out", "img").error
