"""TrainState: everything that changes from one iteration to the next, as one value.

A state is plain data: named groups of named NumPy arrays, counters, the history, the recipe
and the environment it was computed in. `train/capture.py` takes it from a live network and
puts it back; `container.py` turns it into bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import xxhash

Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]

RECORD = np.dtype(
    [
        ("loss", "<f4"),
        ("box_loss", "<f4"),
        ("objectness_loss", "<f4"),
        ("class_loss", "<f4"),
        ("rate", "<f4"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("seen", "<u8"),
        ("digest", "V16"),
    ]
)
"""What the history keeps of one iteration: 48 bytes, from which journal and chart are made."""


PARTIAL = "partial"
"""The group that holds an iteration's finished subdivisions; absent between two iterations."""


@dataclass(frozen=True)
class Mark:
    """A place in the history where the run left its straight course."""

    iteration: int
    kind: str
    """"change" (an allowed change of the recipe) or "environment"."""
    text: str


@dataclass(frozen=True)
class Measured:
    """What an evaluation found (`-map`)."""

    iteration: int
    """After which."""
    map: float
    """Mean average precision, 0 to 1."""
    measure: int
    """64 bits that stand for what it was measured by (evaluations.py); only values with the same
    ones can be compared."""


NO_DIGESTS: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)


@dataclass(frozen=True)
class History:
    """Losses and state digests of all iterations after `start`, and the marks between them."""

    start: int = 0
    """Iterations done before the first record (a run that began from Darknet's own file)."""
    records: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, RECORD))
    marks: tuple[Mark, ...] = ()
    evaluations: tuple[Measured, ...] = ()
    """In their order; at most one after an iteration."""
    valid_digests: npt.NDArray[np.uint64] = field(default_factory=lambda: NO_DIGESTS)
    """Of every validation picture with its labels, as the newest evaluation found them."""

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self.start + len(self.records)

    def marked(self, mark: Mark) -> "History":
        """Return the history with one more mark."""
        return replace(self, marks=(*self.marks, mark))


