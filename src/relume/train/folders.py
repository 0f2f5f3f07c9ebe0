"""The backup folders of a group: who writes which, and that all begin with the same files.

Machines may share a folder or have one each. Of the processes that share one the first writes it,
as a run of one process would. At a start all folders get the files of the one that holds the
newest good state: each then holds what it would if it had been there from the beginning.
"""

import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from relume.checkpoint import container, course, storage
from relume.checkpoint.folder import (
    FoundCheckpoint,
    Rejected,
    claims_to_be_newer,
    iteration_in_name,
    newest_good,
    run_files,
    set_aside,
    token,
)
from relume.checkpoint.reading import not_given
from relume.checkpoint.state import TrainState
from relume.data.patience import Patience
from relume.distributed.group import LEADER, Group
from relume.errors import CheckpointError, Damaged, OtherRecipe
from relume.formats.places import open_regular
from relume.spec import RunSpec
from relume.train.best_file import look_after_best
from relume.train.given_weights import Say
from relume.train.one_start import shared_state

PIECE_BYTES = 64 << 20
"""What goes from one machine to the others at a time."""
TAIL_BYTES = 4096
"""The end of a file, by which it is told apart: that of a checkpoint has the digest of it all."""
Files = dict[str, list[Any]]
"""Name of a file -> its length in bytes and the digest of its end."""


@dataclass(frozen=True)
class Folders:
    """Which process writes the backup folder of each."""

    writers: tuple[int, ...]
    """Of every process: the first of those that share its folder."""

    @property
    def are_several(self) -> bool:
        """Whether there is more than one."""
        return len(set(self.writers)) > 1

    def has_writer(self, rank: int) -> bool:
        """Tell whether a process writes its folder."""
        return self.writers[rank] == rank


def met_folders(group: Group, spec: RunSpec) -> Folders:
    """Find out which processes share a folder: each sees the files that the others put in it.

    Not by its path or its disk: both may be the same on two machines that share nothing.

    Raises:
        StorageError: a folder cannot be made or written.
    """
    folder, name = spec.operation.backup, spec.operation.name
    storage.make_folder(folder)
    if group.size == 1:
        return Folders((0,))
    meeting = group.broadcast(f"{time.time_ns():x}".encode()).decode()  # in names never used before
    tokens = [token(folder, name, f"{meeting}.{rank}") for rank in range(group.rank + 1)]
    storage.write_replaceable(tokens[-1], ())
    try:
        group.gather(b"")
        first = next((rank for rank, path in enumerate(tokens) if path.exists()), group.rank)
        return Folders(tuple(map(int, group.gather(str(first).encode()))))
    finally:
        storage.remove(tokens[-1])


def bring_together(
    group: Group, folders: Folders, spec: RunSpec, allow_change: bool, patience: Patience, say: Say
) -> None:
    """Give every folder the files of the one with the newest good state, if there are several.

    Args:
        group: the processes, which do this together.
        folders: theirs; each is locked by its writer.
        spec: of the run.
        allow_change: whether a folder may hold what the run left by a change.
        patience: with a disk that does not give a checkpoint.
        say: takes a line for every decision a person should know about.
    Raises:
        OtherRecipe: a folder holds another run.
        Damaged: one holds nothing that can be used, and no other does.
        Unavailable, CheckpointError, StorageError: a file cannot be read or written.
    """
    if not folders.are_several:
        return
    folder, name = spec.operation.backup, spec.operation.name
    writes = folders.has_writer(group.rank)
    found: FoundCheckpoint | None = None
    rejected: list[Rejected] = []
    if writes:
        found, rejected = patience.until_available(lambda: newest_good(folder, name))
    held = _described(folder, name, found, rejected) if writes else None
    said = [json.loads(text) for text in group.gather(json.dumps(held).encode())]
    holders = [rank for rank, one in enumerate(said) if one and one["newest"]]
    holder = max(holders, key=lambda rank: (said[rank]["newest"], -rank), default=None)
    if held is not None and found is None:
        source = LEADER if holder is None else holder
        if rejected and holder is None and not group.leads:
            raise Damaged(
                folder,
                f"no checkpoint of '{name}' is intact ({rejected[0].reason})",
                "one to go on from, on any machine",
                "begin anew after `relume reset DATA CFG` there",
            )
        _check_foreign(folder, held["files"], said[source]["files"])
    if holder is None:
        return
    newest = said[holder]
    if any(said[rank]["digest"] != newest["digest"] for rank in holders):
        path = Path(newest["path"])
        data = b"".join(_pieces(group, holder, path, newest["size"]))
        if found is not None and group.rank != holder:
            _check_one_run(found, container.unpack(data, path), allow_change)
    for item in rejected:
        say(item.reason)
    if rejected:
        set_aside([item.path for item in rejected], folder, name, say)
    _make_alike(group, folders, spec, holder, say)


def one_beginning(
    group: Group, folders: Folders, spec: RunSpec, start: TrainState | None, say: Say
) -> TrainState:
    """Return the leader's state in every process, with every folder as the leader left its own.

    Args:
        group: the processes, which do this together.
        folders: theirs.
        spec: of the run.
        start: of the leader; the others give None.
        say: takes a line for every decision a person should know about.
    Raises:
        Damaged, StorageError: what the leader sends has not come, or cannot be written.
    """
    given = _make_alike(group, folders, spec, LEADER, say) if folders.are_several else {}
    state = shared_state(group, start)
    assert state is not None
    if folders.has_writer(group.rank) and not group.leads:
        _tidy_up(spec, given, state, say)
    return state


