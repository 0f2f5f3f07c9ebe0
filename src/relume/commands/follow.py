"""Training in a process of a group that writes nothing: it follows the first one, which does.

Where all goes well it says nothing, and where all come upon the same trouble neither.
"""

import torch

from relume.command_table import Values
from relume.commands.starting_flags import threads_of, wishes_of
from relume.commands.stopping import max_time_s, stop_by_signal
from relume.commands.training_flags import flags_of
from relume.distributed.group import Group, LeftQuietly
from relume.errors import TEMPORARY_FAILURE
from relume.screen import Screen
from relume.spec import read_spec
from relume.train import environment
from relume.train.evaluation import is_finished
from relume.train.loop import begin
from relume.train.loop import follow as follow_loop
from relume.train.one_start import check_alike, check_size, shared_state
from relume.train.rerun import in_this_environment


def follow(
    arguments: list[str], flags: Values, screen: Screen, group: Group, device: torch.device
) -> int:
    """Train in a process that writes nothing and, while all goes well, says nothing."""
    try:
        return _following(arguments, flags, screen, group, device)
    except LeftQuietly:  # the process that writes has stopped before it began
        return TEMPORARY_FAILURE


def _following(
    arguments: list[str], flags: Values, screen: Screen, group: Group, device: torch.device
) -> int:
    data, cfg = arguments[:2]
    threads, max_time = threads_of(flags), max_time_s(flags)
    group.gather(b"")
    spec = read_spec(data, cfg, flags_of(flags), lambda text: None)
    check_size(group, spec)

    def say(text: str) -> None:
        screen.warn(f"process {group.rank}: {text}")

    with stop_by_signal(screen, is_said=False) as stop:
        if max_time is not None:
            stop.ends_at_s = screen.began_s + max_time
        start = shared_state(group, None)
        assert start is not None
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
        follow_loop(spec, live, stop, say)
        return 0 if is_finished(spec.recipe, live.state) else TEMPORARY_FAILURE
