"""A portable run on other processors: emulated by qemu, which obeys what their CPUID says."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from relume.kernels import machine_level
from tests.cfg_texts import small_residual_cfg
from tests.contract.small_runs import adam_cfg, copied_run, promised_files, sgd_cfg, write_run
from tests.processors import AMD, INTEL, emulated_environment, has_emulator, python_on

ITERATIONS = 8
SKYLAKE = "Skylake-Client"
BELOW = "IvyBridge"
"""AVX, but neither AVX2 nor FMA."""

pytestmark = [
    pytest.mark.skipif(not has_emulator(), reason="needs qemu-x86_64 (qemu-user)"),
    pytest.mark.skipif(machine_level() == "", reason="needs a processor of x86-64-v3"),
]


def train(
    python: str, run: Path, flags: Sequence[str] = (), stop_after: int = 0
) -> tuple[int, list[str]]:
    """Train as the command does, stopped by SIGTERM after some iterations; return what it said."""
    words = ["-m", "relume", "detector", "train", "obj.data", "net.cfg", "-threads", "2", *flags]
    process = subprocess.Popen(
        [python, *words],
        cwd=run,
        env=emulated_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for number, _ in enumerate(process.stdout, 1):
        if number == stop_after:
            process.terminate()
    _, said = process.communicate()
    return process.returncode, [x for x in said.splitlines() if not x.startswith("qemu-x86_64: ")]


def files(run: Path) -> dict[str, bytes]:
    """Return all files of the run that are promised, the charts too."""
    charts = {path.name: path.read_bytes() for path in (run / "backup").glob("*.png")}
    assert charts
    return promised_files(run) | charts


CFGS = {
    "sgd": sgd_cfg(ITERATIONS),
    "adam": adam_cfg(ITERATIONS),
    "residual": small_residual_cfg(max_batches=ITERATIONS, saturation=1.5, exposure=1.5, hue=0.1),
}


@pytest.fixture(scope="module")
def natives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Portable runs that this machine's processor has finished."""
    runs = {}
    for name, cfg_text in CFGS.items():
        runs[name] = tmp_path_factory.mktemp(name) / "native"
        runs[name].mkdir()
        write_run(runs[name], cfg_text)
        status, said = train(sys.executable, runs[name], ["-portable"])
        assert status == 0, said
    return runs


@pytest.mark.long
@pytest.mark.parametrize(
    ("net", "processor"),
    [("sgd", INTEL), ("sgd", AMD), ("sgd", SKYLAKE), ("adam", AMD), ("residual", INTEL)],
)
def test_another_processor_leaves_the_same_files(
    natives: dict[str, Path], tmp_path: Path, net: str, processor: str
) -> None:
    run = copied_run(natives[net], tmp_path / "run")
    status, said = train(python_on(processor, tmp_path), run, ["-portable"])

    assert status == 0, said
    assert files(run) == files(natives[net])


@pytest.mark.long
def test_a_portable_run_wanders_between_processors(
    natives: dict[str, Path], tmp_path: Path
) -> None:
    run = copied_run(natives["sgd"], tmp_path / "run")
    legs = [
        (sys.executable, ["-portable"], 2),
        (python_on(AMD, tmp_path), [], 2),
        (sys.executable, ["-exact"], 2),
        (python_on(INTEL, tmp_path), ["-exact"], 0),
    ]
    ended = [train(python, run, flags, stop_after) for python, flags, stop_after in legs]

    assert [status for status, _ in ended] == [75, 75, 75, 0], ended
    assert not any("elsewhere" in line for _, said in ended for line in said)
    assert files(run) == files(natives["sgd"])


@pytest.mark.long
def test_an_ordinary_run_depends_on_the_processor(natives: dict[str, Path], tmp_path: Path) -> None:
    if machine_level() != "AVX512":
        pytest.skip("this processor is of the same level as the emulated ones")
    here, there = (copied_run(natives["sgd"], tmp_path / name) for name in ("here", "there"))
    train(sys.executable, here)
    train(python_on(INTEL, tmp_path), there)

    assert files(here).keys() == files(there).keys()
    last = "net_final.weights"
    assert files(here)[last] != files(there)[last]


def test_a_processor_below_the_common_level_is_refused_in_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path, sgd_cfg(ITERATIONS))
    status, said = train(python_on(BELOW, tmp_path), run, ["-portable"])

    assert status == 2
    (line,) = said
    assert line.startswith("relume: error: -portable: this processor has no AVX2 and FMA; ")
    assert not (run / "backup").exists()
