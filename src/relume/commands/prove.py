"""`relume prove`: interrupts a run of the user's own at random moments and compares every file."""

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from relume.checkpoint import storage
from relume.command_table import Values
from relume.commands.outputs import names_in
from relume.commands.training_flags import OF_EVALUATIONS, flags_of
from relume.control_characters import escape_controls
from relume.errors import Locked, StorageError, TrainerEnded, UsageError
from relume.formats.data_files import read_data_file
from relume.formats.places import read_regular
from relume.proof import outcome
from relume.proof.inputs import (
    AGAIN,
    INTERRUPTED,
    STRAIGHT,
    ProofPlan,
    in_folder,
    needed_bytes,
    schedule_changes,
    write_inputs,
)
from relume.proof.runs import TrainCommand, train_interrupted, train_straight
from relume.screen import Screen
from relume.spec import RunSpec, read_spec
from relume.train.given_weights import StartFlags, read_given

SAME, DIFFERENT = 0, 1
ITERATIONS, KILLS = 30, 5
PROGRAM = (sys.executable, "-P", "-m", "relume")
"""What a user's `relume` runs; -P: a folder called relume, where it is given, is not it."""
HANDED_ON = (
    *("-clear", "-allow-change", "-seed", "-threads", "-workers"),
    *("-portable", "-i", "-nogpu", *OF_EVALUATIONS),
)
"""Flags that every start of the proof is given too."""
UNFINISHED = "unfinished"
"""The file that a proof's folder holds until there is a verdict."""
MARK = b"relume prove made this folder, and deletes it\n"
"""What that file holds; a folder without it is not the proof's."""
LOCK = "prove"
VERDICT = "verdict.txt"
_RUNS = "|".join((STRAIGHT, INTERRUPTED, AGAIN))
_OF_PROOF = re.compile(
    rf"({_RUNS})(\.data|\.digests\.jsonl|\.log)?|(train|valid|difficult)\.txt|.+\.cfg|{VERDICT}"
    rf"|{UNFINISHED}|{LOCK}\.lock|.+\.tmp"
)
"""Names of what a proof leaves in its folder."""


def prove(
    arguments: list[str],
    flags: Values,
    screen: Screen,
    program: tuple[str, ...] = PROGRAM,
) -> int:
    """Prove the promise on one run; return 0: same, 1: different.

    Args:
        program: what is started as `relume`; for tests.
    Raises:
        RelumeError: no verdict could be reached.
    """
    plan = _plan(arguments, flags, screen)
    command = TrainCommand(program, _handed_on(arguments, flags))
    keeps = bool(flags.get("-keep"))
    with _ended_by_signals(), _own_folder(plan, screen) as made:
        try:
            same, lines = _verdict(plan, command, screen)
            keeps = keeps or not same
            if keeps:
                lines.append(f"  everything is kept in {plan.folder}")
                text = "".join(f"{escape_controls(line)}\n" for line in lines)
                storage.write_durably(plan.folder / VERDICT, text.encode())
                storage.remove(plan.folder / UNFINISHED)
            screen.lines(lines)
        except (KeyboardInterrupt, BrokenPipeError):
            if not keeps:
                _remove(plan.folder, made)
            raise
        if not keeps:
            _remove(plan.folder, made)
    return SAME if same else DIFFERENT


def _verdict(plan: ProofPlan, command: TrainCommand, screen: Screen) -> tuple[bool, list[str]]:
    """Train, compare, and return whether all is the same, and the lines that say so."""
    write_inputs(plan)
    seed = plan.spec.recipe.seed
    screen.line(
        f"trains iterations {plan.start + 1} to {plan.end} of '{plan.name}' twice in "
        f"{plan.folder}: left alone, and killed {plan.kills} times (moments of seed {seed})"
    )
    progress = screen.progress(plan.iterations)
    timeline = train_straight(command, plan, STRAIGHT, progress.at)
    course = train_interrupted(command, plan, timeline, seed, progress.at, screen.line)
    found = outcome.compare(plan, STRAIGHT, INTERRUPTED)
    if found.same and not course.resumes_inside(plan):
        raise TrainerEnded(
            f"{INTERRUPTED} run",
            "no start of it went on from a checkpoint inside the run (they began at iteration "
            f"{outcome.in_words(course.starts)}), so the same files prove nothing",
            "a kill after a save and before the end",
            "give more -iterations or -kills, or another -seed",
        )
    done = outcome.summary(plan, course, found)
    if found.same:
        verdict, *meaning = outcome.same_lines(plan, found, schedule_changes(plan))
        lines = [verdict, *done, *meaning]
    else:
        screen.line("different; trains once more, left alone, to see what that leaves")
        train_straight(command, plan, AGAIN, progress.at)
        again = outcome.compare(plan, STRAIGHT, AGAIN)
        lines = [*outcome.different_lines(found, again), *done]
    progress.close()
    return found.same, lines


