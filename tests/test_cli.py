"""Darknet's command grammar: flags anywhere, help everywhere, errors that name the nearest."""

import subprocess
import sys

import pytest

from relume import __version__, cli, command_table, refused
from relume.commands import measure, valid
from tests.command_line import relume

COMMANDS = [command.words for command in command_table.COMMANDS]


def test_importing_the_command_line_imports_no_heavy_library() -> None:
    code = "import sys, relume.cli; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"torch", "numpy", "cv2", "matplotlib"} & set(modules)


def test_help_comes_from_the_module_too_and_loads_no_command() -> None:
    code = "import runpy, sys; sys.argv[1:] = ['-h']; runpy.run_module('relume')"
    guarded = f"import sys; sys.modules['torch'] = sys.modules['numpy'] = None; {code}"
    ended = subprocess.run([sys.executable, "-c", guarded], capture_output=True, text=True)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == cli.overview() + "\n"


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_every_command_explains_itself_with_one_example(words: str, flag: str) -> None:
    ended = relume(*words.split(), flag)

    assert ended.status == 0
    assert ended.out.count("Example:") == 1
    assert ended.out.splitlines()[-1].startswith(f"  relume {words} ")
    assert ended.err == ""


def test_help_names_every_flag_of_its_command() -> None:
    for command in command_table.COMMANDS:
        text = cli.help_text(command)
        assert all(f"  {name}" in text for name in command.flags)


def test_help_says_which_confidence_counts() -> None:
    texts = {c.words: " ".join(cli.help_text(c).split()) for c in command_table.COMMANDS}

    assert "average precision takes all above .005" in texts["detector map"]
    assert f"above a confidence of {valid.THRESH:g}".replace("0.", ".") in texts["detector valid"]
    assert "objectness above .001" in texts["detector recall"]
    assert measure.RECALL_THRESH == 0.001


def test_the_examples_are_command_lines_that_the_grammar_takes() -> None:
    for command in command_table.COMMANDS:
        program, *words = command.example.split()
        positional, given = cli._separated(words)
        found, arguments = cli._find(positional)

        assert program == "relume"
        assert found is command
        assert command.takes(len(arguments))
        assert given.keys() <= command.flags.keys()


def test_help_may_stand_anywhere_and_wins_over_missing_arguments() -> None:
    assert relume("-h", "detector", "test").out == relume("detector", "test", "a", "-h").out


def test_without_a_command_the_overview_is_shown() -> None:
    bare, asked = relume(), relume("-h")

    assert (bare.status, asked.status) == (2, 0)
    assert bare.out == asked.out
    assert all(f"relume {words}" in asked.out for words in COMMANDS)
    assert max(map(len, asked.out.splitlines())) <= 80


def test_the_first_word_of_commands_is_explained_by_those_commands() -> None:
    shown = relume("import", "-h")

    assert shown.status == 0
    assert "relume import voc" in shown.out
    assert "relume import coco" in shown.out
    assert "relume detector" not in shown.out
    assert (relume("import").status, relume("import").out) == (2, shown.out)


@pytest.mark.parametrize("words", ["version", "-version", "--version"])
def test_the_version_is_told(words: str) -> None:
    assert relume(words).out == f"relume {__version__}\n"


