"""The same command again resumes; what is another run is refused, and never overwritten.

Needs nothing but this checkout: python -m pytest tests/contract/test_same_run.py
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from relume.checkpoint import container
from relume.checkpoint.container import plain
from relume.errors import (
    Damaged,
    OtherRecipe,
    WeightsError,
)
from relume.formats.weights import format_header
from relume.train.start import StartFlags
from tests.contract.small_runs import (
    promised_files,
    start_of,
    train_until,
)
from tests.contract.starts import (
    END,
    backbone,
    change_cfg,
    contents,
    other_copy,
    refused,
    small_run,
    with_a_flipped_bit,
)

# The same command again


def test_the_same_command_again_resumes_and_says_from_where(run: Path, finished: Path) -> None:
    said: list[str] = []

    train_until(run, None, None, said)

    assert said == [f"goes on from {run / 'backup' / 'net_last.weights'} (iteration 4)"]
    assert promised_files(run) == promised_files(finished)


@pytest.mark.parametrize("clear", [False, True])
def test_start_weights_that_have_gone_missing_are_then_no_error(
    fresh: Path, stopped: Path, clear: bool
) -> None:
    path = fresh / "start.weights"
    shutil.copy(stopped / "backup" / "net_2.weights", path) if clear else backbone(stopped, path)
    flags = StartFlags(weights=str(path), clear=clear)
    straight = other_copy(fresh)
    train_until(straight, None, replace(flags, weights=str(straight / "start.weights")))

    train_until(fresh, 2, flags)
    train_until(fresh, 3, flags)  # -clear, repeated, resumes
    path.unlink()
    train_until(fresh, None, flags)

    assert promised_files(fresh) == promised_files(straight)


def test_missing_weights_with_clear_are_an_error_in_a_run_begun_without(run: Path) -> None:
    flags = StartFlags(weights=str(run / "no.weights"), clear=True)

    assert "no.weights: cannot be read" in refused(run, flags)


def test_an_older_checkpoint_of_the_run_leads_to_the_same_bytes_and_both_are_named(
    run: Path, finished: Path
) -> None:
    older = run / "backup" / "net_2.weights"
    said: list[str] = []

    train_until(run, None, StartFlags(weights=str(older)), said)

    assert said == [
        f"goes on from {run / 'backup' / 'net_last.weights'} (iteration 4)",
        f"{older} (iteration 2) is an older checkpoint of this run and leads to the same bytes",
    ]
    assert promised_files(run) == promised_files(finished)


def test_a_newer_checkpoint_of_the_run_is_taken(run: Path, finished: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.weights"
    shutil.copy(finished / "backup" / "net_last.weights", newer)

    said: list[str] = []

    end = train_until(run, None, StartFlags(weights=str(newer)), said)

    assert said == [f"goes on from {newer} (iteration {END})"]
    assert container.pack(end) == promised_files(finished)["net_last.weights"]
    assert promised_files(run)["net_last.weights"] == container.pack(end)


def test_a_checkpoint_of_another_course_is_refused_as_weights(run: Path, tmp_path: Path) -> None:
    other = small_run(tmp_path / "other", learning_rate=0.002)  # not part of the course's digest
    train_until(other, 2)

    text = refused(run, StartFlags(weights=str(other / "backup" / "net_last.weights")))

    assert "belongs to another course of the run than" in text
    assert "`relume reset DATA CFG` moves that run aside" in text


def test_another_cfg_under_the_same_name_is_refused_with_what_differs(run: Path) -> None:
    change_cfg(run, "momentum=0.9", "momentum=0.8")
    change_cfg(run, "batch=4", "batch=8")

    text = refused(run)

    assert "this run was begun with other settings: " in text
    assert "net.batch: 4 -> 8 (changes the course), net.momentum: 0.9 -> 0.8" in text
    assert "go on with it by -allow-change" in text


def test_other_start_weights_are_another_course(run: Path, tmp_path: Path) -> None:
    path = backbone(run, tmp_path / "net.conv.7")

    text = refused(run, StartFlags(weights=str(path)))
    allowed = refused(run, StartFlags(weights=str(path), allow_change=True))

    assert re.search(r"start: random -> [0-9a-f]{32} \(cannot change within a run\)", text)
    assert allowed == text


def test_another_seed_is_another_course(run: Path) -> None:
    (run / "obj.data").write_text((run / "obj.data").read_text() + "seed = 1\n")

    assert "seed: 0 -> 1 (changes the course)" in refused(run)


def test_another_network_is_refused_even_where_changes_are_allowed(run: Path) -> None:
    change_cfg(run, "filters=10", "filters=9")

    text = refused(run, StartFlags(allow_change=True))

    assert "convolutional.filters: 10 -> 9 (cannot change within a run)" in text
    assert "-allow-change" not in text


def test_a_message_about_many_differences_names_the_first(run: Path) -> None:
    change_cfg(run, "[maxpool]\nsize=2\nstride=1\n", "")
    change_cfg(run, "layers=-1,6", "layers=-1,6\n")

    text = refused(run)

    assert re.search(r" and \d+ more; the settings of the run", text)
    assert len(text) < 1200


# Changes that are none


def test_a_schedule_that_differs_only_later_is_harmless_and_said(run: Path) -> None:
    change_cfg(run, "steps=7,10", "steps=9,10")
    said: list[str] = []

    state = start_of(run, None, said)

    assert said[0] == "net.steps: (7, 10) -> (9, 10) (the same up to here)"
    assert state.history.marks == ()


def test_a_schedule_that_differs_earlier_changes_the_course(run: Path) -> None:
    change_cfg(run, "burn_in=3", "burn_in=2")

    assert "net.burn_in: 3 -> 2 (changes the course)" in refused(run)


def test_keys_of_detection_are_said_and_change_no_weight(run: Path, finished: Path) -> None:
    change_cfg(run, "truth_thresh=1\n", "truth_thresh=1\nnms_kind=diounms\n")
    said: list[str] = []

    end = train_until(run, None, None, said)

    assert "yolo.nms_kind: 'default' -> 'diounms' (changes no weight)" in said[0]
    assert plain(end) == promised_files(finished)["net_final.weights"]


def test_a_finished_run_goes_on_where_max_batches_is_raised(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "longer"))
    change_cfg(folder, f"max_batches={END}", "max_batches=8")

    assert train_until(folder).iteration == 8


# Files of others


def test_weights_of_another_program_in_the_folder_are_not_overwritten(fresh: Path) -> None:
    (fresh / "backup").mkdir()
    foreign = fresh / "backup" / "net_last.weights"
    foreign.write_bytes(format_header(64) + b"of Darknet")
    backbone_path = fresh / "start.weights"

    text = refused(fresh)

    assert "holds net_last.weights without training state" in text
    assert f"give {foreign} as WEIGHTS to go on from it" in text
    backbone_path.write_bytes(format_header(0) + bytes(100))
    refused(fresh, StartFlags(weights=str(backbone_path)))


def test_a_checkpoint_from_elsewhere_does_not_overwrite_them_either(
    fresh: Path, stopped: Path
) -> None:
    (fresh / "backup").mkdir()
    (fresh / "backup" / "net_last.weights").write_bytes(format_header(64) + b"of Darknet")
    flags = StartFlags(weights=str(stopped / "backup" / "net_last.weights"))

    assert "holds net_last.weights without training state" in refused(fresh, flags)


def test_darknets_folder_is_taken_over_with_a_copy_of_all_it_held(
    fresh: Path, stopped: Path
) -> None:
    """The design's second example: WEIGHTS is a checkpoint of Darknet in backup= itself."""
    backup = fresh / "backup"
    backup.mkdir()
    weights = plain(start_of(stopped))
    theirs = {"net_last.weights": 8, "net_2.weights": 8, "net_1.weights": 4, "net_best.weights": 4}
    for name, seen in theirs.items():
        (backup / name).write_bytes(format_header(seen) + weights[20:])
    before = contents(backup)
    flags = StartFlags(weights=str(backup / "net_last.weights"))

    train_until(fresh, 3, flags)
    end = train_until(fresh, None, flags)

    assert contents(backup / "net.aside" / "1") == before
    assert (end.iteration, end.history.start) == (END, 2)


def test_runs_whose_names_could_be_mixed_up_need_folders_of_their_own(run: Path) -> None:
    shutil.copy(run / "backup" / "net_last.weights", run / "backup" / "net_100_last.weights")

    text = refused(run)

    assert "holds a run 'net_100', whose files could be taken for those of 'net'" in text


def test_errors_have_the_classes_that_callers_tell_apart(run: Path) -> None:
    with pytest.raises(WeightsError):
        start_of(run, StartFlags(weights=str(run / "net.cfg")))
    path = run / "bad.weights"
    path.write_bytes(with_a_flipped_bit(start_of(run)))
    with pytest.raises(Damaged):
        start_of(run, StartFlags(weights=str(path)))
    change_cfg(run, "momentum=0.9", "momentum=0.8")
    with pytest.raises(OtherRecipe):
        start_of(run)
