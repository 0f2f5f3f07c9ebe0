"""READ THIS FIRST: the whole run on one screen.

A new run is `train(spec, fresh_state)`, a resumed one `train(spec, newest_good_state)`; there
is no mode called resume. Which picture comes next, how it is distorted, the rate and the
input size are functions of (recipe, position), so nothing but the state is carried along.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from relume.checkpoint.keeper import Keeper
from relume.checkpoint.state import Progress, RecordBuffer, TrainState
from relume.data.batch import MiniBatch, Source, mini_batches
from relume.errors import ImageError, RelumeError, StorageError
from relume.model.network import Network
from relume.schedule import input_size, learning_rate
from relume.spec import Recipe, RunSpec
from relume.train.capture import capture, install
from relume.train.journal import Journal, record_of
from relume.train.optimizer import build_optimizer
from relume.train.step import Report, train_iteration, updated_average


@dataclass
class Stop:
    """Set by a signal handler; looked at between two iterations."""

    requested: bool = False


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
        stop: ends the run after the current iteration.
        watch: told about every iteration.
        device: where the network lives.
    """
    state = start
    steps = iterations(spec, start, stop, device)
    keeper.stop(state)  # writes what a kill after this very state left undone
    try:
        for state, report in steps:
            journal.append(state.history, state.progress.average_loss or 0.0)
            keeper.offer(state)
            watch(state, report)
    except RelumeError:
        # Such an error comes before the update, so the state is whole.
        try:
            keeper.stop(state)
        except StorageError as error:
            keeper.warn(f"not saved at iteration {state.iteration}: {error}")
        raise
    finally:
        steps.close()
    if state.iteration >= spec.recipe.cfg.net.max_batches:
        journal.finish(state.history)
        keeper.finish(state)
    else:
        keeper.stop(state)
    return state


def iterations(
    spec: RunSpec, start: TrainState, stop: Stop, device: torch.device
) -> Generator[tuple[TrainState, Report]]:
    """Put `start` into a network and return its training, which writes nothing.

    Args:
        spec: what to train, and with how many hands.
        start: the state to go on from; it is not changed.
        stop: ends the training after the current iteration.
        device: where the network lives.
    Yields:
        After every iteration up to max_batches the new state and what it says about itself.
        The state's arrays may share the network's memory: they hold until the next one is
        asked for.
    Raises:
        Mismatch: at once, if `start` does not fit the network.
        RelumeError: later, before an update: the state yielded last is whole.
    """
    recipe = spec.recipe
    network = Network(recipe.cfg, recipe.seed).to(device).train()
    optimizer = build_optimizer(network.trained_parameters(), recipe.cfg.net)
    pictures = install(start, network, optimizer, len(recipe.labels))
    return _trained(spec, start, stop, network, optimizer, pictures)


def _trained(
    spec: RunSpec,
    state: TrainState,
    stop: Stop,
    network: Network,
    optimizer: torch.optim.Optimizer,
    pictures: npt.NDArray[np.uint64],
) -> Generator[tuple[TrainState, Report]]:
    net = spec.recipe.cfg.net
    records = RecordBuffer(state.history.records)
    batches = _batches(spec, first_position=state.progress.seen)
    checked = _unchanged(batches, pictures, spec.recipe)
    with closing(batches):
        while state.iteration < net.max_batches and not stop.requested:
            iteration = state.iteration + 1
            rate = learning_rate(net, iteration)
            report, consumed = train_iteration(network, optimizer, checked, iteration, rate)
            for mini_batch in consumed:
                pictures[list(mini_batch.indices)] = mini_batch.digests
            progress = Progress(
                seen=iteration * net.batch,
                average_loss=updated_average(state.progress.average_loss, report.loss),
            )
            captured = capture(network, optimizer, pictures, state, progress, state.history)
            record = record_of(report, progress, captured.digest())
            history = replace(state.history, records=records.append(record))
            state = replace(captured, history=history)
            yield state, report


def _batches(spec: RunSpec, first_position: int) -> Generator[MiniBatch]:
    """Yield the mini-batches from `first_position` on: a pure function of the recipe."""
    recipe, operation = spec.recipe, spec.operation
    cfg = recipe.cfg

    def size_of(position: int) -> tuple[int, int]:
        return input_size(cfg, recipe.seed, position // cfg.net.batch + 1)

    source = Source(
        net=cfg.net,
        head=cfg.heads[-1],
        seed=recipe.seed,
        image_paths=recipe.images.paths,
        places=[f"{recipe.images.path}:{line}" for line in recipe.images.lines],
        labels=recipe.labels,
    )
    return mini_batches(
        source,
        first_position,
        size_of,
        workers=operation.workers,
        read_ahead=operation.read_ahead,
        end_position=cfg.net.max_batches * cfg.net.batch,
    )


def _unchanged(
    batches: Iterator[MiniBatch], pictures: npt.NDArray[np.uint64], recipe: Recipe
) -> Iterator[MiniBatch]:
    """Pass mini-batches on, but stop at a picture that differs from when it was last used."""
    for mini_batch in batches:
        known = pictures[list(mini_batch.indices)]
        changed = np.flatnonzero((known != 0) & (known != mini_batch.digests))
        if changed.size:
            index = mini_batch.indices[int(changed[0])]
            raise ImageError(
                recipe.images.paths[index],
                "the picture has changed since this run used it",
                "the pictures the run began with",
                "restore it, or go on with today's pictures by -allow-change",
            )
        yield mini_batch
