"""Text files of any size and cfgs that ask for anything are refused by name, before they cost."""

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from relume import cli
from relume.errors import CfgError, TrainingError
from relume.formats.cfg import parse_cfg
from relume.formats.lexer import MOST_SECTIONS
from relume.formats.text_files import LARGEST_TEXT_BYTES, LONGEST_LINE_BYTES
from relume.model.network import Network
from relume.schedule import count_evaluations, is_evaluated, learning_rate
from relume.train import step
from tests.cfg_texts import section, small_cfg
from tests.command_line import relume
from tests.contract.small_runs import promised_files, sgd_cfg, train_until, write_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that a run needs, the current one."""
    write_run(tmp_path, sgd_cfg())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of_training() -> str:
    """Return the one line with which a training is refused."""
    ended = relume("detector", "train", "obj.data", "net.cfg", "-nogpu")
    assert ended.status == 2
    return ended.error


def first_label(run: Path) -> Path:
    picture = (run / "train.txt").read_text().splitlines()[0]
    return (run / picture).with_suffix(".txt")


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("kind", ["net.cfg", "obj.data", "obj.names", "label"])
def test_a_text_file_that_is_far_too_large_is_refused_by_its_size(run: Path, kind: str) -> None:
    path = first_label(run) if kind == "label" else run / kind
    with path.open("ab") as file:
        file.write(b"\n" * (LARGEST_TEXT_BYTES + 1 - file.tell()))

    error = error_of_training()

    assert path.name in error
    assert "16,777,217 bytes" in error
    assert "at most 16,777,216" in error


def test_a_label_file_of_the_largest_size_is_read(run: Path) -> None:
    path = first_label(run)
    with path.open("ab") as file:
        file.write(b" " * (LARGEST_TEXT_BYTES - file.tell()))

    assert relume("detector", "train", "obj.data", "net.cfg", "-max_time", "0.01").status == 75


@pytest.mark.parametrize(
    ("command", "lines_before"), [("train", 0), ("train", 100_001), ("check", 0), ("split", 0)]
)
def test_a_list_with_an_endless_line_is_refused_with_the_lines_number(
    run: Path, command: str, lines_before: int
) -> None:
    first = (run / "train.txt").read_text().splitlines()[0]
    with (run / "train.txt").open("w") as file:
        file.write(f"{first}\n" * lines_before)
        file.write("a" * (LONGEST_LINE_BYTES + 1))
    words = {
        "train": ("detector", "train", "obj.data", "net.cfg"),
        "check": ("check", "obj.data", "net.cfg"),
        "split": ("split", "train.txt", "-out", "lists"),
    }[command]

    ended = relume(*words)

    text = " ".join((ended.out + ended.err).split())
    assert ended.status == 2
    assert f"train.txt:{lines_before + 1}" in text
    assert "a line of more than 1,048,576 bytes" in text


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("filters=", "filters=1000000000\n#", "for the weights"),
        ("width=64", "width=1000000000", "of 1400000016x112"),
        ("batch=4", "batch=2000000000", "for a mini-batch of 1,000,000,000 pictures"),
        ("resize_step=16", "resize_step=2147483647", "of 2147483647x2147483647"),
    ],
)
def test_a_net_that_asks_for_more_memory_than_there_is_is_refused_by_name(
    run: Path, old: str, new: str, found: str
) -> None:
    replace_in(run / "net.cfg", old, new)

    error = error_of_training()

    assert error.startswith("net.cfg: at least ")
    assert " GB of memory " in error
    assert found in error


def test_no_command_makes_weights_that_no_memory_can_hold() -> None:
    text = small_cfg().replace("filters=", "filters=1000000000\n#", 1)
    cfg = parse_cfg(text, "net.cfg", "detect")

    with pytest.raises(CfgError, match=r"net\.cfg: at least .* GB of memory for the weights"):
        Network(cfg, seed=None)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("learning_rate=0.001", "learning_rate=1e39", "learning_rate=1e39"),
        ("saturation=1.5", "saturation=1e300", "saturation=1e300"),
        ("num=6", "num=1000000", "num needs an integer from 1 to 1000"),
        ("random=1", "random=1e30", "random needs a number from 0 to 1000"),
    ],
)
def test_a_number_beyond_all_sense_is_refused_with_its_line(
    run: Path, old: str, new: str, found: str
) -> None:
    replace_in(run / "net.cfg", old, new)

    error = error_of_training()

    assert error.startswith("net.cfg:")
    assert found in error


def test_a_cfg_has_a_longest_length_in_sections(run: Path) -> None:
    with (run / "net.cfg").open("a") as file:
        file.write(section("dropout") * MOST_SECTIONS)

    assert "at most 10,000 in a cfg" in error_of_training()


@pytest.mark.parametrize("number", ["1e300", "1_0", "٣", "nan", "0x10", "1" * 400])
@pytest.mark.parametrize("key", ["cache_gb", "savebudget"])
def test_gigabytes_are_a_plain_number_that_a_disk_can_have(
    run: Path, key: str, number: str
) -> None:
    with (run / "obj.data").open("a", encoding="utf-8") as file:
        file.write(f"\n{key} = {number}\n")

    assert f"{key}={number[:80]}" in error_of_training()


@pytest.mark.parametrize("key", ["train", "backup", "names"])
def test_the_message_about_an_endless_value_is_short(run: Path, key: str) -> None:
    (run / "obj.data").write_text(f"{key} = {'p' * 100_000}\n{(run / 'obj.data').read_text()}")

    error = error_of_training()

    assert len(error) < 200
    assert error.startswith(f"obj.data:1: {key} has 100,000 letters")


def test_the_name_of_a_class_has_a_longest_length(run: Path) -> None:
    names = (run / "obj.names").read_text().splitlines()
    (run / "obj.names").write_text("\n".join(["n" * 1001, *names[1:]]))

    assert error_of_training().endswith("obj.names:1: a name of 1,001 letters; at most 1,000")


def test_rates_beyond_float32_warn_of_nothing() -> None:
    steps = {"policy": "steps", "steps": "1,2", "scales": "3e38,3e38", "learning_rate": 1000}
    cycle = {"policy": "sgdr", "learning_rate": "3e38", "learning_rate_min": "-3e38"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in (steps, cycle):
            learning_rate(parse_cfg(small_cfg(**options), "net.cfg", "train").net, 7)


def test_a_cycle_of_one_iteration_costs_no_more_late_than_early() -> None:
    most = 2**31 - 1
    text = small_cfg(policy="sgdr", sgdr_cycle=1, sgdr_mult=1, max_batches=most)
    net = parse_cfg(text, "net.cfg", "train").net

    assert learning_rate(net, most) == learning_rate(net, 1)


def test_evaluations_are_counted_without_going_through_them() -> None:
    for most, burn_in, interval in itertools.product((1, 7, 100, 250), (0, 130), (1, 3, 50)):
        cfg = parse_cfg(small_cfg(max_batches=most, burn_in=burn_in), "net.cfg", "train")
        for done in {0, 1, most // 2, most - 1, most}:
            after = range(done + 1, most + 1)
            expected = sum(is_evaluated(cfg.net, interval, iteration) for iteration in after)
            assert count_evaluations(cfg.net, interval, done) == expected


@pytest.mark.parametrize("error", [MemoryError, lambda: RuntimeError("[..] can't allocate memory")])
def test_a_run_whose_memory_ran_out_is_saved_and_goes_on_to_the_same_bytes(
    tmp_path: Path, error: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, short = (write_run(tmp_path / name, sgd_cfg()) for name in ("whole", "short"))
    train_until(whole, 3)
    train_subdivision, calls = step.train_subdivision, itertools.count(1)

    def run_out(*args: object) -> None:
        if next(calls) == 4:
            raise error()
        train_subdivision(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(step, "train_subdivision", run_out)
        with pytest.raises(
            TrainingError, match=r"iteration 2: memory ran out .*raise subdivisions"
        ):
            train_until(short, 3, savelast=1000)
    train_until(short, 3)

    assert promised_files(short) == promised_files(whole)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "memory: ran out; free some (MemoryError)"),
        (RuntimeError("could not create a primitive"), "memory: ran out; free some (could"),
        (RuntimeError("can't start new thread"), "threads: the system starts no more"),
    ],
)
def test_where_memory_or_threads_run_out_in_a_command_one_line_reports_it(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*args: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_function", lambda path: run_out)

    ended = relume("inspect", "x.weights")

    assert ended.status == 2
    assert ended.error.startswith(line)
