"""`relume check`: every defect with its place and verdict, and what it does not do.

Needs nothing but this checkout (real pictures are skipped without the folder `shared`).
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

from relume.checking import pictures
from relume.checking.cost import Trial
from relume.checkpoint import storage
from relume.data.image import Pixels, decode_picture
from relume.screen import Screen
from tests.cfg_texts import small_cfg
from tests.checking.damaged import CFG, contents, drawn, encoded, line_of, write_damaged
from tests.command_line import Ended, relume
from tests.contract.small_runs import write_run
from tests.shared import SHARED, needs_shared

Found = dict[str, list[tuple[str, str, str]]]
"""What -> verdict, place and detail of every finding of that kind."""


def check(*words: object, tries: bool = False) -> Ended:
    """Run the command; by default nothing is trained for it, which takes most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        if not tries:
            trial = Trial(images=2, width=64, height=64, seconds=0.1, held_bytes=10**6)
            patch.setattr("relume.commands.check._trial", lambda cfg, device: trial)
        return relume("check", *words, "-nogpu")


def found_by(ended: Ended) -> Found:
    found: Found = {}
    for group in json.loads(ended.out)["findings"]:
        assert group["count"] == len(group["where"])
        found[group["what"]] = [(group["verdict"], w["place"], w["detail"]) for w in group["where"]]
    return found


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_damaged(tmp_path_factory.mktemp("damaged"))


@pytest.fixture(scope="module")
def found(damaged: Path) -> Found:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(damaged)
        ended = check("obj.data", "net.cfg", "-json")
    assert (ended.status, ended.err) == (2, "")
    return found_by(ended)


LISTED = {
    "a picture cannot be decoded": (
        "error",
        ["none.jpg", "empty.jpg", "cut.jpg", "cut.png", "checksum.png"],
    ),
    "a picture cannot be read": ("error", ["folder.jpg"]),
    "a picture is cut off or damaged": ("warning", ["size.bmp"]),
    "a picture is CMYK": ("note", ["cmyk.jpg"]),
    "a picture has more than 8 bits": ("note", ["deep.png", "deep.tiff"]),
    "a picture is turned by its EXIF data": ("warning", ["turned.jpg"]),
    "a picture is grey": ("note", ["grey.jpg"]),
    "a picture is smaller than 16 pixels": ("warning", ["tiny.png", "cmyk.jpg"]),
    "a picture is of another form": ("note", ["other_form.png"]),
    "a picture is listed twice": ("warning", ["0001.jpg"]),
    "two files of 'train' hold the same picture": ("warning", ["same_again.jpg"]),
    "an entry of 'train' has no ending": ("error", ["words.txt"]),
}
"""What begins like this -> verdict, and the pictures whose lines in the list are named."""


@pytest.mark.parametrize("what", LISTED)
def test_a_defect_of_a_picture_is_reported_with_its_line(
    found: Found, damaged: Path, what: str
) -> None:
    verdict, names = LISTED[what]
    places = {
        (v, place) for key, many in found.items() if key.startswith(what) for v, place, _ in many
    }
    lines = (damaged / "train.txt").read_text(encoding="utf-8-sig").split("\n")
    # A picture that is listed twice is named where it stands the second time.
    last = {line: number for number, line in enumerate(lines, 1)}

    assert {(verdict, f"train.txt:{last[f'img/{name}']}") for name in names} == places


MISSING = {
    "img/a_space.jpg ": "has spaces or quotes around it",
    "img/capital.jpg": "is written Capital.jpg there (capital letters differ)",
    "C:\\data\\img\\windows.jpg": "a path of Windows; there is img/windows.jpg",
    "/home/me/set/img/elsewhere.jpg": "not there; there is img/elsewhere.jpg",
    "img/ending.jpg": "not there; there is img/ending.jpeg",
    "img/nowhere.jpg": "",
}


@pytest.mark.parametrize("entry", MISSING)
def test_a_path_that_leads_nowhere_is_explained(found: Found, damaged: Path, entry: str) -> None:
    missing = {
        place: (v, detail)
        for v, place, detail in found["a picture listed in 'train' does not exist"]
    }
    reason = f"{entry} ({MISSING[entry]})" if MISSING[entry] else entry

    assert missing[f"train.txt:{line_of(damaged, entry)}"] == ("error", reason)


