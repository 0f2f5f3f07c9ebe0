"""Runs that the contract tests begin from."""

import shutil
from pathlib import Path

import pytest

from tests.contract.small_runs import train_until
from tests.contract.starts import CUT, small_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = small_run(tmp_path_factory.mktemp("finished") / "run")
    train_until(folder)
    return folder


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after CUT iterations; not to be changed."""
    folder = small_run(tmp_path_factory.mktemp("stopped") / "run")
    train_until(folder, CUT)
    shutil.copy(folder / "backup" / "net_2.weights", folder / "at_2.weights")
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A stopped run of one's own."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.fixture
def fresh(stopped: Path, tmp_path: Path) -> Path:
    """The inputs of the run alone."""
    return Path(
        shutil.copytree(stopped, tmp_path / "fresh", ignore=shutil.ignore_patterns("backup"))
    )
