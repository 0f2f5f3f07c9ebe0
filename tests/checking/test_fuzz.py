"""Whatever stands in a file: an answer, never a traceback, never a hang.

Needs nothing but this checkout; 100,000 inputs and more: python -m pytest -m long <this file>
"""

from pathlib import Path

import numpy as np
import pytest

from tests.checking.fuzzed import CFG, DATA, LABELS, LIST, NAMES, TEXTS, Reader, fuzz, mutated
from tests.checking.test_check import check

FEW = {
    "labels": 100,
    "lists": 60,
    "names": 40,
    "data": 60,
    "cfgs": 40,
    "pictures": 100,
    "known": 20,
}
MANY = {
    "labels": 55_000,
    "lists": 30_000,
    "names": 6_000,
    "data": 8_000,
    "cfgs": 4_000,
    "pictures": 20_000,
    "known": 2_000,
}
FILES = {
    "img/0001.txt": LABELS,
    "train.txt": LIST,
    "obj.names": NAMES,
    "obj.data": DATA,
    "net.cfg": CFG,
}


def test_there_is_a_number_for_every_kind() -> None:
    assert FEW.keys() == MANY.keys() == TEXTS.keys()
    assert sum(MANY[kind] for kind in ("labels", "lists", "names", "data", "cfgs")) >= 100_000


@pytest.mark.parametrize("kind", FEW)
def test_a_few_inputs(kind: str, tmp_path: Path) -> None:
    assert fuzz(tmp_path, kind, FEW[kind], seed=1) > 0.8 * FEW[kind]


@pytest.mark.long
@pytest.mark.parametrize("kind", MANY)
def test_many_inputs(kind: str, tmp_path: Path) -> None:
    assert fuzz(tmp_path, kind, MANY[kind], seed=2) > 0.8 * MANY[kind]


def command(folder: Path, count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    Reader(folder)
    for i in range(count):
        name = list(FILES)[i % len(FILES)]
        (folder / name).write_bytes(mutated(draw, FILES[name]))
        words = ("-fix", folder / f"fixed{i}") if i % 2 else ("-json",)
        ended = check(folder / "obj.data", folder / "net.cfg", *words)
        assert ended.status in (0, 1, 2)
        assert "Traceback" not in ended.err
        (folder / name).write_bytes(FILES[name])


def test_the_command_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a folder goes whose name was changed
    command(tmp_path, 10, seed=1)


@pytest.mark.long
def test_the_command_answers_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command(tmp_path, 200, seed=2)