def _plan(arguments: list[str], flags: Values, screen: Screen) -> ProofPlan:
    """Read the run as `detector train` does, and find out where it would begin."""
    iterations = _count(flags, "-iterations", ITERATIONS)
    kills = _count(flags, "-kills", KILLS)
    spec = read_spec(arguments[0], arguments[1], flags_of(flags), screen.warn)
    folder = _folder(flags, spec)
    start, max_batches = _start(arguments, flags, spec, folder), spec.recipe.cfg.net.max_batches
    if start >= max_batches:
        raise UsageError(
            arguments[2],
            f"has {start} iterations behind it, all of max_batches={max_batches}",
            "a run that is not finished",
            f"raise max_batches in {arguments[1]}, or give -clear",
        )
    end = min(start + iterations, max_batches)
    if end < start + iterations:
        screen.warn(f"max_batches={max_batches}: proves {end - start} iterations")
    return ProofPlan(spec, read_data_file(arguments[0]), start, end, kills, folder)


def _count(flags: Values, name: str, standard: int) -> int:
    number = int(flags.get(name, standard))
    if number < 1:
        raise UsageError(name, str(number), "1 or more", "see relume prove -h")
    return number


def _folder(flags: Values, spec: RunSpec) -> Path:
    """Return the proof's folder: NAME.prove beside the run's own, or the one that is named."""
    backup = spec.operation.backup.absolute()
    if "-folder" not in flags:
        return backup.parent / f"{spec.operation.name}.prove"
    folder = Path(str(flags["-folder"])).absolute()
    if folder.resolve() == backup.resolve():
        raise UsageError("-folder", f"{folder} holds the run itself", "a folder of its own")
    return folder


def _start(arguments: list[str], flags: Values, spec: RunSpec, folder: Path) -> int:
    """Return the iterations that WEIGHTS have behind them."""
    start = StartFlags(
        weights=arguments[2] if len(arguments) > 2 else None, clear=bool(flags.get("-clear"))
    )
    given = read_given(in_folder(spec, folder / STRAIGHT), start, None, lambda text: None)
    return given.iterations(spec.recipe.cfg.net.batch)


def _handed_on(arguments: list[str], flags: Values) -> tuple[str, ...]:
    words = list(arguments[2:])
    for name in HANDED_ON:
        if name in flags:
            words += [name] if flags[name] is True else [name, str(flags[name])]
    return tuple(words)


@contextmanager
def _own_folder(plan: ProofPlan, screen: Screen) -> Iterator[os.stat_result]:
    """Make the folder of the proof, or empty that of one which was interrupted.

    Yields:
        Which folder it is.
    Raises:
        UsageError: it holds anything else.
        Locked: another proof, or a trainer of an earlier one, works in it.
        StorageError: it cannot be written, or the disk has too little space.
    """
    folder = plan.folder
    _check_own(folder)
    storage.make_folder(folder)
    with _alone(folder, LOCK):
        storage.write_durably(folder / UNFINISHED, MARK)
        for run in (STRAIGHT, INTERRUPTED, AGAIN):
            if _is_folder(plan.backup(run)):
                with _alone(plan.backup(run), plan.name):
                    pass
        left = sorted(names_in(folder, "-folder") - {UNFINISHED, f"{LOCK}.lock"})
        if left:
            screen.warn(f"{folder}: left by a proof that was interrupted; begins anew")
        for path in [folder / name for name in left]:
            storage.remove_folder(path) if _is_folder(path) else storage.remove(path)
        _check_space(plan)
        yield folder.lstat()


def _check_own(folder: Path) -> None:
    """Raise UsageError unless a folder is new, empty, or left by a proof; and no link to one.

    Nor may it be one that cannot be listed.
    """
    if not os.path.lexists(folder):
        return
    if _is_folder(folder):
        names = names_in(folder, "-folder")
        is_new = not names - {f"{LOCK}.lock"}
        if is_new or (_is_marked(folder) and all(map(_OF_PROOF.fullmatch, names))):
            return
    raise UsageError(
        folder,
        "is there already, and no unfinished proof",
        "a folder of its own",
        "move it away, or name another by -folder",
    )


def _is_marked(folder: Path) -> bool:
    marker = folder / UNFINISHED
    with suppress(OSError):
        return not marker.is_symlink() and read_regular(marker, len(MARK)) == MARK
    return False


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(folder: Path, made: os.stat_result) -> None:
    """Delete the folder of a proof, if it is still the one that the proof made."""
    with suppress(FileNotFoundError):
        if os.path.samestat(made, folder.lstat()) and _is_marked(folder):
            storage.remove_folder(folder)


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    try:
        with storage.locked(folder, name):
            yield
    except Locked as error:
        raise Locked(
            folder,
            "a proof, or a trainer that one has left, still works here",
            "one at a time",
            "wait for its end, or name another folder by -folder",
        ) from error


def _check_space(plan: ProofPlan) -> None:
    needed, free = needed_bytes(plan), shutil.disk_usage(plan.folder).free
    if needed > free:
        raise StorageError(
            plan.folder,
            f"has {free / 1e9:,.2f} GB free",
            f"about {needed / 1e9:,.2f} GB for two runs",
            "free some, or name a folder on another disk by -folder",
        )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a terminal that closes, or a batch system, end a proof as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            if before[number] is signal.SIG_DFL:
                signal.signal(number, end)
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])
