"""READ THIS FIRST: the whole run on one screen.

A new run is `train(spec, fresh_state)`, a resumed one `train(spec, newest_good_state)`; there
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
from relume.errors import NotFinite, RelumeError, StorageError
from relume.model.network import Network
from relume.schedule import input_size, learning_rate
from relume.spec import RunSpec
from relume.train.batches import batches_of, unchanged
from relume.train.capture import capture, install
from relume.train.evidence import with_evidence
from relume.train.journal import Journal, record_of
from relume.train.optimizer import build_optimizer
from relume.train.partial import Partial, with_partial
from relume.train.step import Report, train_subdivision, update, updated_average


@dataclass
class Stop:
    """Whether the run is to end; asked after every subdivision, and while pictures load."""

    requested: bool = False
    """Set by a signal handler."""
    ends_at_s: float = math.inf
    """Time of `clock` from which the run is to end by itself."""
    clock: Callable[[], float] = time.monotonic

    def is_due(self) -> bool:
        """Tell whether the run is to end now."""
        return self.requested or self.clock() >= self.ends_at_s


Watch = Callable[[TrainState, Report], None]
"""Called after every iteration with the new state: progress on the screen, charts."""


def train(
    spec: RunSpec,
    start: TrainState,
    keeper: Keeper,
    journal: Journal,
    stop: Stop,
    watch: Watch,
    device: torch.device,
) -> TrainState:
    """Train from `start` to max_batches or until a stop is requested; return the last state.

    Args:
        spec: what to train, and with how many hands.
        start: fresh, or from a checkpoint; it is not changed.
        keeper: saves what is due.
        journal: cut back to `start`.
        stop: ends the run after the current subdivision.
        watch: told about every iteration.
        device: where the network lives.
    """
    state = start
    steps = iterations(spec, start, stop, device, keeper.warn)
    keeper.stop(state)  # writes what a kill after this very state left undone
    try:
        for state, report in steps:
            if report is not None:
                journal.append(state.history, state.progress.average_loss or 0.0)
                keeper.offer(state, state.history.records[-1]["digest"].tobytes())
                watch(state, report)
    except RelumeError as error:
        try:
            keeper.stop(state)
        except StorageError as trouble:
            keeper.warn(f"not saved at {state.place}: {trouble}")
        if isinstance(error, NotFinite):
            raise with_evidence(error, spec, state, device) from error
        raise
    finally:
        steps.close()
    if state.iteration >= spec.recipe.cfg.net.max_batches:
        keeper.finish(state)  # first: the journal can be made from it
        journal.finish(state.history)
    else:
        keeper.stop(state)
    return state


def iterations(
    spec: RunSpec,
    start: TrainState,
    stop: Stop,
    device: torch.device,
    say: Callable[[str], None] = lambda text: None,
) -> Generator[tuple[TrainState, Report | None]]:
    """Put `start` into a network and return its training, which writes nothing.

    Args:
        spec: what to train, and with how many hands.
        start: the state to go on from; it is not changed.
        stop: ends the training after the current subdivision.
        device: where the network lives.
        say: takes a line about a picture that the disk does not give at once.
    Yields:
        After every iteration up to max_batches the new state and what it says about itself.
        If the training ends before, by a request or an error, last of all the state to go on
        from, which may lie inside an iteration, with None. A state's arrays may share the
        network's memory: they hold until the next one is asked for.
    Raises:
        Mismatch: at once, if `start` does not fit the network.
        RelumeError: later, after the state to go on from.
    """
    recipe = spec.recipe
    network = Network(recipe.cfg, recipe.seed).to(device).train()
    optimizer = build_optimizer(network.trained_parameters(), recipe.cfg.net)
    pictures, partial = install(start, network, optimizer, len(recipe.labels))
    batches = batches_of(spec, start.progress.seen, Patience(PAUSES_S, stop.is_due, say))
    return _trained(spec, start, stop, network, optimizer, pictures, partial, batches, say)


def _trained(
    spec: RunSpec,
    start: TrainState,
    stop: Stop,
    network: Network,
    optimizer: torch.optim.Optimizer,
    pictures: npt.NDArray[np.uint64],
    partial: Partial,
    batches: Generator[MiniBatch],
    say: Callable[[str], None],
) -> Generator[tuple[TrainState, Report | None]]:
    cfg, seed, net = spec.recipe.cfg, spec.recipe.seed, spec.recipe.cfg.net
    records = RecordBuffer(start.history.records)
    checked = unchanged(batches, pictures, partial, spec, say)
    state = start.before_partial(net.batch)
    with closing(batches):
        while state.iteration < net.max_batches:
            iteration = state.iteration + 1
            try:
                if not _complete(partial, network, checked, stop):
                    yield with_partial(state, partial, network), None
                    return
                rate, size = learning_rate(net, iteration), input_size(cfg, seed, iteration)
                report = update(network, optimizer, partial, iteration, rate, size)
            except NotFinite:
                yield state, None
                raise
            except RelumeError:
                yield with_partial(state, partial, network), None
                raise
            pictures[partial.rows] = partial.digests
            pictures[list(partial.skipped)] = list(partial.skipped.values())
            progress = Progress(
                seen=iteration * net.batch,
                average_loss=updated_average(state.progress.average_loss, report.loss),
                skipped=tuple(sorted({*state.progress.skipped, *partial.skipped})),
            )
            captured = capture(network, optimizer, pictures, state, progress, state.history)
            record = record_of(report, progress, captured.digest())
            history = replace(state.history, records=records.append(record))
            state = replace(captured, history=history)
            partial = Partial()
            yield state, report


def _complete(partial: Partial, network: Network, batches: Iterator[MiniBatch], stop: Stop) -> bool:
    """Train the subdivisions that are left of an iteration; return False if a stop came first."""
    while partial.subdivisions < network.cfg.net.subdivisions:
        mini_batch = None if stop.is_due() else next(batches, None)
        if mini_batch is None:
            return False
        train_subdivision(network, partial, mini_batch)
    return True