def _described(
    folder: Path, name: str, found: FoundCheckpoint | None, rejected: list[Rejected]
) -> dict[str, Any]:
    """Return what a writer says of its folder."""
    damaged = [item.path.name for item in rejected]
    files = {file: what for file, what in _listed(folder, name).items() if file not in damaged}
    if found is None:
        return {"newest": None, "files": files}
    state = found.state
    size, digest = files[found.path.name]
    return {
        "newest": [*state.reached, len(state.history.evaluations)],
        "path": str(found.path),
        "size": size,
        "digest": digest,
        "files": files,
    }


def _listed(folder: Path, name: str) -> Files:
    """Return the weights files of a run in a folder."""
    files: Files = {}
    for path in run_files(folder, name):
        try:
            with open_regular(path) as file:
                size_bytes = path.stat().st_size
                file.seek(max(0, size_bytes - TAIL_BYTES))
                files[path.name] = [size_bytes, xxhash.xxh3_128_hexdigest(file.read())]
        except OSError as error:
            if unread := not_given(path, error):
                raise unread from error
    return files


def _check_foreign(folder: Path, files: Files, of_source: Files) -> None:
    """See to it that nothing is overwritten in a folder without a checkpoint of the run."""
    foreign = [file for file, what in files.items() if of_source.get(file) != what]
    if foreign:
        raise OtherRecipe(
            folder,
            f"holds {foreign[0]} without training state, from another program or run",
            "an empty folder, or one of this run, on every machine",
            "move the files aside there with `relume reset DATA CFG`",
        )


def _check_one_run(found: FoundCheckpoint, newest: TrainState, allow_change: bool) -> None:
    """See to it that a folder holds the run whose newest state is another machine's.

    Raises:
        OtherRecipe: it holds another one.
    """
    one, parted = found.state, allow_change and course.parted_by_change(found.state, newest)
    if not (course.same_run(one, newest) or course.is_on_the_way(one, newest) or parted):
        raise OtherRecipe(
            found.path,
            f"belongs to another run, or another course of it, than the newest checkpoint of all "
            f"machines ({newest.place})",
            "one run in the backup folders of all",
            "`relume reset DATA CFG` there moves that run aside",
        )


def _make_alike(group: Group, folders: Folders, spec: RunSpec, source: int, say: Say) -> Files:
    """Give every folder the weights files of one of them; return those."""
    folder, name = spec.operation.backup, spec.operation.name
    files = _listed(folder, name) if folders.has_writer(group.rank) else None
    said = [json.loads(text) for text in group.gather(json.dumps(files).encode())]
    given: Files = said[source]
    others = [said[writer] for writer in set(folders.writers)]
    missing = [file for file, what in given.items() if any(o.get(file) != what for o in others)]
    # What a start looks at first comes last: until it is there, the folder is an older one.
    newest = (f"{name}.backup", f"{name}_last.weights")
    taken = []
    for file in sorted(missing, key=lambda file: (file in newest, file)):
        pieces = _pieces(group, source, folder / file, given[file][0])
        if files is None or files.get(file) == given[file]:
            deque(pieces, maxlen=0)
        else:
            storage.write_stream_durably(folder / file, pieces)
            taken.append(file)
    if taken:
        say(f"{folder}: gets from process {source}: {', '.join(taken)}")
    return given


def _pieces(group: Group, source: int, path: Path, size_bytes: int) -> Iterator[bytes]:
    """Yield a file of one process in all of them.

    Raises:
        Damaged: it has not come as it was sent.
        Unavailable, CheckpointError: it cannot be read.
    """
    hasher = xxhash.xxh3_128()
    gives = group.rank == source
    for begin in range(0, size_bytes, PIECE_BYTES):
        piece = group.broadcast(_read(path, begin) if gives else b"", source)
        hasher.update(piece)
        yield piece
    if group.broadcast(hasher.digest() if gives else b"", source) != hasher.digest():
        raise Damaged(
            path,
            f"has not come to process {group.rank} as process {source} sent it",
            "the same bytes",
            "test the network and the memory of both machines",
        )


def _read(path: Path, begin: int) -> bytes:
    try:
        with open_regular(path) as file:
            file.seek(begin)
            return file.read(PIECE_BYTES)
    except OSError as error:
        unread = not_given(path, error)
        raise unread or CheckpointError(path, f"is gone ({error.strerror})") from error


def _tidy_up(spec: RunSpec, given: Files, state: TrainState, say: Say) -> None:
    """Take away what a folder has beside the leader's files, and an uninterrupted run has not."""
    folder, name = spec.operation.backup, spec.operation.name
    copies = [iteration_in_name(Path(file)) for file in given if file.endswith(".backup")]
    aside = []
    for path in run_files(folder, name):
        if path.name in given:
            continue
        if path.suffix == ".backup" and 0 < iteration_in_name(path) < max(copies, default=0):
            storage.remove(path)  # the second copy of an older milestone
        elif claims_to_be_newer(path, state.reached):
            aside.append(path)
    if aside:
        set_aside(aside, folder, name, say)
    if spec.recipe.evaluations is not None:
        look_after_best(folder, name, state, folder / f"{name}_last.weights", say)
