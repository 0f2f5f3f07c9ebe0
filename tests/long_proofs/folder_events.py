"""What a user, a sync program or a second start may do to the folder of a run, in random order.

A sequence starts small runs, each a process of its own, and lets one of them go on at a time. A
process stops itself (SIGSTOP) before a drawn system call, or between the check of its lock and
that call. Then the folder is renamed, copied, restored, removed or reached by a link, the lock file
is removed or replaced, foreign files and links are put under the run's names, another run is
started, or a process is killed (SIGKILL). The processes hold the folder, keep checkpoints, journal
and log, and go on from the newest good state by the code of a training; only the states themselves
are made beforehand.

Always: a folder is changed only by the process that took its lock last; a start, and whoever looks
at a folder, finds a state that is not older than the newest one that was durable there; no foreign
file changes; and the same command leads to the files of an undisturbed run.
"""

import os
import shutil
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from relume.checkpoint import disk, run_lock, storage
from relume.checkpoint.folder import newest_good, set_aside
from relume.checkpoint.keeper import Keeper
from relume.checkpoint.state import TrainState
from relume.commands import run_folder
from relume.commands.run_folder import held_folder
from relume.errors import RelumeError
from relume.spec import Operation
from relume.train.journal import Journal
from tests.checkpoint.faults import Passing
from tests.checkpoint.states import tiny_state
from tests.long_proofs.piece import Outcome, Piece, draws_of, folder_in_memory

SEQUENCES, PIECES = 10_000, 40
END, SAVEWEIGHTS = 4, 2
ACTIONS = 10
"""Of one sequence; half of them let a process go on."""
MOST_PROCESSES = 3
LONGEST_GAP = 40
"""System calls from one stop of a process to the next."""
LONGEST_S = 60
"""A process that takes longer has hung."""
MOST_FAILURES = 10
CONTROLLED = 200
"""Sequences of a negative control."""
APPENDED = ("net.journal.jsonl", "net.log")
PLANTED = (*APPENDED, "net.lock", "net_last.weights.tmp", "net.backup.tmp", "chart.png.tmp")
"""Names of the run at which foreign files are put."""

Inode = tuple[int, int]
"""Device and number of a folder."""


@cache
def state_of(iteration: int) -> TrainState:
    """Return the state of the run after so many iterations."""
    return tiny_state(iteration)


# A process of the run


