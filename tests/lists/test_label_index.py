"""The index says what the files say, is built once, goes on where it stopped, and mends itself."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.errors import DataFileError
from relume.formats.data_files import read_labels
from relume.lists import label_block, long_list
from relume.lists.label_block import ABSENT, UNLABELLED, WRONG, make_block, read_block
from relume.lists.label_index import Place, blocks_of, build, place_of, read_summary
from relume.lists.long_list import read_list
from tests.command_line import STOPS

CLASSES, PICTURES, ROWS = 3, 10, 4
OLD_S = 1_700_000_000


def written(path: Path, data: bytes) -> None:
    """Write a file that has not changed for long."""
    path.write_bytes(data)
    os.utime(path, (OLD_S, OLD_S))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A list of ten pictures: the i-th has i boxes; the third is missing, the fourth unlabelled."""
    monkeypatch.setattr(long_list, "COMPARED_AT_START", 0)
    for i in range(PICTURES):
        picture = cv2.imencode(".png", np.zeros((20 + i, 40, 3), np.uint8))[1].tobytes()
        written(tmp_path / f"{i}.png", picture)
        written(tmp_path / f"{i}.txt", b"1 .5 .5 .25 .125\n" * i)
    (tmp_path / "3.png").unlink()
    (tmp_path / "4.txt").unlink()
    (tmp_path / "train.txt").write_text("".join(f"{i}.png\n" for i in range(PICTURES)))
    return found_place(tmp_path)


def found_place(folder: Path) -> Place:
    data = folder / "obj.data"
    images = read_list(folder / "train.txt", data, folder / "cache", pytest.fail)
    assert images.digest is not None
    place = place_of(images, images.digest, data, CLASSES, folder / "cache")
    return replace(place, block_rows=ROWS)


def built(place: Place, again: bool = False) -> label_block.Summary:
    summary = build(place, 2, lambda done, total: None, lambda: False, again)
    assert summary is not None
    return summary


def test_an_index_says_what_the_files_say(place: Place) -> None:
    folder = place.list_path.parent
    steps: list[tuple[int, int]] = []
    summary = build(place, 2, lambda done, total: steps.append((done, total)), lambda: False)

    assert summary is not None
    assert (summary.rows, summary.boxes, summary.is_clean) == (10, sum(range(10)) - 4, False)
    assert (summary.absent.count, summary.absent.first) == (1, "line 4: 3.png")
    assert (summary.unlabelled.count, summary.unlabelled.first) == (1, str(folder / "4.txt"))
    assert steps[0] == (0, 10)
    assert steps[-1] == (10, 10)
    row = 0
    for block in blocks_of(place):
        files = [folder / f"{row + i}.txt" for i in range(len(block.rows))]
        boxes = [read_labels(file, CLASSES).boxes for file in files]
        np.testing.assert_array_equal(block.boxes, np.concatenate(boxes))
        assert block.rows["boxes"].tolist() == list(map(len, boxes))
        for known in block.rows:
            assert known["found"] == {3: ABSENT, 4: UNLABELLED}.get(row, 0)
            row += 1
    assert row == PICTURES
    # It is mended: only then a start takes it as it is.
    assert read_summary(place) is None
    written(folder / "3.png", (folder / "2.png").read_bytes())
    assert built(place).is_clean
    found = read_summary(place)
    assert found is not None
    assert found.absent.count == 0


def test_an_index_that_was_interrupted_or_damaged_goes_on(place: Place) -> None:
    written(place.list_path.parent / "3.png", b"")
    stop: list[int] = []
    assert build(place, 1, lambda done, total: stop.append(done), lambda: len(stop) > 1) is None
    assert read_summary(place) is None
    kept = sorted(place.folder.glob("*.block"))
    assert 0 < len(kept) < 3
    first = kept[0].stat()
    total = built(place)
    blocks = sorted(place.folder.glob("*.block"))

    assert [path.name for path in blocks] == [f"{row:012}.block" for row in (0, 4, 8)]
    again = blocks[0].stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)  # not made anew
    assert read_summary(place) == total
    good = blocks[1].read_bytes()
    flipped = good[:-40] + bytes([good[-40] ^ 1]) + good[-39:]  # a bit of the last box
    for bad in (good[:-7], good[:60] + b"\0" + good[61:], b"", flipped):
        blocks[1].write_bytes(bad)
        assert read_block(blocks[1]) is None
    (place.folder / "summary.json").write_text("{}")
    assert read_summary(place) is None
    assert built(place) == total
    assert blocks[1].read_bytes() == good


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_to_the_whole_group_ends_no_process_that_makes_blocks(
    number: signal.Signals, place: Place
) -> None:
    rows: list[int] = []

    def at(done: int, total: int) -> None:
        rows.append(done)
        if len(rows) == 2:  # the process has made a block, so it is set up
            (process,) = multiprocessing.active_children()
            assert process.pid is not None
            os.kill(process.pid, number)

    assert build(place, 1, at, lambda: False) is not None
    assert rows[-1] == PICTURES


def test_only_files_that_have_changed_are_read_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place.list_path.parent
    written(folder / "3.png", b"")
    built(place)
    images = read_list(place.list_path, folder / "obj.data", folder / "cache", pytest.fail)
    known = read_block(place.path(0))
    assert known is not None
    read: list[Path] = []
    original = label_block._read_row

    def counted(path: Path, *arguments: object) -> object:
        read.append(path)
        return original(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(label_block, "_read_row", counted)
    assert make_block(images, 0, 4, CLASSES, known).summary == known.summary
    assert read == []
    (folder / "2.txt").write_bytes(b"2 .5 .5 .25 .125\n" * 2)  # the same size; just now
    for _ in range(2):  # too young to be trusted the second time
        block = make_block(images, 0, 4, CLASSES, known)
        assert block.boxes[1:3, 0].tolist() == [2, 2]
        known = block
    assert read == [folder / "2.png"] * 2


def test_a_malformed_label_is_named_and_forgotten_when_it_is_corrected(place: Place) -> None:
    folder = place.list_path.parent
    written(folder / "3.png", b"")
    written(folder / "7.txt", b"0 .5 .5 .1 .1\n9 .5 .5 .1 .1\n")
    summary = built(place)

    assert summary.wrong.count == 1
    assert summary.wrong.first.startswith(f"{folder / '7.txt'}:2: class 9")
    second = list(blocks_of(place))[1]
    assert second.rows["found"].tolist() == [UNLABELLED, 0, 0, WRONG]
    written(folder / "7.txt", b"0 .5 .5 .1 .1\n")
    assert built(place).wrong.count == 0


def test_what_a_process_cannot_do_is_an_error_here(place: Place) -> None:
    place.list_path.write_text("0.png\n1.png\n")

    with pytest.raises(DataFileError, match="has been changed meanwhile"):
        built(place)
