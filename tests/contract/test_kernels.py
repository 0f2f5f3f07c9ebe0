"""Kernels are re-created: real processes that begin again with the variables of their run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relume.checkpoint import container
from relume.kernels import (
    AVX512,
    PORTABLE,
    VARIABLES,
    described,
    given_variables,
    machine_level,
    portable_variables,
)
from tests.contract.small_runs import copied_run, promised_files, train_until
from tests.contract.starts import CUT, small_run

CHECKOUT = Path(__file__).parents[2]
AVX2_BY_HAND = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
FINISHED_AND_CUT = f"""
import sys, torch
from pathlib import Path
from tests.contract.small_runs import train_until
torch.set_num_threads(1)
train_until(Path(sys.argv[1]))
train_until(Path(sys.argv[2]), {CUT})
"""

pytestmark = pytest.mark.skipif(
    machine_level() != AVX512, reason="needs a processor with a level to be held back from"
)


def python(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python on this checkout with these variables and no others of their kind."""
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    path = os.pathsep.join(map(str, (CHECKOUT, CHECKOUT / "src")))
    environ |= {"PYTHONPATH": path, **variables}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)


def start(folder: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    words = ("-m", "relume", "detector", "train", folder / "obj.data", folder / "net.cfg")
    return python(*words, "-workers", 1, *flags, **variables)


@pytest.fixture(scope="module")
def avx2_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One run finished with AVX2's kernels, and one cut; not to be changed."""
    folder = tmp_path_factory.mktemp("avx2")
    finished = small_run(folder / "finished")
    cut = copied_run(finished, folder / "cut")
    ended = python("-c", FINISHED_AND_CUT, finished, cut, **AVX2_BY_HAND)
    assert ended.returncode == 0, ended.stderr
    return finished, cut


def test_a_run_goes_on_with_the_kernels_it_began_with(
    avx2_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    finished, cut = avx2_runs
    run = Path(shutil.copytree(cut, tmp_path / "run"))
    ended = start(run, "-exact")

    assert ended.returncode == 0, ended.stderr
    assert "relume: kernels of this run: AVX512 ATEN_CPU_CAPABILITY=avx2" in ended.stderr
    assert "elsewhere" not in ended.stderr
    assert promised_files(run) == promised_files(finished)


@pytest.mark.skipif(
    described(given_variables(), machine_level()) != AVX512,
    reason="variables hold this process back, too",
)
def test_other_kernels_would_have_given_other_bytes(
    avx2_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    finished, cut = avx2_runs
    run = Path(shutil.copytree(cut, tmp_path / "run"))
    train_until(run)  # in this process, with its own kernels, asking nothing

    assert promised_files(run).keys() == promised_files(finished).keys()
    assert promised_files(run) != promised_files(finished)


def test_a_process_whose_kernels_fit_does_not_begin_again(
    avx2_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    finished, cut = avx2_runs
    run = Path(shutil.copytree(cut, tmp_path / "run"))
    ended = start(run, **AVX2_BY_HAND)

    assert "kernels of this run" not in ended.stderr
    assert promised_files(run) == promised_files(finished)


def test_a_process_begins_again_only_once(avx2_runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(avx2_runs[1], tmp_path / "run"))
    ended = start(run, "-exact", RELUME_RESTARTED="1")

    assert ended.returncode == 2
    assert "this run was computed elsewhere (kernels: AVX512 ATEN_CPU_CAPABILITY=avx2" in (
        ended.stderr
    )


def test_a_portable_run_stays_portable_without_the_flag(tmp_path: Path) -> None:
    finished = small_run(tmp_path / "finished")
    cut = copied_run(finished, tmp_path / "cut")
    fresh = copied_run(finished, tmp_path / "fresh")
    portable = portable_variables(machine_level())
    by_hand = python("-c", FINISHED_AND_CUT, finished, cut, **portable)
    assert by_hand.returncode == 0, by_hand.stderr
    begun, went_on = start(fresh, "-portable", "-threads", "1"), start(cut, "-exact")

    assert (begun.returncode, went_on.returncode) == (0, 0), begun.stderr + went_on.stderr
    assert f"kernels of this run: {PORTABLE}" in went_on.stderr
    assert promised_files(fresh) == promised_files(finished)
    assert promised_files(cut) == promised_files(finished)
    path = fresh / "backup" / "net_last.weights"
    environment = container.unpack(path.read_bytes(), path).environment
    assert environment["kernels"] == PORTABLE
    assert environment["processor"] == "any of x86-64-v3"


def test_an_ordinary_run_becomes_portable_when_that_change_is_allowed(run: Path) -> None:
    changed = start(run, "-portable", "-allow-change")
    path = run / "backup" / "net_last.weights"
    state = container.unpack(path.read_bytes(), path)

    assert changed.returncode == 0, changed.stderr
    assert "(portable from here on); marked in the history" in changed.stderr
    assert [(mark.iteration, mark.kind) for mark in state.history.marks] == [(CUT, "environment")]
    assert state.environment["kernels"] == PORTABLE