class Reports:
    """What a process reports to the proof, a line each, written before it goes on."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def add(self, kind: str, lock: run_lock.RunLock | None = None, value: object = "") -> None:
        """Report something that happened in the folder of a lock."""
        inode = (0, 0)
        if lock is not None and lock._folder_descriptor != -1:
            status = os.fstat(lock._folder_descriptor)
            inode = (status.st_dev, status.st_ino)
        line = f"{os.getpid()} {kind} {inode[0]} {inode[1]} {value}".replace("\n", " ")
        os.write(self._descriptor, f"{line}\n".encode())


class Stops:
    """Stops this process at the system calls that were drawn for it."""

    def __init__(self, gaps: list[int]) -> None:
        self._gaps = iter(gaps)
        self._left = next(self._gaps, -1)

    def point(self) -> None:
        """Count a system call, or the moment just before it; stop here if it is drawn."""
        self._left -= 1
        if self._left == 0:
            self._left = next(self._gaps, -1)
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


class WatchedDisk(Passing):
    """A disk that stops at system calls, and reports what has been changed in which folder."""

    def __init__(self, stops: Stops, reports: Reports) -> None:
        super().__init__()
        self._stops = stops
        self._reports = reports

    @contextmanager
    def _change(self, path: Path) -> Iterator[None]:
        self._stops.point()
        yield
        covering = run_lock.covering_lock(path)
        self._reports.add("changed", covering and covering[0], path.name)

    def create(self, path: Path, direct: bool = False) -> int:
        with self._change(path):
            return super().create(path, direct)

    def open_to_append(self, path: Path) -> int:
        with self._change(path):
            return super().open_to_append(path)

    def write(self, descriptor: int, data: Any) -> None:
        self._stops.point()
        super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._stops.point()
        super().fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        with self._change(target):
            super().rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        with self._change(target):
            super().link(source, target)

    def unlink(self, path: Path) -> None:
        with self._change(path):
            super().unlink(path)

    def truncate(self, path: Path, length: int) -> None:
        with self._change(path):
            super().truncate(path, length)

    def make_folder(self, folder: Path) -> None:
        with self._change(folder):
            super().make_folder(folder)

    def fsync_folder(self, folder: Path) -> None:
        self._stops.point()
        super().fsync_folder(folder)


def train(folder: Path, stops: Stops, reports: Reports) -> None:
    """Go on with the run from the newest good state to the end, as a training does."""
    _watch(stops, reports)
    operation = cast(Operation, SimpleNamespace(backup=folder, name="net"))
    with held_folder(operation, lambda text: None) as (say, note):
        (lock,) = run_lock._held
        found, rejected = newest_good(folder, "net")
        if rejected:
            reports.add("damaged", lock, [item.reason for item in rejected])
            set_aside([item.path for item in rejected], folder, "net", say)
        state = found.state if found else state_of(0)
        keeper = Keeper(folder, "net", 1, SAVEWEIGHTS, say)
        path = folder / "net.journal.jsonl"
        with closing(keeper), closing(Journal(path, state.history, say)) as journal:
            keeper.stop(state)
            reports.add("begun", lock, state.iteration)
            while state.iteration < END:
                state = state_of(state.iteration + 1)
                journal.append(state.history, state.progress.average_loss or 0.0)
                keeper.offer(state)
                keeper._wait()
                note(state.place)
                if keeper.unsaved(state.iteration)[0] == 0:
                    reports.add("durable", lock, state.iteration)
            keeper.finish(state)
            journal.finish(state.history)


def _watch(stops: Stops, reports: Reports) -> None:
    """Let this process stop where it was drawn, and report what it changes."""
    run_lock.LONGEST_CHANGE_S, run_lock.LONGEST_START_S = 0.02, 0.005

    def write_durably(path: Path, *parts: Any, previous: Path | None = None) -> int:
        reports.add("replaces", value=path.name)
        written = write(path, *parts, previous=previous)
        reports.add("has_replaced", value=path.name)
        return written

    def truncate(path: Path, length: int) -> None:
        reports.add("replaces", value=path.name)
        cut(path, length)
        reports.add("has_replaced", value=path.name)

    storage.DISK = WatchedDisk(stops, reports)
    is_in_its_place, append = run_lock.RunLock.is_in_its_place, storage.AppendFile.append_bytes
    take, write, cut = run_lock.RunLock.is_taken, storage.write_durably, storage.truncate

    def then_stops(lock: run_lock.RunLock) -> bool:
        found = is_in_its_place(lock)
        stops.point()
        return found

    def reports_lock(lock: run_lock.RunLock, may_use_token: bool) -> bool:
        taken = take(lock, may_use_token)
        if taken:
            reports.add("locked", lock)
        return taken

    def reports_append(file: storage.AppendFile, data: bytes) -> None:
        append(file, data)
        covering = run_lock.covering_lock(file.path)
        reports.add("changed", covering and covering[0], file.path.name)

    patch = pytest.MonkeyPatch()  # for good: the process does nothing else
    patch.setattr(run_lock.RunLock, "is_in_its_place", then_stops)
    patch.setattr(run_lock.RunLock, "is_taken", reports_lock)
    patch.setattr(storage.AppendFile, "append_bytes", reports_append)
    patch.setattr(storage, "write_durably", write_durably)
    patch.setattr(storage, "truncate", truncate)


def started(folder: Path, gaps: list[int], descriptor: int) -> int:
    """Fork a process that trains in a folder; return its number."""
    number = os.fork()
    if number:
        return number
    status = 3
    reports = Reports(descriptor)
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LONGEST_S)
        train(folder, Stops(gaps), reports)
        status = 0
    except RelumeError as error:
        reports.add("refused", value=error)
        status = 2
    except BaseException:
        reports.add("broken", value=traceback.format_exc())
    finally:
        os._exit(status)
    raise AssertionError


# One sequence


@dataclass
class Sequence:
    """A run in a folder of its own, and what happens to it."""

    place: Path
    draws: np.random.Generator
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    """Processes that stand still."""
    holders: dict[Inode, int] = field(default_factory=dict)
    """The process that took the lock in a folder last."""
    durable: dict[Inode, int] = field(default_factory=dict)
    """The newest iteration that was made durable in a folder, and has not been taken away."""
    foreign: dict[Path, bytes] = field(default_factory=dict)
    """Files outside of the folder, to which links in it lead."""
    replacing: dict[int, str] = field(default_factory=dict)
    """What a process is about to replace: it has seen what lies there."""
    texts: set[bytes] = field(default_factory=set)
    """Foreign files in the folder under names of the run: they may be moved, not changed."""

    def __post_init__(self) -> None:
        self.backup = self.place / "backup"
        self.backup.mkdir()
        self._reported = self.place / "reports"
        self._descriptor = os.open(self._reported, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._read = 0

    def run(self) -> None:
        """Do what is drawn, then look at every folder, and let the run go on to its end."""
        self.start()
        for _ in range(ACTIONS):
            kind = self.draws.random()
            if kind < 0.5 and self.stopped:
                self.go_on(self._drawn(self.stopped))
            elif kind < 0.62 and len(self.stopped) < MOST_PROCESSES:
                self.start()
            elif kind < 0.68 and self.stopped:
                self.kill(self._drawn(self.stopped))
            else:
                self.disturb(self._drawn(EVENTS))
        for process in list(self.stopped):
            self.kill(process)
        for path in self._folders():
            self.look_at(path)
        self._check_foreign()
        self._end()
        os.close(self._descriptor)

    def _drawn(self, choices: Any) -> Any:
        return list(choices)[int(self.draws.integers(len(choices)))]

    def start(self) -> None:
        """Start the run once more, up to its first stop."""
        gaps = [int(gap) for gap in self.draws.integers(1, LONGEST_GAP, size=ACTIONS)]
        self._wait(started(self.backup, gaps, self._descriptor), "start")

    def go_on(self, process: int) -> None:
        """Let a process go on to its next stop."""
        self.stopped.remove(process)
        os.kill(process, signal.SIGCONT)
        self._wait(process, "goes on")

    def kill(self, process: int) -> None:
        """Kill a process where it stands."""
        self.stopped.remove(process)
        os.kill(process, signal.SIGKILL)
        self._wait(process, "kill")

    def _wait(self, process: int, what: str) -> int:
        self.history.append(f"{what} {process}")
        self.counts[what] += 1
        _, status = os.waitpid(process, os.WUNTRACED)
        self._read_reports()
        if os.WIFSTOPPED(status):
            self.stopped.append(process)
            return -1
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
            self.failed(f"process {process} hangs")
        return os.waitstatus_to_exitcode(status)

    def disturb(self, event: Callable[["Sequence"], None]) -> None:
        """Do something to the folder, while every process stands still."""
        self._check_foreign()
        name = event.__name__.strip("_")
        self.history.append(name)
        self.counts["events"] += 1
        event(self)
        found = self._all_contents()
        self.texts = {text for text in self.texts if any(map(_begins(text), found))}
        known = {_inode(path) for path in self._folders()}
        self.durable = {inode: newest for inode, newest in self.durable.items() if inode in known}

    def failed(self, text: str) -> None:
        """Note that the promise was broken, with all that led to it."""
        self.failures.append(f"{text}; after: {', '.join(self.history)}")

    def _read_reports(self) -> None:
        with self._reported.open("rb") as file:
            file.seek(self._read)
            lines = file.read().decode(errors="replace").splitlines()
            self._read = file.tell()
        for line in lines:
            process, kind, device, number, value = line.split(" ", 4)
            self._take(int(process), kind, (int(device), int(number)), value)

    def _take(self, process: int, kind: str, inode: Inode, value: str) -> None:
        """Take a report in."""
        self.counts[kind] += 1
        if kind == "locked":
            self.holders[inode] = process
        elif kind == "changed" and self.holders.get(inode) != process:
            self.failed(f"two writers: {process} changed {value}, which {self.holders.get(inode)}"
                        " had locked")  # fmt: skip
        elif kind == "replaces":
            self.replacing[process] = value
        elif kind == "has_replaced":
            self.replacing.pop(process, None)
        elif kind == "durable":
            self.durable[inode] = max(int(value), self.durable.get(inode, 0))
        elif kind == "begun" and int(value) < self.durable.get(inode, 0):
            self.failed(f"begun at {value}, {self.durable[inode]} was durable")
        elif kind in ("broken", "damaged"):
            self.failed(f"{kind}: {value}")
        if kind == "refused":
            self.history.append(f"{process} is refused: {value}")

    def look_at(self, folder: Path) -> int:
        """Return the newest iteration in a folder; it is not older than what was durable there."""
        found, rejected = newest_good(folder, "net")
        iteration = found.state.iteration if found else 0
        self.counts["looked at"] += 1
        if rejected:
            self.failed(f"damaged in {folder.name}: {[item.reason for item in rejected]}")
        if iteration < (expected := self.durable.get(_inode(folder), 0)):
            self.failed(f"{folder.name} holds {iteration}, {expected} was durable")
        return iteration

    def copied(self, folder: Path, name: str) -> Path:
        """Copy a folder with all attributes, and know what it holds."""
        iteration = self.look_at(folder)
        copy = Path(shutil.copytree(folder, self.place / name, symlinks=True,
                                    copy_function=_copy_what_can_be))  # fmt: skip
        self.durable[_inode(copy)] = iteration
        return copy

    def new_name(self, kind: str) -> Path:
        """Return a path beside the folder that nothing has."""
        self.counts["names"] += 1
        return self.place / f"{kind} {self.counts['names']}"

    def _folders(self) -> list[Path]:
        """Return all folders that are or were the run's, but for links to them."""
        kept = ("backup", "moved", "copy")
        return [
            path
            for path in sorted(self.place.iterdir())
            if path.name.split()[0] in kept and path.is_dir() and not path.is_symlink()
        ]

    def _all_contents(self) -> list[bytes]:
        files = [path for folder in self._folders() for path in folder.rglob("*")]
        return [path.read_bytes() for path in files if path.is_file() and not path.is_symlink()]

    def _check_foreign(self) -> None:
        for path, data in self.foreign.items():
            if path.read_bytes() != data:
                self.failed(f"{path.name} has changed: {path.read_bytes()[:60]!r}")
        found = self._all_contents()
        for text in self.texts:
            if not any(map(_begins(text), found)):
                self.failed(f"{text!r} is lost")

    def _end(self) -> None:
        """Do what a refusal asks for, and give the command again."""
        lock = self.backup / "net.lock"
        if lock.is_symlink() or (lock.exists() and not lock.is_file()):
            lock.rename(self.new_name("lock"))
        process = started(self.backup, [], self._descriptor)
        if self._wait(process, "end") != 0:
            self.failed("does not go on")
            return
        files = {p.name: p.read_bytes() for p in self.backup.iterdir() if _is_promised(p)}
        expected = undisturbed()
        names = sorted(files.keys() | expected.keys())
        if different := [name for name in names if files.get(name) != expected.get(name)]:
            self.failed(f"{', '.join(different)} differ in the end")
        self._check_foreign()


