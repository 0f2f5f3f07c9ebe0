"""Which files in a backup folder a run made itself: what it may delete, cut and append to.

Whatever else lies under a name that the run needs is moved aside.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from relume.checkpoint import storage
from relume.checkpoint.folder import is_run_file, listed, run_files, set_aside
from relume.formats.places import open_regular
from relume.formats.weights import RELUME_REVISION, format_header

HEAD_BYTES = 64
WEIGHTS_HEAD = format_header(0, RELUME_REVISION)[:12]
"""Its revision only relume writes."""
JOURNAL_BEGINNINGS = (b'{"iteration":', b'{"mark":', b'{"map":')
LOCK_TEXT = re.compile(rb"process \d+\n.*", re.DOTALL)


def remove_temporaries(folder: Path, name: str, say: Callable[[str], None]) -> None:
    """Delete what interrupted writes of this run left behind; the run is locked.

    Earlier versions wrote to names that a user may have given: NAME_last.weights.tmp. A file of
    such a name is deleted if its contents show that relume wrote it, else moved aside.
    """
    aside = []
    for path in temporaries(folder, name):
        if _is_left_by_relume(path, name):
            storage.remove(path)
        else:
            aside.append(path)
    if aside:
        set_aside(aside, folder, name, say)


def temporaries(folder: Path, name: str) -> list[Path]:
    """Return what interrupted writes of this run may have left behind, sorted by name."""
    others = {f"{name}.journal.jsonl", f"chart_{name}.png", "chart.png"}
    return [
        path
        for path in listed(folder)
        if path.suffix == storage.TEMPORARY
        and (
            path.name.startswith((storage.temporary_prefix(name), f"{name}.lock."))
            or path.stem in others
            or is_run_file(path.stem, name)
        )
    ]


def keep_foreign_aside(
    path: Path, name: str, is_ours: Callable[[bytes], bool], say: Callable[[str], None]
) -> None:
    """See to it that `path` is a file of this run, or not there.

    Args:
        path: of a file that is to be cut or appended to, in the folder of the run.
        name: of the run.
        is_ours: tells by the first HEAD_BYTES of a file whether the run made it.
        say: takes a line if something is moved aside.
    """
    what = _foreign(path, is_ours)
    if what is not None:
        say(f"{path}: {what}; another file takes its place")
        set_aside([path], path.parent, name, say)


def replace_own(
    path: Path, name: str, data: bytes, is_ours: Callable[[bytes], bool], say: Callable[[str], None]
) -> None:
    """Make a file of this run again; whatever else lies at `path` is moved aside.

    The old file is moved away before it is looked at, and the new one replaces nothing: a file
    that somebody puts there between two steps is not lost.

    Raises:
        StorageError: the disk refuses.
    """
    aside = path.parent / f"{name}.aside"
    while not storage.write_new_durably(path, data):
        is_new = not os.path.lexists(aside)
        moved = storage.move_aside([path], aside) / path.name
        what = _foreign(moved, is_ours)
        if what is None:
            storage.remove_folder(aside if is_new else moved.parent)
        else:
            say(f"{path}: {what}; another file takes its place; it is {moved} now")


def _foreign(path: Path, is_ours: Callable[[bytes], bool]) -> str | None:
    """Describe what lies at `path`; None: a file of this run, nothing, or nothing to be known."""
    try:
        status = path.lstat()
        if S_ISREG(status.st_mode) and status.st_nlink <= 1:
            return None if is_ours(_head(path)) else "holds a text that relume did not write"
    except OSError:
        return None  # whoever opens it reports why it cannot be reached
    if S_ISREG(status.st_mode):
        return "is a hard link, so another file would change with it"
    return "is a link, a folder, a pipe or a device"


def begins_a_journal(head: bytes) -> bool:
    """Tell whether a journal of relume begins so; a power cut may leave zeros, or nothing."""
    begins = any(head.startswith(text[: len(head)]) for text in JOURNAL_BEGINNINGS)
    return begins or not head.strip(b"\0")


def _is_left_by_relume(path: Path, name: str) -> bool:
    """Tell whether an interrupted write left this file."""
    try:
        status = path.lstat()
    except OSError:
        return True  # gone meanwhile
    if path.name.startswith(storage.temporary_prefix(name)):
        return not S_ISDIR(status.st_mode)
    if not S_ISREG(status.st_mode):
        return False
    if status.st_nlink > 1:  # a second name for the generation before, or for the lock file
        named = [*run_files(path.parent, name), path.with_name(f"{name}.lock")]
        return any(other.exists() and other.samefile(path) for other in named)
    try:
        head = _head(path)
    except OSError:
        return False
    if path.stem == f"{name}.journal.jsonl":
        return begins_a_journal(head)
    return not head or head.startswith(WEIGHTS_HEAD) or bool(LOCK_TEXT.fullmatch(head))


def _head(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(HEAD_BYTES)
