"""`relume import` and `export-labels` on folders as they are: layouts, lies, what is refused."""

import json
import shutil
import struct
import threading
from pathlib import Path
from typing import Any

import cv2
import pytest

from relume.checkpoint import storage
from relume.checkpoint.disk import Buffer
from relume.spec import Flags, read_spec
from tests.cfg_texts import small_cfg
from tests.command_line import Ended, relume
from tests.datasets.small_sets import write_picture, write_set

SIZE = "<size><width>40</width><height>30</height></size>"
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>21</xmax><ymax>31</ymax></bndbox>"


def write_xml(path: Path, *names: str, size: str = SIZE, more: str = "", file: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    things = "".join(f"<object><name>{name}</name>{more}{BOX}</object>" for name in names)
    filename = f"<filename>{file}</filename>" if file else ""
    path.write_text(f"<annotation>{filename}{size}{things}</annotation>")


@pytest.fixture
def voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as of VOCdevkit: four pictures, of which one is for validation."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "VOC"
    for number, names in enumerate((("dog",), ("cat", "dog"), (), ("cat",))):
        write_picture(folder / "JPEGImages" / f"p{number}.jpg", number)
        write_xml(folder / "Annotations" / f"p{number}.xml", *names)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("p0\np1\np2\n")
    (lists / "val.txt").write_text("p3\n")
    (lists / "trainval.txt").write_text("p0\np1\np2\np3\n")
    (lists / "cat_train.txt").write_text("p0 -1\np1  1\np2 -1\n")
    return folder


def coco_file(path: Path, names: list[str], first_id: int = 0, **image: object) -> None:
    images = [
        {"id": first_id + n, "file_name": name, "width": 40, "height": 30, **image}
        for n, name in enumerate(names)
    ]
    notes: list[dict[str, Any]] = [
        {"image_id": one["id"], "category_id": 4, "bbox": [0, 0, 20, 30], "iscrowd": 0}
        for one in images
    ]
    categories = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))


def label(path: Path) -> list[str]:
    return path.read_text().splitlines()


def failed(*words: object) -> str:
    ended: Ended = relume(*words)
    assert ended.status == 2
    assert ended.out == ""
    return ended.error


def test_a_folder_of_voc_goes_into_training(voc: Path) -> None:
    ended = relume("import", "voc", "VOC")

    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "4 pictures, 4 boxes, 2 classes",
        "written: VOC/train.txt, VOC/valid.txt, VOC/obj.names, VOC/obj.data",
    ]
    assert label(voc / "obj.names") == ["cat", "dog"]
    assert label(voc / "train.txt") == [f"JPEGImages/p{n}.jpg" for n in range(3)]
    assert label(voc / "valid.txt") == ["JPEGImages/p3.jpg"]
    assert label(voc / "labels" / "p1.txt") == ["0 0.25 0.5 0.5 1", "1 0.25 0.5 0.5 1"]
    assert label(voc / "labels" / "p2.txt") == []
    (voc / "net.cfg").write_text(small_cfg(max_batches=10, classes=2))
    read_spec("VOC/obj.data", "VOC/net.cfg", Flags(), pytest.fail)


def test_xml_files_beside_pictures_are_found_and_names_may_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "set" / "a.png", 1)
    write_xml(tmp_path / "set" / "a.xml", "x", file=r"C:\Users\me\other.jpg")
    write_picture(tmp_path / "set" / "real.png", 2)
    write_xml(tmp_path / "set" / "b.xml", "x", file="real.png")
    write_xml(tmp_path / "set" / "c.xml", "x", file="/home/me/../gone.jpg")

    ended = relume("import", "voc", "set")

    assert ended.status == 0
    assert "set/c.xml: 1 pictures are not there ('/home/me/../gone.jpg', ...)" in ended.err
    assert ended.out.splitlines()[-1] == (
        "no list to validate on: relume split set/obj.data -force makes one"
    )

    assert label(tmp_path / "set" / "train.txt") == ["a.png", "real.png"]
    assert label(tmp_path / "set" / "a.txt") == label(tmp_path / "set" / "real.txt")
    assert "valid" not in (tmp_path / "set" / "obj.data").read_text()


def test_difficult_objects_are_left_out_unless_they_are_kept(voc: Path) -> None:
    write_xml(voc / "Annotations" / "p0.xml", "dog", more="<difficult>1</difficult>")

    left_out = relume("import", "voc", "VOC")
    without = label(voc / "labels" / "p0.txt")
    relume("import", "voc", "VOC", "-keep_difficult", "-force")

    assert "left out: 1 boxes marked difficult; -keep_difficult keeps them" in left_out.out
    assert without == []
    assert label(voc / "labels" / "p0.txt") == ["1 0.25 0.5 0.5 1"]


