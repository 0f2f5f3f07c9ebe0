"""Compares what two runs have left, byte for byte and tensor by tensor, and says it in words."""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

from relume.checkpoint import container
from relume.checkpoint.tensor_digests import (
    TensorDifference,
    first_tensor_difference,
    read_digest_file,
)
from relume.formats.places import open_regular
from relume.proof.inputs import INTERRUPTED, STRAIGHT, ProofPlan
from relume.proof.runs import Course, promised_files

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    files: int
    bytes: int
    """Compared, of one of the two."""
    different: tuple[str, ...]
    """A line for every file that differs or is there once."""
    states: int
    tensors: int
    """Of a state."""
    parting: TensorDifference | None
    """The first iteration and tensor that differ."""
    repeated: TensorDifference | None
    """Of the second run: the first iteration that gave another result when computed again."""
    computed_again: int
    """Iterations that the second run computed more than once."""

    @property
    def same(self) -> bool:
        """Everything is equal."""
        return not (self.different or self.parting or self.repeated)


def compare(plan: ProofPlan, one: str, other: str) -> Comparison:
    """Compare two finished runs.

    Raises:
        WeightsError: a run has left no tensor digests.
    """
    left, right = (promised_files(plan.backup(run)) for run in (one, other))
    different = []
    size = 0
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            different.append(f"{name} is there only in the {one if name in left else other} run")
        elif text := _difference(left[name], right[name]):
            different.append(f"{name} {text}")
        else:
            size += left[name].stat().st_size
    digests = [read_digest_file(plan.digests(run)) for run in (one, other)]
    shared = digests[0].offsets.keys() & digests[1].offsets.keys()
    return Comparison(
        files=len(left.keys() | right.keys()),
        bytes=size,
        different=tuple(different),
        states=len(shared),
        tensors=len(digests[0].tensors(max(shared))) if shared else 0,
        parting=first_tensor_difference(*digests),
        repeated=digests[1].repeated,
        computed_again=digests[1].computed_again,
    )


def _difference(one: Path, other: Path) -> str:
    """Say where two files differ first; empty: nowhere."""
    if not (one.is_file() and other.is_file()):
        return "is no file"
    with open_regular(one) as left, open_regular(other) as right:
        at = _first_differing_byte(left, right)
    sizes = [path.stat().st_size for path in (one, other)]
    if at is None:
        return ""
    length = f"{sizes[0]:,}" if sizes[0] == sizes[1] else f"{sizes[0]:,} and {sizes[1]:,}"
    return f"differs at byte {at:,} of {length}"


def _first_differing_byte(left: IO[bytes], right: IO[bytes]) -> int | None:
    at = 0
    while True:
        pair = left.read(CHUNK_BYTES), right.read(CHUNK_BYTES)
        if pair[0] != pair[1]:
            both = zip(*pair, strict=False)
            inside = (i for i, (a, b) in enumerate(both) if a != b)
            return at + next(inside, min(map(len, pair)))
        if not pair[0]:
            return None
        at += len(pair[0])


def environment(plan: ProofPlan) -> str:
    """Return the numeric environment that the checkpoints of the straight run declare."""
    with open_regular(plan.backup(STRAIGHT) / f"{plan.name}_last.weights") as file:
        declared = container.read_manifest_of(file)["environment"]
    return ", ".join(f"{key} {value}" for key, value in declared.items())


def summary(plan: ProofPlan, course: Course, found: Comparison) -> list[str]:
    """Return the lines that say what was done, whatever came of it."""
    struck = ", ".join(kill.place(plan.end) for kill in course.kills)
    kills = f"{len(course.kills)} of {_counted(plan.kills, 'SIGKILL')}"
    again = _counted(found.computed_again, "iteration")
    results = "" if found.repeated or not found.computed_again else ", with the same results"
    return [
        f"  {STRAIGHT}: iterations {plan.start + 1} to {plan.end} in one start, left alone",
        f"  {INTERRUPTED}: the same; {kills} struck: {struck}",
        f"  starts of it: {len(course.starts)}, from iteration {in_words(course.starts)}",
        f"  computed again after a kill: {again}{results}",
        f"  compared: every byte of {_counted(found.files, 'file')}, and the digests of "
        f"{_counted(found.tensors, 'tensor')} in {_counted(found.states, 'state')}",
        f"  environment: {environment(plan)}",
    ]


def same_lines(plan: ProofPlan, found: Comparison, schedule: str) -> list[str]:
    """Return what is proven and what is not."""
    lines = [
        f"same: {_counted(found.files, 'file')}, {found.bytes:,} bytes",
        "  Shown: on this machine, with this cfg, these weights and pictures, no SIGKILL at these",
        "  moments changed a byte of what the run leaves, nor a tensor after any iteration.",
        "  Not shown: other moments (another -seed), later iterations (-iterations), other",
        "  machines, and power cuts, after which a run goes back further, by the same rules.",
    ]
    if schedule:
        lines += [
            f"  In the cfg max_batches was set to {plan.end}, nothing else. Some things count from",
            f"  there, so of these iterations {schedule} than in the whole run.",
        ]
    return lines


def different_lines(found: Comparison, again: Comparison) -> list[str]:
    """Return what differs, where first, and whether the machine repeats itself at all.

    Args:
        found: the straight and the interrupted run.
        again: the straight run and another one.
    """
    lines = [f"different: {len(found.different)} of {_counted(found.files, 'file')}"]
    lines += [f"  {text}" for text in found.different]
    if found.parting:
        lines.append(f"  first difference: {found.parting}")
    elif found.different:
        lines.append("  first difference: none in the tensors; they are the same in all iterations")
    if found.repeated:
        lines.append(f"  two results of one iteration in the {INTERRUPTED} run: {found.repeated}")
    if again.same:
        lines.append(
            "  A second run left alone is the same as the first: the kills made the difference."
        )
    else:
        where = again.parting or again.different[0]
        lines.append(
            "  Two runs left alone differ too, so the machine does not repeat its own numbers, "
            f"whether a run is interrupted or not: {where}"
        )
    return lines


def in_words(numbers: tuple[int, ...]) -> str:
    """Return numbers as a person reads them."""
    return ", ".join(map(str, numbers))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
