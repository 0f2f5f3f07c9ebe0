"""The runs of a proof: one left alone, one killed again and again and started again."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from relume.checkpoint import storage
from relume.errors import TrainerEnded
from relume.proof.inputs import INTERRUPTED, STRAIGHT, ProofPlan, write_data_file
from relume.proof.moments import Moment, Timeline
from relume.proof.trainer import Trainer
from relume.spec import AUTO

Show = Callable[[int, str], None]
"""Takes the iterations done and what is going on."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainCommand:
    """The command that every start gives."""

    program: tuple[str, ...]
    """What `relume` is."""
    words: tuple[str, ...]
    """WEIGHTS and flags, as given."""

    def of(self, plan: ProofPlan, run: str) -> list[str]:
        """Return the command line of a start."""
        files = ("detector", "train", str(plan.data(run)), str(plan.cfg))
        digests = ("-tensor_digests", str(plan.digests(run)))
        return [*self.program, *files, *self.words, *digests]


@dataclass(frozen=True)
class Kill:
    """A SIGKILL that struck."""

    went_on_from: int
    """Iterations done at the start that it ended."""
    iteration: int
    """The last one that was finished."""
    moment: Moment

    def place(self, end: int) -> str:
        """Return where it struck; behind the last iteration there are the last files to write."""
        return f"in iteration {self.iteration + 1}" if self.iteration < end else "at the end"


@dataclass(frozen=True)
class Course:
    """How the interrupted run went."""

    kills: tuple[Kill, ...]
    """Those that struck."""
    starts: tuple[int, ...]
    """Iterations done at every start, the last one included, which was left alone."""

    def resumes_inside(self, plan: ProofPlan) -> int:
        """Return how many starts went on from a checkpoint with iterations before and behind it."""
        return sum(plan.start < start < plan.end for start in self.starts)


def train_straight(command: TrainCommand, plan: ProofPlan, run: str, show: Show) -> Timeline:
    """Train without a disturbance and return how long everything took.

    Raises:
        TrainerEnded: it did not get to its end.
    """
    own = plan.spec.operation.savelast
    write_data_file(plan, run, AUTO if own is None else str(own))
    ends_s: list[float] = []
    with _started(command, plan, run) as trainer:
        for _ in trainer.lines():
            done = (trainer.iteration or plan.start) - plan.start
            if trainer.begun and done == len(ends_s):
                ends_s.append(time.monotonic())
                show(done, "left alone" if run == STRAIGHT else "left alone once more")
        _check_end(trainer.ended(), trainer, plan, run)
        ends_s.append(time.monotonic())
    if len(ends_s) != plan.iterations + 2:
        raise TrainerEnded(
            f"{run} run",
            f"told of {len(ends_s) - 2} iterations",
            f"{plan.iterations}",
            f"its output is in {plan.log(run)}",
        )
    return Timeline(tuple(at_s - ends_s[0] for at_s in ends_s))


def train_interrupted(
    command: TrainCommand, plan: ProofPlan, timeline: Timeline, seed: int, show: Show, say: Say
) -> Course:
    """Train, kill and start again until all kills have struck, then to the end.

    Raises:
        TrainerEnded: a start ended in trouble of its own.
    """
    kills: list[Kill] = []
    for number in range(plan.kills + 1):
        savelast = plan.savelast_of_starts[number % len(plan.savelast_of_starts)]
        write_data_file(plan, INTERRUPTED, savelast)
        text = f"killed {number} of {plan.kills} times, start {number + 1}"
        with _started(command, plan, INTERRUPTED) as trainer:
            show_here = partial(_show_iteration, trainer, plan, show, text)
            kill = None
            if number < plan.kills:
                kill = _killed(trainer, plan, timeline, seed, number, show_here)
            if kill is None:
                for _ in trainer.lines():
                    show_here()
                _check_end(trainer.ended(), trainer, plan, INTERRUPTED)
                starts = (*(kill.went_on_from for kill in kills), _start_of(trainer, plan))
                return Course(tuple(kills), starts)
        kills.append(kill)
        say(
            f"kill {number + 1} of {plan.kills} {kill.place(plan.end)}: {kill.moment} into a start "
            f"from iteration {kill.went_on_from} (savelast={savelast})"
        )
    raise AssertionError("the last start is not killed")


def _start_of(trainer: Trainer, plan: ProofPlan) -> int:
    """Return the iterations done at a start that has begun."""
    return plan.start if trainer.went_on_from is None else trainer.went_on_from


def _killed(
    trainer: Trainer,
    plan: ProofPlan,
    timeline: Timeline,
    seed: int,
    number: int,
    show: Callable[[], None],
) -> Kill | None:
    """Kill a trainer at its moment; None: it ended before that."""
    if not trainer.follow(lambda: trainer.begun):
        return None
    start = _start_of(trainer, plan)
    moment = timeline.moment(start - plan.start, plan.kills, seed, number)
    for iteration in range(start + 1, start + moment.iterations + 1):
        if not trainer.follow(partial(trainer.has_done, iteration)):
            return None
        show()
    for _ in trainer.lines(until_s=time.monotonic() + moment.seconds):
        show()
    trainer.kill()
    if trainer.ended() != -signal.SIGKILL:
        return None
    return Kill(start, start if trainer.iteration is None else trainer.iteration, moment)


def _show_iteration(trainer: Trainer, plan: ProofPlan, show: Show, text: str) -> None:
    if trainer.iteration is not None:
        show(trainer.iteration - plan.start, text)


@contextmanager
def _started(command: TrainCommand, plan: ProofPlan, run: str) -> Iterator[Trainer]:
    words = command.of(plan, run)
    with closing(storage.AppendFile(plan.log(run))) as log:
        log.append(f"$ {' '.join(words)}")
        with Trainer(words, log) as trainer:
            yield trainer


def _check_end(status: int, trainer: Trainer, plan: ProofPlan, run: str) -> None:
    if status == 0:
        return
    if status < 0:
        found = f"its trainer was ended by signal {-status}, which this proof did not send"
    else:
        found = trainer.error or f"its trainer ended with status {status}"
    raise TrainerEnded(f"{run} run", found, remedy=f"its output is in {plan.log(run)}")


def promised_files(folder: Path) -> dict[str, Path]:
    """Return what a finished run has left, by name; its log and lock are no part of the promise."""
    return {path.name: path for path in folder.iterdir() if path.suffix not in (".log", ".lock")}
