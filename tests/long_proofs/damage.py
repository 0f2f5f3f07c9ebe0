"""Damage: whatever happens to the bytes of a checkpoint is noticed, and an older one is taken.

Every damaged file is given to both ways into a run: as the newest checkpoint of a folder, where
the one before it must be found, and as WEIGHTS, where it must be refused.
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from relume.checkpoint import container
from relume.checkpoint.container import holds_state, pack
from relume.checkpoint.contents import COMMENT, DIGEST_BYTES, MANIFEST
from relume.checkpoint.folder import newest_good, run_files
from relume.checkpoint.state import Mark, TrainState
from relume.errors import OtherRecipe, RelumeError
from relume.formats.cfg import parse_cfg
from relume.formats.weights import layout
from tests.checkpoint.states import BATCH, history_of, inside, tiny_state, with_adam
from tests.contract.small_runs import start_of, train_until
from tests.contract.starts import contents, small_run
from tests.long_proofs.piece import Outcome, Piece, draws_of, folder_in_memory

BLOCK = 512
HEADER_BYTES = 20
LOCAL_HEADER_BYTES, CENTRAL_HEADER_BYTES, END_BYTES = 30, 46, 22
"""Of a ZIP archive, without names and comments."""
MOST_FAILURES = 20
FLIPS = 30_000
"""Of one file, at least; all those of header, manifest and end are among them."""

Damaged = tuple[str, bytes]
"""What was done to a file, and its bytes afterwards."""


def _with_history(state: TrainState) -> TrainState:
    marks = (Mark(2, "environment", "threads 1 -> 2"),)
    iteration = state.iteration + 65
    progress = replace(state.progress, seen=BATCH * iteration)
    return replace(state, history=history_of(iteration, marks), progress=progress)


FILES: dict[str, Callable[[TrainState], TrainState]] = {
    "sgd": lambda state: state,
    "adam": with_adam,
    "partial": inside,
    "history": _with_history,
}
"""Checkpoints of several contents, made from a small state."""


def two_generations(kind: str) -> tuple[bytes, bytes]:
    """Return a checkpoint of this kind and the one before it."""
    newest, before = (pack(FILES[kind](tiny_state(iteration))) for iteration in (5, 4))
    return newest, before


class Readers:
    """Both ways into a run, for a file under the name of the newest checkpoint."""

    def __init__(self, folder: Path, before: bytes) -> None:
        self._folder = folder
        self._last = folder / "net_last.weights"
        self._before = container.unpack(before, "net.backup").iteration
        (folder / "net.backup").write_bytes(before)

    def let_pass(self, data: bytes) -> str | None:
        """Return which way let a damaged file pass, or None."""
        self._last.write_bytes(data)
        found, rejected = newest_good(self._folder, "net")
        if (
            found is None
            or found.path.name != "net.backup"
            or found.state.iteration != self._before
        ):
            return f"taken: {found and (found.path.name, found.state.iteration)}"
        if [item.path for item in rejected] != [self._last]:
            return "not rejected by name"
        try:
            # What holds no state would be given on as plain weights, whose length is checked.
            if holds_state(data, "x"):
                container.unpack(data, "x")
                return "accepted as WEIGHTS"
        except RelumeError:
            return None
        return "taken for plain weights"


def checked(readers: Readers, name: str, damaged: Iterator[Damaged]) -> Outcome:
    """Give damaged files to the readers, until there are none or too many have passed."""
    count = 0
    failures: list[str] = []
    for what, data in damaged:
        count += 1
        if passed := readers.let_pass(data):
            failures.append(f"{what}: {passed}")
        if len(failures) == MOST_FAILURES:
            break
    return Outcome({name: count}, tuple(failures))


def flips(data: bytes, bits: Iterator[int]) -> Iterator[Damaged]:
    """Yield the file with one bit flipped."""
    damaged = bytearray(data)
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit % 8} of byte {bit // 8:,}", bytes(damaged)
        damaged[bit // 8] ^= 1 << bit % 8


def bits_of_the_frame(data: bytes) -> set[int]:
    """Return all bits of header, manifest, central directory and end."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    info = archive.getinfo(MANIFEST)
    manifest = range(info.header_offset, _contents_at(info) + info.file_size)
    places = [*range(HEADER_BYTES), *manifest, *range(archive.start_dir, len(data))]
    return {8 * place + bit for place in places for bit in range(8)}


def _contents_at(info: zipfile.ZipInfo) -> int:
    return info.header_offset + LOCAL_HEADER_BYTES + len(info.filename.encode())


def drawn_bits(data: bytes, count: int, draws: np.random.Generator) -> Iterator[int]:
    """Yield so many bits without repetition, those of the frame first where all of them fit."""
    frame = np.array(sorted(bits_of_the_frame(data)))
    rest = np.setdiff1d(np.arange(8 * len(data)), frame)
    every = np.concatenate([frame, draws.permutation(rest)])
    if count < len(frame):
        every = draws.permutation(every)
    yield from every[:count].tolist()


def boundaries(data: bytes, state: TrainState) -> set[int]:
    """Return where the parts of a checkpoint begin and end: layers, entries, directory, end."""
    places = {HEADER_BYTES, len(data), len(data) - DIGEST_BYTES}
    offset = HEADER_BYTES
    for spec in layout(parse_cfg(state.recipe.cfg_text, "net.cfg", "train")):
        offset += spec.size_bytes
        places.add(offset)
    archive = zipfile.ZipFile(io.BytesIO(data))
    central = archive.start_dir
    for info in archive.infolist():
        contents = _contents_at(info)
        places |= {info.header_offset, contents, contents + info.file_size, central}
        central += CENTRAL_HEADER_BYTES + len(info.filename.encode()) + len(info.extra)
    assert central == len(data) - DIGEST_BYTES - len(COMMENT) - END_BYTES
    return places | {central, central + END_BYTES}


