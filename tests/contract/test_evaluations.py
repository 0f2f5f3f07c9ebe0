"""The promise with `-map`: evaluations, the best weights and early stopping survive any cut.

Needs nothing but this checkout: python -m pytest tests/contract/test_evaluations.py
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from relume import schedule
from relume.checkpoint import container
from relume.checkpoint.evaluations import best_of, comparable, is_best
from relume.checkpoint.state import TrainState
from relume.commands.verify import check_run
from relume.demo_pictures import write_data_set
from relume.errors import CheckpointError
from relume.evaluate.average_precision import ClassEvaluation, Counts, Evaluation
from relume.evaluate.validation import evaluate_network
from relume.model.network import Network
from relume.spec import Flags
from relume.train import evaluation
from relume.train.chart import draw_chart
from relume.train.start import StartFlags
from relume.validation_set import LabelledPicture
from tests.contract.processes import Relume
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, start_of, train_until
from tests.contract.starts import change_cfg

MAP = Flags(map=True, map_epochs=2)
END = 12
EVALUATED = (3, 6, 9, 12)
"""Every 2 epochs of 7 pictures at batch 4, from the end of burn_in on."""
NO_COUNTS = Counts(0, 0, 0, 0.0)

Evaluate = Callable[..., Evaluation | None]


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "LEAST_INTERVAL", 1)


@pytest.fixture(autouse=True)
def values(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Values of mAP by the number of evaluations done, for tests that need certain ones.

    Without one it is a number that follows from weights and pictures alone, as a real one does.
    """
    given: dict[int, float] = {}
    monkeypatch.setattr(evaluation, "evaluate_network", quick_evaluation(given))
    return given


def quick_evaluation(given: dict[int, float]) -> Evaluate:
    def evaluate(
        network: Network,
        pictures: Sequence[LabelledPicture],
        *,
        stop: Callable[[], bool],
        on_digest: Callable[[int, int], None],
        thresh: float,
        iou_thresh: float,
        **_: Any,
    ) -> Evaluation | None:
        seen = b"".join(a.numpy().tobytes() for a in network.darknet_arrays().values())
        for row, picture in enumerate(pictures):
            if stop():
                return None
            on_digest(row, xxh3_64_intdigest(picture.path.read_bytes()))
            seen += picture.path.read_bytes() + picture.truths.tobytes()
        key = xxh3_64_intdigest(seen)
        value = given.get(len(pictures), key / 2**64)
        one = ClassEvaluation(given.get(-1, value), 0, NO_COUNTS)
        return Evaluation((one, one, one), thresh, iou_thresh, 0)

    return evaluate


def map_run(folder: Path, **options: object) -> Path:
    """Write a run of 12 iterations that is evaluated at four of them, with two milestones."""
    write_data_set(folder, seed=3, train=7, valid=3, side_px=72)
    options = {"max_batches": END, "yolo": {"jitter": 0.3}, **options}
    (folder / "net.cfg").write_text(sgd_cfg(**options))  # type: ignore[arg-type]
    add_to_data_file(folder, "saveweights = 6")
    return folder


def add_to_data_file(folder: Path, line: str) -> None:
    data = folder / "obj.data"
    data.write_text(f"{data.read_text()}{line}\n")


def newest(folder: Path, name: str = "net_last.weights") -> TrainState:
    path = folder / "backup" / name
    return container.unpack(path.read_bytes(), path)


