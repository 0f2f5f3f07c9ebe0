"""No module in the current folder, where data lies, is imported by any process of relume.

Into the folder of a run come files named like every module that Python, relume and its libraries
import. Each notes that it was imported. Settings of Matplotlib, which looks for them there first,
lie there too. Needs nothing but this checkout.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from relume import demo
from relume.kernels import AVX2, AVX512, machine_level
from relume.lists import long_list
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, train_until, write_run

SENTINEL = """import sys
with open({marker!r}, "a") as file:
    file.write({name!r} + " was imported by " + " ".join(sys.orig_argv) + "\\n")
"""
SCRIPT = """from relume.cli import program

if __name__ == "__main__":
    from relume.lists import long_list

    long_list.COMPARED_AT_START = {compared_at_start}
    program()
"""
"""What pip installs as `relume`; any list can be long for it."""
TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "1")


class DataFolder:
    """The folder of a run in which modules lie."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.path = copied_run(run, folder / "run")
        self.script = folder / "relume"
        self._marker = folder / "imported"
        # Most are found in this process, which has trained; the others are Python's own.
        names = {name.partition(".")[0] for name in sys.modules} | sys.stdlib_module_names
        for name in {name for name in names if name.isidentifier()} | {"relume"}:
            text = SENTINEL.format(marker=str(self._marker), name=name)
            (self.path / f"{name}.py").write_text(text, encoding="utf-8")
        (self.path / "matplotlibrc").write_bytes(b"\xff no settings of Matplotlib")

    @property
    def imported(self) -> str:
        """Return what was imported, and by which process."""
        return self._marker.read_text(encoding="utf-8") if self._marker.exists() else ""

    def relume(self, *words: str, long_lists: bool = False, status: int = 0) -> None:
        """Run a command line as pip's script does, in this folder, to the end that it must have."""
        script = SCRIPT.format(compared_at_start=0 if long_lists else long_list.COMPARED_AT_START)
        self.script.write_text(script, encoding="utf-8")
        self.run(sys.executable, str(self.script), *words, status=status)

    def run(self, *command: str, status: int = 0) -> None:
        """Run a program in this folder to the end that it must have."""
        ended = subprocess.run(
            command, cwd=self.path, capture_output=True, text=True, check=False, input=""
        )
        assert ended.returncode == status, self.imported + ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = sgd_cfg(max_batches=3, batch=4, subdivisions=4)
    return write_run(tmp_path_factory.mktemp("inputs") / "inputs", cfg)


def test_processes_that_read_labels_import_nothing_from_the_folder(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_list, "COMPARED_AT_START", 0)
    straight = copied_run(inputs, tmp_path / "straight")
    train_until(straight)
    monkeypatch.undo()
    folder = DataFolder(inputs, tmp_path)

    folder.relume(*TRAIN, long_lists=True)

    assert folder.imported == ""
    assert promised_files(folder.path) == promised_files(straight)


def test_several_processes_and_other_kernels_import_nothing_from_the_folder(
    inputs: Path, tmp_path: Path
) -> None:
    """With -portable the first process begins again before it starts the others."""
    can_be_portable = machine_level() in (AVX2, AVX512)
    folder = DataFolder(inputs, tmp_path)

    folder.relume(*TRAIN, "-gpus", "0,1", "-nogpu", *(("-portable",) if can_be_portable else ()))

    assert folder.imported == ""


def test_the_demo_imports_nothing_from_its_folder(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = DataFolder(inputs, tmp_path)
    monkeypatch.chdir(folder.path)

    status = demo.start(["version"], "log.txt").wait()

    assert (status, folder.imported) == (0, "")


def test_a_module_that_is_imported_from_the_folder_is_noticed(inputs: Path, tmp_path: Path) -> None:
    """The negative control."""
    folder = DataFolder(inputs, tmp_path)

    folder.run(sys.executable, "-c", "import heapq")

    assert folder.imported.startswith("heapq was imported by ")


@pytest.mark.long
def test_no_command_imports_anything_from_the_folder(inputs: Path, tmp_path: Path) -> None:
    folder = DataFolder(inputs, tmp_path)
    final = "backup/net_final.weights"

    folder.relume(*TRAIN, "-map")
    folder.relume("check", "obj.data", "net.cfg", status=1)  # it warns: few pictures
    for words in (
        ("detector", "map", "obj.data", "net.cfg", final),
        ("detector", "valid", "obj.data", "net.cfg", final),
        ("detector", "test", "obj.data", "net.cfg", final, "img/0001.jpg"),
        ("detector", "calc_anchors", "obj.data", "-width", "96", "-height", "96"),
        ("export", "net.cfg", final, "net.onnx"),
        ("verify", "backup"),
        ("prove", "obj.data", "net.cfg", "-iterations", "20", "-kills", "3"),
    ):
        folder.relume(*words)
        assert folder.imported == "", words
