"""Pipes, sockets, devices and files without end under the names of files: nothing waits for them.

On the code before, every one of these commands waited for ever, or took all memory.
"""

import io
import os
import shutil
import signal
import socket
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from relume.checking.known import KnownPictures, read_known
from relume.checkpoint import container
from relume.checkpoint.archive import Seal, directory, local_header
from relume.checkpoint.contents import COMMENT, MANIFEST
from relume.checkpoint.reading import read_bytes
from relume.checkpoint.stored import check_claims
from relume.errors import Damaged
from relume.lists.sealed import read_sealed
from tests.attacks.crafted import as_json, sealed_json, taken_apart
from tests.checkpoint.states import tiny_cfg, tiny_state
from tests.command_line import Ended, relume
from tests.contract.processes import Relume
from tests.contract.small_runs import sgd_cfg, train_until, write_run

TRAIN = ("detector", "train", "obj.data", "net.cfg", "-dont_show", "-workers", "0")
LONGEST_S = 120
TERABYTE = 1 << 40
BACKUP = Path("backup")
LAST = BACKUP / "net_last.weights"


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """Let nothing wait for ever."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError("waits for what is no file")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four iterations, stopped after the third, with two generations."""
    folder = write_run(
        tmp_path_factory.mktemp("run"), sgd_cfg(max_batches=4, batch=4, subdivisions=2)
    )
    data = folder / "obj.data"
    data.write_text(data.read_text() + "savelast = 1\n")
    train_until(folder, 3)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    monkeypatch.chdir(folder)
    return folder


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def linked_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def sparse(path: Path, begin: bytes = b"", end: bytes = b"") -> None:
    """Write a file of a terabyte, which takes no room on the disk."""
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(TERABYTE - len(end))
        file.seek(0, os.SEEK_END)
        file.write(end)


NO_FILES: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "link to a pipe": linked_pipe,
    "socket": listening,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
}


@pytest.mark.parametrize("what", NO_FILES)
def test_a_start_goes_on_from_the_good_checkpoint_beside_what_is_no_file(
    run: Path, what: str
) -> None:
    LAST.unlink()
    NO_FILES[what](LAST)

    ended = relume(*TRAIN)

    assert ended.status == 0, ended.err
    assert f"{LAST}: " in ended.err
    assert "the newest good checkpoint is backup/net.backup" in ended.err
    assert container.unpack(LAST.read_bytes(), LAST).iteration == 4
    (aside,) = (path for path in BACKUP.glob("net.aside/*/*") if path.name == LAST.name)
    assert aside.is_symlink() or not stat.S_ISREG(aside.stat().st_mode)  # nothing is lost


@pytest.mark.parametrize(
    "name", ["net.backup", "net_2.weights", "net_best.weights", "net.journal.jsonl", "net_2.backup"]
)
def test_a_run_is_not_held_up_by_a_pipe_under_any_of_its_names(run: Path, name: str) -> None:
    (BACKUP / name).unlink(missing_ok=True)
    os.mkfifo(BACKUP / name)

    ended = relume(*TRAIN)

    assert ended.status == 0, ended.err
    assert f"moved to backup/net.aside/1: {name}" in ended.err
    assert container.unpack(LAST.read_bytes(), LAST).iteration == 4


def test_a_stop_is_heard_beside_a_pipe(run: Path) -> None:
    """In a process of its own, which trains for long; it handles signals when it says so."""
    LAST.unlink()
    os.mkfifo(LAST)
    cfg = run / "net.cfg"
    cfg.write_text(cfg.read_text().replace("max_batches=4\n", "max_batches=100000\n"))

    process = Relume(run, *TRAIN)
    assert process.read_until("goes on from backup/net.backup"), process.output
    process.signal(signal.SIGTERM)

    assert process.ended() == 75, process.output


