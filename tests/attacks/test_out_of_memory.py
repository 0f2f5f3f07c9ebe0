"""Memory that does not suffice is no damage: nothing is moved, and the next start goes on.

On the code before, a MemoryError while a checkpoint was read made it a damaged one.
"""

import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import NoReturn

import pytest

from relume.checkpoint import container, reading, stored
from relume.checkpoint.folder import newest_good
from relume.checkpoint.reading import read_checkpoint
from relume.commands import train as train_command
from tests.checkpoint.states import tiny_cfg, tiny_state
from tests.command_line import relume
from tests.contract.small_runs import sgd_cfg, train_until, write_run
from tests.contract.starts import contents

TRAIN = ("detector", "train", "obj.data", "net.cfg", "-dont_show", "-workers", "0")
MB = 1 << 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(
        tmp_path_factory.mktemp("run"), sgd_cfg(max_batches=4, batch=4, subdivisions=2)
    )
    data = folder / "obj.data"
    data.write_text(data.read_text() + "savelast = 1\n")
    train_until(folder, 3)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(train_command, "PAUSES_S", (0.01,))
    return folder


def refuse(*arguments: object, **options: object) -> NoReturn:
    raise MemoryError


PLACES: dict[str, tuple[object, str]] = {
    "where tensors are found": (stored, "stored_tensors"),
    "where the recipe is read": (stored, "recipe_in"),
    "where bytes are compared": (container, "file_parts"),
    "where weights are found": (stored, "parse_weights"),
}


@pytest.mark.parametrize("what", PLACES)
def test_a_checkpoint_for_which_there_is_no_memory_stays_where_it_is(
    run: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = contents(run / "backup")
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[what], refuse)
        ended = relume(*TRAIN)
        verified = relume("verify", "backup")

    after = contents(run / "backup")
    assert ended.status == 75
    assert "memory" in ended.error
    assert "which is no damage" in ended.error
    assert "or move net_last.weights away" in ended.error
    assert {name: after[name] for name in before if name != "net.log"} == {
        name: data for name, data in before.items() if name != "net.log"
    }
    assert not (run / "backup" / "net.aside").exists()
    assert verified.status == 2
    assert "damaged" not in verified.out
    assert "goes on from backup/net_last.weights (iteration 3)" in relume(*TRAIN).err


@pytest.mark.parametrize(
    "words", [("inspect", "backup/net_last.weights"), (*TRAIN, "backup/net_last.weights")]
)
def test_a_command_without_memory_ends_in_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(stored, "stored_tensors", refuse)

    ended = relume(*words)

    assert ended.status in (2, 75)
    assert "memory" in ended.error


def test_the_message_has_the_size_of_a_file_of_which_nothing_was_read(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("backup/net_last.weights")
    monkeypatch.setattr(reading, "read_bytes", refuse)

    with pytest.raises(OSError, match=f"its {path.stat().st_size:,} bytes need more memory"):
        read_checkpoint(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_no_damage(
    run: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupt(*arguments: object) -> NoReturn:
        raise error

    monkeypatch.setattr(stored, "stored_tensors", interrupt)

    with pytest.raises(error):
        newest_good(Path("backup"), "net")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 85 MB."""
    state = tiny_state(3, tiny_cfg().replace("filters=4", "filters=300000"))
    path = tmp_path_factory.mktemp("large") / "net_last.weights"
    path.write_bytes(container.pack(state))
    assert path.stat().st_size > 64 * MB
    return path


LITTLE_BY_LITTLE = """
import os, resource, sys
from pathlib import Path
from relume.checkpoint.folder import newest_good
from relume.errors import Unavailable

path, limit, column = Path(sys.argv[1]), getattr(resource, sys.argv[2]), int(sys.argv[3])
for more in range(0, 2 * path.stat().st_size, path.stat().st_size // 6):
    if os.fork() == 0:
        pages = int(Path("/proc/self/statm").read_text().split()[column])
        resource.setrlimit(limit, (pages * resource.getpagesize() + more,) * 2)
        try:
            found, rejected = newest_good(path.parent, "net")
            what = "damaged" if rejected else "good"
        except (Unavailable, MemoryError):
            what = "unknown"
        os.write(1, what.encode() + b" ")
        os._exit(0)
    os.wait()
"""


@pytest.mark.parametrize(("limit", "column"), [("RLIMIT_AS", 0), ("RLIMIT_DATA", 5)])
def test_with_however_little_memory_no_intact_checkpoint_is_damaged(
    large: Path, limit: str, column: int
) -> None:
    command = [sys.executable, "-c", LITTLE_BY_LITTLE, str(large), limit, str(column)]
    one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}

    ended = subprocess.run(command, capture_output=True, text=True, env=one_thread, check=True)

    found = ended.stdout.split()
    unknown = found.count("unknown")
    assert found == ["unknown"] * unknown + ["good"] * (len(found) - unknown)
    assert 0 < unknown < len(found)


def test_reading_takes_the_memory_of_the_file_and_little_more(large: Path) -> None:
    tracemalloc.start()
    try:
        state = read_checkpoint(large)
        assert tracemalloc.get_traced_memory()[1] < large.stat().st_size + 4 * MB
    finally:
        tracemalloc.stop()
    assert state.iteration == 3
