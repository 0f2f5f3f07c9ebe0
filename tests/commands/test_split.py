"""`relume split` on files: sides that stay, copies together, and lists that are never lost."""

import shutil
from pathlib import Path

import pytest

from tests.command_line import relume
from tests.datasets.small_sets import write_picture, write_set

BOX = (0.5, 0.5, 0.2, 0.2)
PICTURES = {f"p{n:02}": [(n % 2, *BOX), (0, *BOX)] for n in range(20)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty pictures, half of them with class 1 too; no lists."""
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path, PICTURES)
    (tmp_path / "train.txt").rename(tmp_path / "all.list")
    return tmp_path


def entries(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines()


def test_a_folder_a_list_and_a_data_file_give_the_same_split(folder: Path) -> None:
    (folder / "obj.data").write_text("train = all.list\nnames = obj.names\n")
    lists = []
    for number, source in enumerate(("img", "all.list", "obj.data")):
        assert relume("split", source, "-out", f"out{number}").status == 0
        lists.append([entries(folder / f"out{number}", n) for n in ("train.txt", "valid.txt")])

    assert lists[0] == lists[1] == lists[2]
    train, valid = lists[0]
    assert len(valid) == 4
    assert sorted(train + valid) == [f"{folder}/img/{name}.png" for name in sorted(PICTURES)]


def test_the_shares_of_every_class_are_told(folder: Path) -> None:
    (folder / "obj.data").write_text("train = all.list\nnames = obj.names\n")

    ended = relume("split", "obj.data", "-fraction", ".3")

    assert ended.status == 0
    assert [line.split() for line in ended.out.splitlines()] == [
        ["pictures", "valid", "boxes", "valid"],
        ["all", "20", "6", "30.0", "%", "40", "12", "30.0", "%"],
        ["a", "20", "6", "30.0", "%", "30", "9", "30.0", "%"],
        ["b", "10", "3", "30.0", "%", "10", "3", "30.0", "%"],
        ["written:", "train.txt,", "valid.txt"],
        [
            *("to", "use", "them,", "let", "obj.data", "say"),
            *("train", "=", "train.txt,"),
            *("valid", "=", "valid.txt"),
        ],
    ]


def test_lists_are_written_beside_as_seen_from_there_and_trained_on(folder: Path) -> None:
    assert relume("split", folder / "img").status == 0

    assert entries(folder, "valid.txt")[0].startswith("img/p")
    assert len(entries(folder, "train.txt")) == 16


def test_lists_that_are_there_are_refused_and_kept(folder: Path) -> None:
    (folder / "valid.txt").write_text("img/p00.png\n")

    ended = relume("split", "img")

    assert ended.status == 2
    assert ended.error == (
        "valid.txt: there already; -force splits its pictures anew; or -out FOLDER"
    )
    assert entries(folder, "valid.txt") == ["img/p00.png"]
    assert not (folder / "train.txt").exists()


def test_one_list_alone_is_no_split_and_is_split_with_force(folder: Path) -> None:
    shutil.copy("all.list", "train.txt")
    data = Path("obj.data")
    data.write_text("train = train.txt\nvalid = valid.txt\n")

    ended = relume("split", "obj.data", "-force")

    assert (ended.status, ended.err) == (0, "")
    assert (len(entries(folder, "train.txt")), len(entries(folder, "valid.txt"))) == (16, 4)
    assert relume("split", "img").status == 0  # with the same result
    assert relume("split", "img", "-fraction", ".5").error.startswith(
        "train.txt: there already (and 1 more); -force adds pictures and moves none; or -out"
    )


def test_added_pictures_are_appended_and_no_line_moves(folder: Path) -> None:
    relume("split", "img")
    before = {name: entries(folder, name) for name in ("train.txt", "valid.txt")}
    for number in range(100, 130):
        write_picture(folder / "img" / f"a{number}.png", number)

    assert relume("split", "img", "-force").status == 0

    after = {name: entries(folder, name) for name in before}
    assert all(after[name][: len(lines)] == lines for name, lines in before.items())
    assert len(after["valid.txt"]) - len(before["valid.txt"]) == 6
    assert len(after["train.txt"]) - len(before["train.txt"]) == 24


def test_nothing_added_changes_no_byte(folder: Path) -> None:
    relume("split", "img")
    before = [(folder / name).read_bytes() for name in ("train.txt", "valid.txt")]

    assert relume("split", "img", "-force", "-fraction", ".9").status == 0

    assert [(folder / name).read_bytes() for name in ("train.txt", "valid.txt")] == before


def test_a_copy_is_on_the_side_of_its_original(folder: Path) -> None:
    relume("split", "img")
    for name in ("train.txt", "valid.txt"):
        shutil.copy(folder / entries(folder, name)[0], folder / "img" / f"z_{name[:5]}.png")

    relume("split", "img", "-force")

    assert entries(folder, "train.txt")[-1] == "img/z_train.png"
    assert entries(folder, "valid.txt")[-1] == "img/z_valid.png"


def test_copies_are_together_from_the_first(folder: Path) -> None:
    shutil.copytree(folder / "img", folder / "img" / "copies")

    relume("split", "img")

    train, valid = (entries(folder, name) for name in ("train.txt", "valid.txt"))
    names = [{Path(entry).name for entry in entries} for entries in (train, valid)]
    assert not names[0] & names[1]
    assert (len(train), len(valid)) == (32, 8)


def test_a_picture_that_is_gone_leaves_its_list_and_is_told(folder: Path) -> None:
    relume("split", "img")
    gone = entries(folder, "train.txt")[3]
    (folder / gone).unlink()

    ended = relume("split", "img", "-force")

    assert f"train.txt:4: 1 pictures are gone ({gone}, ...)" in ended.err
    assert gone not in entries(folder, "train.txt")


def test_one_picture_in_both_lists_is_named(folder: Path) -> None:
    relume("split", "img")
    entry = entries(folder, "train.txt")[2]
    with (folder / "valid.txt").open("a") as file:
        file.write(f"{entry}\n")

    ended = relume("split", "img", "-force")

    assert ended.status == 2
    assert ended.error == (
        f"valid.txt:5: {entry} is the same picture as {entry}; a picture on one side only; "
        "that one is in train.txt:3; take one of the lines out"
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("img", "-fraction", "1"), "-fraction: 1.0; between 0 and 1, say .2"),
        (("img", "-fraction", "nan"), "-fraction: nan; between 0 and 1, say .2"),
        (("none",), "none: cannot be read (No such file or directory)"),
        (("img", "-fraction", ".001"), "img: 20 pictures, all on one side; enough for -fraction"),
        (("empty",), "empty: holds no picture; pictures that end in .jpg .JPG"),
        (("s3://b/all.txt",), "relume split: s3://b/all.txt is on an object store; local files"),
        (("img", "-out", "s3://b/out"), "-out: s3://b/out is on an object store; local files"),
        (("remote.list",), "remote.list:2: s3://b/a.jpg is on an object store; local files"),
        (("remote.data",), "remote.data: s3://b/train.txt is on an object store; local files"),
        (("copies",), "copies: 3 pictures of 1 different contents, all on one side; enough for"),
        (("break", "-out", "out"), "'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    folder: Path, words: tuple[str, ...], error: str
) -> None:
    (folder / "empty").mkdir()
    (folder / "remote.list").write_text("img/p00.png\ns3://b/a.jpg\n")
    (folder / "remote.data").write_text("train = s3://b/train.txt\n")
    for number in range(3):
        write_picture(folder / "copies" / f"{number}.png", 7)
        write_picture(folder / "break" / f"{number}\n.png", number)

    ended = relume("split", *words)

    assert ended.status == 2
    assert ended.error.startswith(error)
    assert not (folder / "train.txt").exists()
    assert not (folder / "out").exists()
    assert not (folder / "s3:").exists()


def test_a_list_with_lines_on_an_object_store_keeps_them(folder: Path) -> None:
    relume("split", "img")
    with (folder / "train.txt").open("a") as file:
        file.write("s3://b/a.jpg\n")
    before = (folder / "train.txt").read_bytes()

    ended = relume("split", "img", "-force")

    assert ended.error.startswith("train.txt:17: s3://b/a.jpg is on an object store; local files")
    assert (folder / "train.txt").read_bytes() == before


def test_the_one_file_of_names_beside_the_lists_names_the_classes(folder: Path) -> None:
    told = relume("split", "img").out
    (folder / "other.names").write_text("x\ny\n")
    not_known = relume("split", "img", "-force").out

    assert [line.split()[0] for line in told.splitlines()[2:4]] == ["a", "b"]
    assert [line[:7] for line in not_known.splitlines()[2:4]] == ["class 0", "class 1"]
