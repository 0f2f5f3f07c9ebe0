"""`relume verify`: what is intact, where it is not, and that a start takes the file it names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relume.checkpoint import container
from relume.checkpoint.folder import newest_good
from relume.checkpoint.keeper import Keeper
from relume.commands import verify as verify_command
from relume.commands.verify import check_run
from tests.checkpoint.states import tiny_state
from tests.command_line import relume
from tests.contract.starts import contents

STATES = [tiny_state(iteration) for iteration in range(7)]
NAMES = ("net_last.weights", "net.backup", "net_2.weights", "net_4.weights", "net_4.backup")


def flipped(data: bytes) -> bytes:
    return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


CONDITIONS: dict[str, Callable[[int], bytes]] = {
    "good": lambda iteration: container.pack(STATES[iteration]),
    "flipped": lambda iteration: flipped(container.pack(STATES[iteration])),
    "cut": lambda iteration: container.pack(STATES[iteration])[:-100],
    "without an end or a head": lambda iteration: (
        bytes(40) + container.pack(STATES[iteration])[40:]
    ),
    "plain": lambda iteration: container.plain(STATES[iteration]),
    "empty": lambda iteration: b"",
    "no weights": lambda iteration: b"<html>not found</html>" * 40,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of six iterations with milestones at every second, the current one."""
    monkeypatch.chdir(tmp_path)
    Path("backup").mkdir()
    keeper = Keeper(Path("backup"), "net", 1, 2, pytest.fail)
    for state in STATES[1:]:
        keeper.offer(state)
    keeper.finish(STATES[-1])
    keeper.close()
    return Path("backup")


def test_an_intact_run_is_status_0_and_the_last_is_taken(folder: Path) -> None:
    before = contents(folder)
    ended = relume("verify", folder)

    assert (ended.status, ended.err) == (0, "")
    *files, verdict = ended.out.splitlines()
    size = len(container.pack(STATES[6]))
    assert files[0] == f"intact    backup/net_last.weights: iteration 6 ({size:,} bytes)"
    assert [line.split()[:2] for line in files] == [
        ["intact", "backup/net_last.weights:"],
        ["intact", "backup/net_6.weights:"],
        ["intact", "backup/net_6.backup:"],
        ["intact", "backup/net.backup:"],
        ["intact", "backup/net_4.weights:"],
        ["intact", "backup/net_2.weights:"],
        ["plain", "backup/net_final.weights:"],
    ]
    assert "plain weights have no digest, their length is right" in files[-1]
    assert verdict == "a start of 'net' takes backup/net_last.weights (iteration 6)"
    assert contents(folder) == before


def test_damage_is_located_and_status_1_while_a_good_one_is_there(folder: Path) -> None:
    for name in ("net_last.weights", "net_4.weights"):
        (folder / name).write_bytes(flipped((folder / name).read_bytes()))
    ended = relume("verify", folder)

    assert ended.status == 1
    lines = ended.out.splitlines()
    assert lines[0].startswith(
        "damaged   backup/net_last.weights: contents do not match their digest (damaged in "
    )
    assert lines[-1] == "a start of 'net' takes backup/net_6.weights (iteration 6)"


