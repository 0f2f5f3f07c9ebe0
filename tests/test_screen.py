"""What a person, a log parser, a pipe and a full disk get to see."""

import io
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relume import screen as screen_module
from relume.errors import RelumeError
from relume.screen import Screen

DARKNET_LINE = re.compile(
    r" (\d+): (\d+\.\d{6}), (\d+\.\d{6}) avg loss, (\d+\.\d{6}) rate, "
    r"(\d+\.\d{6}) seconds, (\d+) images, (\d+\.\d{6}) hours left, (\d+) unsaved"
)
DIRECTIONS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
"""What Unicode calls the characters that turn the direction of writing."""
needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def test_results_go_to_standard_output_and_remarks_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = Screen()
    screen.line("result")
    screen.warn("remark")
    screen.error("place: found; needed")

    out, err = capsys.readouterr()

    assert out == "result\n"
    assert err == "relume: remark\nrelume: error: place: found; needed\n"


def test_an_error_is_one_line_whatever_a_file_is_called(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Screen().error("a\nb.cfg: not\r\nfound")

    assert capsys.readouterr().err == "relume: error: a\\nb.cfg: not\\r\\nfound\n"


@given(st.text(st.characters(categories=None)))
def test_no_text_acts_on_a_terminal_or_begins_a_line(text: str) -> None:
    def shown(show: Callable[[Screen], None]) -> str:
        stream = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            show(Screen())
        return stream.getvalue()

    line = shown(lambda screen: screen.line(text))
    body = line.removesuffix("\n")

    assert line.endswith("\n")
    assert not any(acts(letter) for letter in body)
    assert (body == text) == (not any(acts(letter) for letter in text))
    assert shown(lambda screen: screen.lines([text, text])) == line * 2
    assert shown(lambda screen: screen.warn(text)) == f"relume: {line}"
    assert shown(lambda screen: screen.error(text)) == f"relume: error: {line}"
    assert shown(lambda screen: screen.error(str(RelumeError("a", text)))) in (
        f"relume: error: a: {line}",
    )


def acts(letter: str) -> bool:
    """Tell whether a character does more on a terminal, or in a line, than to be seen."""
    return letter != "\t" and (
        unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(letter) in DIRECTIONS
        or letter in {"\u200e", "\u200f", "\u061c"}
        or "\u206a" <= letter <= "\u206f"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("猫.jpg", "Übergröße.jpg", "naïve café", "قطة.jpg", "می‌خواهم", "हिन्दी", "👩‍👩‍👧‍👦", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"),
        *("a\tb", "C:\\new\\table", "[red]a[/red]", "a\N{NO-BREAK SPACE}b"),
    ],
)
def test_ordinary_text_of_any_language_is_shown_as_it_is(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Screen().line(text)

    assert capsys.readouterr().out == f"{text}\n"


def test_on_a_terminal_a_name_is_no_markup_and_no_control() -> None:
    def run(screen: Screen) -> None:
        screen.progress(total=4).at(1, "[red]a[/red] [link=x]b\x1b]0;title\x07\u202e")
        screen.line("[bold]c[/bold]\x1b[31md")

    shown = _on_a_terminal(run, 120)

    assert "[red]a[/red] [link=x]b\\x1b]0;title\\x07\\u202e" in shown
    assert "[bold]c[/bold]\\x1b[31md" in shown
    assert "\x07" not in shown


def test_off_a_terminal_an_iteration_is_darknets_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Screen().training(done=10, total=100)
    line = progress.iteration(11, 1.25, 2.5, 0.001, 64, unsaved=(3, 4.5))

    match = DARKNET_LINE.fullmatch(line)
    assert match is not None
    assert match.group(1, 2, 3, 4, 6) == ("11", "1.250000", "2.500000", "0.001000", "704")
    assert match.group(8) == "3"
    assert capsys.readouterr().out == line + "\n"


def test_time_left_follows_the_pace_of_the_last_iterations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 0.0, *(100.0 + 36 * i for i in range(40))])
    monkeypatch.setattr("relume.screen.time.monotonic", lambda: next(clock))
    progress = Screen().training(done=1000, total=1140)
    for iteration in range(1001, 1041):
        line = progress.iteration(iteration, 1, 1, 1, 1)

    match = DARKNET_LINE.fullmatch(line)
    assert match is not None
    assert match.group(5, 7) == ("36.000000", "1.000000")  # the slow first iteration is forgotten


def test_off_a_terminal_steps_are_told_when_the_work_changes_and_at_every_tenth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = Screen().progress(total=40)
    for text in ("one", "two"):
        for done in range(10):
            progress.at(done, text)

    assert capsys.readouterr().out.splitlines() == [
        *("one: 0/40", "one: 4/40", "one: 8/40"),
        *("two: 0/40", "two: 4/40", "two: 8/40"),
    ]


def test_a_name_that_the_output_cannot_show_is_escaped() -> None:
    code = "from relume.screen import Screen; Screen().line('\\u732b \\udcff.jpg')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"\\u732b \\udcff.jpg\n", b"")


