"""The checkpoints in a backup folder: what they are called, what they claim, which is newest.

Not covered: which of them are written when; that is `keeper.py`.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from relume.checkpoint import container, course, storage
from relume.checkpoint.archive import Malformed
from relume.checkpoint.reading import claims_state, not_given, read_checkpoint
from relume.checkpoint.state import TrainState
from relume.errors import CheckpointError, Damaged, OtherRecipe, RelumeError, WeightsError
from relume.formats.places import open_regular

MOST_NAMED = 20
"""Files that one line names."""
UNREADABLE = sys.maxsize
"""The iterations that a file claims whose manifest cannot be read: more than any other."""


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint that was read and verified."""

    path: Path
    state: TrainState


@dataclass(frozen=True)
class Rejected:
    """A file under a checkpoint's name that cannot be used, and why."""

    path: Path
    reason: str
    unread: RelumeError | None = None
    """It may be good: the disk does not give its bytes, and this is to be raised."""


def run_files(folder: Path, name: str) -> list[Path]:
    """Return all weights files of the run `name` in `folder`, sorted by name."""
    return [path for path in listed(folder) if is_run_file(path.name, name)]


def is_run_file(file: str, name: str) -> bool:
    """Tell whether a weights file of the run `name` may be called `file`."""
    return _pattern(name).fullmatch(file) is not None


def listed(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted by name; nothing if there is none.

    Raises:
        CheckpointError: it cannot be looked into.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(
            folder,
            f"cannot be looked into ({error.strerror})",
            "a folder that can be read",
            "give yourself the right to, or choose another backup= in the data file",
        ) from error


def token(folder: Path, name: str, of: str) -> Path:
    """Return the path of a file that only shows who reaches a folder."""
    return folder / f"{storage.temporary_prefix(name)}{of}{storage.TEMPORARY}"


def set_aside(paths: list[Path], folder: Path, name: str, say: Callable[[str], None]) -> Path:
    """Move files of a run out of the way, into a folder of their own, and report it."""
    target = storage.move_aside(paths, folder / f"{name}.aside")
    if paths:
        more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
        say(f"moved to {target}: {', '.join(path.name for path in paths[:MOST_NAMED])}{more}")
    return target


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(name)}(_(\d+|last|best|final)\.weights|(_\d+)?\.backup)")


def iteration_in_name(path: Path) -> int:
    """Return ITER of NAME_ITER.weights or NAME_ITER.backup, else -1."""
    match = re.search(r"_(\d+)\.(weights|backup)$", path.name)
    return int(match[1]) if match else -1


@dataclass(frozen=True)
class Candidates:
    """The files that a start looks at, by what they say about themselves."""

    ordered: tuple[Path, ...]
    """Checkpoints, the one that claims to be newest first; at equal claims `_last` first."""
    last: Path
    """NAME_last.weights."""
    unreadable: tuple[Rejected, ...]
    """Files that cannot be read, or are not even weights files."""
    foreign_last: tuple[Rejected, ...]
    """A `_last` without state. Beside a good checkpoint it is foreign, or damaged at both ends."""


def candidates(folder: Path, name: str) -> Candidates:
    """Return what a start would look at, without verifying anything.

    Plain weights files (`_final`, Darknet's own) hold no state and do not count.
    """
    last = folder / f"{name}_last.weights"
    unreadable: list[Rejected] = []
    foreign_last: list[Rejected] = []
    claims = []
    for path in run_files(folder, name):
        try:
            claim = _claim(path)
        except (RelumeError, OSError) as error:
            unreadable.append(_rejected(path, error))
            continue
        if claim is not None:
            claims.append((claim, path == last, path))
        elif path == last:
            foreign_last.append(Rejected(path, f"{path}: holds no training state"))
    ordered = tuple(path for _, _, path in sorted(claims, reverse=True))
    return Candidates(ordered, last, tuple(unreadable), tuple(foreign_last))


def newest_good(folder: Path, name: str) -> tuple[FoundCheckpoint | None, list[Rejected]]:
    """Return the newest intact checkpoint of the run, and the damaged files met on the way.

    `_last` is looked at in any case: the next save would let it replace `NAME.backup`. What is
    ahead of it must come from it. A `_best` that does not is rejected; so is one beside the
    newest other checkpoint, where `_last` is not intact.

    Raises:
        Unavailable, CheckpointError: the disk does not give a file, there is not enough memory for
            it, or a later version of relume has written it: it may be the newest good one. That
            is no damage, and nothing older may be taken for it.
        OtherRecipe: the folder holds checkpoints of two runs, and nobody knows which is meant.
    """
    files = candidates(folder, name)
    rejected = list(files.unreadable)
    best = folder / f"{name}_best.weights"
    good: list[FoundCheckpoint] = []
    for path in files.ordered:
        beside_best = len(good) == 1 and good[0].path == best
        if good and path != files.last and not beside_best:
            continue
        try:
            good.append(FoundCheckpoint(path, read_checkpoint(path)))
        except (Damaged, WeightsError, OSError) as error:
            rejected.append(_rejected(path, error))
            continue
        if good[0].path == best and len(good) > 1 and not _leads_to(good[-1], good[0]):
            rejected.append(Rejected(best, not_of_this_run(good[0], good[-1])))
            del good[0]
    for item in rejected:
        if item.unread is not None:
            raise item.unread
    if not good:
        return None, rejected
    newest, oldest = good[0], good[-1]
    if oldest.path == files.last and not _leads_to(oldest, newest):
        raise OtherRecipe(
            newest.path,
            f"{newest.state.place} does not come from {oldest.state.place} of {oldest.path}",
            "the checkpoints of one run",
            f"two runs are called '{name}' here: move the files of one of them away",
        )
    return newest, rejected + list(files.foreign_last)