def test_given_names_set_the_order_and_must_be_all(voc: Path) -> None:
    Path("mine.names").write_text("dog\nbird\ncat\n")
    Path("few.names").write_text("dog\n")

    assert failed("import", "voc", "VOC", "-names", "few.names").startswith(
        "few.names: lacks 'cat'; the names of all classes"
    )
    assert relume("import", "voc", "VOC", "-names", "mine.names").status == 0
    assert label(voc / "labels" / "p1.txt") == ["2 0.25 0.5 0.5 1", "0 0.25 0.5 0.5 1"]
    assert f"names = {voc.parent}/mine.names" in label(voc / "obj.data")
    assert not (voc / "obj.names").exists()


def test_a_size_that_lies_is_not_guessed(voc: Path) -> None:
    size = "<size><width>80</width><height>60</height></size>"
    write_xml(voc / "Annotations" / "p0.xml", "dog", size=size)

    error = failed("import", "voc", "VOC")
    nothing = not (voc / "labels").exists() and not (voc / "obj.data").exists()
    relume("import", "voc", "VOC", "-sizes", "annotation")
    annotation = label(voc / "labels" / "p0.txt")
    relume("import", "voc", "VOC", "-sizes", "picture", "-force")

    assert error == (
        "VOC/Annotations/p0.xml: 80x60, but VOC/JPEGImages/p0.jpg has 40x30; the size that the "
        "boxes are meant for; -sizes picture, or -sizes annotation"
    )
    assert nothing
    assert annotation == ["1 0.125 0.25 0.25 0.5"]
    assert label(voc / "labels" / "p0.txt") == ["1 0.25 0.5 0.5 1"]


def test_a_picture_that_is_turned_is_told(voc: Path) -> None:
    size = "<size><width>30</width><height>40</height></size>"
    write_xml(voc / "Annotations" / "p0.xml", "dog", size=size)

    assert "p0.jpg has 40x30, turned by EXIF or annotated so; the" in failed("import", "voc", "VOC")


def test_a_size_of_zero_is_that_of_the_picture(voc: Path) -> None:
    write_xml(voc / "Annotations" / "p0.xml", "dog", size="")

    assert relume("import", "voc", "VOC", "-sizes", "annotation").status == 0
    assert label(voc / "labels" / "p0.txt") == ["1 0.25 0.5 0.5 1"]


def test_what_is_missing_is_counted_and_left_out(voc: Path) -> None:
    (voc / "JPEGImages" / "p0.jpg").unlink()
    with (voc / "ImageSets" / "Main" / "train.txt").open("a") as file:
        file.write("p9\n")
    (voc / "ImageSets" / "Main" / "val.txt").write_text("")

    ended = relume("import", "voc", "VOC")

    assert ended.status == 0
    assert ended.err.splitlines() == [
        "relume: 1 pictures listed in ImageSets/Main have no annotation (p9, ...); they are left "
        "out",
        "relume: 1 annotations are in no list of ImageSets (p3, ...); they are left out",
        "relume: VOC/Annotations/p0.xml: 1 pictures are not there; they are left out; "
        "-images FOLDER if they are elsewhere",
    ]
    assert label(voc / "train.txt") == ["JPEGImages/p1.jpg", "JPEGImages/p2.jpg"]


def test_nothing_that_is_there_is_replaced_without_force(voc: Path) -> None:
    (voc / "labels").mkdir()
    (voc / "labels" / "p1.txt").write_text("mine\n")

    error = failed("import", "voc", "VOC")

    assert error == "VOC/labels/p1.txt: there already; -force replaces it"
    assert label(voc / "labels" / "p1.txt") == ["mine"]
    assert sorted(path.name for path in (voc / "labels").iterdir()) == ["p1.txt"]


