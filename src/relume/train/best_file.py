"""NAME_best.weights when a run goes on: it must be the state that the history calls the best.

The file is durable before any checkpoint that names it, so after an interruption it is there.
It can be missing where a checkpoint was copied without it, where a run was taken back, or where
a disk has damaged it. Then only a milestone of that very iteration holds the same bytes.
"""

from collections.abc import Callable
from pathlib import Path

from relume.checkpoint import course, storage
from relume.checkpoint.evaluations import best_of, comparable, is_best
from relume.checkpoint.folder import run_files, set_aside
from relume.checkpoint.reading import claims_state, not_given, read_bytes, read_checkpoint
from relume.checkpoint.state import Measured, TrainState
from relume.errors import Damaged, WeightsError
from relume.formats.places import open_regular

Say = Callable[[str], None]


def look_after_best(folder: Path, name: str, state: TrainState, start: Path, say: Say) -> None:
    """See to it that the file of the best mAP is the state's, or say that it is gone.

    A file of that name that this run has not written is moved aside, never replaced.

    Args:
        folder: of the run, locked.
        name: of the run.
        state: from which the run goes on.
        start: the checkpoint that holds it.
        say: takes a line for every decision a person should know about.
    Raises:
        Unavailable, CheckpointError: nobody knows what is in the file; nothing has been moved.
    """
    path = folder / f"{name}_best.weights"
    best = None if is_best(state) else best_of(comparable(state))
    found = _read(path)
    trouble = found if isinstance(found, str) else _trouble(found, best, state)
    if trouble is None or (best is None and not path.exists()):
        return
    if path.exists() and path.resolve() == start.resolve():
        last = folder / f"{name}_last.weights"
        storage.write_durably(last, read_bytes(path), previous=folder / f"{name}.backup")
        trouble += f", from which the run goes on, and is {last.name} now"
    if best is None:
        say(f"{path}: {trouble}; it is not the best of this run")
    else:
        what = f"the best mAP, {100 * best.map:.2f} % after iteration {best.iteration}"
        if other := _holding(best, state, folder, name):
            say(f"{path}: {trouble}; made again from {other}: {what}")
            _keep_aside(path, folder, name, say)
            storage.write_durably(path, read_bytes(other))
            return
        say(
            f"{path}: {trouble}; it held {what}, which stays the one to beat. Put a copy of it "
            "back, or `relume rewind` to a checkpoint before that iteration, which leads to it "
            "again"
        )
    _keep_aside(path, folder, name, say)


def _holding(best: Measured, state: TrainState, folder: Path, name: str) -> Path | None:
    """Return another file of the run that holds the state of the best mAP."""
    for path in run_files(folder, name):
        found = _read(path)
        if isinstance(found, TrainState) and _trouble(found, best, state) is None:
            return path
    return None


def _keep_aside(path: Path, folder: Path, name: str, say: Say) -> None:
    if path.exists():
        set_aside([path], folder, name, say)


def _read(path: Path) -> TrainState | str:
    """Return the state in a file, or why there is none.

    Raises:
        Unavailable, CheckpointError: the disk does not give it, or a later version wrote it.
    """
    try:
        with open_regular(path) as file:
            if not claims_state(file, path):
                return "holds no training state"
        return read_checkpoint(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        if unread := not_given(path, error):
            raise unread from error
        return f"cannot be read ({error.strerror})"
    except (Damaged, WeightsError) as error:
        return error.found


def _trouble(found: TrainState, best: Measured | None, state: TrainState) -> str | None:
    """Return why a state is not the one that was measured as the best; None: it is.

    Where there is no best yet, or `state` is it, any that the run was in will be replaced.
    """
    if not course.is_on_the_way(found, state):
        return f"holds {found.place} of another run"
    evaluations = found.history.evaluations
    is_it = (
        bool(evaluations)
        and evaluations[-1] == best
        and found.reached == (evaluations[-1].iteration, 0)
    )
    return None if best is None or is_it else f"holds {found.place}"
