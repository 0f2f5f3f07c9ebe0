"""Names, paths, marks and settings from outside neither act on a terminal nor forge a line."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.checkpoint import container
from relume.checkpoint.state import Mark
from relume.commands.run_folder import held_folder
from relume.formats.cfg import read_cfg
from relume.formats.weights import format_weights
from relume.model.network import Network
from relume.spec import Operation
from tests.cfg_texts import small_cfg
from tests.checkpoint.states import history_of, tiny_cfg, tiny_state
from tests.command_line import Ended, relume
from tests.contract.small_runs import sgd_cfg, write_run
from tests.test_screen import acts

FORGED = "relume: error: forged"
# Erase the screen, name the window, ring, turn the text round; then a line of our own.
ACTING = "\x1b[2J\x1b]0;t\x07\x9b31m\u202egpj\u2066\u061c\u2028\x85\x0b\x0c\x1c\x7f[red]"
BREAKING = f"{ACTING}\n{FORGED}\r{FORGED}\0"
IN_A_NAME = ACTING.replace("/", "") + f"\n{FORGED}"
"""As the name of a file may be: all but / and NUL."""


def check_harmless(text: str) -> None:
    """Fail if a text acts on a terminal or holds a line that nobody but relume may write."""
    assert [line for line in text.split("\n") if any(map(acts, line))] == []
    assert not any(line.startswith(FORGED) for line in text.split("\n"))


def check_shown(ended: Ended) -> None:
    """Fail if a command has shown what acts, or has not shown what it was given."""
    check_harmless(ended.out)
    check_harmless(ended.err)
    assert "Traceback" not in ended.err
    assert "\\x1b[2J" in ended.out + ended.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkpoints_marks_and_environment_are_shown_with_escapes(here: Path) -> None:
    text = BREAKING.removesuffix("\0")
    marks = (Mark(1, "change", text), Mark(2, "change", text))
    environment = {"torch": text, text: "1", "threads": "1"}
    state = replace(tiny_state(), environment=environment, history=history_of(3, marks))
    (here / "backup").mkdir()
    (here / "backup" / "net_last.weights").write_bytes(container.pack(state))
    (here / "net.cfg").write_text(tiny_cfg())
    command = [sys.executable, "-m", "relume", "inspect", "backup/net_last.weights", "net.cfg"]

    ended = subprocess.run(command, capture_output=True, check=False)

    check_harmless(ended.stdout.decode())
    check_harmless(ended.stderr.decode())
    assert ended.returncode == 0, ended.stderr
    assert b"\\x1b[2J" in ended.stdout
    verified = relume("verify", "backup")
    check_harmless(verified.out + verified.err)


def test_the_paths_of_a_list_are_shown_with_escapes(here: Path) -> None:
    write_run(here, small_cfg())
    path = ACTING.replace("\x85", "").replace("\u2028", "")
    with (here / "train.txt").open("a", newline="") as train:
        train.write(f"{path}.png\n")

    for words in (
        ("check", "obj.data", "net.cfg"),
        ("detector", "train", "obj.data", "net.cfg"),
        ("replay", "obj.data", "net.cfg", "-iteration", 1),
        (
            "detector",
            "calc_anchors",
            "obj.data",
            "-num_of_clusters",
            6,
            "-width",
            64,
            "-height",
            64,
        ),
    ):
        check_shown(relume(*words))
    found = json.loads(relume("check", "obj.data", "net.cfg", "-json").out)
    assert any(path in where["detail"] for one in found["findings"] for where in one["where"])


def test_the_names_of_classes_and_pictures_are_shown_with_escapes(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{ACTING}{number}" for number in range(3)]
    (here / "obj.names").write_text("\n".join(names), newline="")
    (here / "obj.data").write_text("classes = 3\nnames = obj.names\n")
    (here / "net.cfg").write_text(small_cfg())
    cfg = read_cfg("net.cfg", "detect")
    arrays = {name: t.numpy() for name, t in Network(cfg, seed=1).darknet_arrays().items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    (here / "net.weights").write_bytes(format_weights(arrays, cfg, seen=0))
    folder = here / f"pictures{IN_A_NAME}"
    folder.mkdir()
    picture = folder / "a.png"
    picture.write_bytes(cv2.imencode(".png", np.full((100, 200, 3), 60, np.uint8))[1].tobytes())
    command = ("detector", "test", "obj.data", "net.cfg", "net.weights")

    check_shown(relume(*command, picture, "-thresh", 0.0001, "-ext_output"))
    check_shown(relume(*command, folder / "b.png"))
    check_shown(relume(*command, folder, "-out_folder", folder, "-thresh", 0.0001))
    assert (folder / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_the_name_of_a_run_and_of_its_folder_reach_log_and_screen_with_escapes(
    here: Path,
) -> None:
    folder = here / f"run{IN_A_NAME}"
    write_run(folder, sgd_cfg(max_batches=2))
    shutil.move(folder / "net.cfg", folder / f"net{IN_A_NAME}.cfg")
    name = f"net{IN_A_NAME}".split(".")[0]
    os.chdir(folder)

    ended = relume("detector", "train", "obj.data", f"net{IN_A_NAME}.cfg", "-seed", 1)

    check_shown(ended)
    assert ended.status == 0
    check_harmless((folder / "backup" / f"{name}.log").read_text())
    journal = (folder / "backup" / f"{name}.journal.jsonl").read_bytes()
    assert journal.isascii()
    check_shown(relume("verify", "backup"))
    check_shown(relume("replay", "obj.data", f"net{IN_A_NAME}.cfg", "-iteration", 1))


def test_a_note_in_the_log_is_one_line_whatever_it_holds(here: Path) -> None:
    said: list[str] = []
    with held_folder(Operation(here, "net"), said.append) as (say, note):
        said.clear()
        say(f"{BREAKING}\ud800")
        note(f"{BREAKING}\udcff")

    said_in_log, noted = (here / "net.log").read_bytes().decode().splitlines()
    check_harmless(f"{said_in_log}\n{noted}")
    assert said_in_log.endswith("\\ud800")
    assert noted.endswith("\\udcff")
    assert said == [f"{BREAKING}\ud800"]  # the screen escapes it
