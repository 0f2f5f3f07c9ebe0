"""The demo's pictures: what a caller may rely on, and that the boxes sit on the plates."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from relume import demo_pictures
from relume.demo_pictures import CLASS_NAMES, draw_picture, write_data_set
from relume.draws import draw_uniforms
from relume.errors import StorageError


def read_files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_pictures(
    tmp_path: Path,
) -> None:
    for name, seed in (("one", 7), ("again", 7), ("other", 8)):
        write_data_set(tmp_path / name, seed, train=4, valid=2, side_px=96)
    one, again, other = (read_files(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    assert all(one[f"img/000{n}.jpg"] != other[f"img/000{n}.jpg"] for n in range(1, 7))


def test_the_folder_holds_what_darknet_reads(tmp_path: Path) -> None:
    write_data_set(tmp_path, 1, train=3, valid=2, side_px=96)
    lines = (tmp_path / "obj.data").read_text().splitlines()
    data = dict(line.split(" = ") for line in lines)
    assert data == {
        "classes": "3",
        "train": "train.txt",
        "valid": "valid.txt",
        "names": "obj.names",
        "backup": "backup",
    }
    assert (tmp_path / "obj.names").read_text().split() == list(CLASS_NAMES)
    train = (tmp_path / "train.txt").read_text().split()
    valid = (tmp_path / "valid.txt").read_text().split()
    assert train == ["img/0001.jpg", "img/0002.jpg", "img/0003.jpg"]
    assert valid == ["img/0004.jpg", "img/0005.jpg"]
    for index, path in enumerate(train + valid):
        picture = cv2.imread(str(tmp_path / path))
        assert picture is not None
        assert picture.shape == (96, 96, 3)
        rows = np.loadtxt((tmp_path / path).with_suffix(".txt"), ndmin=2)
        np.testing.assert_allclose(rows, draw_picture(1, index, 96)[1], atol=1e-6)


def test_every_picture_has_one_to_three_signs_that_lie_inside_and_are_large_enough() -> None:
    kinds = set()
    for index in range(60):
        picture, truths = draw_picture(3, index, 64)
        assert picture.dtype == np.uint8
        assert picture.shape == (64, 64, 3)
        assert truths.dtype == np.float32
        assert truths.shape in ((1, 5), (2, 5), (3, 5))
        kinds |= set(truths[:, 0].tolist())
        centres, sizes = truths[:, 1:3], truths[:, 3:]
        assert np.all(centres - sizes / 2 >= 0)
        assert np.all(centres + sizes / 2 <= 1)
        assert np.all((sizes > 0.10) & (sizes < 0.46))
    assert kinds == {0, 1, 2}


def test_a_box_is_the_smallest_around_the_pixels_its_plate_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A black picture, a white face and no pole: what is not black is the plate.
    paint_face, side = demo_pictures._paint_face, 800

    def paint_white(supply: demo_pictures._Supply, kind: int) -> tuple[demo_pictures.Floats, ...]:
        face, outline = paint_face(supply, kind)
        return np.full_like(face, 255), outline

    monkeypatch.setattr(demo_pictures, "_paint_face", paint_white)
    monkeypatch.setattr(demo_pictures, "_GREY", (0.0, 0.0, 0.0))
    for kind in range(8):
        numbers = draw_uniforms(kind, "test", (), 2000)
        picture = np.zeros((side, side, 3), np.float32)
        thing = (0.3, kind, 0.41, 0.37)
        box = demo_pictures._draw_thing(picture, demo_pictures._Supply(numbers), thing, 0.5)
        plate = picture[..., 0] / 255
        rows, columns = np.nonzero(plate.max(1) > 0.02)[0], np.nonzero(plate.max(0) > 0.02)[0]
        low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
        drawn_low, drawn_high = (columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)
        assert np.all(np.abs(low - drawn_low) < 1.3)
        assert np.all(np.abs(high - drawn_high) < 1.3)


def test_a_picture_shows_the_same_scene_at_every_side() -> None:
    for index in range(3):
        small, small_truths = draw_picture(11, index, 64)
        large, large_truths = draw_picture(11, index, 256)
        np.testing.assert_allclose(small_truths, large_truths, atol=1e-5)
        shrunk = cv2.resize(large, (64, 64), None, 0, 0, cv2.INTER_AREA)
        difference = np.abs(shrunk.astype(np.float32) - small)
        assert difference.mean() < 8


def test_labelled_plates_overlap_lightly_at_most() -> None:
    for index in range(60):
        boxes = draw_picture(5, index, 64)[1][:, 1:]
        for one in range(len(boxes)):
            for two in range(one):
                low = np.maximum(*(boxes[n, :2] - boxes[n, 2:] / 2 for n in (one, two)))
                high = np.minimum(*(boxes[n, :2] + boxes[n, 2:] / 2 for n in (one, two)))
                shared = np.prod(np.clip(high - low, 0, None))
                assert shared < 0.2 * min(np.prod(boxes[n, 2:]) for n in (one, two))


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(StorageError, match="taken: the demo data set cannot be written"):
        write_data_set(tmp_path / "taken", 1, train=1, valid=0, side_px=64)