def _begins(text: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(text)


def _inode(folder: Path) -> Inode:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_promised(path: Path) -> bool:
    return path.suffix in (".weights", ".backup", ".jsonl") and path.is_file()


def _copy_what_can_be(source: str, target: str) -> None:
    if Path(source).is_file():  # no pipe
        shutil.copy2(source, target)


# What happens to a folder


def _lock_removed(run: Sequence) -> None:
    _removed(run.backup / "net.lock")


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _lock_copied(run: Sequence) -> None:
    """Another file with the same text takes its place, as sync programs write files."""
    lock = run.backup / "net.lock"
    if lock.is_file() and not lock.is_symlink():
        copy = run.new_name("lock")
        shutil.copy2(lock, copy)
        copy.replace(lock)


def _foreign_put(run: Sequence) -> None:
    """A link, a text, a pipe or a folder of the user's own takes one of the run's names."""
    name, kind = run._drawn(PLANTED), run._drawn(("symbolic", "hard", "text", "pipe", "folder"))
    path = run.backup / name
    if not run.backup.is_dir() or name in [run.replacing.get(one) for one in run.stopped]:
        return  # nobody can keep what comes between a look and a rename
    _removed(path)
    foreign = run.new_name("foreign")
    text = f"{foreign.name}, all I have\n".encode()
    run.history.append(f"{name} {kind}")
    if kind in ("symbolic", "hard"):
        foreign.write_bytes(text)
        run.foreign[foreign] = text
        (path.symlink_to if kind == "symbolic" else path.hardlink_to)(foreign)
    elif kind == "text":
        path.write_bytes(text)
        run.texts.add(text)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


def _folder_moved(run: Sequence) -> None:
    """An empty one takes its place."""
    _away(run)
    run.backup.mkdir()
    run.durable.pop(_inode(run.backup), None)


def _away(run: Sequence) -> None:
    if run.backup.is_symlink():
        run.backup.unlink()
    elif run.backup.exists():
        run.backup.rename(run.new_name("moved"))


def _folder_replaced_by_its_copy(run: Sequence) -> None:
    copy = run.copied(run.backup, run.new_name("copy").name)
    _away(run)
    copy.rename(run.backup)


def _folder_copied(run: Sequence) -> None:
    run.copied(run.backup, run.new_name("copy").name)


def _folder_brought_back(run: Sequence) -> None:
    """One of the folders that were moved away, or a copy, takes its place again."""
    others = [path for path in run._folders() if path != run.backup]
    if others:
        other = run._drawn(others)
        _away(run)
        if other.exists():
            other.rename(run.backup)


def _folder_removed(run: Sequence) -> None:
    if not run.backup.is_symlink():
        shutil.rmtree(run.backup)
        run.backup.mkdir()
        run.durable.pop(_inode(run.backup), None)


def _folder_linked(run: Sequence) -> None:
    """The folder goes elsewhere, and a link leads to it."""
    if not run.backup.is_symlink():
        place = run.new_name("moved")
        run.backup.rename(place)
        run.backup.symlink_to(place)


def _link_led_elsewhere(run: Sequence) -> None:
    others = [path for path in run._folders() if path != run.backup]
    if run.backup.is_symlink() and others:
        run.backup.unlink()
        run.backup.symlink_to(run._drawn(others))


EVENTS = (
    *(_lock_removed, _lock_removed, _lock_copied, _foreign_put, _foreign_put, _foreign_put),
    *(_folder_moved, _folder_replaced_by_its_copy, _folder_copied, _folder_brought_back),
    *(_folder_brought_back, _folder_removed, _folder_linked, _link_led_elsewhere),
)


# The proof


@cache
def undisturbed() -> dict[str, bytes]:
    """Return what the run leaves when nothing goes wrong."""
    with folder_in_memory() as memory:
        sequence = Sequence(memory, draws_of(0, 0))
        sequence._wait(started(sequence.backup, [], sequence._descriptor), "end")
        os.close(sequence._descriptor)
        assert not sequence.failures
        return {p.name: p.read_bytes() for p in sequence.backup.iterdir() if _is_promised(p)}


def prove(
    folder: Path, seed: int, first: int, number: int, most_failures: int = MOST_FAILURES
) -> Outcome:
    """Run so many sequences.

    Args:
        folder: not used; the sequences are run in memory.
        seed: of all draws.
        first: the first sequence; each is drawn by its own number.
        number: of sequences.
        most_failures: after which it ends.
    """
    counts: Counter[str] = Counter()
    failures: list[str] = []
    undisturbed()
    for index in range(first, first + number):
        with folder_in_memory() as memory:
            sequence = Sequence(memory, draws_of(seed, 7, index))
            sequence.run()
        counts += sequence.counts
        counts["sequences"] += 1
        failures += [f"sequence {index}: {text}" for text in sequence.failures]
        if len(failures) >= most_failures:
            break
    told = ("sequences", "events", "start", "goes on", "kill", "durable", "refused", "looked at")
    return Outcome({name: counts[name] for name in told}, tuple(failures))


def without_the_check(folder: Path) -> Outcome:
    """Run some sequences by a program that takes its lock to be in its place always."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_lock.RunLock, "is_in_its_place", lambda lock: True)
        return prove(folder, 1, 0, CONTROLLED, 1)


def with_links_followed(folder: Path) -> Outcome:
    """Run some sequences by a program that opens whatever lies under its names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "keep_foreign_aside", lambda *_: None)
        patch.setattr(disk, "EXISTING", os.O_CLOEXEC | os.O_NONBLOCK)
        patch.setattr(disk, "_of_one_name", lambda descriptor: descriptor)
        return prove(folder, 1, 0, CONTROLLED, 1)


def pieces(seed: int) -> list[Piece]:
    """Return the long form."""
    each = SEQUENCES // PIECES
    return [
        Piece("folder events", f"{first} to {first + each - 1}", prove, (seed, first, each))
        for first in range(0, SEQUENCES, each)
    ]
