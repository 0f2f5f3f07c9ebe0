"""What identifies a data set, and where a run's files go."""

import os
from pathlib import Path

import pytest

from relume.formats.data_files import read_data_file, read_image_list
from relume.spec import backup_folder, list_identity, run_name


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
