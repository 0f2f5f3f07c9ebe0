"""A real training that stands still in its third iteration until a test lets it go on."""

import time
from collections.abc import Callable
from pathlib import Path

from relume.checkpoint.folder import claimed_position
from relume.data.batch import MiniBatch
from relume.model.network import Network
from relume.train import loop, step
from relume.train.partial import Share
from tests.cfg_texts import small_cfg
from tests.contract.processes import LONGEST_S, Relume
from tests.contract.small_runs import write_run

BATCH, HELD, END = 4, 3, 5
TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "0")
POLL_S = 0.005


def written_run(folder: Path) -> Path:
    """Write a run of END iterations that saves after each."""
    write_run(folder, small_cfg(max_batches=END, batch=BATCH, subdivisions=1))
    data = folder / "obj.data"
    data.write_text(data.read_text() + "savelast = 1\nsaveweights = 2\n")
    (folder / "backup").mkdir()
    return folder


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    ends_s = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < ends_s, "never held"
        time.sleep(POLL_S)


def hold() -> None:
    """Let this process stand still in iteration HELD until there is a file `go`."""
    train_subdivision = step.train_subdivision

    def held(network: Network, share: Share, mini_batch: MiniBatch) -> None:
        if mini_batch.positions[0] // BATCH == HELD - 1:
            Path("held").touch()
            wait_for(Path("go").exists)
        train_subdivision(network, share, mini_batch)

    loop.train_subdivision = held  # type: ignore[attr-defined]


def held_run(folder: Path) -> Relume:
    """Return a training that stands still, with all that it had to save saved."""
    process = Relume(folder, *TRAIN, before=hold)
    wait_for((folder / "held").exists)
    last = folder / "backup" / "net_last.weights"
    wait_for(lambda: last.exists() and claimed_position(last) == (HELD - 1, 0))
    before_last = folder / "backup" / "net.backup"
    wait_for(before_last.exists)
    wait_for(lambda: not list((folder / "backup").glob(".relume-*")))
    return process


def let_go(folder: Path, process: Relume) -> tuple[int, str]:
    """Let a held training go on; return its exit status and what it wrote."""
    (folder / "go").touch()
    return process.ended(), process.output


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return what is in a folder and all below it, links as what they lead to."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found
