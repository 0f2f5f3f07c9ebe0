"""Runs that an earlier version left half-way go on, and end in the bytes it would have written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relume.kernels import AVX2, AVX512, VARIABLES, machine_level
from tests.shared import SHARED, needs_shared

HALF_WAY = SHARED / "golden" / "upgrade"
COMMAND = "detector train obj.data net.cfg -dont_show -threads 1 -portable"


@needs_shared
@pytest.mark.skipif(machine_level() not in (AVX2, AVX512), reason="portable runs need x86-64-v3")
@pytest.mark.parametrize("name", ["sgd", "adam-mosaic"])
def test_a_run_that_0ac199f_left_half_way_ends_in_the_same_bytes(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(HALF_WAY / name, folder, copy_function=shutil.copyfile)
    for path in (folder, folder / "backup"):
        path.chmod(0o755)
    expected = {path.name: path.read_bytes() for path in (folder / "expected").iterdir()}

    ended = subprocess.run(
        [sys.executable, "-P", "-m", "relume", *COMMAND.split()],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key not in VARIABLES},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "goes on from" in ended.stdout + ended.stderr
    assert expected
    assert {file: (folder / "backup" / file).read_bytes() for file in expected} == expected
