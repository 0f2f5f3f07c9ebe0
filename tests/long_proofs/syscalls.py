"""A kill at every system call of saves, of the end of a run, of a stop, and of a start.

strace counts the calls of one kind that touch one file and kills the process as it makes the
n-th of them. What a stretch of a run does is recorded first, so that every call has its turn.
"""

import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.cfg_texts import SMALL_ANCHORS, convolution, head, net
from tests.contract.processes import Relume
from tests.contract.small_runs import train_until
from tests.long_proofs.piece import Outcome, Piece
from tests.long_proofs.variants import Variant, differences, trained, write_variant

CALLS = (
    *("open", "openat", "creat", "close", "write", "pwrite64", "writev", "pwritev", "pwritev2"),
    *("fsync", "fdatasync", "sync_file_range", "fallocate", "truncate", "ftruncate"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "sendfile", "copy_file_range"),
)
"""All by which a file of the run may change, with the opening and closing around them."""
PARTS = 5
"""Pieces into which the long form of a stretch is divided."""
DAMAGE = b"damaged"
ITERATION_DONE = " avg loss"
Before = Callable[[], None] | None


@dataclass(frozen=True)
class Stretch:
    """A part of a run, from a start to its end or to a stop."""

    keys: str
    """Of the data file."""
    begun_at: int
    """The iteration at which the folder has been left."""
    end: int
    """Iterations of the whole run."""
    prepare: Callable[[Path], None] = lambda backup: None
    """What else happened to the folder."""
    stops: bool = False
    """A signal is sent behind the first iteration."""

    def run(self) -> Variant:
        """Return the run of which this is a part: few tensors, so few writes per file."""
        layers = [convolution(3, stride=2), convolution(4, stride=2)]
        layers += head((0, 1, 2), SMALL_ANCHORS, classes=3)
        parts = [net(64, 64, batch=2, subdivisions=1, max_batches=self.end), *layers]
        return Variant("\n".join(parts), self.keys + "seed = 1\n", workers=0)


def _damage(backup: Path) -> None:
    (backup / "net_last.weights").write_bytes(DAMAGE)
    (backup / "net.backup.tmp").write_bytes(DAMAGE)
    (backup / "net.journal.jsonl").write_bytes(DAMAGE)


def _forget_the_end(backup: Path) -> None:
    for name in ("net_final.weights", "chart.png", "chart_net.png", "net_4.backup"):
        (backup / name).unlink(missing_ok=True)
    (backup / "net.backup").write_bytes((backup / "net_2.weights").read_bytes())


EVERY = "saveweights = 2\nsavelast = 1\n"
STRETCHES = {
    "milestone and end": Stretch(EVERY + "keepstate = 1\n", begun_at=3, end=4),
    "save and end": Stretch("saveweights = 99\nsavelast = 1\n", begun_at=2, end=3),
    "first save": Stretch(EVERY, begun_at=0, end=1),
    "end": Stretch(EVERY, begun_at=4, end=4, prepare=_forget_the_end),
    "stop": Stretch("saveweights = 99\nsavelast = 99\n", begun_at=3, end=9, stops=True),
    "start after damage": Stretch(EVERY, begun_at=3, end=3, prepare=_damage),
}


@dataclass(frozen=True)
class Call:
    """A system call that touches files of the run."""

    thread: str
    name: str
    paths: tuple[str, ...]
    """Relative to the folder of the run."""


@dataclass(frozen=True)
class Target:
    """The n-th call of one kind, on one file, of whichever thread makes so many first."""

    name: str
    path: str
    number: int

    def options(self, folder: Path, log: Path) -> Sequence[str]:
        """Return the options of strace that kill the process there."""
        paths = (self.path, str(folder / self.path))
        select = [option for path in paths for option in ("-P", path)]
        inject = f"inject={self.name}:signal=SIGKILL:when={self.number}"
        return ("-y", "-o", str(log), *select, "-e", f"trace={self.name}", "-e", inject)


