"""The command line: Darknet's grammar, one function per command.

    relume detector train DATA CFG [WEIGHTS] [flags anywhere]

Flags begin with one dash and may stand anywhere, as in Darknet. A flag without effect does
not exist: one of Darknet's that is not supported yet is an error that says so.
"""

import difflib
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from relume import __version__
from relume.errors import (
    INTERRUPTED,
    TEMPORARY_FAILURE,
    RelumeError,
    TrainingError,
    Unavailable,
    UsageError,
)
from relume.screen import Screen

USER_ERROR = 2
TRAINING_ERROR = 1

Value = str | int | float | bool
Kind = type[str] | type[int] | type[float] | type[bool]
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Flag:
    """A flag: its kind, and what -h says about it."""

    kind: Kind
    text: str
    value: str = ""
    """What stands for the value in -h."""


@dataclass(frozen=True)
class Command:
    """A command: its words, arguments and flags, and the function that does it."""

    words: str
    arguments: tuple[str, ...]
    """Names; one in brackets may be left out, one that ends in dots repeated."""
    text: str
    example: str
    function: str
    """module:function, imported only when the command runs."""
    flags: Mapping[str, Flag] = field(default_factory=dict)
    more: str = ""
    """What -h says behind the flags."""
    before: str = ""
    """module:function called first in a process of its own, before libraries are loaded."""

    @property
    def needed(self) -> int:
        """Arguments that must be given."""
        return sum(not name.startswith("[") for name in self.arguments)

    def takes(self, count: int) -> bool:
        """Tell whether so many arguments fit."""
        endless = any("..." in name for name in self.arguments)
        return self.needed <= count and (endless or count <= len(self.arguments))


SEED = Flag(int, "random seed of the run; goes before seed= of the data file", "N")
CLEAR = Flag(bool, "take WEIGHTS as a start: iteration 0, no momentum")
ALLOW_CHANGE = Flag(bool, "go on although settings differ from the checkpoint's")
THREADS = Flag(int, "compute threads, part of the run (default: all)", "N")
WORKERS = Flag(int, "loading threads (default 2); changes no number", "N")
PORTABLE = Flag(bool, "begin a run that goes on exactly on any x86-64-v3 processor")
DONT_SHOW = Flag(bool, "accepted for Darknet's sake; relume opens no window")
GPU = Flag(int, "GPU to use (default 0, where PyTorch finds one)", "N")
NOGPU = Flag(bool, "use the CPU even where there is a GPU")

