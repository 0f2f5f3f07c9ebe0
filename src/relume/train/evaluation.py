"""The evaluations of a run (`-map`): when one is due, what it makes of the state, and the end.

An evaluation is a step of its own, which turns the state after an iteration into the same state
with one more result in its history. Whether it is due follows from recipe and state, so a run
that is interrupted in the middle of one begins with it.

Not covered: which evaluation is the best (`checkpoint/evaluations.py`).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from relume.checkpoint.evaluations import (
    comparable,
    is_evaluated_state,
    measure_of,
    without_a_better_one,
)
from relume.checkpoint.state import Measured, TrainState
from relume.data.patience import PAUSES_S, Patience
from relume.errors import ImageError, Undecodable
from relume.evaluate.average_precision import Evaluation
from relume.evaluate.validation import evaluate_network
from relume.model.network import Network
from relume.schedule import is_evaluated
from relume.spec import SKIP, Recipe, RunSpec


def evaluation_due(recipe: Recipe, state: TrainState) -> bool:
    """Tell whether the next step of this state is its evaluation."""
    plan = recipe.evaluations
    if plan is None or is_evaluated_state(state):
        return False
    return is_evaluated(recipe.cfg.net, plan.interval, state.iteration)


def is_finished(recipe: Recipe, state: TrainState) -> bool:
    """Tell whether nothing is left to do."""
    if evaluation_due(recipe, state):
        return False
    return state.iteration >= recipe.cfg.net.max_batches or has_lost_patience(recipe, state)


def off_schedule(recipe: Recipe, state: TrainState) -> list[int]:
    """Return the iterations that were evaluated, and would not be in a run that begins today.

    A higher max_batches leaves one where the run ended before, another -mAP_epochs or burn_in
    several. They have been measured, so they stay, in the comparison for the best as well.
    """
    plan, net = recipe.evaluations, recipe.cfg.net
    if plan is None:
        return []
    done = [one.iteration for one in state.history.evaluations]
    return [i for i in done if not is_evaluated(net, plan.interval, i)]


def has_lost_patience(recipe: Recipe, state: TrainState) -> bool:
    """Tell whether a run ends with this evaluation, since too many were no better."""
    plan = recipe.evaluations
    if plan is None or plan.patience is None or not is_evaluated_state(state):
        return False
    return without_a_better_one(state) >= plan.patience


def evaluated(
    network: Network,
    spec: RunSpec,
    state: TrainState,
    stopped: Callable[[], bool],
    say: Callable[[str], None],
) -> tuple[TrainState, Evaluation] | None:
    """Return the state with its evaluation in the history, and the evaluation.

    The network is left as it is. It sees the pictures in the cfg's own size, whatever `random`
    says. A validation picture that has changed since the last evaluation is said; what was
    measured before is then no longer compared with.

    Args:
        network: in that state.
        spec: of the run, with -map.
        state: after a whole iteration.
        stopped: asked between two batches of pictures.
        say: takes a line about a picture.
    Returns:
        None if it was stopped.
    Raises:
        ImageError, Unavailable: a picture cannot be used.
    """
    recipe, plan = spec.recipe, spec.recipe.evaluations
    assert plan is not None
    pictures = plan.valid.pictures
    digests = np.zeros(len(pictures), np.uint64)

    def leave_out(error: ImageError) -> None:
        if not isinstance(error, Undecodable) or spec.operation.bad != SKIP:
            raise error
        say(f"{error.place}: cannot be decoded; not measured on, as bad=skip says")

    evaluation = evaluate_network(
        network,
        pictures,
        thresh=spec.operation.thresh,
        iou_thresh=plan.iou_thresh,
        letter_box=recipe.cfg.net.letter_box,
        workers=spec.operation.workers,
        stop=stopped,
        on_digest=digests.__setitem__,
        on_bad=leave_out,
        patience=Patience(PAUSES_S, stopped, say),
        max_pixels=spec.operation.max_pixels,
    )
    if evaluation is None:
        return None
    _tell_changed(state, recipe, digests, say)
    measure = measure_of(state.recipe.keys, digests)
    result = Measured(state.iteration, evaluation.mean_average_precision, measure)
    history = replace(
        state.history,
        evaluations=(*state.history.evaluations, result),
        valid_digests=digests,
    )
    return replace(state, history=history), evaluation


def _tell_changed(
    state: TrainState, recipe: Recipe, digests: npt.NDArray[np.uint64], say: Callable[[str], None]
) -> None:
    assert recipe.evaluations is not None
    if not comparable(state):
        return
    changed = np.flatnonzero(digests != state.history.valid_digests)
    if len(changed):
        first = recipe.evaluations.valid.pictures[int(changed[0])]
        more = f" and {len(changed) - 1} more" * (len(changed) > 1)
        say(
            f"{first.place}: {first.path}{more}: changed since the last evaluation; what was "
            "measured before is not compared with, a new best begins"
        )
