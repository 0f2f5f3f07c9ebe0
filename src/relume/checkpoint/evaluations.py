"""The evaluations of a run (`-map`): which can be compared, and which is the best.

All of it follows from the state, so there is nothing that an interruption could lose: the best
is the first of the highest among the evaluations at the end of the history that were measured
as the state would be measured now.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64

from relume.checkpoint.course import DETECTION, EVALUATION
from relume.checkpoint.state import Measured, TrainState

OPERATION_OF_MEASURING = frozenset(["map.epochs", "map.patience"])
"""Keys of `-map` that say when it is measured, and when that is the end."""
INPUT = frozenset(["net.width", "net.height", "net.letter_box"])
"""Keys that say how the network sees a validation picture."""


RECORD = np.dtype([("iteration", "<u8"), ("map", "<f8"), ("measure", "<u8")])
"""What a file keeps of one evaluation: 24 bytes."""


def packed(evaluations: Sequence[Measured]) -> bytes:
    """Return evaluations as a checkpoint has them."""
    return np.array(
        [(one.iteration, one.map, one.measure) for one in evaluations], RECORD
    ).tobytes()


def unpacked(data: memoryview) -> tuple[Measured, ...]:
    """Return the evaluations in such bytes."""
    return tuple(Measured(*row) for row in np.frombuffer(data, RECORD).tolist())


def measure_of(keys: Mapping[str, str], valid_digests: npt.NDArray[np.uint64]) -> int:
    """Return 64 bits that stand for how a network is measured.

    Args:
        keys: of the recipe.
        valid_digests: of the validation pictures and their labels, as they were found.
    """
    hasher = xxh3_64()
    for key in sorted(keys):
        if key in OPERATION_OF_MEASURING:
            continue
        if key.startswith(EVALUATION) or key in INPUT or key.rpartition(".")[2] in DETECTION:
            hasher.update(f"{key}={keys[key]}\n".encode())
    hasher.update(np.ascontiguousarray(valid_digests, "<u8").data)
    return hasher.intdigest()


def comparable(state: TrainState) -> tuple[Measured, ...]:
    """Return the newest evaluations, those that a next one can be compared with."""
    history = state.history
    if not history.evaluations:
        return ()
    return of_one_measure(history.evaluations, measure_of(state.recipe.keys, history.valid_digests))


def of_one_measure(evaluations: Sequence[Measured], measure: int) -> tuple[Measured, ...]:
    """Return the last evaluations, as far back as they were measured like this."""
    count = 0
    while count < len(evaluations) and evaluations[-1 - count].measure == measure:
        count += 1
    return tuple(evaluations[len(evaluations) - count :])


def best_of(evaluations: Sequence[Measured]) -> Measured | None:
    """Return the first of the highest; None: there is none."""
    return max(evaluations, key=lambda one: one.map, default=None)


def with_best(evaluations: Iterable[Measured]) -> Iterator[tuple[Measured, Measured]]:
    """Yield every evaluation with the best up to it of those it can be compared with."""
    best: Measured | None = None
    for one in evaluations:
        if best is None or best.measure != one.measure or one.map > best.map:
            best = one
        yield one, best


def is_evaluated_state(state: TrainState) -> bool:
    """Tell whether the newest evaluation is of this very state."""
    evaluations = state.history.evaluations
    return bool(evaluations) and evaluations[-1].iteration == state.iteration


def is_best(state: TrainState) -> bool:
    """Tell whether this very state is the one that NAME_best.weights holds."""
    if not is_evaluated_state(state) or state.subdivision:
        return False
    best = best_of(comparable(state))
    return best is not None and best.iteration == state.iteration


def without_a_better_one(state: TrainState) -> int:
    """Return the evaluations since the best one."""
    evaluations = comparable(state)
    best = best_of(evaluations)
    return sum(best is not None and one.iteration > best.iteration for one in evaluations)
