"""`relume prove`: verdicts, words, folder and ends, with a trainer that plays one."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from relume import command_table
from relume.commands import prove as command
from relume.errors import Locked, RelumeError
from relume.proof.inputs import STRAIGHT, write_inputs
from relume.proof.moments import Moment, Timeline
from relume.proof.runs import TrainCommand, train_straight
from relume.screen import Screen
from tests.command_line import relume
from tests.contract.small_runs import sgd_cfg, train_until, write_run
from tests.contract.starts import contents

ROOT = Path(__file__).parents[2]
FLAGS = {"-iterations": 12, "-kills": 2, "-seed": 1}


@pytest.fixture(scope="module", autouse=True)
def _importable() -> object:
    """Let the trainers find this checkout, wherever they work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inputs of a run, the current folder."""
    folder = write_run(tmp_path / "run", sgd_cfg(max_batches=200))
    monkeypatch.chdir(folder)
    return folder


def playing(mode: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "tests.proof.fake_trainer", mode)


def prove(mode: str, **flags: object) -> int:
    given = FLAGS | {f"-{name}": value for name, value in flags.items()}
    return command.prove(["obj.data", "net.cfg"], given, Screen(), playing(mode))  # type: ignore[arg-type]


def test_the_same_files_are_status_0_and_the_folder_goes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    status = prove("sound")
    lines = capsys.readouterr().out.splitlines()

    assert status == 0
    assert contents(folder) == before
    assert not Path("net.prove").exists()
    assert lines[0] == (
        f"trains iterations 1 to 12 of 'net' twice in {folder}/net.prove: left alone, "
        "and killed 2 times (moments of seed 1)"
    )
    told = [re.fullmatch(r"kill \d of 2 (.*): (.*) into a start from .*", line) for line in lines]
    places = [match[1] for match in told if match]
    verdict = lines.index(next(line for line in lines if line.startswith("same: ")))
    assert re.fullmatch(r"same: 1 file, [\d,]+ bytes", lines[verdict])
    assert lines[verdict + 1 : verdict + 3] == [
        "  straight: iterations 1 to 12 in one start, left alone",
        f"  interrupted: the same; {len(places)} of 2 SIGKILLs struck: {', '.join(places)}",
    ]
    assert lines[verdict + 3].startswith(f"  starts of it: {len(places) + 1}, from iteration 0, ")
    rest = "\n".join(lines[verdict:])
    assert re.search(r"computed again after a kill: \d+ iteration", rest)
    assert "every byte of 1 file, and the digests of 21 tensors in 13 states" in rest
    assert "environment: threads 1, torch 2.13.0" in rest
    assert "max_batches was set to 12, nothing else" in rest
    assert "of these iterations 2 have another input size than in the whole run." in rest


@pytest.mark.parametrize("moment", [Moment(0, 0.0), Moment(99, 0.0)], ids=["early", "never"])
def test_the_same_files_without_a_start_from_inside_the_run_are_no_proof(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: Moment
) -> None:
    monkeypatch.setattr(Timeline, "moment", lambda *_: moment)
    with pytest.raises(RelumeError) as caught:
        prove("forgetful")

    starts = "0, 0, 0" if moment.iterations == 0 else "0"
    assert str(caught.value) == (
        "interrupted run: no start of it went on from a checkpoint inside the run (they began at "
        f"iteration {starts}), so the same files prove nothing; a kill after a save and before the "
        "end; give more -iterations or -kills, or another -seed"
    )


def test_time_counts_from_the_first_iteration_on_not_from_what_is_said_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = command._plan(["obj.data", "net.cfg"], {"-iterations": 3}, Screen())
    plan.folder.mkdir()
    write_inputs(plan)
    log = plan.log(STRAIGHT)
    clock = SimpleNamespace(monotonic=lambda: len(log.read_text().splitlines()))
    monkeypatch.setattr("relume.proof.runs.time", clock)
    timeline = train_straight(TrainCommand(playing("sound"), ()), plan, STRAIGHT, lambda *_: None)

    assert timeline.ends_s == (0, 1, 2, 3, 3)  # in lines, of which each iteration prints one


def test_keep_keeps_everything_and_says_where(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prove("sound", keep=True, folder="proofs/one") == 0
    where = folder / "proofs" / "one"

    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"  everything is kept in {where}"
    assert sorted(path.name for path in where.iterdir()) == [
        *("interrupted", "interrupted.data", "interrupted.digests.jsonl", "interrupted.log"),
        *("net.cfg", "prove.lock"),
        *("straight", "straight.data", "straight.digests.jsonl", "straight.log"),
        *("train.txt", "verdict.txt"),
    ]
    assert out.endswith((where / "verdict.txt").read_text())
    log = (where / "interrupted.log").read_text()
    assert 2 <= log.count("$ ") <= 3
    assert 1 <= log.count("goes on from") <= 2


def test_a_trainer_that_forgets_is_status_1_and_iteration_and_tensor_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = prove("forgetful")
    out = capsys.readouterr().out
    log = Path("net.prove/interrupted.log").read_text()
    first = min(int(match) for match in re.findall(r"goes on from .*\(iteration (\d+)", log)) + 1

    assert status == 1
    assert "different: 1 of 1 file\n  net_last.weights differs at byte " in out
    assert (
        f"  first difference: iteration {first}: momentum/1.biases is the first tensor that differs"
    ) in out
    assert "left alone is the same as the first: the kills made the difference." in out
    assert out.splitlines()[-1] == f"  everything is kept in {folder / 'net.prove'}"


def test_a_machine_that_does_not_repeat_itself_is_told_from_a_broken_resume(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prove("restless") == 1
    out = capsys.readouterr().out

    assert "first difference: iteration 3: momentum/1.biases is the first tensor" in out
    assert "Two runs left alone differ too, so the machine does not repeat its own numbers" in out


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("failing", "straight run: a.jpg: cannot be read; a picture; its output is in "),
        ("struck", "straight run: its trainer was ended by signal 15, which this proof did not"),
        ("silent", "straight run: told of 0 iterations; 12; its output is in "),
    ],
)
def test_a_trainer_in_trouble_of_its_own_is_an_error_that_names_its_output(
    folder: Path, mode: str, error: str
) -> None:
    with pytest.raises(RelumeError) as caught:
        prove(mode)

    assert str(caught.value).startswith(error)
    assert (folder / "net.prove" / "straight.log").read_text().startswith("$ ")


def test_what_an_unfinished_proof_has_left_is_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RelumeError):
        prove("failing")

    assert prove("sound") == 0
    assert f"{folder}/net.prove: left by a proof that was interrupted" in capsys.readouterr().err


def test_what_another_proof_has_kept_or_any_other_folder_is_left_alone(folder: Path) -> None:
    prove("sound", keep=True)
    before = contents(folder)
    for name in (None, "img", "obj.data"):
        flags = {} if name is None else {"folder": name}
        with pytest.raises(RelumeError, match="is there already, and no unfinished proof"):
            prove("sound", **flags)
        assert contents(folder) == before
    with pytest.raises(RelumeError, match=r"-folder: .*/backup holds the run itself"):
        prove("sound", folder="backup")


def test_two_proofs_in_one_folder_are_refused(folder: Path) -> None:
    code = (
        "import fcntl, sys; held = open('net.prove/prove.lock', 'a'); "
        "fcntl.lockf(held, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    Path("net.prove").mkdir()
    Path("net.prove/unfinished").write_bytes(command.MARK)
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **streams) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Locked, match="a proof, or a trainer that one has left, still works"):
            prove("sound")
        holder.communicate()


def test_too_little_space_is_an_error_before_anything_is_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "needed_bytes", lambda plan: 10**18)
    with pytest.raises(RelumeError, match=r"GB free; about 1,000,000,000\.00 GB for two runs; "):
        prove("sound")

    assert not Path("net.prove/straight.log").exists()


def test_a_run_that_is_shorter_is_proven_as_far_as_it_goes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.cfg").write_text(sgd_cfg(max_batches=5))

    assert prove("sound") == 0
    captured = capsys.readouterr()
    assert "relume: max_batches=5: proves 5 iterations\n" in captured.err
    assert "trains iterations 1 to 5 of 'net' twice" in captured.out


def test_weights_that_have_iterations_behind_them_begin_there(folder: Path) -> None:
    train_until(folder, 2)
    spec_flags: dict[str, command_table.Value] = {"-iterations": 3, "-kills": 1}
    weights = "backup/net_last.weights"
    for path, flags, start in (
        (weights, {}, 2),
        ("backup", {}, 2),
        (weights, {"-clear": True}, 0),
    ):
        arguments = ["obj.data", "net.cfg", path]
        plan = command._plan(arguments, spec_flags | flags, Screen())

        assert (plan.start, plan.end) == (start, start + 3)


def test_flags_of_training_are_handed_on() -> None:
    flags = {"-threads": 2, "-nogpu": True, "-kills": 3, "-clear": True, "-seed": 5}

    assert command._handed_on(["d", "c", "w"], flags) == (
        *("w", "-clear", "-seed", "5", "-threads", "2", "-nogpu"),
    )


def test_every_flag_that_training_shares_is_handed_on() -> None:
    train, own = (
        next(c for c in command_table.COMMANDS if c.words == words)
        for words in ("detector train", "prove")
    )
    assert set(command.HANDED_ON) == train.flags.keys() & own.flags.keys()
    assert all(train.flags[name].kind is own.flags[name].kind for name in command.HANDED_ON)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("obj.data", "net.cfg", "-kills", 0), "-kills: 0; 1 or more; see relume prove -h"),
        (("obj.data", "net.cfg", "-iterations", -1), "-iterations: -1; 1 or more"),
        (("no.data", "net.cfg"), "no.data: cannot be read (No such file or directory)"),
        (("obj.data", "no.cfg"), "no.cfg: cannot be read (No such file or directory)"),
        (("obj.data", "net.cfg", "no.weights"), "no.weights: cannot be read (No such file"),
        (("obj.data", "net.cfg", "-clear"), "-clear: there is no WEIGHTS argument"),
        (("obj.data", "net.cfg", "-folder", "/proc/x"), "/proc/x: cannot be written"),
    ],
)
def test_mistakes_are_one_line_and_status_2_and_leave_nothing(
    folder: Path, words: tuple[object, ...], error: str
) -> None:
    before = contents(folder)
    ended = relume("prove", *words)

    assert ended.status == 2
    assert ended.error.startswith(error)
    assert contents(folder) == before
    assert not Path("net.prove").exists()


INTERRUPTIBLE = """
import sys
from relume import cli
from relume.commands import prove
prove.prove.__defaults__ = (tuple(sys.argv[1:6]),)
sys.exit(cli.main(["prove", "obj.data", "net.cfg", "-iterations", "12", "-kills", "3"]))
"""


def interruptible(folder: Path) -> subprocess.Popen[str]:
    """Start a proof whose trainer never ends; return when that has come so far."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *playing("endless")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any("left alone: 5/12" in line for line in process.stdout)
    return process


def trainer_of(folder: Path) -> int:
    return int((folder / "net.prove" / "straight" / "net.log").read_text())


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_proof_ends_its_trainer_and_leaves_nothing(
    folder: Path, number: signal.Signals
) -> None:
    process = interruptible(folder)
    trainer = trainer_of(folder)
    process.send_signal(number)
    _, err = process.communicate()

    assert (process.returncode, err) == (130, "relume: interrupted\n")
    assert not is_alive(trainer)
    assert not Path("net.prove").exists()