def _leads_to(older: FoundCheckpoint, newer: FoundCheckpoint) -> bool:
    """Tell whether training led from one to the other, be it through an allowed change."""
    one, other = older.state, newer.state
    begun = one.iteration > one.history.start  # else the histories do not tell
    return course.same_run(one, other) or (begun and course.is_on_the_way(one, other))


def not_of_this_run(stray: FoundCheckpoint, other: FoundCheckpoint) -> str:
    """Say that a checkpoint does not come from another one, which is of the run."""
    return f"{stray.path}: holds {stray.state.place} of another run than {other.path}"


def _rejected(path: Path, error: RelumeError | OSError) -> Rejected:
    if not isinstance(error, OSError):
        return Rejected(path, str(error))
    unread = not_given(path, error)
    return Rejected(path, str(unread or f"{path}: {error.strerror or error}"), unread)


def claimed_position(path: Path) -> tuple[int, int] | None:
    """Return what a checkpoint says it holds: iterations done, and subdivisions of the next.

    It is read without verifying the file. Not `seen`, which an allowed change of `batch` sets
    back. None: a plain weights file. A file whose manifest cannot be read claims to be newer
    than any, so that it is looked at.

    Raises:
        WeightsError: not even a weights file.
        OSError: the disk does not give it.
    """
    claim = _claim(path)
    return claim and claim[:2]


def claims_to_be_newer(path: Path, reached: tuple[int, int]) -> bool:
    """Tell whether a weights file may be newer than a state of its run.

    Raises:
        Unavailable, CheckpointError: the disk does not give it.
    """
    try:
        claimed = claimed_position(path)
    except WeightsError:
        return True
    except OSError as error:
        if unread := not_given(path, error):
            raise unread from error
        return True
    # Plain files (_final) do not tell their course; the run makes its own.
    return claimed is None or claimed > reached


def _claim(path: Path) -> tuple[int, int, int] | None:
    """Return the claimed position, and how many evaluations have been done."""
    with open_regular(path) as file:
        return _claim_in(file, path)


def claimed_iteration(file: BufferedReader, path: Path) -> int | None:
    """Return how many iterations an open checkpoint says it holds; as `claimed_position`."""
    claim = _claim_in(file, path)
    return claim and claim[0]


def _claim_in(file: BufferedReader, path: Path) -> tuple[int, int, int] | None:
    if not claims_state(file, path):
        return None
    try:
        manifest = container.read_manifest_of(file)
    except Malformed:  # no manifest of ours: the start looks at the file, and says why
        return UNREADABLE, 0, 0
    except OSError as error:
        if not_given(path, error):
            raise
        return UNREADABLE, 0, 0  # a damaged file leads nowhere
    return manifest["iteration"], manifest.get("subdivision", 0), manifest.get("evaluations", 0)


def run_of(path: Path) -> str | None:
    """Return NAME of a checkpoint's file name; None: no checkpoint is called like that."""
    longer = path.name.removesuffix(".backup")  # of X_1.backup: X_1, if there is such a run
    if (path.parent / f"{longer}_last.weights").exists():
        return longer
    match = re.fullmatch(r"(.+?)(_\d+\.weights|_(last|best)\.weights|(_\d+)?\.backup)", path.name)
    return match and match[1]


def run_names(folder: Path) -> list[str]:
    """Return the names of the runs that have a file in `folder` called like a checkpoint."""
    return sorted({name for path in listed(folder) if (name := run_of(path))})


def other_run(folder: Path, name: str) -> str | None:
    """Return the name of a run in `folder` whose files could be taken for those of `name`.

    `yolo_100.backup` is the newest milestone of `yolo`, and the generation before the last
    of `yolo_100`.
    """
    for path in listed(folder):
        match = re.fullmatch(r"(.+?)(_last\.weights|\.journal\.jsonl)", path.name)
        if match and re.fullmatch(r"_\d+", match[1].removeprefix(name)):
            return match[1]
        if match and re.fullmatch(r"_\d+", name.removeprefix(match[1])):
            return match[1]
    return None
