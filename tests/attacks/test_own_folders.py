"""Folders that a command empties or deletes: only its own, and never through a link."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relume import demo
from relume.commands import prove as command
from relume.errors import RelumeError
from tests.attacks.test_outputs import tree
from tests.command_line import relume
from tests.contract.small_runs import sgd_cfg, write_run

MINE = "somebody's work\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("template"), sgd_cfg(max_batches=20))


@pytest.fixture
def run(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inputs of a run, the current folder, beside a folder of somebody's."""
    folder = tmp_path / "run"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    Path("victim").mkdir()
    Path("victim/straight").mkdir()
    Path("victim/straight/mine").write_text(MINE)
    return folder


def prove(monkeypatch: pytest.MonkeyPatch, verdict: Callable[..., object]) -> int:
    """Give `relume prove` with something in the place of its trainings."""
    monkeypatch.setattr(command, "_verdict", verdict)
    return relume("prove", "obj.data", "net.cfg", "-iterations", 2, "-kills", 1).status


def never(*arguments: object) -> tuple[bool, list[str]]:
    raise AssertionError("the proof has begun")


def interrupted(*arguments: object) -> tuple[bool, list[str]]:
    raise KeyboardInterrupt


def same(*arguments: object) -> tuple[bool, list[str]]:
    return True, []


def forged_by_name() -> None:
    Path("net.prove").mkdir()
    Path("net.prove/unfinished").write_text("chapters 3 to 5\n")
    Path("net.prove/straight.txt").write_text(MINE)


def forged_by_an_empty_file() -> None:
    Path("net.prove").mkdir()
    Path("net.prove/unfinished").touch()
    Path("net.prove/thesis.tex").write_text(MINE)


def marked_by_a_link() -> None:
    Path("marker").write_bytes(command.MARK)
    Path("net.prove").mkdir()
    Path("net.prove/unfinished").symlink_to(Path("marker").resolve())
    Path("net.prove/straight").mkdir()
    Path("net.prove/straight/mine").write_text(MINE)


def a_link_to_a_marked_folder() -> None:
    Path("victim/unfinished").write_bytes(command.MARK)
    Path("net.prove").symlink_to("victim")


def a_link_to_an_empty_folder() -> None:
    Path("empty").mkdir()
    Path("net.prove").symlink_to("empty")


def a_link_to_nowhere() -> None:
    Path("net.prove").symlink_to("nowhere")


def marked_with_a_file_of_somebody() -> None:
    Path("net.prove").mkdir()
    Path("net.prove/unfinished").write_bytes(command.MARK)
    Path("net.prove/notes").write_text(MINE)


def marked_by_a_pipe() -> None:
    Path("net.prove").mkdir()
    os.mkfifo("net.prove/unfinished")


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    "make",
    [
        *(forged_by_name, forged_by_an_empty_file, marked_by_a_link, marked_by_a_pipe),
        *(a_link_to_a_marked_folder, a_link_to_an_empty_folder, a_link_to_nowhere),
        marked_with_a_file_of_somebody,
    ],
)
def test_a_proof_empties_no_folder_but_its_own(
    make: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    before = tree()

    assert prove(monkeypatch, never) == 2
    assert tree() == before


@pytest.mark.usefixtures("run")
def test_a_proof_deletes_links_in_its_folder_and_not_what_they_lead_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim = {name: what for name, what in tree().items() if name.startswith("victim")}
    Path("net.prove").mkdir()
    Path("net.prove/unfinished").write_bytes(command.MARK)
    Path("net.prove/straight").symlink_to(Path("victim/straight").resolve())
    Path("net.prove/again.log").symlink_to(Path("victim/straight/mine").resolve())

    assert prove(monkeypatch, same) == 0
    assert not Path("net.prove").exists()
    assert {name: what for name, what in tree().items() if name.startswith("victim")} == victim


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("end", [same, interrupted])
@pytest.mark.parametrize("link", [True, False])
def test_what_has_come_in_the_place_of_a_proofs_folder_is_not_deleted(
    end: Callable[..., tuple[bool, list[str]]], link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(*arguments: object) -> tuple[bool, list[str]]:
        Path("net.prove").rename("moved")
        if link:
            Path("net.prove").symlink_to("victim")
        else:
            shutil.copytree("victim", "net.prove")
        (Path("net.prove") / command.UNFINISHED).write_bytes(command.MARK)
        return end(*arguments)

    prove(monkeypatch, replaced)
    assert Path("net.prove/straight/mine").read_text() == MINE
    assert Path("victim/straight/mine").read_text() == MINE


@pytest.mark.usefixtures("run")
def test_a_demo_writes_into_no_folder_but_an_empty_one_and_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "write_data_set", never)
    before = tree()
    for folder in (".", "victim"):
        monkeypatch.setattr(sys, "argv", ["demo", folder])
        with pytest.raises(SystemExit, match="holds files, and no earlier demo made it"):
            demo.main()
        assert tree() == before


@pytest.mark.usefixtures("run")
def test_a_demo_deletes_links_that_have_come_into_its_folder_and_not_what_they_lead_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def drawn(folder: Path, *arguments: object) -> None:
        raise RelumeError(folder, "seen")

    monkeypatch.setattr(demo, "write_data_set", drawn)
    victim = {name: what for name, what in tree().items() if name.startswith("victim")}
    Path("demo").mkdir()
    Path("demo/signs.cfg").write_bytes(demo.CFG.read_bytes())
    for name in ("straight", "img"):
        Path("demo", name).symlink_to(Path("victim/straight").resolve())
    Path("demo/train.txt").symlink_to(Path("victim/straight/mine").resolve())
    Path("demo/notes").write_text(MINE)
    monkeypatch.setattr(sys, "argv", ["demo", "demo"])
    here = Path.cwd()
    with pytest.raises(RelumeError, match="seen"):
        demo.main()
    os.chdir(here)

    assert sorted(path.name for path in Path("demo").iterdir()) == ["notes", "signs.cfg"]
    assert {name: what for name, what in tree().items() if name.startswith("victim")} == victim


def a_file(path: Path) -> None:
    path.write_text(MINE)


def a_folder_with_a_file(path: Path) -> None:
    shutil.copytree("victim", path)


def a_link_to_such_a_folder(path: Path) -> None:
    path.symlink_to("victim")


def a_link_to_none(path: Path) -> None:
    path.symlink_to("nowhere")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    "make", [a_file, a_folder_with_a_file, a_link_to_such_a_folder, a_link_to_none, a_pipe]
)
def test_a_correction_fills_no_folder_but_a_new_or_empty_one(make: Callable[[Path], None]) -> None:
    make(Path("fixed"))
    before = tree()

    ended = relume("check", "obj.data", "net.cfg", "-fix", "fixed")
    assert ended.error == "-fix: fixed is there already; a new folder; name another"
    assert tree() == before
