"""`relume verify`: are checkpoints intact, and which one would a start take? Changes nothing.

A file is intact if a start could go on from it: every byte is as it was written and the contents
can be read. Which of them a start takes is asked of the start's own search.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from relume.checkpoint import container
from relume.checkpoint.folder import (
    candidates,
    newest_good,
    other_run,
    run_files,
    run_names,
)
from relume.checkpoint.own_files import temporaries
from relume.checkpoint.reading import not_given, read_bytes
from relume.errors import CheckpointError, Damaged, RelumeError, UsageError, WeightsError
from relume.formats.cfg import parse_cfg
from relume.formats.weights import layout, parse_header
from relume.screen import Screen

INTACT, SOME_DAMAGED, NOTHING_USABLE = 0, 1, 2


@dataclass(frozen=True)
class Checked:
    """One file, looked at."""

    path: str
    bytes: int
    condition: str
    """intact, damaged, unread (the disk does not give it), plain (no state, so no digest), foreign
    (in the place of a checkpoint) or temporary."""
    text: str
    """What a person should know about it."""
    iteration: int | None = None
    """Of an intact checkpoint."""
    cfg_text: str = ""
    """Of an intact checkpoint, to check plain weights of its run with."""


@dataclass(frozen=True)
class Run:
    """The files of one NAME in a folder."""

    folder: str
    name: str
    files: tuple[Checked, ...]
    """Checkpoints first, as a start prefers them."""
    taken: str | None
    """The one that a start would take."""
    place: str
    """Where in the run that lies."""
    iteration: int | None
    refused: str = ""
    """Why a start would take none, where that does not follow from the files."""

    @property
    def status(self) -> int:
        """The exit status that belongs to this run."""
        if self.taken is None:
            return NOTHING_USABLE
        bad = any(file.condition in ("damaged", "foreign") for file in self.files)
        return SOME_DAMAGED if bad else INTACT


def verify(arguments: list[str], flags: Mapping[str, object], screen: Screen) -> int:
    """Check files and folders; return the exit status."""
    paths = [Path(argument) for argument in arguments]
    for path in paths:
        if not path.exists():
            raise UsageError(path, "no such file or folder", "a checkpoint, or a backup folder")
    tells = not flags.get("-json")
    files, runs = [], []
    for path in paths:
        if path.is_dir():
            for name in _names_in(path):
                runs.append(check_run(path, name))
                if tells:
                    _tell_run(runs[-1], screen)
        else:
            files.append(check_file(path))
            if tells:
                _tell_file(files[-1], screen)
    status = max([run.status for run in runs] + [_status_of_files(files)])
    if not tells:
        found = {
            "files": [_as_json(file) for file in files],
            "runs": [{**vars(run), "files": [_as_json(f) for f in run.files]} for run in runs],
            "status": status,
        }
        screen.json(found)
    return status


def _names_in(folder: Path) -> list[str]:
    try:
        names = run_names(folder)
    except OSError as error:
        raise CheckpointError(folder, f"cannot be read ({error.strerror})", "a folder") from error
    if not names:
        raise CheckpointError(folder, "holds no checkpoint", "the backup folder of a run")
    return names


def _status_of_files(files: list[Checked]) -> int:
    unusable = [file.condition in ("damaged", "unread") for file in files]
    if not any(unusable):
        return INTACT
    return NOTHING_USABLE if all(unusable) else SOME_DAMAGED


def check_run(folder: Path, name: str) -> Run:
    """Check all files of a run and find the one that a start would take."""
    order = candidates(folder, name).ordered
    checked = [check_file(path) for path in order]
    taken, strays, refused = _wanted_by_a_start(folder, name)
    good = next((file for file in checked if file.path == taken), None)
    others = sorted(set(run_files(folder, name)) - set(order))
    checked += [check_file(path, good) for path in others]
    files = [
        replace(file, condition="foreign", text=f"{strays[file.path]}; a start moves it aside")
        if file.path in strays and file.condition in ("intact", "plain")
        else file
        for file in checked
        if file.condition != "gone"
    ]
    if unread := [file.path for file in files if file.condition == "unread"]:
        good, refused = None, f"{unread[0]} cannot be read, and may be the newest"
    path, place, iteration = (good.path, good.text, good.iteration) if good else (None, "", None)
    files += _left(folder, name)
    return Run(str(folder), name, tuple(files), path, place, iteration, refused)


def _wanted_by_a_start(folder: Path, name: str) -> tuple[str | None, dict[str, str], str]:
    """Return the checkpoint that a start takes, what it does not want, or why it takes none."""
    if other := other_run(folder, name):
        found = f"the files of the run '{other}' in this folder could be taken for its own"
        return None, {}, found
    try:
        newest, rejected = newest_good(folder, name)
    except RelumeError as error:
        return None, {}, str(error)
    strays = {str(item.path): item.reason.removeprefix(f"{item.path}: ") for item in rejected}
    return str(newest.path) if newest else None, strays, ""


def check_file(path: Path, good: Checked | None = None) -> Checked:
    """Check one file; plain weights against the net of an intact checkpoint of their run."""
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return Checked(str(path), 0, "gone", "replaced meanwhile by the run that trains here")
    except OSError as error:
        condition = "damaged" if not_given(path, error) is None else "unread"
        return Checked(str(path), 0, condition, f"cannot be read ({error.strerror})")
    except RelumeError as error:
        return Checked(str(path), path.stat().st_size, _condition(error), error.found)
    size = len(data)
    try:
        if container.holds_state(data, path):
            state = container.unpack(data, path)
            cfg_text = state.recipe.cfg_text
            return Checked(str(path), size, "intact", state.place, state.iteration, cfg_text)
        header = parse_header(data, str(path))
    except RelumeError as error:
        return Checked(str(path), size, _condition(error), error.found)
    text = f"seen {header.seen}; plain weights have no digest"
    if good:
        arrays = layout(parse_cfg(good.cfg_text, "recipe/cfg", "detect"))
        expected = header.size_bytes + sum(array.size_bytes for array in arrays)
        if size != expected:
            text = f"plain weights of {size:,} bytes, where this run's net has {expected:,}"
            return Checked(str(path), size, "damaged", text)
        text += ", their length is right"
    return Checked(str(path), size, "plain", text)


def _condition(error: RelumeError) -> str:
    """Return what a file is that cannot be used."""
    return "damaged" if isinstance(error, (Damaged, WeightsError)) else "unread"


def _left(folder: Path, name: str) -> Iterator[Checked]:
    for path in temporaries(folder, name):
        try:
            size = path.lstat().st_size
        except FileNotFoundError:  # the run that trains here has renamed it meanwhile
            continue
        text = (
            "left by an interrupted write; a start deletes it, or moves it aside if relume did "
            "not write it"
        )
        yield Checked(str(path), size, "temporary", text)


def _as_json(file: Checked) -> dict[str, object]:
    return {key: value for key, value in asdict(file).items() if key != "cfg_text"}


def _tell_file(file: Checked, screen: Screen) -> None:
    screen.line(f"{file.condition:<9} {file.path}: {file.text} ({file.bytes:,} bytes)")


def _tell_run(run: Run, screen: Screen) -> None:
    for file in run.files:
        _tell_file(file, screen)
    if run.taken is not None:
        screen.line(f"a start of '{run.name}' takes {run.taken} ({run.place})")
    else:
        damaged = any(file.condition == "damaged" for file in run.files)
        none = "no checkpoint of it is intact" if damaged else "no file of it holds a state"
        reason = run.refused or none
        screen.line(f"a start of '{run.name}' takes none: {reason}")
