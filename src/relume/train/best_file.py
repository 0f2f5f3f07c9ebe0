"""NAME_best.weights when a run goes on: it must be the state that the history calls the best.

The file is durable before any checkpoint that names it, so after an interruption it is there.
It can be missing where a checkpoint was copied without it, where a run was taken back, or where
a disk has damaged it. Then only a milestone of that very iteration holds the same bytes.
"""

from collections.abc import Callable
from pathlib import Path

from relume.checkpoint import container, course, storage
from relume.checkpoint.evaluations import best_of, comparable, is_best
from relume.checkpoint.folder import run_files
from relume.checkpoint.state import Measured, TrainState
from relume.errors import RelumeError

Say = Callable[[str], None]


def look_after_best(folder: Path, name: str, state: TrainState, say: Say) -> None:
    """See to it that the file of the best mAP is the state's, or say that it is gone.

    Args:
        folder: of the run, locked.
        name: of the run.
        state: from which the run goes on.
        say: takes a line for every decision a person should know about.
    """
    best = best_of(comparable(state))
    if best is None or is_best(state):
        return  # the keeper writes the second
    path = folder / f"{name}_best.weights"
    trouble = _trouble(path, best, state)
    if trouble is None:
        return
    what = f"the best mAP, {100 * best.map:.2f} % after iteration {best.iteration}"
    for other in run_files(folder, name):
        if other != path and _trouble(other, best, state) is None:
            say(f"{path}: {trouble}; made again from {other}: {what}")
            _set_aside(path, folder, name, say)
            storage.write_durably(path, other.read_bytes())
            return
    say(
        f"{path}: {trouble}; it held {what}, which stays the one to beat. Put a copy of it back, "
        "or `relume rewind` to a checkpoint before that iteration, which leads to it again"
    )
    _set_aside(path, folder, name, say)


def _set_aside(path: Path, folder: Path, name: str, say: Say) -> None:
    if path.exists():
        target = storage.move_aside([path], folder / f"{name}.aside")
        say(f"moved to {target}: {path.name}")


def _trouble(path: Path, best: Measured, state: TrainState) -> str | None:
    """Return why a file is not the state that was measured as the best; None: it is."""
    try:
        data = path.read_bytes()
        if not container.holds_state(data, path):
            return "holds no training state"
        found = container.unpack(data, path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except RelumeError as error:
        return error.found
    evaluations = found.history.evaluations
    is_it = bool(evaluations) and evaluations[-1] == best and found.reached == (best.iteration, 0)
    if is_it and course.is_on_the_way(found, state):
        return None
    return f"holds another state ({found.place})"
