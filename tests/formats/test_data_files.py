"""data_files.py."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relume.errors import DataFileError, LabelError, RelumeError
from relume.formats.data_files import (
    label_path,
    read_data_file,
    read_image_list,
    read_labels,
    read_names,
    resolve,
)
from tests.shared import SHARED, needs_shared


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_data_file_is_read(tmp_path: Path) -> None:
    text = "\ufeff# my data\r\nclasses= 2\r\n\r\n train  = my data/train#1.txt \r\nclasses = 9\r\n"
    data = read_data_file(written(tmp_path, "obj.data", text))
    assert data.values == {"classes": "2", "train": "my data/train#1.txt"}
    assert data.lines == {"classes": 2, "train": 4}
    assert data.integer("classes", 7) == 2
    assert data.integer("seed", 7) == 7
    assert data.text("backup", "backup") == "backup"


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    data = read_data_file(written(tmp_path, "obj.data", "classes=2"))
    with pytest.raises(DataFileError, match=r"obj\.data: key 'valid' is missing"):
        data.text("valid")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes=2\ntrian=a", "obj.data:2: there is no key 'trian'; did you mean 'train'?"),
        ("qqq=a", "there is no key 'qqq'; the keys are classes, train,"),
        ("train", "obj.data:1: 'train' has no value"),
        ("\n[net]\nbatch=1", "obj.data:2: '[net]' begins a section, as in a cfg; a data file has"),
        ("train=", "'train=' has no value"),
        ("seed=x", "obj.data:1: seed = x; seed needs an integer"),
    ],
)
def test_a_mistake_in_a_data_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, "obj.data", text)
    with pytest.raises(DataFileError) as error:
        read_data_file(path).integer("seed", 0)
    assert message in str(error.value)


def test_paths_are_relative_to_the_current_folder_else_to_the_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_file = written(tmp_path, "far/obj.data", "classes=1")
    monkeypatch.chdir(tmp_path)
    assert resolve("img/a.jpg", data_file) == tmp_path / "far/img/a.jpg"
    written(tmp_path, "far/img/a.jpg", "")
    assert resolve("img\\a.jpg", data_file) == tmp_path / "far/img/a.jpg"
    written(tmp_path, "img/a.jpg", "")
    assert resolve("img/a.jpg", data_file) == Path("img/a.jpg")
    assert resolve(str(tmp_path / "none"), data_file) == tmp_path / "none"


def test_blank_names_count_except_at_the_end(tmp_path: Path) -> None:
    assert read_names(written(tmp_path, "a.names", "cat\r\n\r\nbig dog \n\n \n")) == (
        "cat",
        "",
        "big dog",
    )
    with pytest.raises(DataFileError, match="holds no name"):
        read_names(written(tmp_path, "b.names", "\n"))


def test_an_image_list_is_read_and_its_pictures_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, far = tmp_path / "here", tmp_path / "far"
    for path in ("here/a b.jpg", "far/c.jpg", "far/img/d.jpg", "here/e.jpg"):
        written(tmp_path, path, "")
    monkeypatch.chdir(here)
    text = f"\ufeffa b.jpg\r\n\r\nc.jpg\n  \nimg\\d.jpg\n{far}/c.jpg\ne.jpg\n"
    images = read_image_list(written(tmp_path, "train.txt", text), far / "obj.data")
    assert images.entries == ("a b.jpg", "c.jpg", "img\\d.jpg", f"{far}/c.jpg", "e.jpg")
    assert images.lines == (1, 3, 5, 6, 7)
    assert images.paths == (
        Path("a b.jpg"),
        far / "c.jpg",
        far / "img/d.jpg",
        far / "c.jpg",
        Path("e.jpg"),
    )


def test_missing_pictures_are_counted(tmp_path: Path) -> None:
    written(tmp_path, "b.jpg", "")
    path = written(tmp_path, "train.txt", "\na.jpg\nb.jpg\nc.jpg\n")
    with pytest.raises(DataFileError) as error:
        read_image_list(path, tmp_path / "obj.data")
    assert str(error.value).startswith(f"{path}:2: a.jpg does not exist (and 1 more); ")
    assert str(error.value).endswith("; `relume check DATA CFG` names all")
    with pytest.raises(DataFileError, match="lists no picture"):
        read_image_list(written(tmp_path, "empty.txt", "\r\n"), tmp_path / "obj.data")
    with pytest.raises(DataFileError, match="cannot be read"):
        read_image_list(tmp_path / "none.txt", tmp_path / "obj.data")


@pytest.mark.parametrize(
    ("picture", "labels"),
    [
        ("a/b.jpg", "a/b.txt"),
        ("a/b.JPEG", "a/b.txt"),
        ("a/b.jpg.tiff", "a/b.jpg.txt"),
        ("a/images/b.png", "a/images/b.txt"),
        ("a/images/val2014/b.png", "a/labels/val2014/b.txt"),
        ("VOC/JPEGImages/2012/JPEGImages/b.bmp", "VOC/labels/2012/JPEGImages/b.txt"),
        ("VOC\\JPEGImages\\b.bmp", "VOC\\labels\\b.txt"),
    ],
)
def test_labels_lie_where_darknet_looks(picture: str, labels: str) -> None:
    assert label_path(Path(picture)) == Path(labels)


@pytest.mark.parametrize("name", ["a.webp", "a.tif", "a", "a.Jpg", "jpg"])
def test_a_picture_of_unknown_ending_is_refused(name: str) -> None:
    with pytest.raises(DataFileError, match="is needed to find its labels"):
        label_path(Path(name))


def test_labels_are_read(tmp_path: Path) -> None:
    text = "\ufeff1 0.5 .25 1e-1 -3\r\n\n  2.0\t0 0 0 1.5  \n"
    labels = read_labels(written(tmp_path, "a.txt", text), 3)
    expected = np.array([[1, 0.5, 0.25, 0.1, -3], [2, 0, 0, 0, 1.5]], np.float32)
    assert labels.boxes.dtype == np.float32
    assert (labels.boxes == expected).all()
    assert not labels.missing


def test_an_empty_and_a_missing_label_file_hold_no_boxes(tmp_path: Path) -> None:
    empty = read_labels(written(tmp_path, "a.txt", "\n"), 3)
    none = read_labels(tmp_path / "b.txt", 3)
    assert empty.boxes.shape == none.boxes.shape == (0, 5)
    assert (empty.missing, none.missing) == (False, True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .5 .5 .1", "4 columns; a box is: class x y width height"),
        ("0 .5 .5 .1 .1 .9", "6 columns"),
        ("0 .5 .5 .1 x", "'0 .5 .5 .1 x'; five finite numbers"),
        ("0 .5 .5 .1 nan", "five finite numbers"),
        ("0 .5 .5 .1 1e39", "five finite numbers"),
        ("0 .5 .5 .1 1_0", "five finite numbers"),
        ("0 .5 .5 .1 ,5", "five finite numbers"),
        ("3 .5 .5 .1 .1", "class 3; the cfg's classes are 0..2"),
        ("-1 .5 .5 .1 .1", "class -1"),
        ("1.5 .5 .5 .1 .1", "class 1.5"),
    ],
)
def test_a_mistake_in_a_label_file_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path, "a.txt", f"0 .5 .5 .1 .1\n\n{line}\n")
    with pytest.raises(LabelError) as error:
        read_labels(path, 3)
    assert str(error.value).startswith(f"{path}:3: ")
    assert message in str(error.value)


# Only the content of one file under tmp_path changes from example to example.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@same_folder
@given(st.lists(st.tuples(st.integers(0, 79), FINITE, FINITE, FINITE, FINITE)))
def test_labels_round_trip(tmp_path: Path, rows: list[tuple[float, ...]]) -> None:
    text = "\n".join(" ".join(map(repr, row)) for row in rows)
    boxes = read_labels(written(tmp_path, "a.txt", text), 80).boxes
    assert boxes.tolist() == [list(row) for row in rows]


@same_folder
@given(st.binary() | st.text("0123456789.- \n#;=\\/aesintr\0", max_size=60).map(str.encode))
def test_hostile_bytes_give_a_value_or_an_error_with_a_place(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path, "x.txt", data)
    for read in (
        lambda: read_data_file(path),
        lambda: read_names(path),
        lambda: read_image_list(path, path),
        lambda: read_labels(path, 3),
    ):
        with suppress(RelumeError):
            read()


@needs_shared
def test_the_missing_picture_of_yolo_mark_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SHARED / "data" / "yolo_mark")
    data = read_data_file("data/obj.data")
    assert read_names(resolve(data.text("names"), data.path)) == ("air", "bird")
    with pytest.raises(
        DataFileError, match=r"data/train\.txt:7: data/img/air7\.jpg does not exist;"
    ):
        read_image_list(resolve(data.text("train"), data.path), data.path)


@needs_shared
def test_the_blood_cells_are_read_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = read_data_file(SHARED / "data" / "bccd" / "obj.data")
    boxes = 0
    for key in ("train", "valid"):
        images = read_image_list(resolve(data.text(key), data.path), data.path)
        boxes += sum(len(read_labels(label_path(path), 3).boxes) for path in images.paths)
    assert boxes == 4886
