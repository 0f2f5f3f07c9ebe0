"""Other processors than this one: the numeric tests on them, and programs under an emulator.

    python -m tests.processors [ARGUMENTS OF PYTEST]

runs the numeric tests as on a processor with AVX2 only: ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA
and the other variables with which `relume.kernels` re-creates such kernels hold the libraries
back. `make prove` runs those in EMULATED under qemu, on two processors. That reaches onnxruntime
too, which looks at the processor itself and reads no variable.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from relume.kernels import AVX2, AVX512, VARIABLES, machine_level, needed_variables

ROOT = Path(__file__).parents[1]
NUMERIC = (
    *(f"tests/{folder}" for folder in ("data", "evaluate", "export", "model", "parity", "train")),
    *(f"tests/commands/test_{name}.py" for name in ("detect", "export", "measure")),
    *("tests/contract/test_numerics.py", "tests/datasets/test_anchors.py"),
    *("tests/test_detector.py", "tests/test_drawing.py"),
)
"""What computes with floating-point numbers."""
EMULATED = (
    *(f"tests/model/test_{name}.py" for name in ("inference", "layers", "loss", "network")),
    *("tests/export/test_model.py", "tests/parity/test_golden_train.py"),
    *("tests/train/test_step.py", "tests/train/test_optimizer.py"),
    "tests/evaluate/test_average_precision.py",
)
"""The part of NUMERIC that an emulator, fifteen times slower, runs in minutes."""
INTEL, AMD = "Haswell", "EPYC-Milan,l3-cache=off"
"""Names that qemu knows; both have AVX2 and no AVX-512."""


def environment_of(level: str) -> dict[str, str]:
    """Return this process's environment, in which the libraries do as on a processor of a level."""
    return _unpinned() | (needed_variables(level, machine_level()) or {})


def emulated_environment() -> dict[str, str]:
    """Return the environment for `python_on`, which nothing but its processor holds back."""
    path = (ROOT / "src", sysconfig.get_path("purelib"))
    return _unpinned() | {"PYTHONPATH": os.pathsep.join(map(str, path))}


def _unpinned() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def python_on(processor: str, folder: Path) -> str:
    """Return a Python that runs on an emulated processor, also when it executes itself again."""
    program = folder / processor / "python"
    if not program.exists():
        program.parent.mkdir()
        real = Path(sys.executable).resolve()
        program.write_text(f'#!/bin/sh\nexec qemu-x86_64 -cpu {processor} -0 "$0" {real} "$@"\n')
        program.chmod(0o755)
    return str(program)


def has_emulator() -> bool:
    """Return whether qemu is installed."""
    return shutil.which("qemu-x86_64") is not None


if __name__ == "__main__":
    if machine_level() != AVX512:
        print("this processor has no AVX-512: `make test` has run these tests on it")
        sys.exit(0)
    os.chdir(ROOT)
    words = [sys.executable, "-m", "pytest", *sys.argv[1:], *NUMERIC]
    os.execve(sys.executable, words, environment_of(AVX2))
