"""The command line: Darknet's grammar, one function per command.

    relume detector train DATA CFG [WEIGHTS] [flags anywhere]

Flags begin with one dash and may stand anywhere, as in Darknet. A flag without effect does
not exist: one of Darknet's that is not supported is an error that says what to do instead.
"""

import difflib
import importlib
import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from relume import __version__
from relume.command_table import (
    COMMANDS,
    Command,
    Kind,
    Value,
    Values,
)
from relume.errors import (
    INTERRUPTED,
    TEMPORARY_FAILURE,
    RelumeError,
    TrainingError,
    Unavailable,
    UsageError,
)
from relume.memory import is_out_of_memory
from relume.refused import REFUSED_COMMANDS, REFUSED_FLAGS
from relume.screen import Screen

USER_ERROR = 2
TRAINING_ERROR = 1


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    screen = Screen()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return run(words, screen, arguments is None)
    except RelumeError as error:
        if not error.is_told:
            screen.error(str(error))
        return _status(error)
    except BrokenPipeError:
        return USER_ERROR  # the reader has gone, as `head` does; there is no one to tell
    except KeyboardInterrupt:
        screen.warn("interrupted")
        return INTERRUPTED
    except Exception as error:  # of Python, PyTorch or OpenCV
        if not (lack := _lack_of(error)):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        screen.error(f"{lack} ({reason}); what was saved before is whole")
        return USER_ERROR
    finally:
        screen.close()


def program() -> NoReturn:
    """Run the command line of this process, and end the process.

    Python's end takes a process down, with another status, if a thread that nobody waits for
    comes back from C++ (OpenCV that decodes) meanwhile. All is written and said by then, so the
    process is ended without it.
    """
    # No process that this one starts imports modules from the current folder, where data lies.
    os.environ["PYTHONSAFEPATH"] = "1"
    # PyTorch makes this folder though it has nothing to keep in it; by default it has a name in
    # the temporary folder that anyone can take first, with a file, and then no training begins.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.sep)
    status = main()
    others = [thread for thread in threading.enumerate() if thread != threading.main_thread()]
    if others and all(thread.daemon for thread in others):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed, or nobody reads it
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _lack_of(error: Exception) -> str:
    """Return what the system has too little of where an error reports that, else nothing."""
    if is_out_of_memory(error):
        return "memory: ran out; free some"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "threads: the system starts no more; raise ulimit -u, or the control group's limit"
    return ""


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
        begins = len(positional) == 1 and any(c.words.split()[0] == positional[0] for c in COMMANDS)
        if positional and not asks_help and not begins:
            raise _unknown_command(positional)
        screen.lines(overview(positional[0] if positional else "").split("\n"))
        return 0 if asks_help else USER_ERROR
    if asks_help:
        screen.lines(help_text(command).split("\n"))
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
            f"needed: {' '.join(command.arguments) or 'none'}",
            _see(command),
        )
    for name, flag in command.flags.items():
        if flag.needed and name not in given:
            raise UsageError(name, "is missing", f"{name} {flag.value}", _see(command))
    _check_current_folder()
    if command.before and in_own_process:
        _function(command.before)(arguments, given, screen)
    status: int = _function(command.function)(arguments, given, screen)
    return status


def _check_current_folder() -> None:
    """Raise UsageError if the current folder is gone: libraries fail where there is none."""
    try:
        Path.cwd()
    except OSError as error:
        found = f"the current folder is gone ({error.strerror})"
        raise UsageError(".", found, "a folder", "cd to one that exists") from error


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
        elif name in REFUSED_FLAGS:
            why, instead = REFUSED_FLAGS[name]
            raise UsageError(name, f"a flag of Darknet that relume refuses: {why}", "", instead)
        else:
            command, _ = _find([word for word in words if not word.startswith("-")])
            flags = command.flags if command else known
            if name.partition("=")[0] in flags:
                raise UsageError(name, "an unknown flag", f"write {name.replace('=', ' ', 1)}")
            near = difflib.get_close_matches(name, flags, n=1, cutoff=0.5)
            raise UsageError(
                name,
                "an unknown flag",
                f"did you mean {near[0]}?" if near else "",
                _see(command) if command else "see relume -h",
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
    if words[-1] in REFUSED_COMMANDS:
        found, instead = (
            "a command of Darknet that relume does not have",
            REFUSED_COMMANDS[words[-1]],
        )
        return UsageError(place, found, instead, "see relume -h")
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


def overview(word: str = "") -> str:
    """Return what `relume -h` shows: all commands, or those that begin with a word."""
    begun = [command for command in COMMANDS if command.words.split()[0] == word]
    rows = [f"  {_usage(c)}\n{_wrapped(c.text, ' ' * 6)}" for c in begun or COMMANDS]
    return "\n".join(
        [
            "relume: a Darknet-compatible YOLO trainer that can be stopped anywhere and goes",
            "on exactly. Type what you typed for ./darknet; each command explains itself with",
            "-h.",
            "",
            *rows,
        ]
    )


def help_text(command: Command) -> str:
    """Return what `relume COMMAND -h` shows."""
    parts = [
        _usage(command),
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


def _usage(command: Command) -> str:
    return " ".join(("relume", command.words, *command.arguments))


def _wrapped(text: str, before: str = "") -> str:
    lines = textwrap.wrap(text, 80 - len(before), break_on_hyphens=False)
    return before + f"\n{' ' * len(before)}".join(lines)


def _see(command: Command) -> str:
    return f"see relume {command.words} -h"


def _one_of(words: Iterable[str]) -> str:
    return "one of " + ", ".join(words)
