"""Training in a process of a group that does not lead: it follows the first one, which does.

If its machine has a backup folder of its own, and it is the first there, it writes that one as
the leader writes its own. Where all goes well it says nothing, and where all come upon the same
trouble neither.
"""

from contextlib import ExitStack

import torch

from relume.command_table import Values
from relume.commands.run_folder import held_folder, keeper_of, written
from relume.commands.starting_flags import start_flags_of, threads_of, wishes_of
from relume.commands.stopping import max_time_s, stop_by_signal
from relume.commands.training_flags import flags_of
from relume.commands.watcher import Charts
from relume.data.patience import PAUSES_S, Patience
from relume.distributed.group import Group, LeftQuietly
from relume.errors import TEMPORARY_FAILURE
from relume.screen import Screen
from relume.spec import read_spec
from relume.train import environment
from relume.train.evaluation import is_finished
from relume.train.folders import bring_together, met_folders, one_beginning
from relume.train.given_weights import Say
from relume.train.loop import begin
from relume.train.loop import follow as follow_loop
from relume.train.one_start import check_alike, check_size
from relume.train.rerun import in_this_environment


def follow(
    arguments: list[str], flags: Values, screen: Screen, group: Group, device: torch.device
) -> int:
    """Train in a process that does not lead and, while all goes well, says nothing."""
    try:
        return _following(arguments, flags, screen, group, device)
    except LeftQuietly:  # the process that leads has stopped before it began
        return TEMPORARY_FAILURE


def _following(
    arguments: list[str], flags: Values, screen: Screen, group: Group, device: torch.device
) -> int:
    data, cfg = arguments[:2]
    threads, max_time = threads_of(flags), max_time_s(flags)
    group.gather(b"")
    spec = read_spec(data, cfg, flags_of(flags), lambda text: None)
    check_size(group, spec)
    folders = met_folders(group, spec)
    writes = folders.has_writer(group.rank)

    def tell(text: str) -> None:
        screen.warn(f"process {group.rank}: {text}")

    with ExitStack() as held:
        say: Say = tell
        if writes:
            say, _ = held.enter_context(held_folder(spec.operation, tell))
        stop = held.enter_context(stop_by_signal(screen, is_said=False))
        stop.check = group.check_launcher
        if max_time is not None:
            stop.ends_at_s = screen.began_s + max_time
        patience = Patience(PAUSES_S, stop.is_due, say)
        allow_change = start_flags_of(arguments, flags).allow_change
        bring_together(group, folders, spec, allow_change, patience, say)
        start = one_beginning(group, folders, spec, None, say)
        threads = threads or int(start.environment["threads"])
        environment.set_up(threads)
        here = environment.declare(threads, device)
        check_alike(group, spec, here)
        known = in_this_environment(
            spec, start, here, wishes_of(flags), stop, device, lambda text: None, group
        )
        if known is None:
            return TEMPORARY_FAILURE
        live = begin(spec, known, device, group)
        del start, known
        if writes:
            keeper = keeper_of(spec.operation, say)
            written(spec, live, stop, keeper, Charts(spec, say).watch, say)
        else:
            follow_loop(spec, live, stop, say)
        return 0 if is_finished(spec.recipe, live.state) else TEMPORARY_FAILURE
