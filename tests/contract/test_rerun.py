"""A run that says it was computed elsewhere: its past is done again here, and decides."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relume.checkpoint import container
from relume.checkpoint.state import RECORD, TrainState
from relume.errors import NotFinite, OtherEnvironment, UsageError
from relume.train.environment import declare
from relume.train.loop import Stop
from relume.train.rerun import Wishes, compared, in_this_environment
from tests.command_line import Ended, relume
from tests.contract.small_runs import CPU, promised_files, read_run, start_of
from tests.contract.starts import CUT, contents

Change = Callable[[TrainState], TrainState]


def change_checkpoints(folder: Path, change: Change) -> None:
    """Write every checkpoint of the run again, with another state in it."""
    for path in (folder / "backup").iterdir():
        if path.suffix in (".weights", ".backup") and path.name != "net_final.weights":
            path.write_bytes(container.pack(change(container.unpack(path.read_bytes(), path))))


def elsewhere(state: TrainState) -> TrainState:
    """Return a state as a machine with another processor would have saved it."""
    return replace(state, environment={**state.environment, "processor": "another"})


def with_another_record(state: TrainState) -> TrainState:
    """Return a state from elsewhere whose last iteration is not what it is here."""
    records = np.array(state.history.records)
    if len(records) == CUT:
        records["digest"][-1] = bytes(16)
    return elsewhere(replace(state, history=replace(state.history, records=records)))


def go_on(folder: Path, *flags: str) -> Ended:
    words = ("detector", "train", folder / "obj.data", folder / "net.cfg", "-workers", 1)
    return relume(*words, *flags)


def marks(folder: Path) -> list[str]:
    path = folder / "backup" / "net_last.weights"
    return [mark.kind for mark in container.unpack(path.read_bytes(), path).history.marks]


def settle(
    folder: Path, exact: bool = False, stop: Stop | None = None
) -> tuple[TrainState | None, list[str]]:
    said: list[str] = []
    wishes = Wishes(exact=exact)
    here = declare(torch.get_num_threads(), CPU)
    spec, start = read_run(folder), start_of(folder)
    return in_this_environment(spec, start, here, wishes, stop or Stop(), CPU, said.append), said


def test_the_same_bits_under_another_name_are_exact_and_leave_the_same_files(
    run: Path, finished: Path, tmp_path: Path
) -> None:
    change_checkpoints(run, elsewhere)
    ended = go_on(run, "-exact")

    assert ended.status == 0
    assert f"exact: iterations {CUT} to {CUT} gave the same bits here" in ended.err
    change_checkpoints(
        run, lambda state: replace(state, environment=start_of(finished).environment)
    )
    assert promised_files(run) == promised_files(finished)


def test_the_declared_environment_stays_where_the_rerun_is_exact(run: Path) -> None:
    change_checkpoints(run, elsewhere)
    go_on(run)

    assert start_of(run).environment["processor"] == "another"
    assert marks(run) == []


def test_other_bits_are_marked_with_the_iteration_that_differs(run: Path) -> None:
    change_checkpoints(run, with_another_record)
    ended = go_on(run)

    assert ended.status == 0
    assert "not exact from here on: processor: another -> " in ended.err
    assert f"(iteration {CUT} gave other bits here); marked in the history" in ended.err
    assert marks(run) == ["environment"]
    assert start_of(run).environment["processor"] != "another"


def test_exact_refuses_other_bits_and_changes_nothing(run: Path) -> None:
    change_checkpoints(run, with_another_record)
    before = promised_files(run)
    ended = go_on(run, "-exact")

    assert ended.status == 2
    assert f"iteration {CUT} gave other bits here" in ended.error
    assert promised_files(run) == before


def test_another_number_of_threads_is_decided_by_the_bits_too(
    run: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compute with the run's own threads, whatever is said: the bits are then the same.
    monkeypatch.setattr("relume.train.environment.torch.set_num_threads", lambda number: None)
    ended = go_on(run, "-threads", "2")

    assert "computed elsewhere (threads: 1 -> 2)" in ended.err
    assert promised_files(run) == promised_files(finished)


def test_a_milestone_takes_the_place_of_a_missing_older_generation(run: Path) -> None:
    change_checkpoints(run, elsewhere)
    (run / "backup" / "net.backup").unlink()
    state, said = settle(run)

    assert state is not None
    assert said[-1] == f"exact: iterations 3 to {CUT} gave the same bits here"


def test_without_anything_to_compare_with_there_is_a_mark_or_an_error(run: Path) -> None:
    change_checkpoints(run, elsewhere)
    for path in (run / "backup").iterdir():
        if path.name not in ("net_last.weights", "net_4.weights", "net_4.backup"):
            path.unlink()
    with pytest.raises(OtherEnvironment, match="no older checkpoint to try it with"):
        settle(run, exact=True)
    state, _ = settle(run)

    assert state is not None
    assert [mark.iteration for mark in state.history.marks] == [CUT]


def test_what_another_environment_computed_is_no_comparison(run: Path) -> None:
    def last_only(state: TrainState) -> TrainState:
        return elsewhere(state) if state.iteration == CUT else state

    change_checkpoints(run, last_only)
    state, said = settle(run)

    assert state is not None
    assert "no older checkpoint to try it with" in said[-1]


def test_a_stop_during_the_rerun_changes_nothing(run: Path) -> None:
    change_checkpoints(run, elsewhere)
    before = contents(run)
    state, _ = settle(run, stop=Stop(requested=True))

    assert state is None
    assert contents(run) == before


def test_a_stopped_rerun_ends_the_command_with_the_status_of_a_stop(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_checkpoints(run, elsewhere)
    before = promised_files(run)
    monkeypatch.setattr("relume.commands.stopping.Stop", lambda: Stop(requested=True))
    ended = go_on(run)

    assert ended.status == 75
    assert promised_files(run) == before


def test_a_finished_run_is_not_computed_again(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    change_checkpoints(folder, elsewhere)
    state, said = settle(folder)

    assert state is not None
    assert state.history.marks == ()
    assert said == []


def test_the_rerun_finds_the_first_of_several_differences(run: Path) -> None:
    newer = start_of(run)
    path = run / "at_2.weights"
    older = container.unpack(path.read_bytes(), path)
    records = np.array(newer.history.records)
    records["loss"][2:] += 1
    altered = replace(newer, history=replace(newer.history, records=records.astype(RECORD)))

    def outcome(state: TrainState) -> tuple[int, bool]:
        return compared(read_run(run), older, state, Stop(), CPU, pytest.fail)

    assert outcome(newer) == (CUT, True)
    assert outcome(altered) == (3, False)


def test_portable_is_refused_for_a_run_that_began_without_it(run: Path) -> None:
    before = promised_files(run)
    ended = go_on(run, "-portable")

    assert ended.status == 2
    assert "-portable: this run was begun without it" in ended.error
    assert promised_files(run) == before


def test_portable_is_no_empty_word_in_a_process_with_other_kernels(fresh: Path) -> None:
    ended = go_on(fresh, "-portable")

    assert ended.status == 2
    assert "-portable: the libraries of this process were loaded for other kernels" in ended.error
    assert promised_files(fresh) == {}


def test_a_rerun_that_max_time_cuts_off_is_an_error_and_no_endless_loop(run: Path) -> None:
    change_checkpoints(run, elsewhere)
    stop = Stop()
    stop.ends_at_s = 0.0  # long ago

    with pytest.raises(UsageError, match="-max_time: is over, and the comparison has come to"):
        settle(run, stop=stop)


def test_numbers_that_are_not_finite_here_are_other_bits(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_checkpoints(run, elsewhere)

    def not_finite(*_: object) -> None:
        raise NotFinite("iteration 4", "the loss is nan")

    monkeypatch.setattr("relume.train.loop.update", not_finite)
    state, said = settle(run)

    assert state is not None
    assert [mark.kind for mark in state.history.marks] == ["environment"]
    assert f"(iteration {CUT} gave other bits here)" in said[-1]