class RecordBuffer:
    """The records of one run with room at their end, so that appending does not copy them all."""

    def __init__(self, records: npt.NDArray[np.void]) -> None:
        self._buffer = records
        self._count = len(records)

    def append(self, record: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
        """Return all records with one more; arrays returned before are not touched."""
        if self._count == len(self._buffer):
            grown = np.zeros(max(1024, 2 * self._count), RECORD)
            # As bytes: copied field by field, a million records take 0.16 s instead of 0.02.
            grown[: self._count].view(np.uint8)[:] = self._buffer[: self._count].view(np.uint8)
            self._buffer = grown
        self._buffer[self._count] = record[0]
        self._count += 1
        return self._buffer[: self._count]


@dataclass(frozen=True)
class Progress:
    """The counters."""

    seen: int = 0
    """Images consumed: the one clock."""
    average_loss: float | None = None
    """Darknet's running mean, float32; None before the first iteration."""
    skipped: tuple[int, ...] = ()
    """Rows of the image list, in order, that could not be decoded and were replaced; what their
    bytes were stands with the pictures used."""


@dataclass(frozen=True)
class RecipeRecord:
    """What the checkpoint keeps of the recipe, enough to compare and to train again."""

    cfg_text: str
    keys: Mapping[str, str]
    """Every value that can change a number, canonical, one key each (see Recipe.keys)."""
    names: tuple[str, ...]
    label_digests: npt.NDArray[np.uint64]
    """One per line of the image list."""

    def digest(self) -> str:
        """Return the digest of all that can change a number."""
        hasher = xxhash.xxh3_128()
        for key in sorted(self.keys):
            hasher.update(f"{key}={self.keys[key]}\n".encode())
        hasher.update(np.ascontiguousarray(self.label_digests).data)
        return hasher.hexdigest()


@dataclass(frozen=True)
class TrainState:
    """One moment between two subdivisions. Equal states give equal bytes."""

    weights: Arrays
    """Darknet's parameters and rolling statistics, named as in formats.weights.layout."""
    groups: Mapping[str, Arrays]
    """Optimizer state and whatever else the next iteration reads: group -> name -> array."""
    progress: Progress
    history: History
    recipe: RecipeRecord
    course: str
    """Digest of the recipe at iteration 0 and of every allowed change since."""
    environment: Mapping[str, str]
    """Declared at iteration 0, carried on unchanged while it can be re-created."""

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self.history.iteration

    @property
    def subdivision(self) -> int:
        """Subdivisions done of the iteration that has begun; 0 between two iterations."""
        return int(self.groups[PARTIAL]["subdivisions"][0]) if PARTIAL in self.groups else 0

    @property
    def reached(self) -> tuple[int, int]:
        """Iterations done, and subdivisions of the next: what orders the states of a run."""
        return self.iteration, self.subdivision

    @property
    def place(self) -> str:
        """Where in its run this state lies, for a person."""
        if not self.subdivision:
            return f"iteration {self.iteration}"
        of = self.recipe.keys.get("net.subdivisions", "?")
        return f"iteration {self.iteration} (+{self.subdivision} of {of} subdivisions)"

    def before_partial(self, batch: int) -> "TrainState":
        """Return the state at the end of the last whole iteration, with `batch` images each."""
        groups = {name: arrays for name, arrays in self.groups.items() if name != PARTIAL}
        progress = replace(self.progress, seen=self.iteration * batch)
        return replace(self, groups=groups, progress=progress)

    def digest(self) -> bytes:
        """Return the 16-byte digest of all tensors, the one that journal and manifest show."""
        return digest_of_groups({"weights": self.weights, **self.groups})


def digest_of_groups(groups: Mapping[str, Arrays]) -> bytes:
    """Return XXH3-128 over the sorted (name, dtype, shape, tensor digest) of all arrays."""
    digests = {
        name: xxhash.xxh3_128_hexdigest(as_stored(array).data)
        for name, array in named_arrays(groups)
    }
    return digest_of_digests(groups, digests)


def digest_of_digests(groups: Mapping[str, Arrays], digests: Mapping[str, str]) -> bytes:
    """Return the same where the digests of all arrays are known, by "group/name"."""
    hasher = xxhash.xxh3_128()
    for name, array in named_arrays(groups):
        dtype = array.dtype.newbyteorder("<").str
        hasher.update(f"{name} {dtype} {array.shape} {digests[name]}\n".encode())
    return hasher.digest()


def as_stored(array: Array) -> Array:
    """Return an array as files and digests know it: little-endian, in C order."""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def named_arrays(groups: Mapping[str, Arrays]) -> Iterator[tuple[str, Array]]:
    """Yield ("group/name", array) of all groups, sorted by name."""
    for group in sorted(groups):
        for name in sorted(groups[group]):
            yield f"{group}/{name}", groups[group][name]


def first_difference(one: TrainState, other: TrainState) -> str | None:
    """Name the first tensor, index and pair of values in which two states differ, or None."""
    left = dict(named_arrays({"weights": one.weights, **one.groups}))
    right = dict(named_arrays({"weights": other.weights, **other.groups}))
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            return f"{name} is in the {'first' if name in left else 'second'} only"
        difference = first_difference_of_arrays(left[name], right[name])
        if difference is not None:
            return f"{name}{difference}"
    return None


def first_difference_of_arrays(one: Array, other: Array) -> str | None:
    """Return "[index]: value, value" of the first differing element, compared by bits."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return f": {one.dtype}{list(one.shape)}, {other.dtype}{list(other.shape)}"
    bits_one = np.ascontiguousarray(one).reshape(-1).view(np.uint8)
    bits_other = np.ascontiguousarray(other).reshape(-1).view(np.uint8)
    differing = np.flatnonzero(bits_one != bits_other)
    if differing.size == 0:
        return None
    flat = int(differing[0]) // one.dtype.itemsize
    index = ",".join(str(int(i)) for i in np.unravel_index(flat, one.shape))
    return f"[{index}]: {one.reshape(-1)[flat]!s}, {other.reshape(-1)[flat]!s}"