def _into_closed_pipe(stream: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code with one stream a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    try:
        return subprocess.run([sys.executable, "-c", code], text=True, **streams)  # type: ignore[call-overload, no-any-return]
    finally:
        os.close(write)


def test_a_reader_that_goes_away_ends_a_command_without_complaint() -> None:
    code = "import sys; from relume.cli import main; sys.exit(main(['-h']))"
    ended = _into_closed_pipe("stdout", code)

    assert (ended.returncode, ended.stderr) == (2, "")


def test_nothing_depends_on_standard_error_being_read() -> None:
    code = "from relume.screen import Screen; s = Screen(); s.warn('a'); s.warn('b'); s.line('c')"
    ended = _into_closed_pipe("stderr", code)

    assert (ended.returncode, ended.stdout) == (0, "c\n")


@needs_dev_full
def test_a_full_disk_behind_standard_output_is_an_error_told_once() -> None:
    code = "import sys; from relume.cli import main; sys.exit(main(['-h']))"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )

    assert ended.returncode == 2
    assert ended.stderr.startswith(
        "relume: error: standard output: cannot be written (No space left on device); "
    )
    assert ended.stderr.count("\n") == 1


def _on_a_terminal(run: Callable[[Screen], object], columns: int, name: str = "xterm") -> str:
    """Return what appears on a terminal of that width while `run` works."""
    ours, theirs = pty.openpty()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(theirs, "w") as terminal:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", name)
        for variable in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(variable, raising=False)
        patch.setattr(sys, "stdout", terminal)
        screen = Screen()
        run(screen)
        screen.close()
        terminal.flush()
        shown = b""
        while len(shown) < 65536:
            os.set_blocking(ours, False)
            try:
                shown += os.read(ours, 4096)
            except BlockingIOError:
                break
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def _some_iterations(screen: Screen) -> None:
    progress = screen.training(done=499989, total=500200)
    for iteration in range(499990, 500001):
        progress.iteration(iteration, 12.3456, 7.125, 0.00026, batch=1, unsaved=(11, 95.2))


@pytest.mark.parametrize("columns", [100, 140])
def test_on_a_terminal_a_bar_tells_loss_rate_speed_and_time_in_one_row(columns: int) -> None:
    rows = re.split(r"[\r\n]+", _on_a_terminal(_some_iterations, columns).rstrip())

    assert rows[-1].startswith("500000/500200 ")
    assert "━" in rows[-1] or columns == 100  # the bar gets what width is left
    for part in ("loss 12.35", "avg 7.125", "rate 0.00026", "images/s", "unsaved 11 (0:01:35)"):
        assert part in rows[-1]
    assert all(len(row) <= columns for row in rows)


@pytest.mark.parametrize(
    ("columns", "missing"),
    [(80, ("rate", "images/s")), (50, ("rate", "images/s", "loss")), (40, ("rate", "unsaved"))],
)
def test_on_a_narrow_terminal_the_bar_keeps_the_counter_and_leaves_parts_out(
    columns: int, missing: tuple[str, ...]
) -> None:
    rows = re.split(r"[\r\n]+", _on_a_terminal(_some_iterations, columns).rstrip())

    assert rows[-1].startswith("500000/500200 ")
    for part in (r"avg 7\.125", r"\d:\d\d:\d\d left"):  # how long depends on the machine
        assert re.search(part, rows[-1])
    assert not any(part in rows[-1] for part in (*missing, "\N{HORIZONTAL ELLIPSIS}"))
    assert all(len(row) <= columns for row in rows)


def test_on_a_terminal_without_cursor_control_the_lines_are_printed() -> None:
    shown = _on_a_terminal(_some_iterations, 80, name="dumb")

    assert " 500000: 12.345600, 7.125000 avg loss, " in shown


def test_on_a_terminal_steps_are_a_bar_with_what_is_done_beside_it() -> None:
    def run(screen: Screen) -> None:
        progress = screen.progress(total=40)
        progress.at(7, "killed 1 of 5 times, start 2")
        screen.line("kill 2 of 5 in iteration 9")

    rows = re.split(r"[\r\n]+", _on_a_terminal(run, 80))

    assert any(row.startswith("7/40 ") and "killed 1 of 5 times, start 2" in row for row in rows)
    assert "kill 2 of 5 in iteration 9" in rows


def test_a_counter_is_shown_on_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    def run(screen: Screen) -> None:
        at = screen.counter(3, "pictures")
        at(2)
        screen.counter(3, "lists", is_shown=False)(1)
        at(3)

    run(Screen())
    assert capsys.readouterr().out == ""
    shown = _on_a_terminal(run, 80)
    assert "3/3" in shown
    assert "pictures" in shown
    assert "lists" not in shown


def test_closing_twice_or_with_no_bar_does_nothing() -> None:
    screen = Screen()
    screen.close()
    screen.close()


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_no_file_takes_the_number_of_a_closed_stream(closed: str) -> None:
    program = "import os, relume.screen as s; s.Screen(); os._exit(os.open(os.devnull, 0) > 2)"
    command = ["bash", "-c", f'exec {closed}; "$0" -c "$1"', sys.executable, program]

    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 1


@pytest.mark.parametrize("work", ["training(0, 9)", "progress(9)"])
def test_a_terminal_that_goes_away_is_no_error(work: str) -> None:
    program = (
        "import os, sys, relume.screen as s; screen = s.Screen(); bar = screen." + work + "\n"
        "os.write(2, b'!'); sys.stdin.read(); bar.close(); screen.close(); screen.line('unread')"
    )
    terminal, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TERM": "xterm"},
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        assert process.stderr is not None
        assert process.stderr.read(1) == b"!"  # the bar stands
        os.close(terminal)
        process.communicate()

    assert process.returncode == 0


def test_many_items_are_counted_and_few_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screen_module, "MANY", 20)
    few, many = list(range(19)), list(range(20))

    assert list(Screen().each(few, 19, "read")) == few
    assert capsys.readouterr().out == ""
    assert list(Screen().each(many, 20, "read")) == many
    assert capsys.readouterr().out.splitlines()[-1] == "read: 20/20"
