"""The WEIGHTS argument of a training run: what kind of file it is, and whether it may be used.

Not covered: whether the run goes on from it, or from what its folder holds (start.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from relume.checkpoint import container
from relume.checkpoint.folder import FoundCheckpoint, newest_good, run_files
from relume.checkpoint.reading import read_bytes
from relume.checkpoint.state import TrainState
from relume.checkpoint.weights_file import cannot_be_read
from relume.errors import CheckpointError, UsageError, WeightsError
from relume.formats.sections import Cfg
from relume.formats.weights import DarknetWeights, parse_weights
from relume.spec import RunSpec

RANDOM = "random"
CLEAR = "clear "
Say = Callable[[str], None]


@dataclass(frozen=True)
class StartFlags:
    """What the command line says about the start."""

    weights: str | None = None
    clear: bool = False
    resume: bool = False
    allow_change: bool = False


@dataclass(frozen=True)
class Given:
    """The WEIGHTS argument, read."""

    path: Path | None = None
    state: TrainState | None = None
    """If it is a relume checkpoint (and not -clear)."""
    plain: DarknetWeights | None = None
    """If it is to be read as Darknet's: pretrained, or a whole checkpoint of Darknet."""
    identity: str | None = None
    """What the recipe keeps of it; None: that of the run in the backup folder, if any."""

    def iterations(self, batch: int) -> int:
        """Return how many iterations, of `batch` images, it has behind it."""
        if self.state is not None:
            return self.state.iteration
        cleared = (self.identity or "").startswith(CLEAR)
        if self.plain is None or self.plain.end != "whole" or cleared:
            return 0
        return self.plain.header.seen // batch


def read_given(spec: RunSpec, flags: StartFlags, found: FoundCheckpoint | None, say: Say) -> Given:
    """Read WEIGHTS.

    Args:
        spec: of the run.
        flags: WEIGHTS and what else was said about the start.
        found: the newest good checkpoint in the backup folder.
        say: told when a damaged file is passed over, as -resume and folders do.
    Raises:
        WeightsError, Damaged: the file cannot be used; the message names `found`.
    """
    if flags.weights is None:
        if flags.clear:
            raise UsageError("-clear", "there is no WEIGHTS argument", "weights to begin with")
        goes_on = flags.resume or (flags.allow_change and found is not None)
        return Given(identity=None if goes_on else RANDOM)
    path = Path(flags.weights)
    if path.is_dir():
        if flags.clear:
            raise UsageError("-clear", f"{path} is a folder", "a weights file to begin with")
        return _newest_in(path, spec, say)
    try:
        data = read_bytes(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and _began_like_this(found, flags):
            say(f"{path} is gone; the run that began with start weights goes on without it")
            return Given()
        raise cannot_be_read(path, error) from error
    if _was_replaced(path, data, spec, found, flags):
        return Given()
    try:
        given = read_weights_file(data, path, spec.recipe.cfg, flags.clear)
        return Given() if flags.resume and found and given.state is None else given
    except (WeightsError, CheckpointError) as error:
        if found is None:
            raise
        if flags.resume:
            say(str(error))
            return Given()
        remedy = f"a good checkpoint is {found.path}; -resume goes on from it"
        raise type(error)(error.place, error.found, error.needed, remedy) from error


def _newest_in(folder: Path, spec: RunSpec, say: Say) -> Given:
    if folder.resolve() == spec.operation.backup.resolve():
        return Given()
    found, rejected = newest_good(folder, spec.operation.name)
    for item in rejected:
        say(item.reason)
    if found is None:
        needed = f"one good checkpoint of '{spec.operation.name}'"
        raise CheckpointError(folder, "holds no good checkpoint", needed)
    return Given(found.path, state=found.state, identity=found.state.recipe.keys["start"])


def _began_like_this(found: FoundCheckpoint | None, flags: StartFlags) -> bool:
    """Tell whether the run in the backup folder may have begun with WEIGHTS, now missing."""
    if found is None:
        return False
    if flags.resume:
        return True
    start = found.state.recipe.keys["start"]
    return start != RANDOM and (not flags.clear or start.startswith(CLEAR))


def _was_replaced(
    path: Path, data: bytes, spec: RunSpec, found: FoundCheckpoint | None, flags: StartFlags
) -> bool:
    """Tell whether the run began with a file of this name that it has since replaced itself."""
    operation = spec.operation
    own = path.resolve() in {p.resolve() for p in run_files(operation.backup, operation.name)}
    # A checkpoint without -clear is a place to go on from.
    return own and _began_like_this(found, flags) and (flags.clear or not _is_state(data, path))


def _is_state(data: bytes, path: Path) -> bool:
    try:
        return container.holds_state(data, path)
    except WeightsError:
        return True  # no weights file at all: for `read_weights_file` to say


def read_weights_file(data: bytes, path: Path, cfg: Cfg, clear: bool) -> Given:
    """Return what the bytes of a WEIGHTS file are to a run with this cfg.

    Raises:
        WeightsError, Damaged: they cannot be used.
    """
    digest = xxhash.xxh3_128_hexdigest(data)
    state, darknet = None, memoryview(data)
    if container.holds_state(data, path):
        state = container.unpack(data, path)
        if not clear:
            return Given(path, state=state, identity=state.recipe.keys["start"])
        darknet = darknet[: container.read_manifest(data)["darknet"]["bytes"]]
    plain = parse_weights(darknet, cfg, str(path))
    _check_plain(plain, path, cfg, clear)
    return Given(path, plain=plain, identity=CLEAR + digest if clear else digest)


def _check_plain(plain: DarknetWeights, path: Path, cfg: Cfg, clear: bool) -> None:
    """Refuse a Darknet file that does not fit the cfg, or that is cut."""
    length = plain.end_offset + plain.trailing
    if plain.end == "whole" and plain.trailing:
        raise WeightsError(
            path,
            f"{plain.trailing:,} bytes follow the last layer of {cfg.path}",
            f"{plain.end_offset:,} bytes",
            "weights of another net? `relume partial` cuts the layers that fit",
        )
    if plain.end == "inside":
        raise WeightsError(
            path,
            f"ends inside layer {plain.partial_layer}, at byte {length:,}",
            f"the {len(cfg.layers)} layers of {cfg.path}, or a file cut between layers",
            "damaged, or weights of another net",
        )
    seen = plain.header.seen
    if plain.layers_filled == 0:
        raise WeightsError(path, "holds no layer", "at least the first layer's weights")
    if plain.end == "layer" and seen > 0 and not clear:
        raise WeightsError(
            path,
            f"ends after layer {plain.layers_filled - 1}, at byte {length:,}, though trained "
            f"(seen {seen})",
            f"all {len(cfg.layers)} layers of {cfg.path}",
            "damaged, or weights of another net; -clear takes the layers it has",
        )
    iteration = seen // cfg.net.batch
    if plain.end == "whole" and iteration >= cfg.net.max_batches and not clear:
        raise WeightsError(
            path,
            f"was trained for {iteration} iterations of batch={cfg.net.batch} (seen {seen})",
            f"fewer than max_batches={cfg.net.max_batches} of {cfg.path}",
            "-clear begins a new training with its weights; a higher max_batches goes on",
        )
