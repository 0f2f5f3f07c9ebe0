"""Does what a checkpoint says of a run agree with itself? Only what every run's states meet.

A file whose bytes are as they were written can still hold what no training leaves: someone made
it, or a program had a fault. Every rule here holds for all states that relume has ever saved;
whatever is open to doubt is none. So the digest in the last record need not be the state's: a
changed list, or another form of its digests, changes the group `pictures` between two iterations.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np

from relume.checkpoint.archive import Malformed
from relume.checkpoint.state import PARTIAL, Array, Arrays, Measured, TrainState
from relume.formats.sections import Cfg
from relume.formats.weights import FLOAT, layout

LARGEST = (1 << 62) - 1
"""Of images seen: far from where 64 bits end."""
KINDS_OF_MARKS = frozenset(["change", "environment"])
PICTURES = "pictures"
MOST_PICTURES_OF_A_SAMPLE = 4
ROUNDING = 1e-9
"""By which a mean of precisions may pass 1."""
_SEED, _LIST = re.compile(r"-?\d{1,1000}"), re.compile(r"(\d{1,18}) pictures .*", re.DOTALL)
_START = re.compile(r"random|(clear )?[0-9a-f]{32}")

Signature = tuple[str, tuple[int, ...]]
"""Type and shape of an array."""


def check(state: TrainState, cfg: Cfg) -> None:
    """Raise Malformed unless the parts of a state agree with each other.

    Args:
        state: its weights fit the cfg.
        cfg: of its recipe.
    """
    _check_recipe(state, cfg)
    _check_groups(state, cfg)
    _check_history(state)
    _check_evaluations(state)
    _check_progress(state, cfg)


def _check_recipe(state: TrainState, cfg: Cfg) -> None:
    keys, net = state.recipe.keys, cfg.net
    if net.batch < 1:
        raise Malformed("the cfg's batch is less than its subdivisions")
    values = {"batch": net.batch, "subdivisions": net.subdivisions, "adam": net.adam}
    for key, value in values.items():
        if keys.get(f"net.{key}") != repr(value):
            raise Malformed(f"net.{key} is {keys.get(f'net.{key}')!a}, in the cfg {value}")
    for key, form in (("seed", _SEED), ("images", _LIST), ("start", _START)):
        if not form.fullmatch(keys.get(key, "")):
            raise Malformed(f"{key} is {keys.get(key)!a}")
    threads = state.environment.get("threads", "")
    if not re.fullmatch(r"[1-9]\d{0,5}", threads):
        raise Malformed(f"threads is {threads!a} in the environment")
    if "\0" in state.recipe.cfg_text:
        raise Malformed("a NUL in the cfg")


def _check_groups(state: TrainState, cfg: Cfg) -> None:
    """See to it that the groups hold what goes on training, and nothing else."""
    specs = [spec for spec in layout(cfg) if "rolling" not in spec.name]
    trained = {spec.name: (FLOAT.str, spec.shape) for spec in specs}
    optimizer = ("adam_m", "adam_v") if cfg.net.adam else ("momentum",)
    needed = {*optimizer, PICTURES}
    if needed != state.groups.keys() - {PARTIAL}:
        found = ", ".join(ascii(name) for name in sorted(state.groups))
        raise Malformed(f"groups {found}, where {', '.join(sorted(needed))} are needed")
    for group in optimizer:
        _check_arrays(group, state.groups[group], trained)
    digests = state.groups[PICTURES].get("digests", np.zeros(0))
    _check_arrays(PICTURES, state.groups[PICTURES], {"digests": ("<u8", (digests.size,))})
    listed, labels = _pictures_of(state), len(state.recipe.label_digests)
    if digests.size != listed or labels not in (0, listed):  # a long list has no labels here
        raise Malformed(f"digests of {digests.size} pictures and {labels} labels, listed {listed}")
    if PARTIAL in state.groups:
        _check_partial(state.groups[PARTIAL], cfg, trained, listed)


def _pictures_of(state: TrainState) -> int:
    match = _LIST.fullmatch(state.recipe.keys["images"])
    return int(match[1]) if match else 0


def _check_partial(
    arrays: Arrays, cfg: Cfg, trained: Mapping[str, Signature], pictures: int
) -> None:
    """See to it that the group `partial` holds the subdivisions that it says, and not all."""
    number, net = arrays.get("subdivisions", np.zeros(0)), cfg.net
    done = int(number[0]) if number.shape == (1,) and number.dtype.str == "<u4" else 0
    if not 0 < done < net.subdivisions:
        raise Malformed(f"{done} subdivisions are done of {net.subdivisions}")
    samples, used = done * net.mini_batch, arrays.get("rows", np.zeros(0)).size
    if not samples <= used <= MOST_PICTURES_OF_A_SAMPLE * samples:
        raise Malformed(f"{used} pictures in {samples} samples")
    expected = dict(_of_partial(cfg, trained, done, used))
    if "skipped_rows" in arrays:
        skipped = arrays["skipped_rows"].size
        expected["skipped_rows"] = ("<i8", (skipped,))
        expected["skipped_digests"] = ("<u8", (skipped,))
    _check_arrays(PARTIAL, arrays, expected)
    for name in expected.keys() & {"rows", "skipped_rows"}:
        _check_rows(arrays[name], pictures, ascending=name == "skipped_rows")
    if not np.isfinite(arrays["losses"]).all():
        raise Malformed("losses of a subdivision are not finite")


def _of_partial(
    cfg: Cfg, trained: Mapping[str, Signature], done: int, pictures: int
) -> Iterator[tuple[str, Signature]]:
    """Yield name, type and shape of what so many subdivisions leave."""
    yield "subdivisions", ("<u4", (1,))
    yield "losses", (FLOAT.str, (3,))
    yield "rows", ("<i8", (pictures,))
    yield "digests", ("<u8", (pictures,))
    for spec in layout(cfg):
        layer, _, kind = spec.name.partition(".")
        if kind == "rolling_mean":
            for number in range(done):
                for part in ("mean", "variance"):
                    yield f"statistics/{number}/{layer}.{part}", (FLOAT.str, spec.shape)
    first = 0
    for bit in reversed(range(done.bit_length())):
        count = done & 1 << bit
        if count:
            for name, signature in trained.items():
                yield f"gradient/{first}-{count}/{name}", signature
            first += count


def _check_arrays(group: str, arrays: Arrays, expected: Mapping[str, Signature]) -> None:
    found = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            wanted = expected.get(name, "no such array")
            raise Malformed(f"{group}/{name!a} is {found.get(name, 'missing')}, needed {wanted}")


def _check_rows(rows: Array, pictures: int, ascending: bool = False) -> None:
    numbers = np.asarray(rows, np.int64)
    if numbers.size and (numbers.min() < 0 or numbers.max() >= pictures):
        raise Malformed(f"a row that is not among the {pictures} pictures")
    if ascending and (np.diff(numbers) <= 0).any():
        raise Malformed("rows that do not rise")


def _check_history(state: TrainState) -> None:
    history = state.history
    records, marks = history.records, history.marks
    if history.iteration > LARGEST:
        raise Malformed(f"{history.iteration} iterations")
    losses = ("loss", "box_loss", "objectness_loss", "class_loss")
    if not all(np.isfinite(records[name]).all() for name in losses):
        raise Malformed("the loss of an iteration is not finite")
    if len(records) and not (records["width"].min() and records["height"].min()):
        raise Malformed("the input of an iteration has no pixel")
    numbers = np.arange(history.start + 1, history.iteration + 1, dtype=np.uint64)
    if (records["seen"] < numbers).any() or (records["seen"] % numbers).any():
        raise Malformed("the images seen are no whole batches in an iteration")
    places = [history.start, *(mark.iteration for mark in marks), history.iteration]
    if places != sorted(places) or not {mark.kind for mark in marks} <= KINDS_OF_MARKS:
        raise Malformed("marks that no run of these iterations has")


def _check_evaluations(state: TrainState) -> None:
    history = state.history
    done = [one.iteration for one in history.evaluations]
    places = [history.start - 1, *done, history.iteration + 1]
    if any(later <= earlier for earlier, later in pairwise(places)):
        raise Malformed("evaluations that no run of these iterations has")
    if not all(_is_precision(one) for one in history.evaluations):
        raise Malformed("a mean average precision that is none")


def _is_precision(one: Measured) -> bool:
    return 0 <= one.map <= 1 + ROUNDING  # false for NaN


def _check_progress(state: TrainState, cfg: Cfg) -> None:
    progress, history = state.progress, state.history
    seen = state.iteration * cfg.net.batch + state.subdivision * cfg.net.mini_batch
    if progress.seen != seen or seen > LARGEST:
        raise Malformed(f"seen is {progress.seen}, and {seen} by iterations and batch")
    changed = any(m.kind == "change" and m.iteration == state.iteration for m in history.marks)
    last = int(history.records["seen"][-1]) if len(history.records) else None
    if not changed and last not in (None, state.iteration * cfg.net.batch):
        raise Malformed(f"seen is {last} after the last iteration of the history")
    average = progress.average_loss
    if (average is None) != (len(history.records) == 0):
        raise Malformed("an average loss, and no iteration, or the other way round")
    with np.errstate(over="ignore"):
        # As Python's numbers: NumPy would compare both as float32.
        if average is not None and not -np.inf < float(np.float32(average)) == average < np.inf:
            raise Malformed(f"an average loss of {average}, which is no finite float32")
    _check_rows(np.array(progress.skipped, np.int64), _pictures_of(state), ascending=True)
