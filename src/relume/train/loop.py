"""READ THIS FIRST: the whole run on one screen.

A new run is `train(begin(fresh_state))`, a resumed one `train(begin(newest_good_state))`; there
is no mode called resume. Which picture comes next, how it is distorted, the rate and the
input size are functions of (recipe, position), so nothing but the state is carried along.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from relume.checkpoint.keeper import Keeper
from relume.checkpoint.state import Progress, RecordBuffer, TrainState
from relume.data.batch import MiniBatch
from relume.data.patience import PAUSES_S, Patience
from relume.distributed.group import ALONE, Group
from relume.errors import NotFinite, RelumeError, StorageError, Unconfirmed
from relume.evaluate.average_precision import Evaluation
from relume.model.network import Network
from relume.schedule import input_size, learning_rate
from relume.spec import RunSpec
from relume.train.batches import batches_of, unchanged
from relume.train.capture import capture, install
from relume.train.evaluation import evaluated, evaluation_due, is_finished
from relume.train.evidence import with_evidence
from relume.train.journal import Journal, record_of
from relume.train.memory import check_training_memory, memory_errors_named
from relume.train.optimizer import Optimizer, build_optimizer
from relume.train.partial import Partial, with_partial
from relume.train.step import Report, train_subdivision, update, updated_average
from relume.train.together import (
    Told,
    Wish,
    agreed_evaluation,
    confirmed_digest,
    put_together,
    share_of,
)


@dataclass
class Stop:
    """Whether the run is to end; asked after every subdivision, and while pictures load.

    And within an evaluation after every batch of pictures.
    """

    requested: bool = False
    """Set by a signal handler."""
    ends_at_s: float = math.inf
    """Time of `clock` from which the run is to end by itself."""
    clock: Callable[[], float] = time.monotonic
    check: Callable[[], None] = lambda: None
    """Raises what keeps this process from going on at all."""

    def is_due(self) -> bool:
        """Tell whether the run is to end now."""
        self.check()
        return self.requested or self.clock() >= self.ends_at_s

    def wish(self, has_stopped: bool) -> Wish:
        """Return what this process wants, which may have stopped already."""
        return Wish(self.requested, has_stopped and not self.requested)

    def take(self, wish: Wish) -> None:
        """Want what any process of the group wants."""
        self.requested |= wish.requested
        if wish.due:
            self.ends_at_s = -math.inf


@dataclass
class Live:
    """A run in memory, between two subdivisions: what becomes of a state once it is trained on."""

    network: Network
    optimizer: Optimizer
    pictures: npt.NDArray[np.uint64]
    """[images] digest of every picture used so far."""
    partial: Partial
    """The iteration that has begun."""
    state: TrainState
    """At the end of the last whole iteration; its arrays share the network's memory."""
    seen: int
    """Of the state this came from, which may lie inside an iteration."""
    group: Group = ALONE
    """The processes that train it together."""

    def now(self) -> TrainState:
        """Return the state to go on from, what has begun included; the memory is shared."""
        return with_partial(self.state, self.partial, self.network)

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device


def begin(spec: RunSpec, start: TrainState, device: torch.device, group: Group = ALONE) -> Live:
    """Put a state into a network; the state is not changed, nor needed any more.

    Args:
        spec: what to train, and with how many hands.
        start: fresh, or from a checkpoint.
        device: where the network lives.
        group: the processes that train it together, all from this state.
    Raises:
        Mismatch: if `start` does not fit the network.
        CfgError: its mini-batches can fit into no memory here.
    """
    recipe = spec.recipe
    check_training_memory(recipe.cfg, recipe.seed, device)
    network = Network(recipe.cfg, recipe.seed).to(device).train()
    optimizer = build_optimizer(network.trained_parameters(), recipe.cfg.net)
    pictures, partial = install(start, network, optimizer, len(recipe.labels))
    whole = start.before_partial(recipe.cfg.net.batch)
    state = capture(network, optimizer, pictures, whole, whole.progress, whole.history)
    return Live(network, optimizer, pictures, partial, state, start.progress.seen, group)


Watch = Callable[[TrainState, Report | Evaluation], None]
"""Called after every iteration and evaluation: progress on the screen, charts."""


def train(
    spec: RunSpec,
    live: Live,
    keeper: Keeper,
    journal: Journal,
    stop: Stop,
    watch: Watch,
) -> TrainState:
    """Train until the run is finished or a stop is requested; return the last state.

    Args:
        spec: what to train, and with how many hands.
        live: begun; the training takes it over.
        keeper: saves what is due.
        journal: cut back to where it begins.
        stop: ends the run after the current subdivision.
        watch: told about every iteration and evaluation.
    """
    state = live.now()
    steps = iterations(spec, live, stop, keeper.warn)
    # Writes what a kill after this very state left undone.
    keeper.stop(state, evaluation_due(spec.recipe, state))
    try:
        for state, report in steps:
            if report is None:
                continue
            if isinstance(report, Report):
                journal.append(state.history, state.progress.average_loss or 0.0)
            else:
                journal.append_evaluation(state.history)
            keeper.offer(state, _known_digest(state), evaluation_due(spec.recipe, state))
            watch(state, report)
    except Unconfirmed:
        raise  # the network holds what nobody has confirmed; what was saved before is safe
    except RelumeError as error:
        try:
            keeper.stop(state, evaluation_due(spec.recipe, state))
        except StorageError as trouble:
            keeper.warn(f"not saved at {state.place}: {trouble}")
        if isinstance(error, NotFinite):
            raise with_evidence(error, spec, state, live.device) from error
        raise
    finally:
        steps.close()
    if is_finished(spec.recipe, state):
        keeper.finish(state)  # first: the journal can be made from it
        journal.finish(state.history)
    else:
        keeper.stop(state, evaluation_due(spec.recipe, state))
    return state