def prepared(folder: Path, stretch: Stretch) -> Path:
    """Return a run that stands where the stretch begins."""
    write_variant(folder, stretch.run())
    torch.set_num_threads(1)  # as the processes that go on
    if stretch.begun_at:
        train_until(folder, stretch.begun_at)
        stretch.prepare(folder / "backup")
    return folder


def went(folder: Path, stretch: Stretch, strace: Sequence[str], before: Before = None) -> int:
    """Let a process go the stretch; return its exit status."""
    process = Relume(folder, *stretch.run().words, strace=strace, before=before)
    if stretch.stops and process.read_until(ITERATION_DONE):
        process.signal(signal.SIGTERM)
    return process.ended()


def recorded(folder: Path, stretch: Stretch, before: Before = None) -> list[Call]:
    """Return the calls of a stretch that touch the backup folder, in their order."""
    log = folder.with_name("recorded.txt")
    went(folder, stretch, ("-y", "-o", str(log), "-e", f"trace={','.join(CALLS)}"), before)
    lines = log.read_text(errors="replace").splitlines()
    return [call for line in lines if (call := _call_in(line, folder)) is not None]


def _call_in(line: str, folder: Path) -> Call | None:
    match = re.match(r"(\d+) +(\w+)\((.*)", line)
    if match is None:
        return None
    quoted = re.findall(r'"(backup[^"]*)"', match[3])
    opened = re.findall(r"<([^<>]*)>", match[3].partition(") = ")[0])
    root = f"{folder}/"
    inside = [path.removeprefix(root) for path in opened if path.startswith(f"{root}backup")]
    paths = tuple(dict.fromkeys([*quoted, *inside]))
    return Call(match[1], match[2], paths) if paths else None


def targets(calls: Sequence[Call]) -> dict[int, Target]:
    """Return for every call how to kill there; left out is what another thread makes first."""
    counts: Counter[tuple[str, str, str]] = Counter()
    met: set[Target] = set()
    found: dict[int, Target] = {}
    for index, call in enumerate(calls):
        path = call.paths[0]  # strace does not look at the second name of a rename
        counts[call.thread, call.name, path] += 1
        target = Target(call.name, path, counts[call.thread, call.name, path])
        if target not in met:
            met.add(target)
            found[index] = target
    return found


def prove(
    folder: Path, name: str, part: int, parts: int, before: Before = None, only: str = ""
) -> Outcome:
    """Kill at every `parts`-th system call of a stretch, go on, and compare.

    Args:
        folder: to work in.
        name: of the stretch.
        part, parts: which of the calls.
        before: breaks the process, for the negative control.
        only: a pattern; at calls whose name and path it matches only.
    """
    stretch = STRETCHES[name]
    straight = trained(write_variant(folder / "straight", stretch.run()), stretch.run())
    begun = prepared(folder / "begun", stretch)
    copy = Path(shutil.copytree(begun, folder / "recorded"))
    calls = recorded(copy, stretch, before)
    chosen = list(targets(calls).items())[part::parts]
    counts = Counter({"out of reach": (len(calls) - len(targets(calls))) if part == 0 else 0})
    failures: list[str] = []
    for index, target in chosen:
        if not re.match(only, f"{target.name} {target.path}"):
            continue
        killed = Path(shutil.copytree(begun, folder / f"killed_{index}"))
        status = went(killed, stretch, target.options(killed, folder / "log.txt"), before)
        what = f"{name}: call {index} of {len(calls)}, {target.name} {target.path}"
        if status != -signal.SIGKILL:
            counts["calls not made again"] += 1
        counts["kills at system calls"] += status == -signal.SIGKILL
        trained(killed, stretch.run())
        aside = killed / "backup" / "net.aside"
        if aside.exists() and all(p.read_bytes() == DAMAGE for p in aside.rglob("*.*")):
            shutil.rmtree(aside)
        failures += [f"{what}: {text}" for text in differences(killed, straight)]
        shutil.rmtree(killed)
    return Outcome(dict(counts), tuple(failures))


def pieces(seed: int) -> list[Piece]:
    """Return the long form."""
    return [
        Piece("system calls", f"{name} {part + 1}/{PARTS}", prove, (name, part, PARTS))
        for name in STRETCHES
        for part in range(PARTS)
    ]