def test_no_other_path_is_said_to_be_missing(found: Found) -> None:
    assert len(found["a picture listed in 'train' does not exist"]) == len(MISSING)
    assert [p for _, p, _ in found["a picture listed in 'valid' does not exist"]] == ["valid.txt:4"]


LABELS = {
    "a picture has no label file": ("warning", ["unlabelled.txt"]),
    "a label file is empty": ("note", ["no_object.txt"]),
    "a line of a label file is no box": (
        "error",
        ["words.txt:2", "words.txt:3", "words.txt:4", "binary.txt:1"],
    ),
    "a class is out of range": ("error", ["class.txt:1", "class.txt:2", "class.txt:3"]),
    "a box lies outside its picture": ("warning", ["pixels.txt:1"]),
    "a box has no size": ("warning", ["no_size.txt:2", "no_size.txt:3"]),
    "a box has its centre at 0 0": ("warning", ["corner.txt:1"]),
    "a box reaches over the edge": ("warning", ["over.txt:1"]),
    "a box stands twice": ("warning", ["twice.txt:3"]),
    "one box has two classes": ("warning", ["two_classes.txt:2"]),
    "a box is smaller than a pixel": ("warning", ["small.txt:1"]),
    "a picture has more boxes than `max`": ("warning", ["many.txt"]),
}


@pytest.mark.parametrize("what", LABELS)
def test_a_defect_of_a_label_is_reported_with_file_and_line(found: Found, what: str) -> None:
    verdict, places = LABELS[what]
    given = [(v, p) for key, many in found.items() if key.startswith(what) for v, p, _ in many]

    assert sorted(given) == sorted((verdict, f"img/{place}") for place in places)


def test_pixels_in_a_label_are_suspected(found: Found) -> None:
    ((_, _, detail),) = found["a box lies outside its picture, and is left out"]

    assert detail == "320 240 50 60 (in pixels?)"


def test_pictures_of_both_lists_are_found_by_path_and_by_content(found: Found) -> None:
    both = found["a picture of 'valid' is trained on too, so no measure on it is to be trusted"]

    assert [place for _, place, _ in both] == ["valid.txt:2", "valid.txt:3"]


def test_windows_marks_of_a_list_are_noted(found: Found) -> None:
    marks = [key for key, many in found.items() if ("note", "train.txt", "") in many]

    assert any("byte order mark" in key for key in marks)
    assert any("CR LF" in key for key in marks)


