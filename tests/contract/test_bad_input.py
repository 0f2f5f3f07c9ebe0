"""Whatever is wrong with the input: one line that names it, exit status 2, nothing lost.

Needs nothing but this checkout: python -m pytest tests/contract/test_bad_input.py
"""

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relume.checkpoint import container, storage
from relume.data.order import index_at
from relume.errors import StorageError
from tests.cfg_texts import small_cfg, small_residual_cfg
from tests.command_line import Ended, relume
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, train_until, write_run
from tests.shared import SHARED, needs_shared

DONE = 4
"""Iterations that the run has behind it before something goes wrong."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped after a few iterations; not to be changed."""
    folder = write_run(tmp_path_factory.mktemp("begun"), sgd_cfg(max_batches=8))
    train_until(folder, DONE)
    return folder


@pytest.fixture(scope="module")
def undisturbed(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the run leaves when nothing goes wrong."""
    folder = copied_run(begun, tmp_path_factory.mktemp("undisturbed") / "run")
    train_until(folder)
    return promised_files(folder)


@pytest.fixture(scope="module")
def other_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backup folder of a run with another net."""
    folder = write_run(tmp_path_factory.mktemp("other"), small_residual_cfg(max_batches=1))
    train_until(folder)
    return folder / "backup"


@pytest.fixture
def run(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder."""
    shutil.copytree(begun, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def train(*words: object) -> Ended:
    return relume("detector", "train", "obj.data", "net.cfg", *words, "-threads", 1, "-workers", 1)


def replace_in(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))


def first_picture() -> Path:
    return Path(Path("train.txt").read_text().split()[0])


def first_label() -> Path:
    return first_picture().with_suffix(".txt")


def a_folder_for_the_list() -> None:
    Path("train.txt").unlink()
    Path("train.txt").mkdir()


def damage_both_generations() -> None:
    for name in ("net.backup", "net_last.weights"):
        data = bytearray(Path("backup", name).read_bytes())
        data[3000] ^= 4
        Path("backup", name).write_bytes(data)


INPUTS: dict[str, tuple[Callable[[], object], str]] = {
    "no data file": (
        lambda: Path("obj.data").unlink(),
        r"obj\.data: cannot be read \(No such file or directory\)",
    ),
    "no cfg": (
        lambda: Path("net.cfg").unlink(),
        r"net\.cfg: cannot be read \(No such file or directory\).*",
    ),
    "no image list": (
        lambda: Path("train.txt").unlink(),
        r"(\./)?train\.txt: cannot be read \(No such file or directory\)",
    ),
    "a folder for a file": (
        a_folder_for_the_list,
        r"train\.txt: cannot be read \(Is a directory\)",
    ),
    "no train= in the data file": (
        lambda: replace_in("obj.data", "train =", "valid ="),
        r"obj\.data: key 'train' is missing; add 'train = \.\.\.'",
    ),
    "an unknown key of the data file": (
        lambda: replace_in("obj.data", "names =", "nmaes ="),
        r"obj\.data:\d: there is no key 'nmaes'; did you mean 'names'\?",
    ),
    "a savelast that is no number": (
        lambda: replace_in("obj.data", "names =", "savelast = often\nnames ="),
        r"obj\.data:\d: savelast = often; savelast needs an integer, or auto",
    ),
    "a savelast of nothing": (
        lambda: replace_in("obj.data", "names =", "savelast = 0\nnames ="),
        r"obj\.data:\d: savelast=0; a number of iterations, 1 or more, or auto",
    ),
    "an unknown key of the cfg": (
        lambda: replace_in("net.cfg", "momentum=", "momentun="),
        r"net\.cfg:7: .*'?momentun'?.*'?momentum'?.*",
    ),
    "a key of Darknet that is not supported": (
        lambda: replace_in("net.cfg", "[net]", "[net]\nema_alpha=.9"),
        r"net\.cfg:2: .*ema_alpha.*",
    ),
    "filters that do not fit the classes": (
        lambda: replace_in("net.cfg", "filters=24", "filters=27"),
        r"net\.cfg:\d+: .*filters=27.*24 = 3 masks \* \(3 classes \+ 5\).*",
    ),
    "classes of the data file and of the cfg": (
        lambda: replace_in("obj.data", "classes = 3", "classes = 4"),
        r"obj\.data:1: classes=4; classes=3 as in net\.cfg:\d+; make the two agree.*",
    ),
    "too few names": (
        lambda: Path("obj.names").write_text("one\ntwo\n"),
        r"obj\.names: 2 names; 3, since net\.cfg:\d+ says classes=3",
    ),
    "a class id out of range": (
        lambda: first_label().write_text("0 .5 .5 .2 .2\n3 .5 .5 .2 .2\n"),
        r"img/.*\.txt:2: class 3; the cfg's classes are 0\.\.2",
    ),
    "a label with words in it": (
        lambda: first_label().write_text("stop .5 .5 .2 .2\n"),
        r"img/.*\.txt:1: 'stop \.5 \.5 \.2 \.2'; five finite numbers are needed",
    ),
    "a label with too few numbers": (
        lambda: first_label().write_text("0 .5 .5 .2\n"),
        r"img/.*\.txt:1: 4 columns; a box is: class x y width height",
    ),
    "a listed picture that is missing": (
        lambda: first_picture().unlink(),
        r"train\.txt:1: img/.* does not exist; a path from the current folder, .*; correct.*",
    ),
    "a cfg that is a picture": (
        lambda: shutil.copy(first_picture(), "net.cfg"),
        r"net\.cfg: is no text file; a cfg, which begins with \[net\]; are the arguments .*",
    ),
    "a damaged run": (
        damage_both_generations,
        r"backup: no checkpoint of 'net' is intact \(.*\); .*`relume reset .*`",
    ),
    "another recipe": (
        lambda: replace_in("net.cfg", "saturation=1.5", "saturation=1.25"),
        r"backup/net_last\.weights: .*saturation: 1\.5 -> 1\.25.*-allow-change.*",
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_bad_input_is_one_line_that_names_it_and_loses_nothing(run: Path, name: str) -> None:
    spoil, error = INPUTS[name]
    spoil()
    before = promised_files(run)
    ended = train()

    assert ended.status == 2
    assert re.fullmatch(error, ended.error), ended.error
    assert ended.out == ""
    assert promised_files(run) == before


def cut_in_the_state(data: bytes) -> bytes:
    return data[:-1000]


def cut_in_the_weights(data: bytes) -> bytes:
    return data[:5000]


def a_flipped_bit(data: bytes) -> bytes:
    return data[:5000] + bytes([data[5000] ^ 16]) + data[5001:]


def a_page(data: bytes) -> bytes:
    return b"<!DOCTYPE html>\n<html>not found</html>"


def nothing(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (cut_in_the_state, "the end of the checkpoint is missing or damaged"),
        (cut_in_the_weights, "the end of the checkpoint is missing or damaged"),
        (a_flipped_bit, "contents do not match their digest"),
        (a_page, "is a web page, not weights; download it again"),
        (nothing, "has 0 bytes"),
    ],
)
@pytest.mark.parametrize("with_run", [False, True])
def test_weights_that_cannot_be_used_are_one_line_and_lose_nothing(
    run: Path, spoil: Callable[[bytes], bytes], found: str, with_run: bool
) -> None:
    data = Path("backup/net_last.weights").read_bytes()
    Path("given.weights").write_bytes(spoil(data))
    if not with_run:
        shutil.rmtree("backup")
        Path("backup").mkdir()
    before = promised_files(run)
    ended = train("given.weights")

    assert ended.status == 2
    assert ended.error.startswith("given.weights: ")
    assert found in ended.error
    assert promised_files(run) == before


@pytest.mark.parametrize("kind", ["last", "final"])
def test_weights_of_another_net_are_one_line(run: Path, other_net: Path, kind: str) -> None:
    shutil.rmtree("backup")
    shutil.copy(other_net / f"net_{kind}.weights", "other.weights")
    ended = train("other.weights")

    assert ended.status == 2
    assert ended.error.startswith("other.weights: ")
    assert not promised_files(run)


@pytest.mark.parametrize("spoil", [cut_in_the_weights, cut_in_the_state, a_flipped_bit])
def test_a_damaged_last_is_named_and_the_generation_before_is_taken(
    run: Path, undisturbed: dict[str, bytes], spoil: Callable[[bytes], bytes]
) -> None:
    last = Path("backup/net_last.weights")
    last.write_bytes(spoil(last.read_bytes()))
    ended = train()

    assert ended.status == 0, ended.err
    assert "backup/net_last.weights: " in ended.err
    assert f"goes on from backup/net.backup (iteration {DONE - 1})" in ended.err
    assert promised_files(run) == undisturbed


@needs_shared
def test_a_data_set_as_users_have_it_names_the_missing_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SHARED / "data" / "yolo_mark" / "data"
    monkeypatch.chdir(tmp_path)
    Path("net.cfg").write_text(small_cfg(classes=2))
    Path("obj.data").write_text(
        f"classes=2\ntrain={data}/train.txt\nnames={data}/obj.names\nbackup={tmp_path}/backup\n"
    )
    shutil.copytree(data, "data")
    ended = train()

    assert ended.status == 2
    assert re.fullmatch(
        r".*/train\.txt:\d+: data/img/\w+\.jpg does not exist.*; a path from .*",
        ended.error,
    )


# In the middle of a run.


def _iteration(folder: Path) -> int:
    path = folder / "backup" / "net_last.weights"
    return container.unpack(path.read_bytes(), path).iteration


@pytest.mark.parametrize("savelast", [1, 100])
def test_an_undecodable_picture_stops_before_the_update_with_the_state_saved(
    run: Path, undisturbed: dict[str, bytes], savelast: int
) -> None:
    shutil.rmtree("backup")
    Path("obj.data").write_text(Path("obj.data").read_text() + f"savelast = {savelast}\n")
    entries = Path("train.txt").read_text().split()
    row = index_at(0, 5, len(entries))  # position 5 belongs to the second iteration of four
    picture = Path(entries[row])
    whole = picture.read_bytes()
    picture.write_bytes(whole[:20])
    ended = train()

    assert ended.status == 2
    assert ended.error.startswith(f"train.txt:{row + 1}: {picture} cannot be decoded (20 bytes)")
    assert ended.out.count(" avg loss") == 1
    assert _iteration(run) == 1
    picture.write_bytes(whole)
    assert train().status == 0
    assert promised_files(run) == undisturbed


def test_a_picture_that_changed_during_the_run_is_named(run: Path) -> None:
    before = promised_files(run)
    for entry in Path("train.txt").read_text().split():
        Path(entry).write_bytes(Path(entry).read_bytes() + b"\0")
    ended = train()

    assert ended.status == 2
    assert re.fullmatch(
        r"img/.*: the picture has changed since this run used it; .*-allow-change", ended.error
    )
    assert promised_files(run) == before


@pytest.mark.usefixtures("run")
def test_a_loss_that_is_not_finite_is_status_1_and_the_state_before_is_saved() -> None:
    shutil.rmtree("backup")
    replace_in("net.cfg", "learning_rate=0.001", "learning_rate=1e30")
    replace_in("net.cfg", "burn_in=3\n", "")
    Path("obj.data").write_text(Path("obj.data").read_text() + "savelast = 100\n")
    ended = train()

    done = ended.out.count(" avg loss")
    assert ended.status == 1
    assert ended.error.startswith(f"iteration {done + 1}: the loss is ")
    assert "lower learning_rate" in ended.error
    assert done >= 1
    assert _iteration(Path()) == done


# The disk.


def test_no_permission_for_the_folder_is_one_line_before_the_first_iteration(run: Path) -> None:
    shutil.rmtree("backup")
    Path("backup").write_text("a file stands where the folder should be")
    ended = train()

    assert ended.status == 2
    assert re.fullmatch(r"(.*/)?backup: cannot be written \(File exists\); .*", ended.error)
    assert ended.out == ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("run")
def test_a_read_only_disk_is_one_line_with_a_remedy(small_disk: Path) -> None:
    shutil.copytree("backup", small_disk / "backup")
    replace_in("obj.data", "backup = backup", f"backup = {small_disk}/backup")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    before = promised_files(small_disk)
    ended = train()

    assert ended.status == 2
    assert re.fullmatch(
        r".*/backup/.*: cannot be written \(Read-only file system\); .*can be written.*",
        ended.error,
    )
    assert (ended.out, promised_files(small_disk)) == ("", before)


def _fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "filling").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


@pytest.mark.parametrize("new", [True, False])
def test_a_full_disk_at_the_start_is_one_line_and_loses_nothing(
    run: Path, small_disk: Path, new: bool
) -> None:
    if not new:
        shutil.copytree("backup", small_disk / "backup")
    replace_in("obj.data", "backup = backup", f"backup = {small_disk}/backup")
    (small_disk / "backup").mkdir(exist_ok=True)
    _fill(small_disk)
    before = promised_files(small_disk)
    ended = train()

    assert ended.status == 2
    assert "cannot be written (No space left on device)" in ended.error
    assert ended.error.endswith("free some space, then give the same command again")
    for name, data in before.items():
        if name.endswith(("weights", "backup")):
            assert promised_files(small_disk)[name] == data


def test_a_disk_that_fills_up_loses_nothing_and_the_run_goes_on_when_there_is_space(
    run: Path, undisturbed: dict[str, bytes], small_disk: Path
) -> None:
    shutil.copytree("backup", small_disk / "backup")
    replace_in("obj.data", "backup = backup", f"backup = {small_disk}/backup")
    space = 70_000  # for the journal and one temporary file, not for the charts at the end
    with (small_disk / "filling").open("wb") as file:
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        file.write(bytes(free - space))
    ended = train()

    assert ended.status == 2, ended.err
    assert "cannot be written (No space left on device)" in ended.error
    (small_disk / "filling").unlink()
    assert train().status == 0
    assert promised_files(small_disk) == undisturbed


def test_a_save_that_fails_is_said_and_training_goes_on(
    run: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("obj.data").write_text(Path("obj.data").read_text() + "savelast = 1\n")
    whole = storage.write_stream_durably
    refused: list[Path] = []

    def full_for_a_while(path: Path, *arguments: Any, **keys: Any) -> int:
        if path.name == "net_last.weights" and len(refused) < 2:
            refused.append(path)
            raise StorageError(path, "cannot be written (No space left on device)")
        return whole(path, *arguments, **keys)

    monkeypatch.setattr(storage, "write_stream_durably", full_for_a_while)
    ended = train()

    assert ended.status == 0
    assert ended.err.count("training goes on: backup/net_last.weights: cannot be written") == 1
    assert ended.err.count("saved again at iteration ") == 1
    assert promised_files(run) == undisturbed


def test_a_log_that_cannot_be_written_ends_no_run(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = storage.AppendFile.append

    def full_for_the_log(file: storage.AppendFile, line: str) -> None:
        if file.path.suffix == ".log":
            raise StorageError(file.path, "cannot be written (No space left on device)")
        append(file, line)

    monkeypatch.setattr(storage.AppendFile, "append", full_for_the_log)

    assert train().status == 0