def test_an_interrupted_import_goes_on_by_the_same_command(
    voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(voc, "other")
    relume("import", "voc", "other")
    expected = {p.relative_to("other"): p.read_bytes() for p in Path("other").rglob("*.*")}
    write_durably = storage.write_durably
    before = {p.relative_to(voc) for p in voc.rglob("*.*")}
    may_be_written = threading.Semaphore(3)

    def interrupted(path: Path, *parts: Buffer) -> int:
        if not may_be_written.acquire(blocking=False):
            raise KeyboardInterrupt
        return write_durably(path, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_durably", interrupted)
        assert relume("import", "voc", "VOC").status == 130
    assert len({p.relative_to(voc) for p in voc.rglob("*.*")} - before) == 3
    ended = relume("import", "voc", "VOC")

    assert (ended.status, ended.err) == (0, "")
    assert {p.relative_to(voc): p.read_bytes() for p in voc.rglob("*.*")} == expected


def test_coco_with_a_folder_per_split_and_gaps_in_the_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part, count in (("train2017", 2), ("val2017", 1)):
        for n in range(count):
            write_picture(tmp_path / "coco" / "images" / part / f"{n}.jpg", n)
        names = [f"{n}.jpg" for n in range(count)]
        coco_file(tmp_path / "coco" / "annotations" / f"instances_{part}.json", names, first_id=50)
        (tmp_path / "coco" / "annotations" / f"captions_{part}.json").write_text("{}")

    ended = relume("import", "coco", "coco")

    assert (ended.status, ended.err) == (0, "")
    folder = tmp_path / "coco"
    assert label(folder / "obj.names") == ["cat", "dog"]
    assert label(folder / "train.txt") == ["images/train2017/0.jpg", "images/train2017/1.jpg"]
    assert label(folder / "valid.txt") == ["images/val2017/0.jpg"]
    assert label(folder / "labels" / "val2017" / "0.txt") == ["0 0.25 0.5 0.5 1"]


def test_a_json_file_beside_the_pictures_of_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, part in enumerate(("train", "valid", "test")):
        write_picture(tmp_path / "set" / part / "a.jpg", number)
        coco_file(tmp_path / "set" / part / "_annotations.coco.json", ["a.jpg"])

    assert relume("import", "coco", "set").status == 0

    parts = {part: label(tmp_path / "set" / f"{part}.txt") for part in ("train", "valid", "test")}
    assert parts == {part: [f"{part}/a.jpg"] for part in parts}
    assert label(tmp_path / "set" / "valid" / "a.txt") == ["0 0.25 0.5 0.5 1"]


def test_a_single_json_file_with_pictures_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "pictures" / "sub" / "a.jpg", 1)
    coco_file(tmp_path / "notes" / "all.json", ["sub/a.jpg", "b.jpg"])

    nowhere = failed("import", "coco", "notes/all.json")
    ended = relume("import", "coco", "notes/all.json", "-images", "pictures", "-out", "new")

    assert nowhere == (
        "notes/all.json: none of the 2 pictures is there; -images FOLDER, where they are"
    )
    assert "notes/all.json: image 1: 1 pictures are not there ('b.jpg', ...)" in ended.err
    assert label(Path("new/train.txt")) == [f"{tmp_path}/pictures/sub/a.jpg"]
    assert label(Path("pictures/sub/a.txt")) == ["0 0.25 0.5 0.5 1"]


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/etc/a.jpg", "x/../../a.jpg", "a\n.jpg", r"..\a.jpg"]
)
def test_a_name_that_leads_elsewhere_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "a.jpg", 1)
    coco_file(tmp_path / "set" / "all.json", [name])

    error = failed("import", "coco", "set/all.json")

    assert error.startswith("set/all.json: image 0: the picture '")
    assert "a name below the folder of the pictures" in error
    assert not (tmp_path / "a.txt").exists()


def test_two_annotations_of_one_label_file_must_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ending in ("jpg", "png"):
        write_picture(tmp_path / f"a.{ending}", 1)
    coco_file(tmp_path / "all.json", ["a.jpg", "a.png"])

    assert failed("import", "coco", "all.json") == (
        "all.json: image 1: its labels go into a.txt, and so do those of all.json: image 0; one "
        "annotation for each label file"
    )


def test_a_picture_has_to_be_decoded_for_its_size_only_up_to_max_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_set(tmp_path, {"a": [(0, 0.5, 0.5, 0.2, 0.2)]})
    text = data.read_text()
    picture = cv2.imread("img/a.png")
    assert picture is not None
    Path("img/a.png").write_bytes(cv2.imencode(".tiff", picture)[1].tobytes())
    data.write_text(f"{text}max_pixels = 1199\n")
    error = failed("export-labels", data, "out", "-form", "coco")
    assert error.startswith("img/a.png: has 40x30 pixels")
    assert error.endswith("or set max_pixels = 1200")

    data.write_text(f"{text}max_pixels = 1200\n")
    assert relume("export-labels", data, "out", "-form", "coco").status == 0


