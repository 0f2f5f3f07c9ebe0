"""The numeric tests on emulated processors without AVX-512, where also onnxruntime notices."""

import subprocess
from pathlib import Path

from relume.kernels import AVX2, portable_variables
from tests.long_proofs.piece import Outcome, Piece
from tests.processors import AMD, EMULATED, INTEL, ROOT, emulated_environment, python_on

PINNED = "tests/contract/test_numerics.py"
"""Pins what a processor computes; any gives the same to a portable run."""
FILES = (*EMULATED, PINNED)


def pieces(_: int) -> list[Piece]:
    """Return every file of EMULATED and PINNED, on both processors."""
    return [
        Piece(
            "processors",
            f"{Path(path).stem} on {processor.partition(',')[0]}",
            _proven,
            (path, processor),
        )
        for path in FILES
        for processor in (INTEL, AMD)
    ]


def _proven(folder: Path, path: str, processor: str) -> Outcome:
    variables = portable_variables(AVX2) if path == PINNED else {}
    command = [python_on(processor, folder), "-m", "pytest", "-q", "-n0", path]
    command += ["--basetemp", str(folder / "tmp"), "-p", "no:cacheprovider"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=emulated_environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    passed = ended.returncode == 0
    return Outcome({"files of tests": 1}, () if passed else (ended.stdout[-4000:],))
