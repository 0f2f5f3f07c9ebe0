"""WEIGHTS on the second start: the same file gone, replaced, mistyped, or another one."""

from pathlib import Path

from relume.train.start import StartFlags
from tests.contract.small_runs import start_of, train_until
from tests.contract.starts import CUT, backbone, change_cfg, refused, small_run


def begun_from_a_backbone(folder: Path) -> tuple[Path, StartFlags]:
    """Return a run stopped at CUT that began with start.conv.7, and the flags it was given."""
    other = small_run(folder / "other")
    train_until(other, 1)
    run = small_run(folder / "run")
    flags = StartFlags(weights=str(backbone(other, folder / "start.conv.7")))
    train_until(run, CUT, start=flags)
    return run, flags


def test_start_weights_that_are_gone_are_no_error(tmp_path: Path) -> None:
    run, flags = begun_from_a_backbone(tmp_path)
    (tmp_path / "start.conv.7").unlink()

    assert start_of(run, flags).iteration == CUT


def test_a_mistyped_path_is_an_error_where_the_run_began_without_weights(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    train_until(run, CUT)

    text = refused(run, StartFlags(weights=str(tmp_path / "typo.conv.7")))

    assert "typo.conv.7: cannot be read (No such file or directory)" in text


def test_resume_goes_on_whatever_start_weights_are_named(tmp_path: Path) -> None:
    run, _ = begun_from_a_backbone(tmp_path)
    other = backbone(tmp_path / "other", tmp_path / "another.conv.5", layers=5)

    assert start_of(run, StartFlags(weights=str(other), resume=True)).iteration == CUT
    assert "start: " in refused(run, StartFlags(weights=str(other)))


def test_weights_left_out_are_asked_for(tmp_path: Path) -> None:
    run, _ = begun_from_a_backbone(tmp_path)

    assert refused(run).endswith("; name the WEIGHTS it began with, or add -resume")
    assert start_of(run, StartFlags(resume=True)).iteration == CUT


def test_clear_without_a_file_of_weights_is_an_error(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    train_until(run, CUT)

    assert "there is no WEIGHTS argument" in refused(run, StartFlags(clear=True))
    folder = StartFlags(weights=str(run / "backup"), clear=True)
    assert "is a folder; a weights file to begin with" in refused(run, folder)


def test_a_file_of_darknets_that_the_run_replaced_leads_to_the_run(tmp_path: Path) -> None:
    other = small_run(tmp_path / "other")
    train_until(other)
    run = small_run(tmp_path / "run")
    (run / "backup").mkdir()
    last = run / "backup" / "net_last.weights"
    last.write_bytes((other / "backup" / "net_final.weights").read_bytes())
    flags = StartFlags(weights=str(last), clear=True)
    train_until(run, CUT, start=flags)

    assert start_of(run, flags).iteration == CUT


def test_a_change_allowed_to_a_finished_run_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    train_until(run)
    change_cfg(run, "decay=0.0005", "decay=0.001")

    assert "the run is finished (6 iterations)" in refused(run, StartFlags(allow_change=True))
