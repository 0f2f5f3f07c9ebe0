"""`relume detector calc_anchors`: Darknet's flags, words and files, and one line for a mistake."""

import shutil
from pathlib import Path

import fsspec
import pytest

from relume.lists import long_list
from tests.command_line import relume
from tests.datasets.small_sets import write_set

PICTURES = {
    "one": [(0, 0.5, 0.5, 0.25, 0.5), (1, 0.5, 0.5, 0.5, 0.5), (1, 0.2, 0.5, 0.0, 0.5)],
    "two": [(1, 0.5, 0.5, 0.25, 0.5)],
    "none": [],
}
WORDS = "-num_of_clusters", "2", "-width", "416", "-height", "208"
LEFT = "anchors.txt", "counters_per_class.txt", "cloud.png"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_set(tmp_path, PICTURES)


def test_anchors_counters_and_picture_are_written_and_told(data: Path) -> None:
    ended = relume("detector", "calc_anchors", data, *WORDS, "-show")

    assert ended.status == 0
    assert ended.out.splitlines() == [
        "num_of_clusters = 2, width = 416, height = 208",
        "loaded image: 3 box: 4",
        "k-means++ from 10 starts, seed 0; the best one:",
        "counters_per_class = 1, 3",
        "avg IoU = 100.00 %",
        "anchors = 104,104, 208,104",
        "written: anchors.txt, counters_per_class.txt, cloud.png",
    ]
    assert "boxes outside their picture or without a size: 1 (first img/one.txt box 3)" in ended.err
    folder = data.parent
    assert (folder / "anchors.txt").read_bytes() == b"104,104, 208,104"
    assert (folder / "counters_per_class.txt").read_bytes() == b"counters_per_class = 1, 3"
    assert (folder / "cloud.png").read_bytes().startswith(b"\x89PNG")


def test_a_small_width_means_cells_as_in_darknet(data: Path) -> None:
    relume("detector", "calc_anchors", data, "-num_of_clusters", 2, "-width", 13, "-height", 13)

    assert (data.parent / "anchors.txt").read_text() == "3.2500,6.5000, 6.5000,6.5000"


def test_the_seed_of_the_data_file_holds_unless_the_flag_says_another(data: Path) -> None:
    data.write_text(data.read_text() + "seed = 5\n")

    assert "seed 5;" in relume("detector", "calc_anchors", data, *WORDS).out
    assert "seed 6;" in relume("detector", "calc_anchors", data, *WORDS, "-seed", 6).out


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (("-width", 416), "-height: is missing; the network's, as in the cfg, say 416"),
        (("-width", 0, "-height", 1), "-width: 0; 1 to 65536"),
        (
            ("-width", 416, "-height", 416, "-num_of_clusters", 3),
            "{0}/train.txt: 2 different shapes of boxes; at least 3, one for each anchor",
        ),
        (("-width", 416, "-height", 416, "-num_of_clusters", -1), "-num_of_clusters: -1; 1 to"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    data: Path, flags: tuple[object, ...], error: str
) -> None:
    ended = relume("detector", "calc_anchors", data, *flags)

    assert ended.status == 2
    assert ended.error.startswith(error.format(data.parent).replace(f"{data.parent}/", ""))
    assert not (data.parent / "anchors.txt").exists()


def test_a_class_beyond_the_names_and_a_wrong_count_are_named(data: Path) -> None:
    label = data.parent / "img" / "two.txt"
    label.write_text("2 .5 .5 .5 .5\n")
    beyond = relume("detector", "calc_anchors", data, *WORDS)
    data.write_text(data.read_text().replace("classes = 2", "classes = 3"))
    count = relume("detector", "calc_anchors", data, *WORDS)

    assert (beyond.status, count.status) == (2, 2)
    assert beyond.error == "img/two.txt:1: class 2; the cfg's classes are 0..1"
    assert count.error == f"{data}:1: classes=3; 2, the names in obj.names"


def test_lists_and_labels_on_an_object_store_give_the_same_anchors(data: Path) -> None:
    system = fsspec.filesystem("memory")
    relume("detector", "calc_anchors", data, *WORDS)
    here = Path("anchors.txt").read_bytes()
    for path in (data.parent / "img").glob("*.txt"):
        system.pipe_file(f"/anchors/img/{path.name}", path.read_bytes())
    system.pipe_file("/anchors/train.txt", (data.parent / "train.txt").read_bytes())
    shutil.rmtree(data.parent / "img")
    Path("anchors.txt").unlink()
    data.write_text(data.read_text().replace("train.txt", "memory://anchors/train.txt"))

    ended = relume("detector", "calc_anchors", data, *WORDS)
    system.rm("/anchors", recursive=True)

    assert ended.status == 0
    assert Path("anchors.txt").read_bytes() == here


@pytest.fixture
def long(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data file whose list counts as a long one, beside what the same short one leaves."""
    relume("detector", "calc_anchors", data, *WORDS)
    for name in LEFT:
        Path(name).rename(f"short_{name}")
    monkeypatch.setattr(long_list, "COMPARED_AT_START", 0)
    return data


def same_as_of_a_short_list() -> bool:
    return all(Path(name).read_bytes() == Path(f"short_{name}").read_bytes() for name in LEFT)


def test_a_long_list_has_the_anchors_of_a_short_one_by_an_index_that_is_kept(long: Path) -> None:
    first = relume("detector", "calc_anchors", long, *WORDS)
    assert len(list(Path("backup/cache").rglob("*.block"))) == 1
    again = relume("detector", "calc_anchors", long, *WORDS)

    assert first.status == again.status == 0
    assert "loaded image: 3 box: 4" in again.out
    assert "boxes outside their picture or without a size: 1 (first img/one.txt box 3)" in again.err
    assert same_as_of_a_short_list()


def test_a_label_that_changed_since_is_not_taken_from_the_index(long: Path) -> None:
    relume("detector", "calc_anchors", long, *WORDS)
    Path("img/two.txt").write_text("0 0.5 0.5 0.25 0.5\n")  # the same size
    told = relume("detector", "calc_anchors", long, *WORDS).out
    assert "counters_per_class = 2, 2" in told

    Path("img/two.txt").write_text("7 0.5 0.5 0.25 0.5\n")
    ended = relume("detector", "calc_anchors", long, *WORDS)
    assert ended.status == 2
    assert "img/two.txt:1: class 7" in ended.error


def test_without_a_place_for_an_index_labels_are_read_one_by_one(long: Path) -> None:
    Path("backup").write_text("in the way")
    ended = relume("detector", "calc_anchors", long, *WORDS)

    assert ended.status == 0
    assert "the labels of train.txt are not indexed: " in ended.err
    assert same_as_of_a_short_list()


def test_entries_on_an_object_store_are_read_though_no_index_has_them(long: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/anchors/two.txt", Path("img/two.txt").read_bytes())
    Path("train.txt").write_text("img/one.png\nmemory://anchors/two.png\nimg/none.png\n")
    ended = relume("detector", "calc_anchors", long, *WORDS)
    system.rm("/anchors", recursive=True)

    assert ended.status == 0
    assert same_as_of_a_short_list()
