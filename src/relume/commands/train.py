"""`relume detector train`: reads everything, finds the state to go on from, trains."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from relume.checking.before_training import told_of_known_pictures, warnings_before_training
from relume.checkpoint.evaluations import best_of, comparable, without_a_better_one
from relume.checkpoint.state import TrainState
from relume.checkpoint.tensor_digests import BEGINNING, TensorDigests
from relume.command_table import Values
from relume.commands.follow import follow
from relume.commands.launch import launch
from relume.commands.look_through import look_through
from relume.commands.outputs import Kind, Outputs
from relume.commands.run_folder import held_folder, keeper_of, written
from relume.commands.starting_flags import (
    compute_device,
    peer_timeout_s,
    start_flags_of,
    threads_of,
    usual_threads,
    wishes_of,
)
from relume.commands.stopping import max_time_s, stop_by_signal
from relume.commands.training_flags import flags_of
from relume.commands.watcher import Watcher
from relume.data.loaders import available_processors
from relume.data.patience import PAUSES_S, Patience
from relume.distributed.group import Group, is_started_by_torchrun, joined
from relume.errors import TEMPORARY_FAILURE
from relume.kernels import PORTABLE
from relume.schedule import next_evaluation
from relume.screen import Screen
from relume.spec import Evaluations, Recipe, RunSpec, read_spec
from relume.train import environment
from relume.train.evaluation import evaluation_due, has_lost_patience, is_finished
from relume.train.folders import bring_together, met_folders, one_beginning
from relume.train.loop import Live, Stop, begin
from relume.train.one_start import check_alike, check_size
from relume.train.rerun import in_this_environment
from relume.train.start import starting_state

Note = Callable[[str], None]
"""Takes one line of text."""
DIGESTS = Kind(
    "tensor digests", lambda head: head.startswith(BEGINNING) or BEGINNING.startswith(head)
)
"""Lines are added; the first one may be cut."""


def train(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Train from the beginning or from where the last run stopped; return the exit status.

    In a group of processes the first one writes what there is to write, the others follow it.
    A stopped run is then no failure of them, for which torchrun would start them again.
    """
    if "-gpus" in flags:
        return launch(arguments, flags, screen)
    device = compute_device(flags)
    with joined(device, peer_timeout_s(flags)) as group:
        do = _lead if group.leads else follow
        status = do(arguments, flags, screen, group, device)
    return 0 if status == TEMPORARY_FAILURE and is_started_by_torchrun() else status


def _lead(
    arguments: list[str], flags: Values, screen: Screen, group: Group, device: torch.device
) -> int:
    """Train, write, and show what happens."""
    data, cfg = arguments[:2]
    if "-tensor_digests" in flags:
        outputs = Outputs(arguments, remedy="give another name")
        outputs.check(Path(str(flags["-tensor_digests"])), DIGESTS, "-tensor_digests")
    threads, max_time = threads_of(flags), max_time_s(flags)
    spec = read_spec(data, cfg, flags_of(flags), screen.warn)
    check_size(group, spec)
    group.gather(b"")  # what had to be indexed has been; the others need not do it again
    folders = met_folders(group, spec)
    with held_folder(spec.operation, screen.warn) as (say, note), stop_by_signal(screen) as stop:
        stop.check = group.check_launcher
        if max_time is not None:
            stop.ends_at_s = screen.began_s + max_time
        processors = available_processors()
        if not look_through(spec, data, processors, screen, stop.is_due, say):
            say("stopped before all labels were looked through; the same command goes on")
            return TEMPORARY_FAILURE
        for text in told_of_known_pictures(spec):
            say(text)
        declared = environment.declare(threads or usual_threads(), device)
        start_flags = start_flags_of(arguments, flags)
        patience = Patience(PAUSES_S, stop.is_due, say)
        bring_together(group, folders, spec, start_flags.allow_change, patience, say)
        start = starting_state(spec, start_flags, declared, say, patience)
        one_beginning(group, folders, spec, start, say)
        threads = threads or int(start.environment["threads"])
        environment.set_up(threads)
        here = environment.declare(threads, device)
        check_alike(group, spec, here)
        wishes = wishes_of(flags)
        known = in_this_environment(spec, start, here, wishes, stop, device, say, group)
        if known is None:
            say("stopped before anything was trained; the same command goes on")
            return TEMPORARY_FAILURE
        if known.reached == (0, 0):
            for text in warnings_before_training(spec):
                say(text)
        many = f"{group.size} processes with " * (group.size > 1)
        hands = f"{many}{threads} thread{'s' * (threads > 1)}"
        say(f"seed {spec.recipe.seed}, {hands}, backup {spec.operation.backup}")
        live = begin(spec, known, device, group)
        del start, known  # what was read of a file; as large as all that is trained
        with _tensor_digests(flags, live, say) as digests:
            return _run(spec, live, stop, screen, note, say, digests)


