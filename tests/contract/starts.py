"""What the tests of starts share: a small run with milestones, changes to it, refusals."""

import shutil
from pathlib import Path

import pytest

from relume.checkpoint import container
from relume.checkpoint.state import TrainState
from relume.errors import RelumeError
from relume.formats.weights import partial_weights
from relume.train.start import StartFlags
from tests.contract.small_runs import read_run, sgd_cfg, start_of, write_run

CUT, END = 4, 6
"""Iterations of the stopped and of the finished run."""


def small_run(folder: Path, **options: object) -> Path:
    """Write a run of END iterations with a milestone at every second one."""
    write_run(folder, sgd_cfg(max_batches=END, **{"yolo": {"jitter": 0.3}, **options}))
    data = folder / "obj.data"
    data.write_text(data.read_text() + "saveweights = 2\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def change_cfg(folder: Path, line: str, other: str) -> None:
    text = (folder / "net.cfg").read_text()
    assert line in text
    (folder / "net.cfg").write_text(text.replace(line, other))


def is_the_same(one: TrainState, other: TrainState) -> bool:
    return container.pack(one) == container.pack(other)


def refused(folder: Path, flags: StartFlags | None = None) -> str:
    """Return why a start is refused; nothing in the folder may have changed by it."""
    before = contents(folder)
    with pytest.raises(RelumeError) as caught:
        start_of(folder, flags)
    assert contents(folder) == before
    return str(caught.value)


def backbone(folder: Path, target: Path, layers: int = 7) -> Path:
    """Write the first layers of the run's last weights, as `relume partial` does."""
    cfg = read_run(folder).recipe.cfg
    data = (folder / "backup" / "net_last.weights").read_bytes()
    target.write_bytes(partial_weights(data, cfg, layers, "x"))
    return target


def other_copy(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(folder.name + "_copy")))


def with_a_flipped_bit(state: TrainState) -> bytes:
    data = bytearray(container.pack(state))
    data[1000] ^= 4
    return bytes(data)


def label_files(folder: Path) -> list[Path]:
    spec = read_run(folder)
    return [path.with_suffix(".txt") for path in spec.recipe.images.paths]