def _known_digest(state: TrainState) -> bytes | None:
    """Return the state's digest where its last record has it: an evaluation changes no tensor."""
    records = state.history.records
    return records[-1]["digest"].tobytes() if len(records) else None


def follow(spec: RunSpec, live: Live, stop: Stop, say: Callable[[str], None]) -> None:
    """Train as `train` does, in a process of the group that writes nothing."""
    with closing(iterations(spec, live, stop, say)) as steps:
        for _ in steps:
            pass


def iterations(
    spec: RunSpec,
    live: Live,
    stop: Stop,
    say: Callable[[str], None] = lambda text: None,
) -> Generator[tuple[TrainState, Report | Evaluation | None]]:
    """Train, writing nothing.

    Args:
        spec: what to train, and with how many hands.
        live: begun; the training takes it over.
        stop: ends the training after the current subdivision.
        say: takes a line about a picture that the disk does not give at once.
    Yields:
        After every iteration and every evaluation, until the run is finished, the new state and
        what it says about itself.
        If the training ends before, by a request or an error, last of all the state to go on
        from, which may lie inside an iteration, with None. A state's arrays may share the
        network's memory: they hold until the next one is asked for.
    Raises:
        RelumeError: after the state to go on from.
        Unconfirmed: without one.
    """
    batches = batches_of(spec, live.seen, Patience(PAUSES_S, stop.is_due, say), live.group)
    checked = unchanged(batches, live.pictures, live.partial, spec, say)
    records = RecordBuffer(live.state.history.records)
    with closing(batches):
        while not is_finished(spec.recipe, live.state):
            step: tuple[TrainState, Report | Evaluation] | None
            try:
                if evaluation_due(spec.recipe, live.state):
                    step = _evaluation(spec, live, stop, say)
                else:
                    step = _iteration(spec, live, checked, records, stop)
            except Unconfirmed:
                raise
            except NotFinite:
                yield live.state, None
                raise
            except RelumeError:
                yield live.now(), None
                raise
            if step is None:
                yield live.now(), None
                return
            live.state = step[0]
            yield step


def _evaluation(
    spec: RunSpec, live: Live, stop: Stop, say: Callable[[str], None]
) -> tuple[TrainState, Evaluation] | None:
    """Measure, every process of the group all of it; return None if a stop came before its end."""
    step = evaluated(live.network, spec, live.state, stop.is_due, say)
    all_measured, wish = agreed_evaluation(live.group, step and step[0], stop.wish(step is None))
    stop.take(wish)
    return step if all_measured else None


def _iteration(
    spec: RunSpec, live: Live, batches: Iterator[MiniBatch], records: RecordBuffer, stop: Stop
) -> tuple[TrainState, Report] | None:
    """Train the rest of an iteration; return None if a stop came before its end."""
    cfg, net, state = spec.recipe.cfg, spec.recipe.cfg.net, live.state
    network, optimizer = live.network, live.optimizer
    pictures, partial = live.pictures, live.partial
    if not _complete(spec, live, batches, stop):
        return None
    iteration = state.iteration + 1
    rate, size = learning_rate(net, iteration), input_size(cfg, spec.recipe.seed, iteration)
    report = update(network, optimizer, partial, iteration, rate, size)
    pictures[partial.rows] = partial.digests
    pictures[list(partial.skipped)] = list(partial.skipped.values())
    progress = Progress(
        seen=iteration * net.batch,
        average_loss=updated_average(state.progress.average_loss, report.loss),
        skipped=tuple(sorted({*state.progress.skipped, *partial.skipped})),
    )
    captured = capture(network, optimizer, pictures, state, progress, state.history)
    record = record_of(report, progress, confirmed_digest(live.group, captured))
    history = replace(state.history, records=records.append(record))
    live.partial = Partial()
    return replace(captured, history=history), report


def _complete(spec: RunSpec, live: Live, batches: Iterator[MiniBatch], stop: Stop) -> bool:
    """Train the subdivisions that are left of an iteration; return False if a stop came first.

    Each process of the group trains its share. All of them stop, or raise an error, together,
    with the same `live.partial`.
    """
    share = share_of(live.group, live.partial, live.network)
    has_stopped, trouble = False, None
    place = f"iteration {live.state.iteration + 1}"
    try:
        while not share.is_complete:
            with memory_errors_named(place):
                mini_batch = None if stop.is_due() else next(batches, None)
                if mini_batch is None:
                    has_stopped = True
                    break
                train_subdivision(live.network, share, mini_batch)
    except RelumeError as error:
        trouble = error
    told = Told(share.done, stop.wish(has_stopped), trouble)
    stop.take(put_together(live.group, spec.recipe, live.network, live.partial, share, told))
    return live.partial.subdivisions == spec.recipe.cfg.net.subdivisions
