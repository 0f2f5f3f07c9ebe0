"""The numeric environment of a run: what is set before the first number, what is recorded.

The same bits come out only where the same kernels add in the same order. Threads are
re-created on resume, kernels too (`kernels.py`); what cannot be is for `rerun.py`.

Not covered: GPUs were not at hand when this was written; the settings for them follow
PyTorch's notes on reproducibility and have run on CPUs only.
"""

import ctypes
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import torch

from relume import kernels

NUMERICS = 3
"""Raised whenever a change of this program changes numbers (see CHANGELOG.md)."""


PORTABLE_PROCESSOR = "any of x86-64-v3"
"""Recorded in place of the name: a portable run may change its processor."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt, from glibc's malloc.h."""


def free_device_memory_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU; None: it is the processor's."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def device_memory_bytes(device: torch.device) -> int | None:
    """Return all memory of a GPU, whoever uses it now; None: it is the processor's."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def declare(threads: int, device: torch.device) -> dict[str, str]:
    """Return the environment of this process as it is recorded in checkpoints."""
    given, level = kernels.given_variables(), kernels.machine_level()
    processor, taken = _cpu_model(), kernels.described(given, level or _capability())
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
        # PyTorch gives no types to its functions about cuDNN and NNPACK.
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        taken = f"{taken} cudnn={cudnn}"  # the pictures are made by the processor's kernels
    elif kernels.is_portable(given, level):
        processor, taken = PORTABLE_PROCESSOR, kernels.PORTABLE
    return {
        "numerics": str(NUMERICS),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "libc": " ".join(platform.libc_ver()) or platform.system(),
        "processor": processor,
        "kernels": taken,
        "threads": str(threads),
    }


def _capability() -> str:
    capability: str = torch.backends.cpu.get_cpu_capability()
    return capability


def _cpu_model() -> str:
    """Return the processor's name: kernels choose their blocks by its caches, too."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def set_up(threads: int) -> None:
    """Make PyTorch and OpenCV repeatable in this process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # As torch.use_deterministic_algorithms(True), which imports PyTorch's compiler.
    torch.set_deterministic_debug_mode("error")
    # Filling fresh memory guards against reading it, which no kernel here does; it costs 7 %.
    # (Set through a module that has no types for what it forwards.)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Never chosen for training, but asked each time, and loud on processors it does not know.
    # (It has no types either.)
    torch.backends.nnpack.set_flags(False)  # type: ignore[no-untyped-call]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    cv2.setNumThreads(0)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: every iteration asks for the same ones again.

    Returning them costs 200,000 page faults per iteration of yolov3-tiny, 20 % of its time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return one `key: then -> now` for everything that could not be re-created."""
    return [
        f"{key}: {then.get(key)} -> {now.get(key)}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]
