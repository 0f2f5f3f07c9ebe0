"""What a run is reckoned to take."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from relume.checking.cost import (
    Trial,
    findings_of_cost,
    findings_of_disk,
    memory_bytes,
    seconds_left,
    too_large,
)
from relume.checking.findings import Verdict
from relume.commands import check
from relume.formats.cfg import parse_cfg
from relume.formats.net_memory import weights_bytes
from relume.formats.sections import Cfg
from relume.schedule import input_size
from relume.spec import Operation
from relume.train.trial import tried
from tests.cfg_texts import small_cfg

TRIAL = Trial(images=2, width=64, height=64, seconds=0.5, held_bytes=10**6)


def cfg_of(**options: object) -> Cfg:
    # Each option has a type of its own, which **options cannot tell.
    return parse_cfg(small_cfg(**options), "net.cfg", "train")  # type: ignore[arg-type]


def test_time_follows_the_pixels_of_every_iteration_that_is_left() -> None:
    cfg = cfg_of(max_batches=300, yolo={"random": 1}, resize_step=16)
    areas = [w * h for w, h in (input_size(cfg, 7, i) for i in range(101, 301))]

    expected = sum(areas) * cfg.net.batch * TRIAL.seconds / TRIAL.pixels

    assert seconds_left(cfg, 7, TRIAL, 100, 0.0) == pytest.approx(expected)
    assert seconds_left(cfg, 7, TRIAL, 300, 0.0) == 0
    # Where pictures load more slowly than they are trained on, they decide.
    assert seconds_left(cfg, 7, TRIAL, 100, 9.0) == 200 * cfg.net.batch * 9.0


def test_memory_grows_with_the_largest_size_and_with_adam() -> None:
    one, large = cfg_of(), cfg_of(yolo={"random": 1}, resize_step=16)
    held = 1.5 * TRIAL.held_bytes  # for the two images of a mini-batch

    grown = memory_bytes(large, 0, TRIAL) - memory_bytes(one, 0, TRIAL)

    width, height = input_size(large, 0, 1)
    assert grown == pytest.approx(held * (width * height / 64**2 - 1), abs=2)
    adam = memory_bytes(cfg_of(adam=1), 0, TRIAL) - memory_bytes(one, 0, TRIAL)
    assert adam == 3 * weights_bytes(one)


def test_a_gpu_without_free_memory_is_not_taken_for_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check, "compute_device", lambda flags: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 1 << 34))
    found = SimpleNamespace(settings=SimpleNamespace(data_file=None))

    (finding,) = check._cost(found, cfg_of(), {})  # type: ignore[arg-type]

    assert finding.detail.endswith("; 0.0 MB are free"), finding.detail


def test_too_little_memory_is_a_warning() -> None:
    cfg = cfg_of()
    (memory, _) = findings_of_cost(cfg, 0, TRIAL, 10**6, 0, 0.0)
    (enough, _) = findings_of_cost(cfg, 0, TRIAL, 10**10, 0, 0.0)
    much = too_large(cfg, 1000)

    assert (memory.verdict, enough.verdict) == (Verdict.WARNING, Verdict.NOTE)
    assert much is not None
    assert much.verdict is Verdict.WARNING
    assert too_large(cfg, 10**10) is None


def test_the_room_for_checkpoints_counts_milestones(tmp_path: Path) -> None:
    cfg = cfg_of(max_batches=100_000_000)
    operation = Operation(backup=tmp_path / "not" / "there", name="net", saveweights=1)
    (full,) = findings_of_disk(cfg, operation)
    (few,) = findings_of_disk(cfg_of(), replace(operation, saveweights=10))

    assert full.verdict is Verdict.WARNING
    assert "(100,000,000 milestones)" in full.detail
    assert (few.verdict, few.place) == (Verdict.NOTE, str(tmp_path / "not" / "there"))


def test_a_subdivision_is_tried_and_what_it_holds_is_counted() -> None:
    images, seconds, held_bytes = tried(cfg_of(), torch.device("cpu"))

    # At least the output of every convolution is held, before and after batch norm.
    assert images == 2
    assert seconds > 0
    assert 2 * 64 * 64 * 4 * 4 < held_bytes < 100 * 2 * 64 * 64 * 4 * 4
