"""What is recorded of the numeric environment, and what is set."""

import subprocess
import sys

import pytest
import torch

from relume.data.loaders import available_processors
from relume.train.environment import declare, differences
from tests.checkpoint.states import tiny_cfg

CPU = torch.device("cpu")


def test_the_environment_names_what_numbers_depend_on_and_nothing_else() -> None:
    declared = declare(3, CPU)

    names = ["kernels", "libc", "numerics", "numpy", "opencv", "processor", "threads", "torch"]
    assert sorted(declared) == names
    assert declared["threads"] == "3"
    assert declared["torch"] == torch.__version__
    assert torch.backends.cpu.get_cpu_capability() in declared["kernels"]
    assert declare(3, CPU) == declared


def test_a_lowered_instruction_set_is_part_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declared = declare(3, CPU)

    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")

    assert [line.partition(":")[0] for line in differences(declared, declare(3, CPU))] == [
        "kernels"
    ]


def test_differences_are_lines_of_then_and_now() -> None:
    then = {"torch": "2.12", "threads": "2", "gone": "x"}
    now = {"torch": "2.13", "threads": "2", "new": "y"}

    assert differences(then, now) == ["gone: x -> None", "new: None -> y", "torch: 2.12 -> 2.13"]
    assert differences(now, now) == []


def test_a_process_may_use_at_least_one_thread() -> None:
    assert available_processors() >= 1


SETTINGS = """
import sys, torch
from relume.formats.cfg import parse_cfg
from relume.model.network import Network
from relume.train.environment import set_up
from relume.train.optimizer import build_optimizer
set_up(2)
print(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
      torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32)
network = Network(parse_cfg(sys.argv[1], "net.cfg", "train"))
for p in network.trained_parameters():
    p.tensor.grad = torch.ones_like(p.tensor)
build_optimizer(network.trained_parameters(), network.cfg.net).step()
print(sorted({"torch._dynamo", "torch._inductor"} & sys.modules.keys()))
"""


def test_set_up_makes_the_process_repeatable_and_an_update_imports_no_compiler() -> None:
    command = [sys.executable, "-c", SETTINGS, tiny_cfg()]
    run = subprocess.run(command, capture_output=True, text=True)

    assert run.stdout == "2 True False False\n[]\n", run.stderr