def values_of(state: TrainState) -> list[tuple[int, float]]:
    return [(one.iteration, one.map) for one in state.history.evaluations]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with -map that nobody disturbed."""
    folder = map_run(tmp_path_factory.mktemp("map") / "straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "LEAST_INTERVAL", 1)
        patch.setattr(evaluation, "evaluate_network", quick_evaluation({}))
        train_until(folder, flags=MAP)
    return folder


@pytest.fixture(scope="module")
def straight_chart(straight: Path) -> bytes:
    return draw_chart(newest(straight).history, "net", END)


def test_a_run_is_evaluated_on_its_schedule_and_keeps_the_best_state(straight: Path) -> None:
    end = newest(straight)
    best = best_of(comparable(end))
    assert best is not None

    assert [one.iteration for one in end.history.evaluations] == list(EVALUATED)
    assert best.map == max(one.map for one in end.history.evaluations)
    kept = newest(straight, "net_best.weights")
    assert kept.reached == (best.iteration, 0)
    assert is_best(kept)
    files = promised_files(straight)
    milestone = newest(straight, "net_6.weights")
    assert milestone.history.evaluations[-1].iteration == 6  # after its evaluation
    assert files["net_6.weights"] != files["net_last.weights"] == files["net.backup"]


def test_a_run_without_map_has_the_same_weights_and_the_files_it_always_had(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "without")
    train_until(folder)

    files = promised_files(folder)

    assert files["net_final.weights"] == promised_files(straight)["net_final.weights"]
    ours, theirs = newest(folder), newest(straight)
    assert ours.history.records.tobytes() == theirs.history.records.tobytes()  # digests too
    assert ours.course == theirs.course
    assert "net_best.weights" not in files
    assert b"valid.bin" not in files["net_last.weights"]
    assert b"map." not in files["net_last.weights"].split(b"recipe/keys.json")[1][:4000]
    assert b"evaluations" not in files["net_last.weights"]


@pytest.mark.parametrize(
    ("cut", "subdivision", "evaluated"),
    [
        *((cut, 0, False) for cut in range(1, END + 1)),
        *((cut, 0, True) for cut in EVALUATED),
        *((cut, 1, False) for cut in (3, 5, 9)),
    ],
)
def test_a_run_cut_anywhere_leaves_the_same_files(
    straight: Path,
    straight_chart: bytes,
    tmp_path: Path,
    cut: int,
    subdivision: int,
    evaluated: bool,
) -> None:
    folder = copied_run(straight, tmp_path / "cut")
    stopped = train_until(folder, cut, subdivision=subdivision, flags=MAP, evaluated=evaluated)
    assert stopped.reached == (cut, subdivision)

    end = train_until(folder, flags=MAP)

    assert promised_files(folder) == promised_files(straight)
    assert draw_chart(end.history, "net", END) == straight_chart


def test_a_run_cut_before_and_after_every_step_leaves_the_same_files(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "cut")

    for iteration in range(1, END + 1):
        for cut in ({}, {"evaluated": True}, {"subdivision": 1}):
            if iteration < END or "subdivision" not in cut:
                train_until(folder, iteration, flags=MAP, **cut)

    train_until(folder, flags=MAP)
    assert promised_files(folder) == promised_files(straight)


def test_a_stop_inside_an_evaluation_keeps_the_state_before_it_and_repeats_it(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied_run(straight, tmp_path / "stopped")
    whole = quick_evaluation({})
    asked = []

    def stopped(*args: Any, stop: Callable[[], bool], **options: Any) -> Evaluation | None:
        def second_time() -> bool:
            asked.append(stop())
            return len(asked) == 2

        return whole(*args, stop=second_time, **options)

    monkeypatch.setattr(evaluation, "evaluate_network", stopped)
    state = train_until(folder, flags=MAP)

    assert (state.iteration, state.history.evaluations) == (3, ())
    assert container.pack(newest(folder)) == container.pack(state)
    assert not (folder / "backup" / "net_best.weights").exists()
    monkeypatch.setattr(evaluation, "evaluate_network", whole)
    train_until(folder, flags=MAP)
    assert promised_files(folder) == promised_files(straight)


class Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does, and nothing is saved."""


