"""What a training shows while it runs: a line per iteration and evaluation, and the chart."""

from collections.abc import Callable, Iterator

from relume.checkpoint import storage
from relume.checkpoint.evaluations import best_of, comparable, is_best, without_a_better_one
from relume.checkpoint.keeper import Keeper
from relume.checkpoint.state import TrainState
from relume.checkpoint.tensor_digests import TensorDigests
from relume.errors import StorageError
from relume.evaluate.average_precision import Evaluation
from relume.evaluate.report import format_evaluation
from relume.schedule import next_evaluation
from relume.screen import TrainingProgress
from relume.spec import RunSpec
from relume.train.chart import Rhythm, draw_chart
from relume.train.loop import Stop
from relume.train.step import Report

Note = Callable[[str], None]
"""Takes one line of text."""


class Charts:
    """Draws the chart of one training now and then."""

    def __init__(self, spec: RunSpec, say: Note) -> None:
        self._spec = spec
        self._say = say
        self._rhythm = Rhythm()

    def watch(self, state: TrainState, report: Report | Evaluation) -> None:
        """Draw the chart if it is due; if the disk refuses, say so and go on."""
        if isinstance(report, Evaluation) or self._rhythm.is_due(state.iteration):
            try:
                with self._rhythm.measured():
                    write_chart(self._spec, state)
            except StorageError as error:
                self._say(f"training goes on: {error}")


class Watcher:
    """Shows one training.

    Args of the constructor:
        spec: of the run.
        stop: asked for where nobody reads the lines any more.
        keeper: knows what is unsaved.
        progress: the display of iterations.
        show: takes a line for standard output.
        note: takes a line for NAME.log.
        say: takes a line for both, beside the results.
        digests: the file of -tensor_digests.
    """

    def __init__(
        self,
        spec: RunSpec,
        stop: Stop,
        keeper: Keeper,
        progress: TrainingProgress,
        show: Note,
        note: Note,
        say: Note,
        digests: TensorDigests | None,
    ) -> None:
        self._spec = spec
        self._stop = stop
        self._keeper = keeper
        self._progress = progress
        self._show = show
        self._note = note
        self._say = say
        self._digests = digests
        self._charts = Charts(spec, say)

    def watch(self, state: TrainState, report: Report | Evaluation) -> None:
        """Show an iteration or an evaluation, and draw the chart if it is due."""
        if self._digests is not None and isinstance(report, Report):
            self._digests.append(state)
        try:
            if isinstance(report, Report):
                self._show_iteration(state, report)
            else:
                self._show_evaluation(state, report)
        except BrokenPipeError:
            self._stop.requested = True  # who read the lines has gone, as `head` does
        except StorageError as error:
            self._say(f"training goes on: {error}")
        self._charts.watch(state, report)

    def _show_iteration(self, state: TrainState, report: Report) -> None:
        line = self._progress.iteration(
            state.iteration,
            report.loss,
            state.progress.average_loss or 0.0,
            report.rate,
            self._spec.recipe.cfg.net.batch,
            self._keeper.unsaved(state.iteration),
        )
        self._note(line)

    def _show_evaluation(self, state: TrainState, evaluation: Evaluation) -> None:
        best = best_of(comparable(state))
        assert best is not None
        self._progress.evaluation(evaluation.mean_average_precision, best.map)
        for line in evaluation_lines(self._spec, state, evaluation):
            self._note(line)
            self._show(line)


def evaluation_lines(spec: RunSpec, state: TrainState, evaluation: Evaluation) -> Iterator[str]:
    """Yield what Darknet says of an evaluation while it trains.

    Source:
        AlexeyAB/darknet 59596d78 src/detector.c validate_detector_map, train_detector.
    """
    plan = spec.recipe.evaluations
    best = best_of(comparable(state))
    assert plan is not None
    assert best is not None
    last, at = evaluation.mean_average_precision, f"mAP@{plan.iou_thresh:0.2f}"
    yield from format_evaluation(evaluation, spec.recipe.names)
    yield f" mean_average_precision ({at}) = {last:f}"
    if is_best(state):
        yield " New best mAP!"
    yield (
        f" Last accuracy {at} = {100 * last:2.2f} %, best = {100 * best.map:2.2f} % "
        f"(iteration {best.iteration})"
    )
    if plan.patience is not None and (waited := without_a_better_one(state)):
        yield f" {waited} of {plan.patience} evaluations (patience) without a better one"
    net = spec.recipe.cfg.net
    if state.iteration < net.max_batches:
        following = next_evaluation(net, plan.interval, state.iteration)
        yield f" (next mAP calculation at {following} iterations)"


def write_chart(spec: RunSpec, state: TrainState) -> None:
    """Draw the chart of a run, under both of its names.

    Raises:
        StorageError: it could not be drawn or written.
    """
    operation = spec.operation
    try:
        picture = draw_chart(state.history, operation.name, spec.recipe.cfg.net.max_batches)
    except OSError as error:  # a font that cannot be read, say
        raise StorageError(operation.backup / "chart.png", f"cannot be drawn ({error})") from error
    for file in (f"chart_{operation.name}.png", "chart.png"):
        storage.write_durably(operation.backup / file, picture)