def test_the_table_fits_80_columns_and_names_few_places(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(damaged)
    monkeypatch.setattr(Screen, "width", property(lambda self: 80))
    monkeypatch.setattr(Screen, "counter", lambda *arguments: lambda done: None)

    ended = check("obj.data", "net.cfg")

    lines = ended.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("error ")
    assert "and 3 more; -json names all" in ended.out
    assert lines[-1].endswith("training would stop")


def test_a_pipe_gets_one_line_per_place(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(damaged)

    lines = check("obj.data", "net.cfg").out.splitlines()

    what = lines.index("error        5  a picture cannot be decoded")
    assert (
        lines[what + 1].strip()
        == f"train.txt:{line_of(damaged, 'img/none.jpg')}: img/none.jpg (17 bytes)"
    )
    assert lines[what + 5].strip().startswith("-> replace it or take it off the list")


def test_a_correction_touches_nothing_and_passes(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(damaged)
    shutil.rmtree("backup", ignore_errors=True)
    before = contents(damaged)
    times = {p: p.stat().st_mtime_ns for p in damaged.rglob("*") if "backup" not in p.parts}

    ended = check("obj.data", "net.cfg", "-fix", tmp_path / "fixed")

    assert {k: v for k, v in contents(damaged).items() if not k.startswith("backup")} == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path != damaged)
    assert ended.status == 2
    assert "paths corrected: 5" in ended.out
    assert "1 taken off the lists: cut off or damaged" in ended.out
    line = line_of(damaged, "img/size.bmp")
    assert f"-fix:   train.txt:{line}: img/size.bmp\n" in ended.out
    assert list(tmp_path.iterdir()) == [tmp_path / "fixed"]
    again = check(tmp_path / "fixed" / "obj.data", "net.cfg", "-json")
    kinds = {key for key, many in found_by(again).items() if many[0][0] != "note"}
    assert again.status == 1
    # What no correction can know.
    assert {kind.partition(",")[0].partition(":")[0] for kind in kinds} == {
        "a picture is turned by its EXIF data",
        "a picture is smaller than 16 pixels",
        "a picture has more boxes than `max` of the last [yolo]; the rest is left out",
        "a box is smaller than a pixel of the net's input (64x64) and is left out",
        "one box has two classes",
    }


def test_a_corrected_set_of_good_pictures_has_nothing_left_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", CFG)
    monkeypatch.chdir(folder)
    picture = Path(Path("train.txt").read_text().split()[0])
    picture.with_suffix(".txt").write_text("0 .5 .5 .2 .2\n0 .99 .5 .2 .2\n0 .5 .5 .2 .2\n")
    assert check("obj.data", "net.cfg").status == 1

    check("obj.data", "net.cfg", "-fix", "fixed")

    ended = check("fixed/obj.data", "net.cfg")
    assert (ended.status, ended.out.splitlines()[-1]) == (
        0,
        "nothing was found that would stop or spoil the training",
    )
    label = Path("fixed/img", picture.name).with_suffix(".txt")
    assert label.read_text() == "0 .5 .5 .2 .2\n0 0.945 0.5 0.11 0.2\n"
    trained = relume(
        "detector", "train", "fixed/obj.data", "net.cfg", "-threads", 1, "-max_time", 0.001
    )
    assert trained.status == 75


def test_a_folder_that_is_there_is_not_written_into(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", CFG)

    ended = check(folder / "obj.data", folder / "net.cfg", "-fix", folder)

    assert ended.status == 2
    assert "is there already" in ended.error


def test_an_interrupted_correction_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    link_to = storage.link_to
    calls = []

    def interrupted(path: Path, target: Path) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        link_to(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "link_to", interrupted)
        assert check("obj.data", "net.cfg", "-fix", "fixed").status == 130
    assert [path for path in Path().iterdir() if path.name.startswith("fixed")] == []

    assert check("obj.data", "net.cfg", "-fix", "fixed").status == 0
    assert check("fixed/obj.data", "net.cfg").status == 0


def test_the_findings_are_told_also_where_no_correction_can_be_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", CFG)
    for path in (folder / "img").glob("*.jpg"):
        path.write_bytes(b"none")

    ended = check(folder / "obj.data", folder / "net.cfg", "-fix", tmp_path / "fixed")
    as_json = check(folder / "obj.data", folder / "net.cfg", "-fix", tmp_path / "fixed", "-json")

    assert "a picture cannot be decoded" in found_by(as_json)
    assert json.loads(as_json.out)["fix"] == {"error": as_json.error}
    assert ended.status == as_json.status == 2
    assert "a picture cannot be decoded" in ended.out
    assert "nothing would be left after the correction" in ended.error


SETTINGS: dict[str, tuple[str, str, str, str, str]] = {
    # name: (file, old, new, place, beginning of the detail)
    "unknown keys": ("obj.data", "names =", "nmaes = 1\nnames =", "obj.data:4", "there is no key"),
    "a value": ("obj.data", "names =", "savelast = x\nnames =", "obj.data:4", "savelast = x"),
    "another value": ("obj.data", "names =", "sampling = x\nnames =", "obj.data:4", "sampling=x"),
    "a seed": ("obj.data", "names =", "seed = 1e99\nnames =", "obj.data:4", "seed = 1e99"),
    "classes": ("obj.data", "classes = 3", "classes = 4", "obj.data:1", "classes=4"),
    "a cfg key": ("net.cfg", "momentum=", "momentun=", "net.cfg:7", "[net] has no key"),
    "filters": ("net.cfg", "filters=24", "filters=27", "net.cfg:89", "[convolutional] filters=27"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_mistake_in_the_settings_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file, old, new, place, detail = SETTINGS[name]
    folder = write_run(tmp_path / "run", CFG)
    monkeypatch.chdir(folder)
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new, 1))

    ended = check("obj.data", "net.cfg", "-json")

    errors = [w for many in found_by(ended).values() for w in many if w[0] == "error"]
    assert ended.status == 2
    assert [(p, d.startswith(detail)) for _, p, d in errors] == [(place, True)], errors


def test_all_mistakes_of_a_cfg_are_reported_not_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", CFG.replace("filters=24", "filters=27"))
    monkeypatch.chdir(folder)

    def cfg_errors() -> list[str]:
        found = found_by(check("obj.data", "net.cfg", "-json"))
        return [place for _, place, _ in found["the cfg cannot be used"]]

    assert len(cfg_errors()) == 2  # both heads
    Path("net.cfg").write_text(CFG.replace("decay=", "dceay=").replace("stride=2", "stride=two"))
    assert len(cfg_errors()) == 1 + CFG.count("stride=2")


FITS: dict[str, tuple[dict[str, Any], str]] = {
    "steps": ({"policy": "steps", "steps": "40,90", "scales": ".1,.1"}, "steps at or behind"),
    "order": ({"policy": "steps", "steps": "40,20", "scales": ".1,.1"}, "steps are not in order"),
    "burn_in": ({"burn_in": 60}, "burn_in lasts to the end"),
    "rate": ({"learning_rate": 0}, "a learning rate of 0"),
    "batch": ({"batch": 5, "subdivisions": 2}, "batch is not divisible"),
    "single": ({"batch": 1, "subdivisions": 1}, "batch=1: every iteration"),
    "epochs": ({"max_batches": 1}, "not all pictures are seen"),
}


@pytest.mark.parametrize("name", FITS)
def test_settings_that_do_not_fit_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options, what = FITS[name]
    options = {"max_batches": 50, **options}
    folder = write_run(tmp_path / "run", small_cfg(**options))
    monkeypatch.chdir(folder)

    ended = check("obj.data", "net.cfg", "-json")

    found = found_by(ended)
    assert ended.status == 1
    assert [key for key in found if key.startswith(what)], found.keys()
    ((verdict, place, _),) = next(many for key, many in found.items() if key.startswith(what))
    assert verdict == "warning"
    assert place.startswith("net.cfg:")


def test_a_mess_is_seen_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    first, second = Path("train.txt").read_text().split()[:2]
    windows = [f"D:\\set\\{entry}".replace("/", "\\") for entry in (first, second.upper())]
    Path("train.txt").write_text("\n".join(windows))
    Path("obj.data").write_text(
        "classes = 4\ntrain = D:\\set\\train.txt\nnames = obj.names\nsavelast = ten\nseeed = 1\n"
    )
    text = CFG.replace("decay=", "dceay=").replace("filters=24", "filters=27")
    Path("net.cfg").write_text(text)

    ended = check("obj.data", "net.cfg", "gone.weights", "-json")

    errors = {
        (what, place)
        for what, many in found_by(ended).items()
        for verdict, place, _ in many
        if verdict == "error"
    }
    filters = [i for i, line in enumerate(text.split("\n"), 1) if line == "filters=27"]
    assert len(filters) == 2
    assert errors == {
        ("the data file has a line that cannot be used", "obj.data:5"),
        ("a value of the data file cannot be used", "obj.data:4"),
        (
            "a path of the data file leads nowhere; its check goes on with what it may mean",
            "obj.data:2",
        ),
        ("the cfg cannot be used", "net.cfg:8"),
        *(("the cfg cannot be used", f"net.cfg:{line}") for line in filters),
        ("names and classes differ", "obj.data"),
        ("a picture listed in 'train' does not exist", "train.txt:1"),
        ("a picture listed in 'train' does not exist", "train.txt:2"),
        ("WEIGHTS cannot be used", "gone.weights"),
    }
    check("obj.data", "net.cfg", "-fix", "fixed")
    assert len(Path("fixed/train.txt").read_text().split()) == 2


def test_names_with_sides_and_names_that_stand_twice_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    Path("obj.names").write_text("arrow_left\nfish\nfish\n")

    found = found_by(check("obj.data", "net.cfg", "-json"))

    assert ("warning", "obj.names:3", "fish, in lines 2, 3") in found["a class name stands twice"]
    what = "pictures are mirrored in training, but a class has a side in its name"
    assert found[what][0][2] == "arrow_left"


def test_classes_that_are_rare_or_missing_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    labels = sorted(Path("img").glob("*.txt"))
    for label in labels:
        label.write_text("".join(f"0 .5 .{k:02} .2 .2\n" for k in range(30, 70)))
    labels[0].write_text("1 .5 .5 .2 .2\n")

    found = found_by(check("obj.data", "net.cfg", "-json"))

    assert [d for _, _, d in found["a class has no box to learn it from"]] == ["2 limit"]
    assert found["classes are very unequal"][0][0] == "warning"


def test_weights_are_checked_against_the_cfg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    Path("short.weights").write_bytes(bytes([0, 0, 0, 0, 2, 0, 0, 0, 5]) + bytes(500))

    found = found_by(check("obj.data", "net.cfg", "short.weights", "-json"))
    gone = found_by(check("obj.data", "net.cfg", "gone.weights", "-json"))

    ((verdict, place, detail),) = found["WEIGHTS cannot be used"]
    assert (verdict, place) == ("error", "short.weights")
    assert detail.startswith("ends inside layer 0")
    assert gone["WEIGHTS cannot be used"][0][2] == "cannot be read (No such file or directory)"


def test_a_run_that_is_finished_and_its_own_checkpoint_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", small_cfg(max_batches=2)))
    assert relume("detector", "train", "obj.data", "net.cfg", "-threads", 1).status == 0

    ended = check("obj.data", "net.cfg", "backup/net_last.weights", "-json", tries=True)

    found = found_by(ended)
    what = "the run of this name is finished"
    assert found[what] == [("note", "backup/net_last.weights", "iteration 2")]
    assert found["WEIGHTS is a checkpoint"] == [("note", "backup/net_last.weights", "iteration 2")]
    assert "time to the end on this machine, about" not in found


def test_what_is_known_of_pictures_is_kept_by_content_and_made_anew_if_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    decoded = []

    def decode(content: bytes, channels: int, max_pixels: int) -> Pixels | None:
        decoded.append(content)
        return decode_picture(content, channels, max_pixels=max_pixels)

    monkeypatch.setattr(pictures, "decode_picture", decode)

    def checked() -> tuple[int, str]:
        decoded.clear()
        out = check("obj.data", "net.cfg").out
        return len(decoded), out.partition("memory at the largest")[0]

    first, said = checked()
    assert first == 8
    assert checked() == (0, said)
    picture = Path(Path("train.txt").read_text().split()[0])
    os.utime(picture, (1, 1))
    assert checked() == (0, said)  # its bytes are the same
    picture.write_bytes(encoded(drawn(1)))
    assert checked()[0] == 1
    known = Path("backup/cache/net.pictures.json")
    data = bytearray(known.read_bytes())
    data[len(data) // 2] ^= 1
    for content in (bytes(data), b"", b"[]", b"{", b'{"content":{},"xxh3-128":""}'):
        known.write_bytes(content)
        assert checked()[0] == 8


def test_pictures_on_an_object_store_are_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    system = fsspec.filesystem("memory")
    for path in Path("img").iterdir():
        system.pipe_file(f"/check/img/{path.name}", path.read_bytes())
    system.pipe_file("/check/img/0002.jpg", b"none")
    system.rm("/check/img/0003.txt")
    system.pipe_file("/check/img/0004.txt", b"9 .5 .5 .2 .2\n")
    entries = [f"img/000{i}.jpg\n" for i in range(1, 7)]
    system.pipe_file("/check/train.txt", "".join(entries).encode())
    text = Path("obj.data").read_text().replace("train.txt", "memory://check/train.txt")
    Path("obj.data").write_text(text)

    ended = check("obj.data", "net.cfg", "-json")
    fixing = check("obj.data", "net.cfg", "-fix", "fixed")

    system.rm("/check", recursive=True)
    found = found_by(ended)
    errors = {w for many in found.values() for w in many if w[0] == "error"}
    assert ended.status == 2
    assert {place for _, place, _ in errors} == {
        "memory://check/train.txt:2",
        "memory://check/img/0004.txt:1",
    }
    what = "a picture has no label file, and is trained on as one without objects"
    assert found[what] == [("warning", "memory://check/img/0003.txt", "")]
    assert "the pictures are on an object store" in fixing.error


def test_a_store_that_nobody_knows_and_a_pipe_are_findings_of_their_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    os.mkfifo("img/pipe.jpg")
    os.mkfifo("img/0002.txt.pipe")
    Path("img/0002.txt").unlink()
    Path("img/0002.txt").symlink_to("0002.txt.pipe")
    with Path("train.txt").open("a") as lines:
        lines.write("zzz://bucket/a.jpg\nimg/pipe.jpg\nzzz://bucket/a.jpg?none\n")
    Path("img/pipe.txt").write_text("0 .5 .5 .2 .2\n")
    Path("img/0003.txt").write_text("9 .5 .5 .2 .2\n")
    count = len(Path("train.txt").read_text().split())

    ended = check("obj.data", "net.cfg", "-json")

    found = found_by(ended)
    assert ended.status == 2
    unreadable = {place: detail for _, place, detail in found["a picture cannot be read"]}
    assert list(unreadable) == [f"train.txt:{count - 2}", f"train.txt:{count - 1}"]
    assert unreadable[f"train.txt:{count - 2}"].startswith("zzz://bucket/a.jpg: cannot be reached")
    assert unreadable[f"train.txt:{count - 1}"] == "img/pipe.jpg: no regular file"
    labels = [place for _, place, _ in found["a label file cannot be read"]]
    assert labels == ["img/0002.txt", "zzz://bucket/a.txt"]
    assert [p for _, p, _ in found["a class is out of range"]] == ["img/0003.txt:1"]
    what = "an entry of 'train' has no ending of a picture that Darknet knows"
    assert [place for _, place, _ in found[what]] == [f"train.txt:{count}"]


@needs_shared
def test_yolo_mark_with_its_missing_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SHARED / "data" / "yolo_mark", tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set")
    Path("net.cfg").write_text(small_cfg(classes=2, max_batches=50))

    ended = check("data/obj.data", "net.cfg", "-json")

    found = found_by(ended)
    assert ended.status == 2
    assert found["a picture listed in 'train' does not exist"] == [
        ("error", "data/train.txt:7", "data/img/air7.jpg")
    ]
    assert [
        p for _, p, _ in found["'valid' is the list 'train': no measure on it is to be trusted"]
    ]
    errors = [key for key, many in found.items() if many[0][0] == "error"]
    assert errors == ["a picture listed in 'train' does not exist"]


@needs_shared
def test_bccd_has_nothing_that_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bccd"
    shutil.copytree(SHARED / "data" / "bccd", folder)
    monkeypatch.chdir(folder)
    Path("net.cfg").write_text(small_cfg(size=96, max_batches=500))

    ended = check("obj.data", "net.cfg", "-json")

    assert ended.status < 2
    assert found_by(ended)["pictures"][0][2] == "291 of 291 decoded, 640x480 pixels"


def test_the_findings_are_plain_json(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(damaged)

    told: dict[str, Any] = json.loads(check("obj.data", "net.cfg", "-json").out)

    assert told["status"] == 2
    assert {group["verdict"] for group in told["findings"]} == {"error", "warning", "note"}
    assert all(
        group.keys() == {"verdict", "what", "count", "where", "remedy"}
        for group in told["findings"]
    )


def test_with_map_the_list_valid_must_be_in_order_and_evaluations_take_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, small_cfg(max_batches=300))
    monkeypatch.chdir(tmp_path)
    words = ("obj.data", "net.cfg", "-json")
    time = "time to the end on this machine, about"
    without, measured = (found_by(check(*words, *more)) for more in ((), ("-map",)))
    assert "of it for evaluations" not in without[time][0][2]
    assert "of it for evaluations" in measured[time][0][2]
    (tmp_path / "valid.txt").write_text("img/none.jpg\n")

    what = "a picture listed in 'valid' does not exist"
    assert found_by(check(*words))[what][0][0] == "warning"
    assert found_by(check(*words, "-map"))[what][0][0] == "error"
