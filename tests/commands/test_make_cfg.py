"""`relume make-cfg`: files that training and Darknet take, from names and a list or a data file."""

import shutil
import subprocess
from pathlib import Path

import fsspec
import pytest

from relume.datasets.make_cfg import NETS
from relume.formats.cfg import read_cfg
from relume.spec import Flags, read_spec
from tests.command_line import relume
from tests.datasets.small_sets import write_set

DARKNET = shutil.which("darknet")
SIZES = [0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6]
PICTURES = {f"p{n}": [(n % 3, 0.5, 0.5, size, 0.2)] for n, size in enumerate(SIZES)}
SMALL = "-like", "yolov3-tiny", "-width", "64", "-height", "64", "-batch", "2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Names, pictures and train.txt in `set`; the current folder is the one above."""
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "set", PICTURES, names=("a", "b", "c"))
    (tmp_path / "set" / "obj.data").unlink()
    return tmp_path / "set"


def test_cfg_and_data_file_go_into_training_as_they_are(folder: Path) -> None:
    ended = relume("make-cfg", *SMALL, "-names", "set/obj.names")

    assert ended.status == 0
    assert ended.err == ""
    assert (folder / "obj.data").read_text() == (
        "classes = 3\ntrain = train.txt\nvalid = valid.txt\nnames = obj.names\nbackup = backup\n"
        "seed = 0\n"
    )
    spec = read_spec("set/obj.data", "set/yolov3-tiny-obj.cfg", Flags(), pytest.fail)
    net, head = spec.recipe.cfg.net, spec.recipe.cfg.heads[0]
    assert (net.width, net.height, net.batch, net.max_batches) == (64, 64, 2, 6000)
    assert (head.classes, head.num) == (3, 6)
    assert ended.out.splitlines() == [
        "set/obj.data: 3 classes, trains on set/train.txt",
        "set/yolov3-tiny-obj.cfg: 64x64, batch 2 in 2 subdivisions, max_batches 6000, "
        "steps 4800,5400, filters 24",
        "anchors by k-means on set/train.txt, seed 0: avg IoU 97.62 %; Darknet's own have 55.67 %",
        "train: relume detector train set/obj.data set/yolov3-tiny-obj.cfg yolov3-tiny.conv.15",
    ]


def test_a_short_run_has_the_schedule_of_a_short_run(folder: Path) -> None:
    assert relume("make-cfg", *SMALL, "-names", "set/obj.names", "-max_batches", 300).status == 0
    cfg = read_cfg(folder / "yolov3-tiny-obj.cfg", "train")
    assert (cfg.net.max_batches, cfg.net.burn_in, cfg.net.steps) == (300, 60, (240, 270))
    ended = relume("make-cfg", *SMALL, "-names", "set/obj.names", "-max_batches", 9, "-force")
    assert ended.error == "-max_batches: 9; 10 or more; see relume make-cfg -h"


def test_anchors_are_those_of_calc_anchors(folder: Path) -> None:
    relume("make-cfg", *SMALL, "-names", "set/obj.names", "-seed", 3)
    size = "-width", 64, "-height", 64
    relume("detector", "calc_anchors", "set/obj.data", "-num_of_clusters", 6, *size, "-seed", 3)

    head = read_cfg(folder / "yolov3-tiny-obj.cfg", "train").heads[0]
    written = [float(word) for word in Path("anchors.txt").read_text().split(",")]
    rounded = [round(number) for pair in head.anchors_px for number in pair]
    assert rounded == written


def test_without_a_list_the_anchors_are_darknets_and_that_is_said(folder: Path) -> None:
    (folder / "train.txt").unlink()

    ended = relume("make-cfg", "-like", "yolov3", "-names", "set/obj.names")

    assert ended.status == 0
    assert "anchors of Darknet's own cfg" in ended.out
    assert ended.err == (
        "relume: set/train.txt: not there yet; relume split makes lists of pictures\n"
    )
    cfg = read_cfg(folder / "yolov3-obj.cfg", "train")
    assert cfg.heads[0].anchors_px == NETS["yolov3"].anchors_px


def test_too_few_shapes_leave_darknets_anchors(folder: Path) -> None:
    ended = relume("make-cfg", "-like", "yolov3", "-names", "set/obj.names")

    assert ended.status == 0
    assert "7 different shapes only, and 9 anchors are needed" in ended.out
    cfg = read_cfg(folder / "yolov3-obj.cfg", "train")
    assert cfg.heads[0].anchors_px == NETS["yolov3"].anchors_px


def test_lists_and_names_elsewhere_are_named_by_their_whole_paths(folder: Path) -> None:
    Path("all.list").write_text("".join(f"set/img/{name}.png\n" for name in PICTURES))
    lists = "-images", "all.list", "-valid", "set/train.txt"

    assert relume("make-cfg", *SMALL, "-names", "set/obj.names", *lists, "-out", "new").status == 0

    text = Path("new/obj.data").read_text()
    assert f"train = {folder.parent}/all.list\nvalid = {folder}/train.txt\n" in text
    assert f"names = {folder}/obj.names\n" in text


