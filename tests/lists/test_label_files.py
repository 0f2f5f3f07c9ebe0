"""Labels of a long list are read with their picture; what is missing is not what is unreadable."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.data.patience import Patience
from relume.data.sample import Source, load_sample
from relume.errors import Unavailable
from relume.formats.data_files import ImageList
from relume.formats.places import read_file
from relume.formats.sections import Net, Yolo
from relume.lists.label_files import LABEL_BITS, LabelFiles, label_digest

NET = Net(
    line=1, batch=1, written_batch=1, subdivisions=1, width=64, height=64, channels=3,
)  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A list of one picture with one box."""
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), np.full((40, 60, 3), 90, np.uint8))
    (tmp_path / "a.txt").write_text("1 .5 .5 .5 .5\n")
    images = ImageList("train.txt", ("a.png",), (1,), (path,))
    return Source(NET, Yolo(line=2), 3, images.paths, ("train.txt:1",), LabelFiles(images, 3))


def patient(source: Source, on_pause: object = None) -> tuple[Patience, list[str]]:
    """Return a patience of three tries that calls `on_pause` in between, and what it says."""
    said: list[str] = []

    def sleep(seconds: float) -> None:
        if callable(on_pause):
            on_pause()

    return Patience((0.01, 0.01), say=said.append, sleep=sleep), said


def boxes_of(source: Source, patience: Patience) -> tuple[int, int]:
    """Return how many truths the sample has, and the bits of its digest that are the labels'."""
    sample = load_sample(source, 0, 64, 64, patience)
    (digest,) = sample.digests
    return len(sample.truths), digest & int(LABEL_BITS)


def test_labels_are_read_with_their_picture(source: Source, tmp_path: Path) -> None:
    boxes = np.array([[1, 0.5, 0.5, 0.5, 0.5]], np.float32)
    patience, said = patient(source)

    assert boxes_of(source, patience) == (1, label_digest(boxes) & int(LABEL_BITS))
    (tmp_path / "a.txt").unlink()
    none = label_digest(np.zeros((0, 5), np.float32))
    assert boxes_of(source, patience) == (0, none & int(LABEL_BITS))
    assert said == []


def test_a_label_file_that_cannot_be_read_is_asked_for_again(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, failures = read_file, [5, 5]

    def read_bytes(path: Path) -> bytes:
        if path.suffix == ".txt" and failures:
            raise OSError(failures.pop(), "Input/output error")
        return original(path)

    monkeypatch.setattr("relume.data.patience.read_file", read_bytes)
    patience, said = patient(source)
    assert boxes_of(source, patience)[0] == 1
    assert len(said) == 1
    assert "a.txt cannot be read: Input/output error; it is tried again" in said[0]
    failures += [5] * 9
    with pytest.raises(Unavailable, match=r"a\.txt cannot be read"):
        boxes_of(source, patience)


def test_labels_on_a_disk_that_has_gone_are_not_missing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, labels, away = tmp_path / "a.png", tmp_path / "a.txt", tmp_path / "away"
    away.mkdir()
    original = read_file

    def read_bytes(path: Path) -> bytes:
        data = original(path)
        if path == picture:  # the disk goes when the picture has been read, once
            labels.rename(away / "a.txt")
            picture.rename(away / "a.png")
            monkeypatch.setattr("relume.data.patience.read_file", original)
        return data

    def comes_back() -> None:
        for path in (picture, labels):
            if not path.exists():
                (away / path.name).rename(path)

    monkeypatch.setattr("relume.data.patience.read_file", read_bytes)
    patience, said = patient(source, comes_back)

    assert boxes_of(source, patience)[0] == 1
    assert len(said) == 1
