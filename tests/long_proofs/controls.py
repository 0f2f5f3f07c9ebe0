"""Negative controls: with a part of the protection taken away, the same proofs must fail."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relume.checkpoint import container, storage
from relume.checkpoint.archive import Malformed
from relume.checkpoint.disk import Buffer
from relume.checkpoint.state import TrainState
from relume.checkpoint.stored import Stored
from relume.errors import CfgError, WeightsError
from tests.checkpoint.faults import Passing
from tests.long_proofs import chain, damage, folder_events, kills, power_cuts, refusals, syscalls
from tests.long_proofs.piece import Outcome, Piece

TARGETS = {
    storage.temporary_name("net", file): file
    for file in (
        *("net_last.weights", "net.backup", "net_final.weights"),
        *(f"net_{number}{suffix}" for number in range(9) for suffix in (".weights", ".backup")),
    )
}
"""The file for which a temporary name is made."""


class WithoutFsync(Passing):
    """A disk that never makes the contents of a file durable."""

    def fsync(self, descriptor: int) -> None:
        """Do nothing."""


class WithoutFolderFsync(Passing):
    """A disk that never makes names durable."""

    def fsync_folder(self, folder: Path) -> None:
        """Do nothing."""


class RenameFirst(Passing):
    """A disk on which a file takes its name before its contents are written."""

    def create(self, path: Path, direct: bool = False) -> int:
        descriptor = super().create(path, direct)
        if target := TARGETS.get(path.name):
            super().rename(path, path.with_name(target))
        return descriptor

    def rename(self, source: Path, target: Path) -> None:
        if source.exists():
            super().rename(source, target)


def rename_first() -> None:
    """Make this process write so."""
    storage.DISK = RenameFirst()


def forget_momentum() -> None:
    """Make this process restore all of a checkpoint but its momentum."""
    whole = container.unpack

    def unpack(data: Buffer, place: object) -> TrainState:
        state = whole(data, place)
        groups = dict(state.groups)
        for name in groups.keys() & {"momentum", "adam_m"}:
            groups[name] = {key: np.zeros_like(array) for key, array in groups[name].items()}
        return replace(state, groups=groups)

    container.unpack = unpack


def unverified(data: Buffer, place: object) -> TrainState:
    """Read a checkpoint whatever its digests are."""
    try:
        return Stored(memoryview(data)).state(place)[0]
    except (Malformed, CfgError, WeightsError) as error:
        raise container.refused(error, place) from error


def _whole_run(wrap: power_cuts.Wrap) -> Outcome:
    course = power_cuts.courses()[0]
    return power_cuts.prove(Path(), 1, course, most=10, wrap=wrap)


def _without_the_digest(kind: str) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "unpack", unverified)
        return damage.prove_flips(Path(), 1, kind, count=200)


def _at_system_calls(folder: Path) -> Outcome:
    return syscalls.prove(folder, "save and end", 0, 1, rename_first, "write .*/net_last.weights")


CONTROLS: Mapping[str, Callable[[Path], Outcome]] = {
    "power cuts without fsync": lambda _: _whole_run(WithoutFsync),
    "power cuts without fsync of the folder": lambda _: _whole_run(WithoutFolderFsync),
    "power cuts with the rename before the write": lambda _: _whole_run(RenameFirst),
    "refusals with the rename before the write": lambda _: refusals.prove(
        Path(), None, 0, 3, RenameFirst
    ),
    "damage without the digest check": lambda _: _without_the_digest("sgd"),
    "kills without the momentum, SGD": lambda folder: kills.prove(
        folder, 1, 0, 6, before=forget_momentum
    ),
    "kills without the momentum, Adam": lambda folder: kills.prove(
        folder, 1, 1, 6, before=forget_momentum
    ),
    "a chain without the momentum": lambda folder: chain.prove(
        folder, 1, 3, before=forget_momentum
    ),
    "system calls with the rename before the write": _at_system_calls,
    "folder events without the check of the lock": folder_events.without_the_check,
    "folder events with links followed": folder_events.with_links_followed,
}


SHORT = [name for name in CONTROLS if name != "kills without the momentum, Adam"]
"""Those of the short form."""


def prove(folder: Path, name: str) -> Outcome:
    """Run a proof that must fail; that it does not is the failure."""
    outcome = CONTROLS[name](folder)
    missed = () if outcome.failures else (f"{name}: not noticed",)
    return Outcome({"controls": 1}, missed)


def pieces(seed: int) -> list[Piece]:
    """Return the long form, which is the short one."""
    return [Piece("controls", name, prove, (name,)) for name in CONTROLS]