def test_a_data_file_that_is_there_stays_and_gets_its_cfg(folder: Path) -> None:
    data = folder / "my.data"
    data.write_text("train = train.txt\nnames = obj.names\n")

    assert relume("make-cfg", *SMALL, "-data", data).status == 0

    assert data.read_text() == "train = train.txt\nnames = obj.names\n"
    read_spec(str(data), str(folder / "yolov3-tiny-my.cfg"), Flags(), pytest.fail)


def test_files_that_are_there_are_replaced_only_with_force(folder: Path) -> None:
    (folder / "obj.data").write_text("mine")

    refused = relume("make-cfg", *SMALL, "-names", "set/obj.names")
    left = (folder / "obj.data").read_text()
    forced = relume("make-cfg", *SMALL, "-names", "set/obj.names", "-force")

    assert (refused.status, left) == (2, "mine")
    assert refused.error == (
        "set/obj.data: there already; -data set/obj.data takes yours as it is; "
        "-force replaces it; or -out FOLDER"
    )
    assert forced.status == 0
    assert (folder / "obj.data").read_text() != "mine"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("-names set/obj.names", "-like: is missing; one of yolov3-tiny, yolov3, yolov3-spp; see"),
        (
            "-like yolov4 -names set/obj.names",
            "-like: 'yolov4', which relume does not train yet; one of yolov3-tiny,",
        ),
        ("-like resnet -names set/obj.names", "-like: 'resnet'; one of yolov3-tiny,"),
        ("-like yolov3 -names set/img/p1.png", "set/img/p1.png: is no text; one class name"),
        ("-like yolov3 -names s3://b/n", "-names: s3://b/n is on an object store; local files"),
        ("-like yolov3 -names set/obj.names -out s3://b", "-out: s3://b is on an object store"),
        ("-like yolov3", "relume make-cfg: one of the two is needed; -names NAMES"),
        ("-like yolov3 -names n -data d", "relume make-cfg: one of the two is needed; -names"),
        ("-like yolov3 -data d -out x", "-out: is given with -data, which says that itself; see"),
        ("-like yolov3 -names none", "none: cannot be read (No such file or directory)"),
        ("-like yolov3 -names set/obj.names -width 100", "-width: 100; a multiple of 32, at most"),
        (
            "-like yolov3 -names set/obj.names -width 3200000000000000000000",
            "-width: 3200000000000000000000; a multiple of 32, at most 65536; see",
        ),
        (
            "-like yolov3 -names set/obj.names -batch 6 -subdivisions 4",
            "-batch 6 -subdivisions 4: do not fit; a batch that is a multiple of subdivisions",
        ),
        ("-like yolov3 -names set/obj.names -images no", "-images: no does not exist; a list"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(folder: Path, words: str, error: str) -> None:
    before = sorted(folder.rglob("*"))

    ended = relume("make-cfg", *words.split())

    assert ended.status == 2
    assert ended.error.startswith(error)
    assert sorted(folder.rglob("*")) == before


def test_lists_on_an_object_store_are_read_and_named_as_they_are(folder: Path) -> None:
    system = fsspec.filesystem("memory")
    for name in PICTURES:
        for ending in (".png", ".txt"):
            path = folder / "img" / (name + ending)
            system.pipe_file(f"/make/img/{path.name}", path.read_bytes())
    system.pipe_file("/make/train.txt", (folder / "train.txt").read_bytes())
    url = "memory://make/train.txt"

    ended = relume("make-cfg", *SMALL, "-names", "set/obj.names", "-images", url, "-seed", 5)

    system.rm("/make", recursive=True)
    assert (ended.status, ended.err) == (0, "")
    assert f"anchors by k-means on {url}, seed 5: avg IoU 97.62 %" in ended.out
    assert f"train = {url}\n" in (folder / "obj.data").read_text()
    assert "seed = 5\n" in (folder / "obj.data").read_text()


@pytest.mark.darknet
@pytest.mark.skipif(DARKNET is None, reason="needs Debian's package darknet")
@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov3-spp"])  # which has all of yolov3's layers
def test_debians_darknet_loads_what_is_written(folder: Path, name: str) -> None:
    assert DARKNET is not None
    size = "-width", 64, "-height", 64, "-batch", 1
    assert relume("make-cfg", "-like", name, "-names", "set/obj.names", *size).status == 0
    path = folder / f"{name}-obj.cfg"

    told = subprocess.run(
        [DARKNET, "ops", path], capture_output=True, text=True, check=True, timeout=60
    )

    rows = [line.split() for line in told.stderr.splitlines() if line.split()[0].isdigit()]
    layers = read_cfg(path, "train").layers
    assert [row[0] for row in rows] == [str(number) for number in range(len(layers))]
    assert [row[1] for row in rows].count("yolo") == len(read_cfg(path, "train").heads)
    assert "Unused" not in told.stderr
