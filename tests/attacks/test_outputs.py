"""Every file that a command writes, with everything that can lie at its path: what is kept, what
is replaced, and that a command which is refused or interrupted leaves no trace."""

import errno
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.checkpoint import container, storage
from relume.checkpoint.disk import Buffer
from relume.formats.cfg import read_cfg
from tests.checkpoint.faults import Passing
from tests.checkpoint.states import tiny_cfg, tiny_state
from tests.command_line import Ended, relume
from tests.datasets.small_sets import write_picture, write_set

DETECTOR = "obj.data net.cfg net.weights"
MINE = b"somebody's work\n"


@dataclass(frozen=True)
class Output:
    """A file that a command writes."""

    words: str
    path: str
    reads: str = "obj.data"
    """A file that it reads."""


OUTPUTS = {
    "partial": Output("partial net.cfg run.weights out.weights 2", "out.weights", reads="net.cfg"),
    "strip": Output("strip run.weights out.weights", "out.weights", reads="run.weights"),
    "average": Output("average net.cfg out.weights net.weights", "out.weights", reads="net.cfg"),
    "export": Output("export net.cfg net.weights out.onnx", "out.onnx", reads="net.cfg"),
    "drawing": Output(f"detector test {DETECTOR} img/1.png", "predictions.jpg"),
    "drawings": Output(f"detector test {DETECTOR} img", "predictions/1.jpg"),
    "json": Output(f"detector test {DETECTOR} img -dont_draw -out out.json", "out.json"),
    "labels": Output(f"detector test {DETECTOR} bare -dont_draw -save_labels", "bare/1.txt"),
    "video": Output(f"detector demo {DETECTOR} in.avi -out_filename out.avi", "out.avi"),
    "frames": Output(f"detector demo {DETECTOR} in.avi -prefix frame", "frame_00000002.jpg"),
    "json of demo": Output(
        f"detector demo {DETECTOR} in.avi -json_file_output out.json", "out.json"
    ),
    "valid": Output(f"detector valid {DETECTOR}", "results/comp4_det_test_cell.txt"),
    "valid coco": Output(
        "detector valid coco.data net.cfg net.weights", "results/coco_results.json", reads="net.cfg"
    ),
    "anchors": Output("detector calc_anchors obj.data -width 64 -height 64 ", "anchors.txt"),
    "counters": Output(
        "detector calc_anchors obj.data -width 64 -height 64", "counters_per_class.txt"
    ),
    "cloud": Output("detector calc_anchors obj.data -width 64 -height 64", "cloud.png"),
    "replay": Output("replay obj.data net.cfg -iteration 1 -out sheet.png", "sheet.png"),
    "split": Output("split img -out lists", "lists/valid.txt", reads=""),
    "cfg": Output(
        "make-cfg -like yolov3-tiny -names obj.names -images train.txt -out made",
        "made/yolov3-tiny-obj.cfg",
        reads="obj.names",
    ),
    "data file": Output(
        "make-cfg -like yolov3-tiny -names obj.names -images train.txt -out made",
        "made/obj.data",
        reads="obj.names",
    ),
    "import voc": Output("import voc VOC", "VOC/labels/1.txt", reads="VOC/Annotations/1.xml"),
    "lists of voc": Output(
        "import voc VOC -out lists", "lists/train.txt", reads="VOC/ImageSets/Main/train.txt"
    ),
    "import coco": Output("import coco notes.json -out coco", "coco/obj.data", reads="notes.json"),
    "export coco": Output(
        "export-labels obj.data out -form coco", "out/annotations/instances_train.json"
    ),
    "export voc": Output("export-labels obj.data out -form voc", "out/Annotations/1.xml"),
}
every_output = pytest.mark.parametrize("output", OUTPUTS.values(), ids=list(OUTPUTS))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands read."""
    folder = tmp_path_factory.mktemp("template")
    boxes = [(0, 0.5, 0.5, 0.1 * n, 0.15 * n) for n in range(1, 7)]
    write_set(folder, {str(n): [boxes[n - 1]] for n in range(1, 7)}, ("cell",))
    (folder / "train.txt").rename(folder / "valid.txt")
    (folder / "train.txt").write_text("".join(f"img/{n}.png\n" for n in range(1, 7)))
    data = "classes=1\nnames=obj.names\ntrain=train.txt\nvalid=valid.txt\nresults=results\n"
    (folder / "obj.data").write_text(data)
    (folder / "coco.data").write_text(data + "eval=coco\n")
    (folder / "net.cfg").write_text(tiny_cfg())
    whole = b"".join(bytes(part) for part in container.packed_parts(tiny_state()))
    (folder / "run.weights").write_bytes(whole)
    plain = container.plain_from(io.BytesIO(whole), folder / "run.weights")
    (folder / "net.weights").write_bytes(plain)
    write_picture(folder / "bare" / "1.png", 1)
    write_picture(folder / "VOC" / "JPEGImages" / "1.jpg", 1)
    (folder / "VOC" / "Annotations").mkdir()
    (folder / "VOC" / "Annotations" / "1.xml").write_text(
        "<annotation><size><width>40</width><height>30</height></size><object><name>dog</name>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>21</xmax><ymax>31</ymax></bndbox></object>"
        "</annotation>"
    )
    (folder / "VOC" / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "VOC" / "ImageSets" / "Main" / "train.txt").write_text("1\n")
    notes = {
        "images": [{"id": 1, "file_name": "bare/1.png", "width": 40, "height": 30}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 30], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "notes.json").write_text(json.dumps(notes))
    picture = np.full((64, 64, 3), 40, np.uint8)
    writer = cv2.VideoWriter(str(folder / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    writer.write(picture)
    writer.write(picture)
    writer.release()
    assert len(read_cfg(str(folder / "net.cfg"), "detect").layers) > 2
    return folder


class Folder:
    """A copy of the template, the current folder, made anew for every thing that lies at a path."""

    def __init__(self, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._template, self._root, self._monkeypatch = template, tmp_path, monkeypatch
        self._copies = 0

    def new(self, output: Output) -> Path:
        """Go into a new copy; return the path of the output, whose folder is there."""
        self._copies += 1
        copy = self._root / str(self._copies)
        shutil.copytree(self._template, copy)
        (copy / output.path).parent.mkdir(parents=True, exist_ok=True)
        self._monkeypatch.chdir(copy)
        return Path(output.path)


@pytest.fixture
def folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(template, tmp_path, monkeypatch)


def given(output: Output, *flags: str) -> Ended:
    return relume(*output.words.split(), *flags)


def tree() -> dict[str, object]:
    """Return all that lies below the current folder: kinds, links' ends, bytes."""
    found: dict[str, object] = {}
    for path in sorted(Path().rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[str(path)] = path.readlink()
        elif stat.S_ISREG(mode):
            found[str(path)] = path.read_bytes()
        else:
            found[str(path)] = stat.S_IFMT(mode)
    return found


def check_refused(output: Output, *flags: str) -> None:
    """See that the command ends with one line, and changes nothing below the current folder."""
    before = tree()
    ended = given(output, *flags)
    assert ended.status == 2
    assert ended.error  # of one line
    assert tree() == before


def make_text(path: Path) -> None:
    path.write_bytes(MINE)


def make_protected(path: Path) -> None:
    path.write_bytes(MINE)
    path.chmod(0o444)


def make_checkpoint(path: Path) -> None:
    shutil.copy("run.weights", path)


def make_link(path: Path) -> None:
    Path("victim").write_bytes(MINE)
    path.symlink_to(Path("victim").resolve())


def make_dangling_link(path: Path) -> None:
    path.symlink_to(Path("victim").resolve())


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_second_name(path: Path) -> None:
    Path("victim").write_bytes(MINE)
    path.hardlink_to("victim")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/null")


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_bytes(MINE)


def make_link_to_folder(path: Path) -> None:
    Path("other").mkdir()
    path.symlink_to(Path("other").resolve())


REPLACED_BY_FORCE = (
    *(make_text, make_protected, make_link, make_dangling_link, make_loop, make_second_name),
)
NEVER_REPLACED = (
    *(make_checkpoint, make_pipe, make_link_to_device, make_folder, make_link_to_folder),
)


@every_output
def test_what_a_command_has_not_made_stays(folder: Folder, output: Output) -> None:
    for make in (*REPLACED_BY_FORCE, *NEVER_REPLACED):
        make(folder.new(output))
        check_refused(output)


@every_output
def test_force_replaces_none_but_files_and_links_and_no_checkpoint(
    folder: Folder, output: Output
) -> None:
    for make in NEVER_REPLACED:
        make(folder.new(output))
        check_refused(output, "-force")


@every_output
def test_force_replaces_the_name_alone_and_no_link_is_followed(
    folder: Folder, output: Output
) -> None:
    if not output.reads:
        pytest.skip("with -force its lists are read")
    for make in (make_text, make_link, make_dangling_link, make_second_name):
        path = folder.new(output)
        make(path)
        led_to = Path("victim").exists()
        assert given(output, "-force").status == 0
        assert stat.S_ISREG(path.lstat().st_mode)
        assert path.read_bytes() != MINE
        assert path.lstat().st_nlink == 1
        assert Path("victim").exists() == led_to
        assert not led_to or Path("victim").read_bytes() == MINE


@every_output
def test_force_does_not_replace_what_the_command_reads(folder: Folder, output: Output) -> None:
    if not output.reads:
        pytest.skip("with -force its lists are read and written")
    ways: tuple[Callable[[Path, Path], None], ...] = (
        lambda path, read: path.hardlink_to(read),
        lambda path, read: path.symlink_to(read.resolve()),
    )
    for way in ways:
        path = folder.new(output)
        way(path, Path(output.reads))
        check_refused(output, "-force")


@every_output
def test_the_same_command_again_ends_well_and_a_file_of_the_users_beside_it_stays(
    folder: Folder, output: Output
) -> None:
    path = folder.new(output)
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_bytes(MINE)
    assert given(output).status == 0
    before = path.read_bytes()
    force = ("-force",) * (output.path.startswith(("out.avi", "frame")))
    again = given(output, *force)

    assert (again.status, path.read_bytes()) == (0, before)
    assert beside.read_bytes() == MINE
    assert [name for name in tree() if "tmp" in name] == [str(beside)]


@every_output
def test_a_command_that_is_interrupted_leaves_nothing_and_ends_well_when_given_again(
    folder: Folder, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Passing):
        def rename(self, source: Path, target: Path) -> None:
            raise KeyboardInterrupt

    class Full(Passing):
        def write(self, descriptor: int, data: Buffer) -> None:
            os.write(descriptor, bytes(data)[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for disk, status in ((Interrupted(), 130), (Full(), 2)):
        path = folder.new(output)
        before = tree().keys()
        with monkeypatch.context() as patch:
            patch.setattr(storage, "DISK", disk)
            ended = given(output)
        if output.path == "out.avi" and status == 2:
            continue  # OpenCV writes it
        assert ended.status == status
        made = {name for name in tree().keys() - before if not Path(name).is_dir()}
        assert made == set()
        assert given(output).status == 0
        assert path.stat().st_size


@pytest.mark.parametrize("name", ["partial", "drawings", "cloud", "import voc"])
def test_a_signal_leaves_whole_files_and_no_other(
    folder: Folder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM, which would end the process at once, comes while a file is being written."""
    output = OUTPUTS[name]
    folder.new(output)
    assert given(output).status == 0
    whole = tree()
    kill, ended_by = os.kill, list[int]()

    class Terminated(Passing):
        def write(self, descriptor: int, data: Buffer) -> None:
            super().write(descriptor, bytes(data)[:5])
            if threading.current_thread() is threading.main_thread() or not ended_by:
                kill(os.getpid(), signal.SIGTERM)
            super().write(descriptor, bytes(data)[5:])

    folder.new(output)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda process, number: ended_by.append(number))
        patch.setattr(storage, "DISK", Terminated())
        assert given(output).status == 130
    assert ended_by == [signal.SIGTERM]
    assert {path: whole[path] for path in tree()} == tree()


def test_a_split_with_force_follows_no_link_to_the_list_that_it_reads(folder: Folder) -> None:
    path = folder.new(OUTPUTS["split"])
    Path("victim").write_text("img/1.png\n")
    path.symlink_to(Path("victim").resolve())

    assert given(OUTPUTS["split"], "-force").status == 0
    assert not path.is_symlink()
    assert Path("victim").read_text() == "img/1.png\n"


# the names of a run's files


@contextmanager
def holder_of(lock: Path) -> Iterator[None]:
    """Let another process hold a lock."""
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print(flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.communicate()


@pytest.mark.parametrize(
    "name",
    ["net_best.weights", "net_12.weights", "net.backup", "net_12.backup", "net.journal.jsonl"],
)
def test_no_command_writes_under_a_name_of_a_run_unasked_or_while_it_is_trained(
    folder: Folder, name: str
) -> None:
    folder.new(OUTPUTS["strip"])
    Path("backup").mkdir()
    shutil.copy("run.weights", "backup/net_last.weights")
    Path("backup/net.lock").touch()
    words = ("strip", "run.weights", f"backup/{name}")
    before = tree()

    ended = relume(*words)
    assert ended.error.startswith(f"backup/{name}: is the name of a file of the run 'net'")
    assert tree() == before
    with holder_of(Path("backup/net.lock")):
        assert "trains 'net' in this folder" in relume(*words, "-force").error
        assert not Path(f"backup/{name}").exists()
    assert relume(*words, "-force").status == 0


def test_the_lock_of_a_run_is_never_replaced(folder: Folder) -> None:
    folder.new(OUTPUTS["strip"])
    Path("backup").mkdir()
    Path("backup/net.lock").touch()
    for flags in ((), ("-force",)):
        ended = relume("strip", "run.weights", "backup/net.lock", *flags)
        assert ended.error.startswith("backup/net.lock: is the name of a file of the run 'net'")
    assert Path("backup/net.lock").read_bytes() == b""


# names, folders, two outputs in one


def test_a_name_of_255_bytes_is_written_and_a_longer_one_refused(folder: Folder) -> None:
    folder.new(OUTPUTS["strip"])
    assert relume("strip", "run.weights", "x" * 255).status == 0
    before = tree()
    assert "x" * 256 in relume("strip", "run.weights", "x" * 256).error
    assert tree() == before


def test_a_missing_folder_is_told_in_one_line_and_a_link_to_none_too(folder: Folder) -> None:
    folder.new(OUTPUTS["strip"])
    Path("away").symlink_to("nowhere")
    Path("file").touch()
    before = tree()
    for out in ("no/out.weights", "away/out.weights", "file/out.weights"):
        assert relume("strip", "run.weights", out).status == 2
        assert relume("split", "img", "-out", f"{Path(out).parent}/x").status == 2 or out[0] == "n"
        shutil.rmtree("no", ignore_errors=True)
    assert tree() == before


def test_two_outputs_of_a_command_do_not_go_into_one_file(folder: Folder) -> None:
    folder.new(OUTPUTS["json"])
    before = tree()
    for words in (
        f"detector test {DETECTOR} img/1.png -out predictions.jpg",
        f"detector demo {DETECTOR} in.avi -out_filename x.avi -json_file_output ./x.avi",
        f"detector demo {DETECTOR} in.avi -prefix x -json_file_output x_00000001.jpg",
    ):
        ended = relume(*words.split())
        assert ended.status == 2
        assert "cannot hold both " in ended.error
        assert tree() == before


def test_an_import_does_not_write_a_list_over_the_labels_of_a_picture(folder: Folder) -> None:
    folder.new(OUTPUTS["import coco"])
    write_picture(Path("train.jpg"), 1)
    notes = json.loads(Path("notes.json").read_text())
    notes["images"][0]["file_name"] = "train.jpg"
    Path("notes.json").write_text(json.dumps(notes))
    Path("train.txt").unlink()
    before = tree()

    assert "and the labels of a picture" in relume("import", "coco", "notes.json").error
    assert tree() == before


def test_a_file_of_a_video_that_somebody_has_is_not_written_over(folder: Folder) -> None:
    output = OUTPUTS["video"]
    folder.new(output)
    Path(".out.tmp.avi").write_bytes(MINE)
    assert given(output).status == 0
    assert Path(".out.tmp.avi").read_bytes() == MINE


def test_tensor_digests_are_added_to_no_file_that_holds_something_else(folder: Folder) -> None:
    output = Output(
        "detector train obj.data net.cfg -tensor_digests digests.jsonl -nogpu", "digests.jsonl"
    )
    for make in (*REPLACED_BY_FORCE, *NEVER_REPLACED):
        make(folder.new(output))
        check_refused(output)
    for path in ("backup/net.journal.jsonl", "net.cfg", "./train.txt"):
        folder.new(output)
        Path("backup").mkdir()
        Path("backup/net_last.weights").touch()
        check_refused(Output(output.words.replace("digests.jsonl", path), path))
