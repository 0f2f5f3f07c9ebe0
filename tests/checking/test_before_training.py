"""What training looks at before it starts, and what it does with what a check has found.

Needs nothing but this checkout: python -m pytest tests/checking/test_before_training.py
"""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relume.checking import pictures
from relume.checking.before_training import told_of_known_pictures, warnings_before_training
from relume.errors import Undecodable
from relume.formats.data_files import ImageList
from relume.spec import Flags, read_spec
from tests.cfg_texts import small_cfg
from tests.checking.test_check import check
from tests.command_line import Ended, relume
from tests.contract.small_runs import promised_files, write_run

CFG = small_cfg(max_batches=2, burn_in=5)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose third picture is none, the current folder."""
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    Path(Path("train.txt").read_text().split()[2]).write_bytes(b"no picture")
    return tmp_path / "run"


def train(*words: object) -> Ended:
    return relume("detector", "train", "obj.data", "net.cfg", "-threads", 1, *words)


def skip() -> None:
    Path("obj.data").write_text(Path("obj.data").read_text() + "bad = skip\n")


def test_a_picture_that_a_check_found_bad_stops_the_run_before_it_begins(run: Path) -> None:
    assert check("obj.data", "net.cfg").status == 2

    ended = train()

    assert ended.status == 2
    assert ended.error == (
        "train.txt:3: a picture cannot be decoded: img/0003.jpg (10 bytes); replace it or take it "
        "off the list, or set bad=skip in the data file"
    )
    assert promised_files(run) == {}


def test_with_skip_it_is_told_and_the_run_is_that_without_a_check(run: Path) -> None:
    skip()
    assert check("obj.data", "net.cfg").status == 1
    ended = train()
    with_check = promised_files(run)
    for path in (run / "backup").iterdir():
        if path.is_file():
            path.unlink()
    (run / "backup" / "cache" / "net.pictures.json").unlink()

    assert train().status == 0

    assert ended.status == 0
    assert "train.txt:3: a picture cannot be decoded, and is skipped" in ended.err
    assert promised_files(run) == with_check


def test_a_picture_that_was_replaced_since_the_check_is_trained_on(run: Path) -> None:
    check("obj.data", "net.cfg")
    good, bad = (Path(Path("train.txt").read_text().split()[i]) for i in (0, 2))
    bad.write_bytes(good.read_bytes())
    os.utime(bad, (1, 1))

    assert train().status == 0


def test_a_file_of_the_same_size_and_time_is_looked_at_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check("obj.data", "net.cfg")
    bad = Path(Path("train.txt").read_text().split()[2])
    spec = read_spec("obj.data", "net.cfg", Flags(), pytest.fail)
    status = bad.stat()
    bad.write_bytes(b"other junk")
    os.utime(bad, ns=(status.st_mtime_ns, status.st_mtime_ns))

    with pytest.raises(Undecodable):  # by its bytes of today
        told_of_known_pictures(spec)

    monkeypatch.setattr(
        pictures, "decode_picture", lambda *args, **keys: np.zeros((4, 4, 3), np.uint8)
    )
    assert told_of_known_pictures(spec) == []


def test_warnings_are_told_when_a_run_begins_and_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", CFG))
    first = Path(Path("train.txt").read_text().split()[0])
    first.with_suffix(".txt").write_text("0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n")

    begun, again = train(), train("-allow-change")

    assert "relume: net.cfg:" in begun.err
    assert "burn_in lasts to the end" in begun.err
    assert "relume: img/0001.txt box 2: a box stands twice in its file; as in line 1" in begun.err
    assert "burn_in" not in again.err


def test_it_costs_a_fraction_of_a_second_for_ten_thousand_pictures(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", small_cfg(max_batches=20_000))
    spec = read_spec(str(folder / "obj.data"), str(folder / "net.cfg"), Flags(), pytest.fail)
    count = 10_000
    paths = tuple(folder / "img" / f"{i}.jpg" for i in range(count))
    images = ImageList("train.txt", tuple(map(str, paths)), tuple(range(1, count + 1)), paths)
    boxes = [[k % 3, 0.2 + 0.005 * k, 0.5, 0.1 + 0.01 * k, 0.2] for k in range(10)]
    labels = tuple(np.array(boxes, np.float32) for _ in range(count))
    large = replace(spec, recipe=replace(spec.recipe, images=images, labels=labels))

    began_s = time.process_time()
    warnings_before_training(large)
    told_of_known_pictures(large)

    assert time.process_time() - began_s < 1.0  # a quarter of it alone on a machine