def _run(
    spec: RunSpec,
    live: Live,
    stop: Stop,
    screen: Screen,
    note: Note,
    say: Note,
    digests: TensorDigests | None,
) -> int:
    folder, name = spec.operation.backup, spec.operation.name
    began, began_seen = live.state, live.seen
    if is_finished(spec.recipe, began):
        say(_told_of_the_end(spec, began))
    elif spec.recipe.evaluations is not None:
        say(_told_of_evaluations(spec.recipe, spec.recipe.evaluations, began))
    progress = screen.training(began.iteration, spec.recipe.cfg.net.max_batches)
    if done := comparable(began):
        progress.evaluation(done[-1].map, max(one.map for one in done))
    keeper = keeper_of(spec.operation, say)
    watcher = Watcher(spec, stop, keeper, progress, screen.line, note, say, digests)
    end = written(spec, live, stop, keeper, watcher.watch, say)
    finished = is_finished(spec.recipe, end)
    progress.close()
    if not finished:
        measured = len(end.history.evaluations) > len(began.history.evaluations)
        idle = end.progress.seen == began_seen and not measured
        say(_farewell(spec, end, idle, stop.requested))
        return TEMPORARY_FAILURE
    if not is_finished(spec.recipe, began):
        if has_lost_patience(spec.recipe, end) and end.iteration < spec.recipe.cfg.net.max_batches:
            say(_told_of_patience(spec, end))
        say(f"finished: {folder / f'{name}_final.weights'}")
    if best := best_of(comparable(end)):
        path, percent = folder / f"{name}_best.weights", 100 * best.map
        gone = "" if path.exists() else " (gone)"
        say(f"best: {path}{gone}, mAP {percent:.2f} % after iteration {best.iteration}")
    return 0


def _told_of_evaluations(recipe: Recipe, plan: Evaluations, state: TrainState) -> str:
    """Say on what is measured, and when."""
    best = best_of(comparable(state))
    known = f", best so far {100 * best.map:.2f} % (iteration {best.iteration})" if best else ""
    following = state.iteration
    if not evaluation_due(recipe, state):
        following = next_evaluation(recipe.cfg.net, plan.interval, following)
    return (
        f"-map: measures on the {len(plan.valid.pictures)} pictures of {plan.valid.images.path} "
        f"every {plan.interval} iterations, next after {following}{known}"
    )


def _told_of_the_end(spec: RunSpec, state: TrainState) -> str:
    """Say that a run is finished, and how it goes on."""
    name, total = spec.operation.name, spec.recipe.cfg.net.max_batches
    if state.iteration < total:
        return f"'{name}' is finished: {_told_of_patience(spec, state)}; a higher patience goes on"
    return (
        f"'{name}' is finished: {state.iteration} iterations of max_batches={total} are done; "
        f"to go on, raise max_batches in {spec.recipe.cfg.path} (with random=1, or a policy "
        "that depends on max_batches, that changes the run: add -allow-change)"
    )


def _told_of_patience(spec: RunSpec, state: TrainState) -> str:
    best = best_of(comparable(state))
    assert best is not None
    count = without_a_better_one(state)
    return (
        f"stopped early after iteration {state.iteration} of {spec.recipe.cfg.net.max_batches}: "
        f"{count} evaluation{'s' * (count != 1)} (patience) without a better mAP than "
        f"{100 * best.map:.2f} % after iteration {best.iteration}"
    )


def _farewell(spec: RunSpec, end: TrainState, idle: bool, asked: bool) -> str:
    """Say where a run was stopped: by a signal that asked for it, or by -max_time."""
    waits = evaluation_due(spec.recipe, end)
    too_short = f" before {'an evaluation' if waits else 'a subdivision'} was done" * idle
    over = "" if asked else f"the time of -max_time is over{too_short}; "
    begun = end.iteration > 0 or end.subdivision > 0
    goes_on = "goes on from there" if begun else "begins again: nothing is saved yet"
    if not begun and end.environment["kernels"] == PORTABLE:
        goes_on += ", so -portable is needed again"
    place = end.place + ", before its evaluation" * waits
    return f"{over}stopped at {place}; the same command {goes_on}"


@contextmanager
def _tensor_digests(flags: Values, live: Live, say: Note) -> Iterator[TensorDigests | None]:
    """Give the file that -tensor_digests asks for, with a line for the state of this start."""
    if "-tensor_digests" not in flags:
        yield None
        return
    with closing(TensorDigests(Path(str(flags["-tensor_digests"])), say)) as digests:
        digests.append(live.now(), start=True)
        yield digests