COMMANDS: dict[str, tuple[object, ...]] = {
    "verify": ("verify", "x.weights"),
    "inspect": ("inspect", "x.weights"),
    "strip": ("strip", "x.weights", "out.weights"),
    "compare": ("compare", "x.weights", LAST),
    "average": ("average", "net.cfg", "out.weights", LAST, "x.weights"),
    "statistics": ("statistics", "net.cfg", "x.weights"),
    "partial": ("partial", "net.cfg", "x.weights", "out.weights", 2),
    "test": ("detector", "test", "obj.data", "net.cfg", "x.weights", "img/0001.png"),
    "map": ("detector", "map", "obj.data", "net.cfg", "x.weights"),
    "train": (*TRAIN, "x.weights"),
    "rewind": ("rewind", "x_2.weights"),
    "cfg": ("detector", "test", "obj.data", "x.weights", LAST, "img/0001.png"),
    "data": ("detector", "test", "x.weights", "net.cfg", LAST, "img/0001.png"),
    "train with such a cfg": ("detector", "train", "obj.data", "x.weights"),
    "train with such data": ("detector", "train", "x.weights", "net.cfg"),
}


@pytest.mark.parametrize("what", ["pipe", "socket", "device"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_waits_for_what_is_no_file(run: Path, command: str, what: str) -> None:
    for name in ("x.weights", "x_2.weights"):
        NO_FILES[what](run / name)

    ended = relume(*COMMANDS[command])

    assert ended.status == 2, ended.err
    assert "no regular file" in ended.out + ended.err
    assert not (run / "out.weights").exists()


def refused_without_memory(*words: object) -> Ended:
    tracemalloc.start()
    try:
        ended = relume(*words)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    return ended


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "rewind"])
def test_no_command_takes_memory_for_a_file_without_end(run: Path, command: str) -> None:
    plain = container.plain(tiny_state())
    sparse(run / "x.weights", plain)

    ended = refused_without_memory(*COMMANDS[command])

    assert ended.status in (2, 75), ended.err
    if command != "verify":
        assert ended.error.startswith("x.weights: ")
    assert "x.weights" in ended.out + ended.err


@pytest.mark.parametrize("name", ["net_last.weights", "net.backup"])
@pytest.mark.parametrize("what", ["zeros", "a head", "a head and an end", "a whole one"])
def test_a_checkpoint_without_end_is_refused_by_what_it_claims(
    run: Path, name: str, what: str
) -> None:
    data = (BACKUP / name).read_bytes()
    begin, end = {
        "zeros": (b"", b""),
        "a head": (data[:1000], b""),
        "a head and an end": (data[:1000], data[-72:]),
        "a whole one": (data, data[-1000:]),
    }[what]
    (BACKUP / name).unlink()
    sparse(BACKUP / name, begin, end)

    ended = refused_without_memory(*TRAIN)

    assert ended.status == 0, ended.err
    other = "net.backup" if name == "net_last.weights" else "net_last.weights"
    assert f"goes on from backup/{other}" in ended.err
    assert f"backup/{name}: " in ended.err
    assert "the digest is right" not in ended.err  # it has not been computed


def test_caches_without_end_are_made_anew(tmp_path: Path) -> None:
    sparse(tmp_path / "x")
    tracemalloc.start()
    try:
        assert read_sealed(tmp_path / "x") is None
        assert read_known(tmp_path / "x", 3) == KnownPictures()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_claims_of_a_checkpoint_are_checked_by_the_whole_of_a_long_cfg() -> None:
    """Its layers stand after the first megabyte."""
    cfg_text = "# a comment\n" * 100_000 + tiny_cfg()
    assert len(cfg_text) > 1 << 20

    check_claims(io.BytesIO(container.pack(tiny_state(cfg_text=cfg_text))))


def test_a_large_file_is_refused_by_its_cfg_before_it_is_read(tmp_path: Path) -> None:
    """Its structure may be right: then the net in it says how long it can be."""
    craft = taken_apart(container.pack(tiny_state()))
    manifest = {
        **craft.manifest,
        "darknet": {**craft.manifest["darknet"], "bytes": TERABYTE},
        "entries": {name: sealed_json(data) for name, data in craft.entries.items()},
    }
    out, listed = b"", []
    for name, data in {MANIFEST: as_json(manifest), **craft.entries}.items():
        listed.append((name, Seal(len(data)), TERABYTE + len(out)))
        out += local_header(name, Seal(len(data))) + data
    out += directory(listed, TERABYTE + len(out), COMMENT + b"0" * 32)
    path = tmp_path / "net_last.weights"
    with path.open("wb") as file:
        file.write(craft.darknet)
        file.seek(TERABYTE)
        file.write(out)

    with pytest.raises(Damaged, match="the Darknet part does not fit the cfg"):
        read_bytes(path)