def test_an_import_needs_no_picture_that_is_too_large_to_be_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    header = {256: 20000, 257: 20000, 258: 8, 262: 1, 277: 1}
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in header.items())
    Path("a.tiff").write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(header)) + tags)
    coco_file(tmp_path / "all.json", ["a.tiff"])

    error = failed("import", "coco", "all.json")
    assert error.startswith("a.tiff: has 20000x20000 pixels")
    assert error.endswith("; at most 268,435,456 pixels; -sizes annotation")
    assert relume("import", "coco", "all.json", "-sizes", "annotation").status == 0


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_a_data_set_that_is_exported_and_imported_is_the_same(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    thirds = (1, 1 / 3, 0.5, 1 / 7, 1.25)
    pictures = {"a 1": [(0, 0.5, 0.5, 0.2, 0.2), thirds], "b": [], "c": [thirds]}
    data = write_set(tmp_path / "set", pictures, names=("x & y", "a"))
    (tmp_path / "set" / "valid.txt").write_text("img/c.png\n")
    (tmp_path / "set" / "train.txt").write_text("img/a 1.png\nimg/b.png\n")
    data.write_text(data.read_text() + "valid = valid.txt\n")
    shutil.copytree(tmp_path / "set" / "img", tmp_path / "again")
    for path in (tmp_path / "again").glob("*.txt"):
        path.unlink()

    out = relume("export-labels", "set/obj.data", "out", "-form", form)
    names = ["-names", "set/obj.names"] if form == "voc" else []
    back = relume("import", form, "out", "-images", "again", *names)

    assert (out.status, out.err, back.status, back.err) == (0, "", 0, "")
    assert out.out.splitlines()[1].startswith(
        f"read it with: relume import {form} out -images {tmp_path}/set/img"
    )
    labels = [
        {path.name: path.read_text() for path in (tmp_path / folder).glob("*.txt")}
        for folder in ("set/img", "again")
    ]
    assert labels[0].keys() == labels[1].keys()
    for name, text in labels[0].items():
        rows = [[float(word) for word in line.split()] for line in text.splitlines()]
        again = [[float(word) for word in line.split()] for line in labels[1][name].splitlines()]
        assert again == [pytest.approx(row, rel=2**-23) for row in rows]  # float32, as it is read
    assert label(Path("out/train.txt")) == [f"{tmp_path}/again/{n}.png" for n in ("a 1", "b")]
    assert label(Path("out/valid.txt")) == [f"{tmp_path}/again/c.png"]


def test_voc_needs_other_names_where_coco_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_set(tmp_path, {"x/a": [], "y/a": [(0, 0.5, 0.5, 0.1, 0.1)]})

    error = failed("export-labels", data, "out", "-form", "voc")
    assert relume("export-labels", data, "out", "-form", "coco").status == 0
    assert relume("export-labels", data, "out", "-form", "coco").status == 0  # the very same
    (tmp_path / "img" / "y" / "a.txt").write_text("1 .5 .5 .1 .1\n")
    again = failed("export-labels", data, "out", "-form", "coco")

    assert error == (
        "img/y/a.png: has the name of img/x/a.png; VOC tells pictures apart by name; -form coco"
    )
    document = json.loads(Path("out/annotations/instances_train.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["x/a.png", "y/a.png"]
    assert again == "out/annotations/instances_train.json: there already; -force replaces it"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("import voc none", "none: does not exist; the data set to import"),
        ("import voc empty", "empty: holds no annotation; VOC's Annotations/*.xml, or XML files"),
        ("import coco empty", "empty: holds no annotation; COCO's annotations/instances_*.json"),
        ("import voc s3://b/VOC", "relume import: s3://b/VOC is on an object store; local files"),
        ("import voc VOC -out s3://b", "-out: s3://b is on an object store; local files only"),
        ("import voc VOC -images s3://b", "-images: s3://b is on an object store; local files"),
        ("import voc VOC -images nope", "-images: nope is no folder; the folder of the pictures"),
        ("export-labels r.data o -form coco", "r.data: s3://b/t.txt is on an object store; local"),
        ("export-labels r.data s3://b -form coco", "relume export-labels: s3://b is on an object"),
        ("import voc VOC -sizes both", "-sizes: 'both'; picture or annotation"),
        ("import voc VOC/net.txt", "VOC/net.txt: holds no annotation"),
        ("import coco VOC/Annotations/p0.xml", "VOC/Annotations/p0.xml: is no JSON (Expecting"),
        ("import yolo VOC", "relume import: an unknown command; did you mean 'relume import"),
        ("export-labels d o", "-form: is missing; coco or voc"),
        ("export-labels d o -form yolo", "-form: 'yolo'; coco or voc"),
        ("export-labels none.data o -form voc", "none.data: cannot be read (No such file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(voc: Path, words: str, error: str) -> None:
    Path("empty").mkdir()
    (voc / "net.txt").write_text("")
    Path("r.data").write_text("train = s3://b/t.txt\nnames = n.names\n")
    Path("n.names").write_text("a\n")
    before = sorted(Path().rglob("*"))

    assert failed(*words.split()).startswith(error)
    assert sorted(Path().rglob("*")) == before
