"""The one way by which a command puts a file at a path that a user, or Darknet, has chosen.

A file that is there is replaced only if this command may have made it, by its contents (`Kind`),
or with -force. Equal bytes are left as they are, so that a command can be given again. A link is
never followed: -force replaces the link. -force never replaces a folder, a device, a pipe, a file
that the command reads, or a checkpoint with training state.

Not covered: the files of a run, which its training writes (`checkpoint/keeper.py`).
"""

import os
import re
import shlex
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from relume.checkpoint import storage
from relume.checkpoint.disk import check_writable
from relume.checkpoint.folder import claimed_position, run_names
from relume.checkpoint.many_files import not_there_yet, write_each_durably
from relume.checkpoint.system_errors import as_storage_error
from relume.command_table import Values
from relume.commands.ending import tidied_up
from relume.errors import CheckpointError, StorageError, UsageError, WeightsError
from relume.formats.places import RemoteFile, open_regular

HEAD_BYTES = 4096
"""What is read of a file to see whether the command made it."""
OTHER_NAME = "give another name"
_OF_RUN = re.compile(
    r"(.+?)(_(\d+|last|best|final)\.weights|(_\d+)?\.backup|\.journal\.jsonl|\.log|\.lock)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kind:
    """What an output holds, and which files at its path are replaced without -force."""

    name: str
    is_own: Callable[[bytes], object] | None = None
    """Returns what is true if, by its first HEAD_BYTES, this command may have made a file."""
    is_compared: bool = False
    """A file with the same bytes is no hindrance, and is left as it is."""
    makes_folder: bool = False
    """A missing folder is made."""


class Outputs:
    """The files that one command writes.

    Args of the constructor:
        inputs: files that the command reads; looked at only where an output is there already.
        flags: of the command line.
        remedy: what to do about a file that is there; empty: -force.
    """

    def __init__(
        self, inputs: Iterable[str | Path] = (), flags: Values | None = None, remedy: str = ""
    ) -> None:
        self._inputs = list(inputs)
        self._input_of: dict[tuple[int, int], Path] = {}
        """Of those that have been looked at, by device and inode."""
        self._written: set[Path] = set()
        self._force = bool(flags and flags.get("-force"))
        self._remedy = remedy
        self._kinds: dict[tuple[str, str], Kind] = {}
        """Of every output, by folder and name: one file does not hold two things."""

    def reads(self, paths: Iterable[str | Path]) -> None:
        """Add files that the command reads."""
        self._inputs.extend(paths)

    def check(self, paths: Path | Iterable[Path], kind: Kind, place: str = "") -> list[Path]:
        """Look at files that are going to be written, before there is any work.

        Args:
            paths: one or several.
            kind: of all of them.
            place: the flag that names them, for messages.
        Returns:
            Those that are there and may stay as they are, but only if their bytes are the same.
        Raises:
            UsageError: a file is there that must stay, or its folder is missing.
            StorageError: one cannot be written, or no regular file is there.
            Locked: with -force, a file of a run that is being trained.
        """
        there, folders = [], dict[Path, str]()
        for path in [paths] if isinstance(paths, Path) else paths:
            if path.parent not in folders:
                _check_folder(path, kind, place)
                folders[path.parent] = os.path.realpath(path.parent)
            self._check_kind(path, kind, folders[path.parent])
            if self.is_foreign(path, kind, place):
                there.append(path)
            self._check_run(path)
        if not kind.is_compared:
            self._refuse(there, kind)
        return there

    def check_contents(self, files: Mapping[Path, bytes], kind: Kind) -> list[Path]:
        """Look at files whose contents are known; return those that have them already.

        Raises:
            As `check`.
        """
        there = self.check(files, kind)
        self._refuse(list(not_there_yet({path: files[path] for path in there})), kind)
        return there

    def write(self, path: Path, kind: Kind, data: bytes) -> None:
        """Write one file as `write_each` does."""
        for _ in self.write_each({path: data}, kind):
            pass

    def write_each(self, files: Mapping[Path, bytes], kind: Kind) -> Generator[Path]:
        """Write whole files, side by side and durably; yield their paths as they are done.

        Raises:
            As `check`. Nothing has been written then, unless the disk refuses later.
        """
        same = set(self.check_contents(files, kind))
        new = {path: data for path, data in files.items() if path not in same}
        with _undisturbed(new), tidied_up():
            if kind.makes_folder:
                for folder in dict.fromkeys(path.parent for path in new):
                    storage.make_folder(folder)
            yield from same
            for path in write_each_durably(new):
                self._written.add(path)
                yield path

    def write_replaceable(self, path: Path, kind: Kind, data: bytes) -> None:
        """Write a file that can be had again: whole or not at all, but not fsynced.

        Raises:
            As `check`.
        """
        self.check(path, kind)
        with _undisturbed([path]), tidied_up():
            if kind.makes_folder:
                storage.make_folder(path.parent)
            storage.write_replaceable(path, [data])
            self._written.add(path)

    def put(self, temporary: Path, path: Path, kind: Kind) -> None:
        """Give a whole file its name.

        Raises:
            As `check`.
        """
        self.check(path, kind)
        with _undisturbed([path]), tidied_up():
            storage.rename(temporary, path)

    def _check_kind(self, path: Path, kind: Kind, folder: str) -> None:
        """Raise UsageError if the command has another use for this path."""
        other = self._kinds.setdefault((folder, path.name), kind)
        if other.name != kind.name:
            raise UsageError(path, f"cannot hold both {other.name} and {kind.name}", "", OTHER_NAME)

    def _check_run(self, path: Path) -> None:
        """Raise UsageError if a run in this folder has a use for this name."""
        name = _run_with(path)
        if name is None:
            return
        forced = self._force and path.suffix != ".lock"
        if not forced:
            can_force = path.suffix != ".lock" and not self._remedy
            remedy = OTHER_NAME + ", or -force while the run is stopped" * can_force
            found = f"is the name of a file of the run '{name}', which is in this folder"
            raise UsageError(path, found, "", remedy)
        with _undisturbed([path]):
            pass

    def is_foreign(self, path: Path, kind: Kind, place: str = "") -> bool:
        """Tell whether a file is there that only -force replaces: this command has not made it.

        Raises:
            UsageError, StorageError: what is there is not replaced by -force either.
        """
        with as_storage_error(path):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                return False
        # os.path's, for they are never an error, wherever a link leads.
        if os.path.isdir(path):  # noqa: PTH112
            found = f"{path} is a folder" if place else "is a folder"
            raise UsageError(place or path, found, "a file to write")
        self._check_no_input(path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise StorageError(path, "is no regular file", "a file to write", OTHER_NAME)
        if stat.S_ISLNK(mode):
            if self._force:
                return False
            remedy = self._remedy or "-force replaces the link, not what it leads to"
            raise UsageError(path, "is a symbolic link", "a file to write", remedy)
        _check_no_state(path)
        if self._force or path in self._written:
            return False
        return not (kind.is_own and mode & 0o222 and kind.is_own(_head(path)))

    def _check_no_input(self, path: Path) -> None:
        try:
            own = path.stat()
        except OSError:  # a link that leads nowhere
            return
        for given in self._inputs:
            with suppress(OSError, ValueError):  # it may be none, or a URL
                if not isinstance(given, RemoteFile):
                    status = Path(given).stat()
                    self._input_of.setdefault((status.st_dev, status.st_ino), Path(given))
        self._inputs.clear()
        known = self._input_of.get((own.st_dev, own.st_ino))
        with suppress(OSError):  # it may be gone, and its inode be another file's
            if known is not None and path.samefile(known):
                raise UsageError(path, f"is {known} itself", "another file to write")

    def _refuse(self, there: list[Path], kind: Kind) -> None:
        """Raise UsageError if a file is there that only -force replaces."""
        if there:
            what = f" and holds no {kind.name}" if kind.is_own else ""
            more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
            replaces = self._remedy or f"-force replaces {'them' if more else 'it'}"
            raise UsageError(there[0], f"there already{what}{more}", "", replaces)


def names_in(folder: Path, place: str) -> set[str]:
    """Return the names of what is in a folder that a command writes into.

    Args:
        folder: that is there.
        place: the flag that names it, for messages.
    Raises:
        UsageError: it cannot be listed.
    """
    try:
        return {path.name for path in folder.iterdir()}
    except OSError as error:
        found = f"{folder} cannot be listed ({error.strerror})"
        raise UsageError(place, found, "a folder that you may list", "name another") from error


def _check_folder(path: Path, kind: Kind, place: str) -> None:
    """Raise UsageError or StorageError if a file cannot come into its folder."""
    folder = path.parent
    while kind.makes_folder and not os.path.lexists(folder):
        folder = folder.parent
    if os.path.isdir(folder):  # noqa: PTH112
        check_writable(folder)
    elif os.path.lexists(folder):
        found = f"{folder} is no folder, or leads to none"
        raise UsageError(place or path, found, "a folder to write into", OTHER_NAME)
    else:
        remedy = f"mkdir -p {shlex.quote(str(folder))}"
        raise UsageError(place or path, f"{folder} does not exist", "an existing folder", remedy)


def _check_no_state(path: Path) -> None:
    """Raise UsageError if a file is, or may be, a checkpoint: no command replaces one.

    Raises:
        StorageError: it cannot be read, so nobody knows.
    """
    try:
        if claimed_position(path) is None:
            return
    except WeightsError:
        return
    except CheckpointError:
        pass  # a damaged one
    except OSError as error:
        found = f"is there and cannot be read ({error.strerror})"
        raise StorageError(path, found, "a file that is no checkpoint", OTHER_NAME) from error
    remedy = f"{OTHER_NAME}, or move it away first"
    raise UsageError(path, "there already, a checkpoint with training state", "", remedy)


def _head(path: Path) -> bytes:
    with suppress(OSError), open_regular(path) as file:
        return file.read(HEAD_BYTES)
    return b"unknown"


@contextmanager
def _undisturbed(paths: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of the runs whose files these are, if they are any.

    Raises:
        Locked: such a run is being trained.
    """
    with ExitStack() as stack:
        held = {(path.parent, name) for path in paths if (name := _run_with(path)) is not None}
        for folder, name in sorted(held):
            if os.path.lexists(folder / f"{name}.lock"):  # else there is no training
                stack.enter_context(storage.locked(folder, name))
        yield


def _run_with(path: Path) -> str | None:
    """Return the name of a run in the folder of `path` that has a file of this name."""
    folder = path.parent
    if path.name == "chart.png":
        return next(iter(run_names(folder)), None)
    match = _OF_RUN.fullmatch(path.name)
    charted = path.name.removeprefix("chart_").removesuffix(".png")
    names = [match[1], path.name.removesuffix(".backup")] if match else [charted]
    if not match and path.name != f"chart_{charted}.png":
        return None
    for name in names:
        if any(os.path.lexists(folder / f"{name}{end}") for end in (".lock", "_last.weights")):
            return name
    return None
