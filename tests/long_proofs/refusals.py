"""A disk that refuses the n-th operation, for every n: once, or from then on.

The last good checkpoint survives, training goes on, one line says so, and the same command
leads to the files of an undisturbed run as soon as the disk works again.
"""

import errno
from collections import Counter
from pathlib import Path

import pytest

from relume.checkpoint import storage
from relume.checkpoint.folder import newest_good
from relume.checkpoint.own_files import remove_temporaries
from relume.errors import StorageError
from tests.checkpoint.faults import Faults, Passing
from tests.long_proofs.disk_model import Recorder
from tests.long_proofs.piece import Outcome, Piece, folder_in_memory
from tests.long_proofs.power_cuts import Wrap, generations, go_on, packed, undisturbed

BEGUN = 4
ERRORS = (errno.EIO, errno.ENOSPC)
PARTS = 2
MOST_FAILURES = 20


def refused(
    folder: Path, fails_at: int, error: int, lasting: bool, keepstate: int | None, wrap: Wrap
) -> tuple[list[str], bool]:
    """Let the n-th operation fail; return what went wrong, and whether there was an n-th."""
    wrong = []
    for name, data in generations(BEGUN).items():
        (folder / name).write_bytes(data)
    recorder = Recorder(folder)
    recorder.mark("saved", BEGUN)
    faults = Faults(fails_at, error, lasting, wrap(recorder))
    said: list[str] = []
    ended = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "DISK", faults)
        try:
            with storage.locked(folder, "net"):
                go_on(folder, BEGUN, keepstate, recorder, said)
        except StorageError:
            ended = True  # at the end of a run, where a save that fails cannot be made up for
    struck = 0 < fails_at <= len(faults.operations)
    promised = max(op.iteration for op in recorder.operations if op.kind == "saved")
    lines = Counter(line.partition(" at ")[0] for line in said)
    if lines["not saved"] > 1 or lines.keys() - {"not saved", "saved again"}:
        wrong.append(f"said {said}")
    if struck and not said and not ended and not _may_be_ignored(faults.operations[fails_at - 1]):
        wrong.append("nothing was said")

    (folder / "net.lock").unlink()
    remove_temporaries(folder, "net", pytest.fail)
    found, rejected = newest_good(folder, "net")
    if rejected:
        wrong.append(f"damaged: {[item.path.name for item in rejected]}")
    if found is None or found.state.iteration < promised:
        return [*wrong, f"{promised} is lost"], struck
    if found.path.read_bytes() != packed(found.state.iteration):
        wrong.append(f"{found.path.name} holds other bytes")
    go_on(folder, found.state.iteration, keepstate)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    expected = undisturbed(keepstate)
    names = sorted(files.keys() | expected.keys())
    wrong += [f"{name} differs" for name in names if files.get(name) != expected.get(name)]
    return wrong, struck


def _may_be_ignored(operation: str) -> bool:
    """Tell whether nothing is lost by an operation that fails: a temporary name stays."""
    return operation == "unlink"


def prove(
    folder: Path, keepstate: int | None, part: int, parts: int, wrap: Wrap = Passing
) -> Outcome:
    """Let every `parts`-th operation fail, with every error, once and for good."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for error in ERRORS:
        for lasting in (False, True):
            fails_at, struck = part + 1, True
            while struck and len(failures) < MOST_FAILURES:
                with folder_in_memory() as memory:
                    wrong, struck = refused(memory, fails_at, error, lasting, keepstate, wrap)
                counts["refusals"] += struck
                what = f"{errno.errorcode[error]} {'for good' if lasting else 'once'}"
                failures += [f"{what}, operation {fails_at}: {text}" for text in wrong]
                fails_at += parts
    return Outcome(dict(counts), tuple(failures))


def pieces(seed: int) -> list[Piece]:
    """Return the long form."""
    return [
        Piece(
            "refusals", f"keepstate {keepstate} {part + 1}/{PARTS}", prove, (keepstate, part, PARTS)
        )
        for keepstate in (None, 1)
        for part in range(PARTS)
    ]