@pytest.mark.parametrize("moment", range(8))
def test_a_kill_inside_any_evaluation_or_before_its_result_is_saved_repeats_it(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    folder = copied_run(straight, tmp_path / "killed")
    whole = quick_evaluation({})
    begun: list[int] = []

    def killed(*args: Any, **options: Any) -> Evaluation | None:
        begun.append(1)
        if len(begun) == 1 + moment // 2:
            if moment % 2:
                whole(*args, **options)
            raise Killed
        return whole(*args, **options)

    monkeypatch.setattr(evaluation, "evaluate_network", killed)
    with pytest.raises(Killed):
        train_until(folder, flags=MAP)
    monkeypatch.setattr(evaluation, "evaluate_network", whole)
    assert values_of(newest(folder)) == values_of(newest(straight))[: moment // 2]

    train_until(folder, flags=MAP)

    assert promised_files(folder) == promised_files(straight)


def rising_to(at: int, values: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mAP be .5 after iteration `at`, and otherwise .1 and a little more every time."""
    whole = quick_evaluation(values)

    def evaluate(network: Network, *args: Any, **options: Any) -> Evaluation | None:
        return whole(network, *args, **options)

    def evaluated(network: Network, spec: Any, state: TrainState, *rest: Any) -> Any:
        values[-1] = 0.5 if state.iteration == at else 0.1 + state.iteration / 1000
        return real(network, spec, state, *rest)

    real = evaluation.evaluated
    monkeypatch.setattr(evaluation, "evaluate_network", evaluate)
    monkeypatch.setattr("relume.train.loop.evaluated", evaluated)


def test_equal_values_keep_the_earlier_weights(tmp_path: Path, values: dict[int, float]) -> None:
    values[-1] = 0.25
    folder = map_run(tmp_path / "ties")

    train_until(folder, flags=MAP)

    assert newest(folder, "net_best.weights").iteration == EVALUATED[0]


@pytest.mark.parametrize("cut", [4, 6, 7, 9])
def test_a_worse_value_after_a_resume_replaces_nothing(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    rising_to(3, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    train_until(folder, cut, flags=MAP)

    train_until(folder, flags=MAP)

    assert newest(folder, "net_best.weights").iteration == 3
    lines = (folder / "backup" / "net.journal.jsonl").read_text().splitlines()
    measured = [json.loads(line) for line in lines if line.startswith('{"map"')]
    assert [one["after_iteration"] for one in measured] == list(EVALUATED)
    assert {one["best_iteration"] for one in measured} == {3}


@pytest.mark.parametrize("field", ["evaluations", "nothing"])
def test_losing_what_the_history_knows_of_evaluations_is_noticed(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    rising_to(3, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    straight = copied_run(folder, tmp_path / "straight")
    train_until(straight, flags=MAP)
    train_until(folder, 5, flags=MAP)
    whole = container.unpack

    def forgetful(*args: Any) -> TrainState:
        state = whole(*args)
        if field == "nothing":
            return state
        return replace(state, history=replace(state.history, evaluations=()))

    monkeypatch.setattr(container, "unpack", forgetful)
    train_until(folder, flags=MAP, said=[])

    assert (promised_files(folder) == promised_files(straight)) == (field == "nothing")


@pytest.mark.parametrize("cuts", [(), (4,), (6, 7, 9), (9, 10)])
def test_a_run_ends_early_whatever_interrupted_it(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch, cuts: tuple[int, ...]
) -> None:
    rising_to(3, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    add_to_data_file(folder, "patience = 2")
    straight = copied_run(folder, tmp_path / "straight")
    train_until(straight, flags=MAP)
    for cut in cuts:
        train_until(folder, cut, flags=MAP)

    end = train_until(folder, flags=MAP)

    assert end.iteration == 9
    assert promised_files(folder) == promised_files(straight)
    assert "net_final.weights" in promised_files(straight)
    again = train_until(folder, flags=MAP)
    assert again.iteration == 9
    assert promised_files(folder) == promised_files(straight)


def test_a_higher_patience_goes_on_where_the_run_ended_early(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rising_to(3, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    data = folder / "obj.data"
    data.write_text(data.read_text() + "patience = 1\n")
    assert train_until(folder, flags=MAP).iteration == 6
    data.write_text(data.read_text().replace("patience = 1", "patience = 9"))
    said: list[str] = []

    end = train_until(folder, flags=MAP, said=said)

    assert end.iteration == END
    assert "map.patience: 1 -> 9 (changes no weight)" in said
    assert newest(folder, "net_best.weights").iteration == 3  # still compared with


def test_map_left_out_is_told_and_taken_up_again_with_the_same_best(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rising_to(3, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    train_until(folder, 4, flags=MAP)
    said: list[str] = []
    train_until(folder, 7, said=said)
    assert "map.epochs: 2 -> absent (changes no weight)" in said

    train_until(folder, flags=MAP, said=said)

    assert [one.iteration for one in newest(folder).history.evaluations] == [3, 9, 12]
    assert newest(folder, "net_best.weights").iteration == 3


@pytest.mark.parametrize("end", [10, 9])
def test_of_a_finished_run_that_goes_on_is_told_which_evaluation_a_longer_one_leaves_out(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch, end: int
) -> None:
    rising_to(10, values, monkeypatch)
    folder = map_run(tmp_path / "run", max_batches=end)
    train_until(folder, flags=MAP)
    change_cfg(folder, f"max_batches={end}", f"max_batches={END}")
    said: list[str] = []
    stopped = train_until(folder, 11, flags=MAP, said=said)
    again: list[str] = []

    train_until(folder, flags=MAP, said=again)

    told = (
        f"-map: evaluated after iteration {end}, which today's schedule leaves out; what was "
        "measured stays and is compared with"
    )
    assert (told in said) == (end == 10)
    assert told not in again
    assert [one.iteration for one in stopped.history.evaluations] == sorted({3, 6, 9, end})
    assert newest(folder, "net_best.weights").iteration == (10 if end == 10 else 12)


def test_another_way_to_measure_begins_a_new_best(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rising_to(3, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    train_until(folder, 7, flags=MAP)
    said: list[str] = []

    train_until(folder, flags=replace(MAP, iou_thresh=0.75), said=said)

    assert "map.iou_thresh: 0.5 -> 0.75 (changes no weight)" in said
    assert newest(folder, "net_best.weights").iteration == 12
    assert len(newest(folder).history.evaluations) == 4


@pytest.mark.parametrize("what", ["picture", "label"])
def test_a_changed_validation_picture_or_label_is_told_and_begins_a_new_best(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    rising_to(3, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    train_until(folder, 7, flags=MAP)
    picture = folder / "img" / "0009.jpg"
    said: list[str] = []
    if what == "picture":
        picture.write_bytes((folder / "img" / "0001.jpg").read_bytes())
    else:
        picture.with_suffix(".txt").write_text("0 .5 .5 .25 .25\n")

    train_until(folder, flags=MAP, said=said)

    assert newest(folder, "net_best.weights").iteration == 12
    if what == "picture":
        (line,) = [text for text in said if "changed since the last evaluation" in text]
        assert line.startswith(f"{folder}/valid.txt:2: {picture}: ")
    else:
        assert any(text.startswith("map.labels: ") for text in said)


def test_an_allowed_change_keeps_the_best_of_before(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rising_to(3, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    train_until(folder, 7, flags=MAP)
    kept = (folder / "backup" / "net_best.weights").read_bytes()
    change_cfg(folder, "momentum=0.9", "momentum=0.8")

    train_until(folder, start=StartFlags(allow_change=True), flags=MAP, said=[])

    assert (folder / "backup" / "net_best.weights").read_bytes() == kept


@pytest.mark.parametrize("how", ["missing", "damaged", "another"])
def test_a_best_that_is_gone_is_told_once_and_training_goes_on(
    straight: Path,
    tmp_path: Path,
    values: dict[int, float],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    rising_to(3, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    train_until(folder, 7, flags=MAP)
    best = folder / "backup" / "net_best.weights"
    if how == "missing":
        best.unlink()
    elif how == "damaged":
        data = bytearray(best.read_bytes())
        data[1000] ^= 4
        best.write_bytes(data)
    else:
        shutil.copy(folder / "backup" / "net_6.weights", best)
    said: list[str] = []

    end = train_until(folder, flags=MAP, said=said)

    (line,) = [text for text in said if "which stays the one to beat" in text]
    assert line.startswith(f"{best}: ")
    assert "50.00 % after iteration 3" in line
    assert end.iteration == END
    assert not best.exists()


def test_a_best_that_is_gone_is_made_again_from_a_milestone_of_its_iteration(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rising_to(6, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    straight = copied_run(folder, tmp_path / "straight")
    train_until(straight, flags=MAP)
    train_until(folder, 8, flags=MAP)
    best = folder / "backup" / "net_best.weights"
    best.unlink()
    said: list[str] = []

    train_until(folder, flags=MAP, said=said)

    assert f"{best}: is missing; made again from {folder}/backup/net_6.backup: " in said[0]
    assert promised_files(folder) == promised_files(straight)


@pytest.fixture(scope="module")
def another(straight: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same name with another seed."""
    folder = copied_run(straight, tmp_path_factory.mktemp("map") / "another")
    add_to_data_file(folder, "seed = 5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "LEAST_INTERVAL", 1)
        patch.setattr(evaluation, "evaluate_network", quick_evaluation({}))
        train_until(folder, flags=MAP)
    return folder / "backup"


@pytest.mark.parametrize("allow_change", [False, True])
@pytest.mark.parametrize("file", ["net_last.weights", "net_6.weights", "net_best.weights"])
@pytest.mark.parametrize("cut", [2, 4])
def test_a_best_of_another_run_is_named_and_moved_aside_and_never_gone_on_from(
    straight: Path, another: Path, tmp_path: Path, file: str, cut: int, allow_change: bool
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    train_until(folder, cut, flags=MAP)
    best = folder / "backup" / "net_best.weights"
    best.unlink(missing_ok=True)
    undisturbed = copied_run(straight, tmp_path / "undisturbed")
    shutil.copytree(folder / "backup", undisturbed / "backup")
    train_until(undisturbed, flags=MAP, said=[])
    shutil.copy(another / file, best)
    (stray,) = [one for one in check_run(best.parent, "net").files if one.path == str(best)]
    said: list[str] = []

    state = start_of(folder, StartFlags(allow_change=allow_change), said, MAP)

    place = f"iteration {newest(another.parent, file).iteration}"
    assert state.iteration == cut
    assert any(text.startswith(f"{best}: holds {place} of another run") for text in said)
    assert said[-1] == f"goes on from {best.parent}/net_last.weights (iteration {cut})"
    aside = list((folder / "backup" / "net.aside").rglob("net_best.weights"))
    assert [path.read_bytes() for path in aside] == [(another / file).read_bytes()]
    assert (stray.condition == "foreign") == (
        file != "net_best.weights" or place > f"iteration {cut}"
    )
    train_until(folder, flags=MAP, said=[])
    assert promised_files(folder) == promised_files(undisturbed)


def test_a_plain_file_in_the_place_of_the_best_is_moved_aside_not_replaced(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    train_until(folder, 2, flags=MAP)
    plain = (straight / "backup" / "net_final.weights").read_bytes()
    (folder / "backup" / "net_best.weights").write_bytes(plain)

    train_until(folder, flags=MAP, said=[])

    assert promised_files(folder) == promised_files(straight)
    aside = folder / "backup" / "net.aside" / "1" / "net_best.weights"
    assert aside.read_bytes() == plain


@pytest.mark.parametrize("start", [StartFlags(), StartFlags(allow_change=True)])
def test_checkpoints_of_two_runs_are_refused_and_both_named(
    straight: Path, another: Path, tmp_path: Path, start: StartFlags
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    train_until(folder, 4, flags=MAP)
    backup = folder / "backup"
    shutil.copy(another / "net_6.weights", backup)
    before = promised_files(folder)

    with pytest.raises(CheckpointError) as error:
        start_of(folder, start, [], MAP)

    assert str(error.value) == (
        f"{backup}/net_6.weights: iteration 6 does not come from iteration 4 of "
        f"{backup}/net_last.weights; the checkpoints of one run; two runs are called 'net' here: "
        "move the files of one of them away"
    )
    assert promised_files(folder) == before
    assert check_run(backup, "net").refused == str(error.value)


def test_a_best_of_another_run_is_told_from_the_newest_other_checkpoint_without_a_last(
    straight: Path, another: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    train_until(folder, 8, flags=MAP)
    shutil.copy(another / "net_last.weights", folder / "backup" / "net_best.weights")
    (folder / "backup" / "net_last.weights").unlink()
    said: list[str] = []

    state = start_of(folder, said=said, flags=MAP)

    assert state.iteration == 7
    assert "iteration 12 of another run than " in said[0]
    assert said[0].endswith(f"; the newest good checkpoint is {folder}/backup/net.backup")


def test_a_state_that_an_allowed_change_led_to_is_of_the_same_run(
    tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rising_to(6, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    train_until(folder, 5, flags=MAP)
    before = (folder / "backup" / "net_last.weights").read_bytes()
    change_cfg(folder, "momentum=0.9", "momentum=0.8")
    train_until(folder, 6, StartFlags(allow_change=True), [], flags=MAP, evaluated=True)
    (folder / "backup" / "net_last.weights").write_bytes(before)  # killed before it was written
    for path in (folder / "backup").glob("net_6.*"):
        path.unlink()

    state = start_of(folder, flags=MAP)

    assert (state.iteration, is_best(state)) == (6, True)


def test_a_later_state_lying_as_the_best_becomes_the_last_and_is_gone_on_from(
    straight: Path, tmp_path: Path, values: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rising_to(3, values, monkeypatch)
    folder = map_run(tmp_path / "run")
    backup = folder / "backup"
    train_until(folder, 8, flags=MAP)
    later = (backup / "net_last.weights").read_bytes()
    for path in backup.iterdir():
        path.unlink()
    train_until(folder, 7, flags=MAP)
    (backup / "net_best.weights").write_bytes(later)
    said: list[str] = []

    state = start_of(folder, said=said, flags=MAP)

    assert state.iteration == 8
    assert "holds iteration 8, from which the run goes on, and is net_last.weights now" in said[0]
    assert (backup / "net_last.weights").read_bytes() == later
    assert newest(folder, "net.backup").iteration == 7
    assert not (backup / "net_best.weights").exists()


def test_of_a_damaged_best_is_said_which_good_checkpoint_is_the_newest(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    train_until(folder, 4, flags=MAP)
    best = folder / "backup" / "net_best.weights"
    best.write_bytes(best.read_bytes()[:-500])
    said: list[str] = []

    start_of(folder, said=said, flags=MAP)

    assert said[0].startswith(f"{best}: ")
    assert said[0].endswith(f"; the newest good checkpoint is {folder}/backup/net_last.weights")


def test_a_run_goes_on_from_its_best_file_alone(straight: Path, tmp_path: Path) -> None:
    folder = copied_run(straight, tmp_path / "alone")
    (folder / "backup").mkdir()
    shutil.copy(straight / "backup" / "net_best.weights", folder / "backup")

    found = check_run(folder / "backup", "net")
    said: list[str] = []
    state = start_of(folder, said=said, flags=MAP)

    assert f"goes on from {found.taken} ({found.place})" == said[-1]
    assert state.iteration == newest(straight, "net_best.weights").iteration
    train_until(folder, flags=MAP)
    ours, theirs = promised_files(folder), promised_files(straight)
    assert {name: ours[name] for name in ours} == {name: theirs[name] for name in ours}


def test_map_can_be_added_to_a_run_that_has_begun_or_is_finished(tmp_path: Path) -> None:
    folder = map_run(tmp_path / "run")
    train_until(folder, 6)
    train_until(folder, 7, flags=MAP, said=[])
    assert [one.iteration for one in newest(folder).history.evaluations] == [6]
    train_until(folder, said=[])

    train_until(folder, flags=MAP, said=[])

    assert [one.iteration for one in newest(folder).history.evaluations] == [6, 12]


# Real processes, with the real evaluation.

TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "1")
WITH_MAP = (*TRAIN, "-map", "-mAP_epochs", "2")


def often() -> None:
    """Let a process evaluate at short intervals."""
    schedule.LEAST_INTERVAL = 1


def ending_in_an_evaluation(number: int, signal_number: int) -> None:
    """Let a process get a signal in the middle of its first evaluation, between two pictures."""
    often()
    whole = evaluate_network

    def struck(*args: Any, stop: Callable[[], bool], **options: Any) -> Evaluation | None:
        note = options.pop("on_digest")

        def at(row: int, digest: int) -> None:
            note(row, digest)
            if row == number:
                os.kill(os.getpid(), signal_number)

        return whole(*args, stop=stop, on_digest=at, batch=1, **options)

    evaluation.evaluate_network = struck  # type: ignore[assignment, attr-defined]


def killed_in_an_evaluation() -> None:
    ending_in_an_evaluation(1, signal.SIGKILL)


def stopped_in_an_evaluation() -> None:
    ending_in_an_evaluation(1, signal.SIGTERM)


def all_files(folder: Path) -> dict[str, bytes]:
    files = [path for path in (folder / "backup").iterdir() if path.is_file()]
    return {p.name: p.read_bytes() for p in files if p.suffix not in (".log", ".lock")}


def test_processes_killed_and_stopped_in_evaluations_leave_the_same_files(tmp_path: Path) -> None:
    straight = map_run(tmp_path / "straight", max_batches=7)
    folder = copied_run(straight, tmp_path / "killed")
    process = Relume(straight, *WITH_MAP, before=often)
    assert process.ended() == 0, process.output
    assert f"best: {Path('backup/net_best.weights')}, mAP " in process.output

    for before, status in (
        (killed_in_an_evaluation, -signal.SIGKILL),
        (stopped_in_an_evaluation, 75),
        (killed_in_an_evaluation, -signal.SIGKILL),
        (often, 0),
    ):
        process = Relume(folder, *WITH_MAP, before=before)
        assert process.ended() == status, process.output
        if status == 75:
            assert "stopped at iteration 3, before its evaluation" in process.output
    for line in (" mean_average_precision (mAP@0.50) = ", " Last accuracy mAP@0.50 = "):
        assert line in process.output
    assert all_files(folder) == all_files(straight)
    assert {"chart.png", "net_best.weights"} <= all_files(folder).keys()