COMMANDS = (
    Command(
        "detector train",
        ("DATA", "CFG", "[WEIGHTS]"),
        "Train a detector. The same command again goes on where the last one stopped.",
        "relume detector train data/obj.data yolov3-tiny.cfg yolov3-tiny.conv.15",
        "relume.commands.train:train",
        {
            "-clear": Flag(bool, CLEAR.text + "; a run in backup goes on all the same"),
            "-resume": Flag(bool, "go on from the newest good checkpoint, whatever WEIGHTS says"),
            "-allow-change": ALLOW_CHANGE,
            "-exact": Flag(bool, "refuse to go on where the same bits cannot be promised"),
            "-seed": SEED,
            "-threads": THREADS,
            "-workers": WORKERS,
            "-max_time": Flag(
                str,
                "stop after T seconds, or H:MM:SS, from the command's start: ends the subdivision "
                "under way, saves, exit status 75",
                "T",
            ),
            "-tensor_digests": Flag(
                str, "add a line per iteration with the digest of every tensor", "FILE"
            ),
            "-portable": PORTABLE,
            "-dont_show": DONT_SHOW,
            "-i": GPU,
            "-nogpu": NOGPU,
        },
        more="Keys of DATA for saving: savelast = auto, or N iterations; "
        "savebudget = gigabytes a day at most, with auto (100); saveweights = iterations from one "
        "milestone to the next; keepstate = K, milestones that a run can go on from (all). Exit "
        "status 0: finished; 75: stopped, the same command goes on; 2: a mistake in the input; "
        "1: not finite.",
        before="relume.kernels:recreate",
    ),
    Command(
        "detector test",
        ("DATA", "CFG", "WEIGHTS", "[IMAGE]"),
        "Find objects in a picture (or in those named on standard input) and draw them "
        "into predictions.jpg.",
        "relume detector test data/obj.data yolov3-tiny.cfg backup/yolov3-tiny_last.weights a.jpg",
        "relume.commands.detect:test",
        {
            "-thresh": Flag(float, "smallest confidence (default .25)", "F"),
            "-ext_output": Flag(bool, "print the boxes too"),
            "-out": Flag(str, "write the detections as JSON", "FILE"),
            "-letter_box": Flag(bool, "keep the picture's shape instead of stretching it"),
            "-dont_show": DONT_SHOW,
            "-i": GPU,
            "-nogpu": NOGPU,
        },
    ),
    Command(
        "partial",
        ("CFG", "WEIGHTS", "OUT", "N"),
        "Write the first N layers of WEIGHTS to OUT: a start for training another net.",
        "relume partial yolov3-tiny.cfg yolov3-tiny.weights yolov3-tiny.conv.15 15",
        "relume.commands.files:partial",
    ),
    Command(
        "compare",
        ("A", "B", "[CFG]"),
        "Compare two weights files or checkpoints and name the first tensor that differs; "
        "between plain files that takes the CFG. Of two files of -tensor_digests, name the first "
        "iteration too. Exit status 0: same; 1: different; 2: trouble.",
        "relume compare backup/yolov3_last.weights other/yolov3_last.weights",
        "relume.commands.files:compare",
    ),
    Command(
        "inspect",
        ("FILE", "[CFG]"),
        "Say what is in a weights file, and whether it is intact. A plain file needs its CFG.",
        "relume inspect backup/yolov3_last.weights",
        "relume.commands.files:inspect",
    ),
    Command(
        "prove",
        ("DATA", "CFG", "[WEIGHTS]"),
        "Train the first iterations of a run twice, once left alone and once killed at random "
        "moments, each time as `detector train` with these arguments, and compare every file. "
        "Exit status 0: same; 1: different; 2: trouble.",
        "relume prove data/obj.data yolov3-tiny.cfg yolov3-tiny.conv.15 -iterations 30 -kills 5",
        "relume.commands.prove:prove",
        {
            "-iterations": Flag(int, "iterations of each of the two (default 30)", "N"),
            "-kills": Flag(int, "how often one is killed (default 5)", "N"),
            "-seed": Flag(int, "random seed of the run, and of the moments of the kills", "N"),
            "-folder": Flag(str, "where both are trained (default NAME.prove beside backup)", "F"),
            "-keep": Flag(bool, "keep that folder; it is kept anyway where something differs"),
            "-clear": CLEAR,
            "-allow-change": ALLOW_CHANGE,
            "-threads": THREADS,
            "-workers": WORKERS,
            "-portable": PORTABLE,
            "-i": GPU,
            "-nogpu": NOGPU,
        },
    ),
    Command(
        "verify",
        ("FILE|FOLDER", "[...]"),
        "Check every byte of checkpoints; of a folder, say which one a start would take. Exit "
        "status 0: all intact; 1: some damaged, but a good one is there; 2: nothing usable.",
        "relume verify backup",
        "relume.commands.verify:verify",
        {"-json": Flag(bool, "print the findings as JSON")},
    ),
    Command(
        "reset",
        ("DATA", "CFG"),
        "Move the files of a run aside, so that the next start is a new run.",
        "relume reset data/obj.data yolov3.cfg",
        "relume.commands.files:reset",
    ),
    Command(
        "rewind",
        ("FILE",),
        "Go back to a checkpoint: move the newer ones of its run aside.",
        "relume rewind backup/yolov3_1000.weights",
        "relume.commands.files:rewind",
    ),
)