def test_nothing_usable_is_status_2(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    ended = relume("verify", folder)

    assert ended.status == 2
    assert ended.out.splitlines()[-1] == (
        "a start of 'net' takes none: no checkpoint of it is intact"
    )
    assert ended.out.count("\ndamaged ") + ended.out.startswith("damaged ") == 6


def test_a_cut_plain_file_is_noticed_where_the_run_tells_its_length(folder: Path) -> None:
    path = folder / "net_final.weights"
    path.write_bytes(path.read_bytes()[:-4])
    ended = relume("verify", folder)

    assert ended.status == 1
    assert "damaged   backup/net_final.weights: plain weights of " in ended.out


def test_files_can_be_named_one_by_one(folder: Path) -> None:
    bad = folder / "net_4.weights"
    bad.write_bytes(flipped(bad.read_bytes()))

    assert relume("verify", folder / "net_2.weights").status == 0
    assert relume("verify", folder / "net_2.weights", bad).status == 1
    alone = relume("verify", bad)
    assert alone.status == 2
    assert alone.out.startswith("damaged   backup/net_4.weights: contents do not match")
    assert relume("verify", folder / "net_final.weights").out.startswith(
        "plain     backup/net_final.weights: seen 12; plain weights have no digest ("
    )


def test_json_tells_the_same(folder: Path) -> None:
    (folder / "net_4.weights").write_bytes(b"")
    (folder / "net_last.weights.tmp").write_bytes(b"1")
    ended = relume("verify", folder, folder / "net_2.weights", "-json")
    found = json.loads(ended.out)
    (run,) = found["runs"]
    (file,) = found["files"]

    assert ended.status == found["status"] == 1
    assert (run["folder"], run["name"]) == ("backup", "net")
    assert (run["taken"], run["iteration"]) == ("backup/net_last.weights", 6)
    assert {f["path"]: f["condition"] for f in run["files"]} == {
        "backup/net_last.weights": "intact",
        "backup/net_6.weights": "intact",
        "backup/net_6.backup": "intact",
        "backup/net.backup": "intact",
        "backup/net_2.weights": "intact",
        "backup/net_4.weights": "damaged",
        "backup/net_final.weights": "plain",
        "backup/net_last.weights.tmp": "temporary",
    }
    assert file["iteration"] == 2
    assert file.keys() == {"path", "bytes", "condition", "text", "iteration"}


def test_a_temporary_that_is_a_dangling_link_is_listed_and_one_that_is_gone_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, gone = folder / "net_last.weights.tmp", folder / "net_6.weights.tmp"
    link.symlink_to("missing")
    monkeypatch.setattr(verify_command, "temporaries", lambda folder, name: [gone, link])

    ended = relume("verify", folder)

    assert ended.status == 0, ended.err
    (line,) = (line for line in ended.out.splitlines() if line.startswith("temporary"))
    assert line.startswith(f"temporary {link}: left by an interrupted write; a start deletes it, ")
    assert "or moves it aside if relume did not write it" in line


def test_every_run_in_a_folder_is_told_and_the_worst_counts(folder: Path) -> None:
    (folder / "other_last.weights").write_bytes(b"")
    ended = relume("verify", folder)

    assert ended.status == 2
    assert "a start of 'net' takes backup/net_last.weights (iteration 6)" in ended.out
    assert "a start of 'other' takes none: no checkpoint of it is intact" in ended.out


def test_a_folder_whose_runs_could_be_mixed_up_is_refused_as_by_a_start(folder: Path) -> None:
    shutil.copy(folder / "net_last.weights", folder / "net_4_last.weights")
    ended = relume("verify", folder)

    assert ended.status == 2
    assert "a start of 'net' takes none: the files of the run 'net_4' in this folder" in ended.out


@pytest.mark.parametrize("path", ["gone", "backup/gone.weights"])
def test_what_is_not_there_is_an_error(folder: Path, path: str) -> None:
    ended = relume("verify", folder, path)

    assert (ended.status, ended.out) == (2, "")
    assert ended.error == f"{path}: no such file or folder; a checkpoint, or a backup folder"


def test_a_folder_without_checkpoints_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "yolov3-tiny.weights").write_bytes(bytes(100))
    ended = relume("verify", tmp_path)

    assert ended.status == 2
    assert ended.error == f"{tmp_path}: holds no checkpoint; the backup folder of a run"


@pytest.mark.parametrize("number", range(120))
def test_the_file_named_is_the_one_that_the_keeper_finds(tmp_path: Path, number: int) -> None:
    draws = np.random.Generator(np.random.Philox(number))
    for name in NAMES:
        if draws.random() < 0.8:
            condition = list(CONDITIONS)[draws.integers(len(CONDITIONS))]
            (tmp_path / name).write_bytes(CONDITIONS[condition](int(draws.integers(1, 7))))
    (tmp_path / "net_best.weights").write_bytes(CONDITIONS["plain"](6))
    (tmp_path / "net_last.weights.tmp").write_bytes(CONDITIONS["good"](6))
    (tmp_path / "internet_last.weights").write_bytes(CONDITIONS["good"](6))
    found, rejected = newest_good(tmp_path, "net")
    run = check_run(tmp_path, "net")

    assert run.taken == (str(found.path) if found else None)
    assert run.iteration == (found.state.iteration if found else None)
    bad = {file.path for file in run.files if file.condition in ("damaged", "foreign")}
    assert {str(item.path) for item in rejected} <= bad
    assert run.status == (2 if found is None else 1 if bad else 0)
    assert [f.condition for f in run.files if f.path.endswith(".tmp")] == ["temporary"]
