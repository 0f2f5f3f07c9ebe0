"""A training's hold on its backup folder: the lock, NAME.log, and what is written as it goes on.

In a group of processes each folder has a process that holds it so.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from relume.checkpoint import storage
from relume.checkpoint.guarantees import missing_guarantees
from relume.checkpoint.keeper import Keeper
from relume.checkpoint.own_files import keep_foreign_aside, remove_temporaries
from relume.checkpoint.state import TrainState
from relume.commands.watcher import write_chart
from relume.control_characters import escape_controls
from relume.errors import LockLost, RelumeError, StorageError
from relume.spec import Operation, RunSpec
from relume.train.evaluation import is_finished
from relume.train.journal import Journal
from relume.train.loop import Live, Stop, Watch, train

Note = Callable[[str], None]
"""Takes one line of text."""


@contextmanager
def held_folder(operation: Operation, tell: Note) -> Iterator[tuple[Note, Note]]:
    """Hold the backup folder of a run.

    Args:
        operation: of the run; the folder exists.
        tell: takes a line for the person.
    Yields:
        What takes a line for the person and for NAME.log, and what takes one for that alone.
    Raises:
        Locked: another process holds it.
        LockLost: as long as it is held so, from whatever changes a file in it.
    """
    folder, name = operation.backup, operation.name
    log = folder / f"{name}.log"
    with storage.locked(folder, name) as lock:
        keep_foreign_aside(log, name, lambda head: True, tell)
        with _log(log) as note:

            def say(text: str) -> None:
                tell(text)
                note(text)

            remove_temporaries(folder, name, say)
            for lack in missing_guarantees(lock):
                say(f"{folder}: the file system {lack}")
            yield say, note


def keeper_of(operation: Operation, say: Note) -> Keeper:
    """Return what saves a run as its operation says."""
    return Keeper(
        operation.backup,
        operation.name,
        operation.savelast,
        operation.saveweights,
        say,
        operation.keepstate,
        operation.savebudget_gb,
    )


def written(
    spec: RunSpec, live: Live, stop: Stop, keeper: Keeper, watch: Watch, say: Note
) -> TrainState:
    """Train, and write all that a run leaves; return the last state.

    Args:
        spec: of the run.
        live: begun; the training takes it over.
        stop: ends the training early.
        keeper: of the run; it is closed.
        watch: told about every iteration and evaluation.
        say: takes a line for the person.
    Raises:
        StorageError: a file of a finished run could not be written.
    """
    folder, name = spec.operation.backup, spec.operation.name
    path = folder / f"{name}.journal.jsonl"
    with closing(keeper), closing(Journal(path, live.state.history, say)) as journal:
        end = train(spec, live, keeper, journal, stop, watch)
    try:
        write_chart(spec, end)
    except StorageError as error:
        if is_finished(spec.recipe, end):
            raise
        say(f"saved, but without the chart: {error}")
    return end


@contextmanager
def _log(path: Path) -> Iterator[Note]:
    """Give a function that adds a line to NAME.log; nothing depends on that file.

    A disk that refuses its lines therefore ends no run.
    """
    file: storage.AppendFile | None = None
    with suppress(StorageError):
        file = storage.AppendFile(path)

    def note(text: str) -> None:
        with suppress(StorageError):
            if file is not None:
                file.append(escape_controls(text))

    try:
        yield note
    except RelumeError as error:
        with suppress(LockLost):
            note(f"error: {error}")
        raise
    finally:
        with suppress(StorageError):
            if file is not None:
                file.close()