FLAGS_NOT_YET = frozenset([
    "-map", "-mAP_epochs", "-iou_thresh", "-points", "-gpus", "-mjpeg_port", "-show_imgs",
    "-chart", "-benchmark", "-benchmark_layers", "-save_labels", "-prefix", "-out_filename",
    "-json_port", "-json_file_output", "-http_post_host", "-time_limit_sec", "-avgframes", "-c",
    "-s", "-dontdraw_bbox", "-hier", "-num_of_clusters", "-width", "-height", "-show",
])  # fmt: skip
"""Flags of Darknet's detector that this version refuses."""
COMMANDS_NOT_YET = frozenset([
    "valid", "recall", "map", "calc_anchors", "draw", "demo", "detect", "average", "statistics",
    "normalize", "denormalize", "rescale", "rgbgr", "ops", "speed", "oneoff", "visualize",
    "classifier",
])  # fmt: skip
"""Darknet's commands that this version refuses."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    screen = Screen()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return run(words, screen, arguments is None)
    except RelumeError as error:
        screen.error(str(error))
        return _status(error)
    except BrokenPipeError:
        return USER_ERROR  # the reader has gone, as `head` does; there is no one to tell
    except KeyboardInterrupt:
        screen.warn("interrupted")
        return INTERRUPTED
    finally:
        screen.close()


def _status(error: RelumeError) -> int:
    if isinstance(error, Unavailable):
        return TEMPORARY_FAILURE
    return TRAINING_ERROR if isinstance(error, TrainingError) else USER_ERROR


def run(words: list[str], screen: Screen, in_own_process: bool = False) -> int:
    """Find the command, check its arguments, and call its function.

    A command may begin a process again that does nothing else (`in_own_process`).
    """
    positional, given = _separated(words)
    asks_help = "-h" in given
    if "-version" in given or positional == ["version"]:
        screen.line(f"relume {__version__}")
        return 0
    command, arguments = _find(positional)
    if command is None:
        if positional and not asks_help:
            raise _unknown_command(positional)
        screen.text(overview())
        return 0 if asks_help else USER_ERROR
    if asks_help:
        screen.text(help_text(command))
        return 0
    for name in given:
        if name not in command.flags:
            raise UsageError(
                name,
                f"not a flag of '{command.words}'",
                _one_of(command.flags) if command.flags else "no flag",
                _see(command),
            )
    if not command.takes(len(arguments)):
        raise UsageError(
            f"relume {command.words}",
            f"{len(arguments)} argument{'s' * (len(arguments) != 1)}",
            f"needed: {' '.join(command.arguments)}",
            _see(command),
        )
    if command.before and in_own_process:
        _function(command.before)(arguments, given, screen)
    status: int = _function(command.function)(arguments, given, screen)
    return status


def _separated(words: list[str]) -> tuple[list[str], Values]:
    """Split the command line into positional words and flags, wherever these stand."""
    known = {name: flag.kind for command in COMMANDS for name, flag in command.flags.items()}
    known |= {"-h": bool, "-version": bool}
    aliases = {"--help": "-h", "-help": "-h", "--version": "-version"}
    positional: list[str] = []
    given: dict[str, Value] = {}
    rest = iter(words)
    for word in rest:
        name = aliases.get(word, word)
        if not name.startswith("-") or name == "-":
            positional.append(word)
        elif name in known:
            given[name] = True if known[name] is bool else _value(name, known, rest)
        elif name in FLAGS_NOT_YET:
            raise UsageError(
                name, "a flag of Darknet that relume does not support yet", "", "leave it out"
            )
        else:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise UsageError(
                name, "an unknown flag", f"did you mean {near[0]}?" if near else "", "see relume -h"
            )
    return positional, given


def _value(name: str, known: Mapping[str, Kind], rest: Iterator[str]) -> Value:
    text = next(rest, None)
    if text is None or text in known:
        raise UsageError(name, "the value is missing", f"a value behind {name}")
    try:
        return known[name](text)
    except ValueError:
        needed = "a whole number" if known[name] is int else "a number"
        raise UsageError(name, f"'{text}' is given", f"{needed} is needed") from None


def _find(positional: list[str]) -> tuple[Command | None, list[str]]:
    for command in COMMANDS:
        words = command.words.split()
        if positional[: len(words)] == words:
            return command, positional[len(words) :]
    return None, []


def _unknown_command(positional: list[str]) -> UsageError:
    words = positional[: 2 if positional[0] == "detector" else 1]
    place = " ".join(["relume", *words])
    if words[-1] in COMMANDS_NOT_YET:
        found = "a command of Darknet that relume does not support yet"
        return UsageError(place, found, _one_of(c.words for c in COMMANDS))
    known = {c.words.split()[-1]: c.words for c in COMMANDS} | {c.words: c.words for c in COMMANDS}
    for text in (words[-1] if words[-1] in known else " ".join(positional[:2]), positional[0]):
        if near := difflib.get_close_matches(text, known, n=1):
            needed = f"did you mean 'relume {known[near[0]]}'?"
            return UsageError(place, "an unknown command", needed, "see relume -h")
    needed = _one_of(c.words for c in COMMANDS)
    return UsageError(place, "an unknown command", needed, "see relume -h")


def _function(path: str) -> Callable[[list[str], Values, Screen], Any]:
    module, _, name = path.partition(":")
    function: Callable[[list[str], Values, Screen], Any]
    function = getattr(importlib.import_module(module), name)
    return function


def overview() -> str:
    """Return what `relume -h` shows."""
    rows = [
        f"  relume {c.words} {' '.join(c.arguments)}\n{_wrapped(c.text, ' ' * 6)}" for c in COMMANDS
    ]
    return "\n".join(
        [
            "relume: a Darknet-compatible YOLO trainer that can be stopped anywhere and goes on",
            "exactly. Type what you typed for ./darknet; each command explains itself with -h.",
            "",
            *rows,
        ]
    )


def help_text(command: Command) -> str:
    """Return what `relume COMMAND -h` shows."""
    parts = [
        f"relume {command.words} {' '.join(command.arguments)}",
        "",
        _wrapped(command.text),
        "",
    ]
    names = {name: f"{name} {flag.value}".strip() for name, flag in command.flags.items()}
    width = max(map(len, names.values()), default=0)
    for name, flag in command.flags.items():
        parts.append(_wrapped(flag.text, f"  {names[name]:<{width}}  "))
    parts += [""] if command.flags else []
    parts += [_wrapped(command.more), ""] if command.more else []
    return "\n".join([*parts, "Example:", f"  {command.example}"])


def _wrapped(text: str, before: str = "") -> str:
    lines = textwrap.wrap(text, 80 - len(before), break_on_hyphens=False)
    return before + f"\n{' ' * len(before)}".join(lines)


def _see(command: Command) -> str:
    return f"see relume {command.words} -h"


def _one_of(words: Iterable[str]) -> str:
    return "one of " + ", ".join(words)