def test_flags_stand_anywhere_and_take_their_values_along() -> None:
    flags = ["-thresh", ".5"], ["-dont_show"], ["-out", "x.json"]
    words = ["detector", "test", "d", "c", "w", "i"]
    expected = words, {"-thresh": 0.5, "-dont_show": True, "-out": "x.json"}
    for place in range(len(words) + 1):
        before, after = words[:place], words[place:]

        assert cli._separated([*flags[0], *before, *flags[1], *after, *flags[2]]) == expected


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            "detector test a b c -tresh .5",
            "-tresh: an unknown flag; did you mean -thresh?; see relume detector test -h",
        ),
        (
            "detector train a b --clear",
            "--clear: an unknown flag; did you mean -clear?; see relume detector train -h",
        ),
        (
            "detector demo a b c v.mp4 -s 2",
            "-s: a flag of Darknet that relume refuses: it skips no frame in Darknet either; leave "
            "it out",
        ),
        ("detector test a b c -thresh=.5", "-thresh=.5: an unknown flag; write -thresh .5"),
        ("split img -seeds 3", "-seeds: an unknown flag; see relume split -h"),
        ("detector train a b -qqqqq", "-qqqqq: an unknown flag; see relume detector train -h"),
        (
            "detector train a b -chart x.png",
            "-chart: a flag of Darknet that relume refuses: the curve is always drawn; "
            "see chart.png in the folder 'backup' of DATA",
        ),
        (
            "detector demo a b c v.mp4 -json_port 8070",
            "-json_port: a flag of Darknet that relume refuses: relume serves nothing on the "
            "network; -json_file_output FILE writes the detections, and every frame's are printed",
        ),
        ("detector test a b c -thresh", "-thresh: the value is missing; a value behind -thresh"),
        (
            "detector test a b c -out -dont_show",
            "-out: the value is missing; a value behind -out",
        ),
        (
            "detector test a b c -thresh high",
            "-thresh: 'high' is given; a number is needed",
        ),
        (
            "detector train a b -seed 1.5",
            "-seed: '1.5' is given; a whole number is needed",
        ),
        (
            "compare a b -clear",
            "-clear: not a flag of 'compare'; no flag; see relume compare -h",
        ),
        (
            "partial a b",
            "relume partial: 2 arguments; needed: CFG WEIGHTS OUT N; see relume partial -h",
        ),
        (
            "rewind",
            "relume rewind: 0 arguments; needed: FILE; see relume rewind -h",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(line: str, error: str) -> None:
    ended = relume(*line.split())

    assert (ended.status, ended.out, ended.error) == (2, "", error)


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("detecter train a b", "detector train"),
        ("detector trian a b", "detector train"),
        ("train a b", "detector train"),
        ("detector verify backup", "verify"),
        ("detector compare a b", "compare"),
        ("test a b", "detector test"),
        ("comapre a b", "compare"),
        ("inspct f", "inspect"),
        ("rewnd f", "rewind"),
    ],
)
def test_an_unknown_command_names_the_nearest(line: str, nearest: str) -> None:
    ended = relume(*line.split())

    assert ended.status == 2
    assert f"an unknown command; did you mean 'relume {nearest}'?" in ended.error


def test_an_unknown_command_near_to_none_names_them_all() -> None:
    assert all(words in relume("zzzz").error for words in COMMANDS)


@pytest.mark.parametrize("line", ["detector draw a b c", "detect a b c"])
def test_a_command_of_darknet_that_is_missing_is_said_to_be(line: str) -> None:
    ended = relume(*line.split())

    assert ended.status == 2
    assert "a command of Darknet that relume does not have; " in ended.error


def test_what_does_the_work_of_a_missing_command_is_named() -> None:
    assert "relume detector test DATA CFG WEIGHTS IMAGE" in relume("detect", "c", "w", "i").error


def test_no_flag_is_both_supported_and_refused() -> None:
    supported = {name for command in command_table.COMMANDS for name in command.flags}

    assert not supported & refused.REFUSED_FLAGS.keys()


def test_an_error_of_our_own_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "run", broken)

    with pytest.raises(ZeroDivisionError):
        relume("inspect", "x")


def test_ctrl_c_outside_training_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    ended = relume("inspect", "x")

    assert (ended.status, ended.err) == (130, "relume: interrupted\n")


DECODING = """
import sys, threading
import cv2
import numpy as np
import relume.cli

picture = np.zeros((300, 300, 3), np.uint8)
begun = threading.Event()

def decode():
    while True:
        cv2.medianBlur(picture, 9)
        begun.set()

threading.Thread(target=decode, daemon=True).start()
begun.wait()
sys.argv[1:] = ["version"]
"""
"""A thread that comes back from OpenCV every few milliseconds."""


def test_a_thread_within_opencv_does_not_spoil_the_end_of_a_process() -> None:
    """With sys.exit() it does up to Python 3.13: the process is aborted, with status -6."""
    code = DECODING + "relume.cli.program()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (ended.returncode, ended.stdout) == (0, f"relume {__version__}\n")
