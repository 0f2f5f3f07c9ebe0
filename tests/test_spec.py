"""What identifies a data set, and where a run's files go."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relume.data.augment import apply_to_truths, draw_plan
from relume.errors import DataFileError
from relume.formats.cfg import parse_cfg
from relume.formats.data_files import read_data_file, read_image_list
from relume.formats.sections import Yolo
from relume.lists.identity import list_identity
from relume.lists.label_files import never_used
from relume.spec import (
    REPLACEMENT,
    Flags,
    Recipe,
    backup_folder,
    read_spec,
    run_name,
)
from tests.contract.small_runs import sgd_cfg, write_run


def test_a_list_is_the_same_wherever_its_common_folder_lies() -> None:
    forms = [
        ("1.jpg", "2.jpg"),
        ("img/1.jpg", "img/2.jpg"),
        ("/data/img/1.jpg", "/data/img/2.jpg"),
        ("data\\img\\1.jpg", "data\\img\\2.jpg"),
    ]
    deep = [("a/1.jpg", "b/1.jpg"), ("/data/a/1.jpg", "/data/b/1.jpg"), ("x/a/1.jpg", "x/b/1.jpg")]

    assert len({list_identity(form) for form in forms}) == 1
    assert len({list_identity(form) for form in deep}) == 1
    assert list_identity(forms[0]).startswith("2 pictures ")


def test_another_order_name_or_count_is_another_list() -> None:
    lists = [
        ("a/1.jpg", "a/2.jpg"), ("a/2.jpg", "a/1.jpg"), ("a/1.jpg", "a/3.jpg"), ("a/1.jpg",),
        ("a/1.jpg", "a/2.jpg", "a/2.jpg"), ("a/1.jpg", "b/2.jpg"), ("aa/1.jpg", "a/2.jpg"),
    ]  # fmt: skip

    assert len({list_identity(entries) for entries in lists}) == len(lists)


def test_a_path_that_is_no_utf_8_has_an_identity_of_its_own(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"
    (tmp_path / os.fsdecode(name)).write_bytes(b"")
    (tmp_path / "train.txt").write_bytes(name + b"\n")

    images = read_image_list(tmp_path / "train.txt", tmp_path / "obj.data")

    assert list_identity(images.entries) != list_identity(("cafe.jpg",))


@pytest.mark.parametrize(
    ("cfg", "name"),
    [("cfg/yolov3-tiny.cfg", "yolov3-tiny"), ("a.b/net.3.cfg", "net"), ("net", "net")],
)
def test_a_run_is_named_by_its_cfg_up_to_the_first_dot(cfg: str, name: str) -> None:
    assert run_name(cfg) == name


def test_the_backup_folder_is_found_again_from_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "data"
    beside.mkdir()
    (beside / "train.txt").write_text("1.jpg\n")
    (beside / "obj.data").write_text("train = train.txt\nbackup = saves\n")
    (beside / "none.data").write_text("train = train.txt\n")
    monkeypatch.chdir(tmp_path)
    first = backup_folder(read_data_file("data/obj.data"))
    first.mkdir()

    assert first == Path("data/saves")
    assert backup_folder(read_data_file("data/obj.data")) == first
    assert backup_folder(read_data_file("data/none.data")) == Path("data/backup")


def test_boxes_that_can_never_be_used_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sgd_cfg())
    label = folder / "img" / "0002.txt"
    label.write_text("0 .5 .5 .2 .2\n0 320 240 50 50\n1 .5 .5 0 .1\n2 .99 .5 .2 .2\n")
    said: list[str] = []

    read_spec(str(folder / "obj.data"), str(folder / "net.cfg"), Flags(), said.append)

    assert len(said) == 1
    assert f"boxes outside their picture or without a size: 2 (first {label} box 2)" in said[0]


@given(st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4), st.integers(0, 1000))
def test_a_box_called_useless_is_in_no_sample(box: list[float], position: int) -> None:
    boxes = np.array([[0, *box]], np.float32)
    net = parse_cfg(sgd_cfg(), "net.cfg", "train").net
    plan = draw_plan(net, Yolo(line=2, jitter=0.3), (100, 80), (64, 64), 0, position)

    if never_used(boxes)[0]:
        assert len(apply_to_truths(boxes, plan, 100, 80, 64, 64, 200)) == 0


def test_keys_that_mix_pictures_without_effect_are_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sgd_cfg(cutmix=1, mixup=1))
    said: list[str] = []

    spec = read_spec(str(folder / "obj.data"), str(folder / "net.cfg"), Flags(), said.append)

    assert not spec.recipe.cfg.net.mixup
    assert len(said) == 1
    assert re.search(r"net\.cfg:1: cutmix and mixup without effect, as in Darknet: ", said[0])


def test_sampling_is_a_key_of_the_recipe_unless_it_is_by_epochs(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", sgd_cfg())
    data, cfg = folder / "obj.data", str(folder / "net.cfg")
    written = data.read_text()

    def read(line: str) -> Recipe:
        data.write_text(written + line)
        return read_spec(str(data), cfg, Flags(), pytest.fail).recipe

    assert read("sampling = epoch\n").keys() == read("").keys()
    assert read("sampling = replacement\n").keys() == {**read("").keys(), "sampling": REPLACEMENT}
    with pytest.raises(DataFileError, match="sampling=once; epoch or replacement, how pictures"):
        read("sampling = once\n")


@pytest.mark.parametrize("value", ["0", "-1", "inf", "many"])
def test_a_size_of_the_cache_is_a_number_of_gigabytes(tmp_path: Path, value: str) -> None:
    folder = write_run(tmp_path / "run", sgd_cfg())
    data = folder / "obj.data"
    text = data.read_text()
    data.write_text(f"{text}cache_gb = {value}\n")
    with pytest.raises(DataFileError, match=f"cache_gb={value}; gigabytes, more than 0"):
        read_spec(str(data), str(folder / "net.cfg"), Flags(), pytest.fail)
    data.write_text(f"{text}cache_gb = 0.5\ncache = kept\n")
    operation = read_spec(str(data), str(folder / "net.cfg"), Flags(), pytest.fail).operation

    assert operation.cache_gb == 0.5
    assert operation.cache.name == "kept"
