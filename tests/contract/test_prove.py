"""`relume prove` with the real trainer: it finds no difference, and finds the one of a mutant."""

import os
import re
import sys
from pathlib import Path

import pytest

from relume.commands import prove as command
from relume.draws import draw_uniforms
from relume.proof.moments import PURPOSE
from relume.screen import Screen
from tests.contract.small_runs import sgd_cfg, write_run

ROOT = Path(__file__).parents[2]
SEED = next(s for s in range(99) if 0.2 < float(draw_uniforms(s, PURPOSE, (0,), 1)[0]) < 0.3)
"""Its first kill strikes within the iterations, however long the chart at the end takes."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inputs of a run that saves every iteration, the current folder."""
    folder = write_run(tmp_path / "run", sgd_cfg(max_batches=200))
    data = folder / "obj.data"
    data.write_text(data.read_text() + "savelast = 1\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))
    return folder


def prove(program: tuple[str, ...]) -> int:
    flags = {"-iterations": 40, "-kills": 1, "-seed": SEED, "-threads": 1, "-keep": True}
    return command.prove(["obj.data", "net.cfg"], flags, Screen(), program)


@pytest.mark.long
def test_the_real_trainer_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = prove(command.PROGRAM)
    out = capsys.readouterr().out

    assert status == 0, out
    assert "1 of 1 SIGKILL struck: in iteration " in out
    assert "in 41 states" in out
    names = sorted(path.name for path in (folder / "net.prove" / "interrupted").iterdir())
    assert names == [
        *("chart.png", "chart_net.png", "net.backup", "net.journal.jsonl", "net.lock", "net.log"),
        *("net_20.weights", "net_40.backup", "net_40.weights"),
        *("net_final.weights", "net_last.weights"),
    ]


def test_momentum_that_is_not_restored_is_found_at_the_right_iteration_and_tensor(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = prove((sys.executable, str(Path(__file__).with_name("mutant_trainer.py"))))
    out = capsys.readouterr().out
    log = (folder / "net.prove" / "interrupted.log").read_text()
    (went_on_from,) = re.findall(r"goes on from .*\(iteration (\d+)\)", log)

    assert status == 1, out
    assert 0 < int(went_on_from) < 40
    assert re.search(
        rf"first difference: iteration {went_on_from}: momentum/0\.\w+ is the first tensor"
        r" that differs \(momentum \d+ of \d+\)",
        out,
    )
    assert "there only in" not in out
    assert "left alone is the same as the first: the kills made the difference." in out