def truncations(data: bytes, places: set[int]) -> Iterator[Damaged]:
    """Yield the file cut at every 512 bytes, and one byte around every boundary."""
    lengths = {*range(0, len(data), BLOCK), *range(64)}
    lengths |= {place + step for place in places for step in (-1, 0, 1)}
    for length in sorted(length for length in lengths if length < len(data)):
        yield f"cut to {length:,} bytes", data[:length]


def shifts(data: bytes, places: set[int]) -> Iterator[Damaged]:
    """Yield the file with a byte missing, doubled, or put in, around every boundary."""
    around = {place + step for place in places for step in (-1, 0, 1)}
    for place in sorted(place for place in around if 0 <= place < len(data)):
        yield f"byte {place:,} missing", data[:place] + data[place + 1 :]
        yield f"byte {place:,} doubled", data[: place + 1] + data[place:]
        yield f"a zero before byte {place:,}", data[:place] + b"\0" + data[place:]


def moved_blocks(data: bytes, before: bytes, step: int) -> Iterator[Damaged]:
    """Yield the file with blocks swapped, doubled, zeroed, or from the generation before.

    Args:
        data: the file.
        before: the generation before it.
        step: take every so many pairs of blocks.
    """
    starts = range(0, len(data), BLOCK)
    pairs = [(one, other) for one in starts for other in starts if one < other]
    for one, other in pairs[::step]:
        yield f"blocks at {one:,} and {other:,} swapped", _swapped(data, one, other)
        doubled = _replaced(data, other, data[one : one + BLOCK])
        yield f"the block at {one:,} also at {other:,}", doubled
    for start in starts:
        yield f"zeros at {start:,}", _replaced(data, start, bytes(BLOCK))
        older = before[start : start + BLOCK]
        yield f"the block at {start:,} of the generation before", _replaced(data, start, older)
        yield f"torn at {start:,}", data[:start] + before[start:]
        yield f"torn at {start:,} the other way", before[:start] + data[start:]


def _replaced(data: bytes, start: int, block: bytes) -> bytes:
    """Return the file with other bytes at a place, of the same length."""
    end = min(start + BLOCK, len(data))
    return data[:start] + block[: end - start].ljust(end - start, b"\0") + data[end:]


def _swapped(data: bytes, one: int, other: int) -> bytes:
    """Return the file with two blocks swapped; a shorter last one keeps its length."""
    size = min(BLOCK, len(data) - other)
    parts = (data[:one], data[other : other + size], data[one + size : other])
    return b"".join((*parts, data[one : one + size], data[other + size :]))


def appended(data: bytes, before: bytes) -> Iterator[Damaged]:
    """Yield the file with bytes behind its end."""
    for more in (b"\0", b"P", b"\n", bytes(BLOCK), bytes(4096), data, before, data[-80:]):
        yield f"{len(more):,} bytes appended", data + more


def prove_flips(folder: Path, seed: int, kind: str, count: int) -> Outcome:
    """Flip `count` single bits of a checkpoint."""
    newest, before = two_generations(kind)
    draws = draws_of(seed, 6, list(FILES).index(kind))
    with folder_in_memory() as memory:
        damaged = flips(newest, drawn_bits(newest, count, draws))
        return checked(Readers(memory, before), "flips", damaged)


def prove_cuts(folder: Path, kind: str, step: int = 1) -> Outcome:
    """Cut, shift, swap and append; `step` leaves out pairs of blocks."""
    newest, before = two_generations(kind)
    places = boundaries(newest, tiny_state())
    intact = {newest, before}

    def real(damaged: Iterator[Damaged]) -> Iterator[Damaged]:
        return ((what, data) for what, data in damaged if data not in intact)

    with folder_in_memory() as memory:
        readers = Readers(memory, before)
        return (
            checked(readers, "truncations", real(truncations(newest, places)))
            + checked(readers, "shifts", real(shifts(newest, places)))
            + checked(readers, "blocks", real(moved_blocks(newest, before, step)))
            + checked(readers, "appended", appended(newest, before))
        )


def prove_foreign(folder: Path) -> Outcome:
    """Put a file of another run under every name of a run's checkpoints."""
    run, other = small_run(folder / "run"), small_run(folder / "other")
    data = other / "obj.data"
    data.write_text(data.read_text() + "seed = 7\n")
    torch.set_num_threads(1)
    for trained, iterations in ((run, 4), (other, 6)):
        train_until(trained, iterations)
    foreign = (other / "backup" / "net_last.weights").read_bytes()
    failures = []
    paths = run_files(run / "backup", "net")
    for path in paths:
        own = path.read_bytes()
        path.write_bytes(foreign)
        before = contents(run)
        try:
            state = start_of(run)
            if state.course != container.unpack(own, path).course:
                failures.append(f"{path.name}: loaded")
        except OtherRecipe:
            if contents(run) != before:
                failures.append(f"{path.name}: refused, but files have changed")
        path.write_bytes(own)
    return Outcome({"files of another run": len(paths)}, tuple(failures))


def pieces(seed: int) -> list[Piece]:
    """Return the long form."""
    bits = [Piece("damage", f"flips {kind}", prove_flips, (seed, kind, FLIPS)) for kind in FILES]
    cuts = [Piece("damage", f"cuts {kind}", prove_cuts, (kind,)) for kind in FILES]
    return [*bits, *cuts, Piece("damage", "another run", prove_foreign)]
