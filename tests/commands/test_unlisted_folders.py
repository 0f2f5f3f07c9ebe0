"""A folder that may be written but not listed is one line of error, and nothing is written."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import relume
from tests.commands.test_demo import demo, in_avi
from tests.commands.test_detect import net
from tests.contract.small_runs import sgd_cfg, write_run

__all__ = ["in_avi", "net"]  # fixtures


def unlisted(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let no one list a folder; root could, whatever the folder's mode."""
    listed = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path.resolve() == folder.resolve():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)


@pytest.mark.usefixtures("in_avi")
def test_frames_of_a_demo_are_not_written_where_the_ones_there_cannot_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("frames").mkdir()
    with monkeypatch.context() as patch:
        unlisted(patch, Path("frames"))
        ended = demo("in.avi", "-prefix", "frames/f")

    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert ended.error == (
        "-prefix: frames cannot be listed (Permission denied); a folder that you may list; "
        "name another"
    )
    assert list(Path("frames").iterdir()) == []


def test_a_proof_takes_no_folder_whose_contents_it_cannot_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_run(tmp_path / "run", sgd_cfg(max_batches=2)))
    Path("proof").mkdir()
    with monkeypatch.context() as patch:
        unlisted(patch, Path("proof"))
        ended = relume("prove", "obj.data", "net.cfg", "-folder", "proof")

    assert (ended.status, ended.out) == (2, "")
    assert ended.error.startswith("-folder: ")
    assert ended.error.endswith(
        "proof cannot be listed (Permission denied); a folder that you may list; name another"
    )
    assert list(Path("proof").iterdir()) == []
