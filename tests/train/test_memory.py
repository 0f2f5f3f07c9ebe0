"""Memory that a training needs is held against all that the device has."""

import pytest
import torch

from relume.errors import CfgError
from relume.formats.cfg import parse_cfg
from relume.train.memory import check_training_memory
from tests.checkpoint.states import tiny_cfg

GPU = torch.device("cuda", 0)


def has_memory(monkeypatch: pytest.MonkeyPatch, free_bytes: int, total_bytes: int) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, total_bytes))


def test_what_another_process_still_holds_of_a_gpu_is_no_permanent_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = parse_cfg(tiny_cfg(), "net.cfg", "train")
    has_memory(monkeypatch, 0, 1 << 34)
    check_training_memory(cfg, 0, GPU)

    has_memory(monkeypatch, 0, 1000)
    with pytest.raises(CfgError, match=r"net\.cfg: at least .+; 0\.0 GB are there; raise"):
        check_training_memory(cfg, 0, GPU)
