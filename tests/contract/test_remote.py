"""A run whose list, pictures and labels are on an object store: the same bytes."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from relume import training_set
from relume.lists import long_list
from relume.train import loop
from tests.command_line import Ended, relume
from tests.contract.small_runs import promised_files, sgd_cfg, train_until, write_run

END = 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from local files."""
    folder = write_run(tmp_path_factory.mktemp("remote") / "local", sgd_cfg(END))
    train_until(folder)
    return folder


@pytest.fixture
def bucket(finished: Path) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for path in (finished / "img").iterdir():
        system.pipe_file(f"/data/img/{path.name}", path.read_bytes())
    names = [Path(line).name for line in (finished / "train.txt").read_text().split()]
    system.pipe_file("/data/train.txt", "".join(f"img/{name}\n" for name in names).encode())
    yield "memory://data"
    system.rm("/data", recursive=True)


@pytest.fixture
def run(bucket: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = (finished / "obj.data").read_text().splitlines()
    kept = [line for line in lines if line.split()[0] in ("classes", "seed", "names")]
    text = "\n".join([*kept, f"train = {bucket}/train.txt", ""])
    (tmp_path / "obj.data").write_text(text)
    for name in ("net.cfg", "obj.names"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    for module in (loop, training_set):
        monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0, 0.0))
    return tmp_path


def train() -> Ended:
    return relume("detector", "train", "obj.data", "net.cfg", "-threads", 1, "-workers", 2)


class Flaky:
    """A store that refuses every request from one number to another."""

    def __init__(self, patch: pytest.MonkeyPatch, first: int, end: int) -> None:
        system = type(fsspec.filesystem("memory"))
        original = system.cat_file
        self.asked = 0

        def cat_file(store: object, path: str, **options: object) -> bytes:
            self.asked += 1
            if first <= self.asked < end:
                raise ConnectionError("the store is out of order")
            return bytes(original(store, path, **options))

        patch.setattr(system, "cat_file", cat_file)


@pytest.mark.parametrize("is_long", [False, True])
def test_a_run_from_a_store_leaves_the_bytes_of_a_local_one(
    run: Path, finished: Path, is_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = Flaky(monkeypatch, 0, 0)
    if is_long:
        monkeypatch.setattr(long_list, "COMPARED_AT_START", 0)
    train_until(run, 2)
    asked = flaky.asked
    ended = train()

    assert ended.status == 0
    name = "net_final.weights"
    assert promised_files(run)[name] == promised_files(finished)[name]
    assert is_long or promised_files(run) == promised_files(finished)
    assert flaky.asked <= 14  # 7 pictures, 7 labels: each once, whatever was cut
    assert asked <= flaky.asked


def test_a_store_that_fails_for_a_while_is_asked_again(
    run: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Flaky(monkeypatch, 3, 6)
    ended = train()

    assert ended.status == 0
    assert "ConnectionError: the store is out of order; it is tried again" in ended.err
    assert promised_files(run) == promised_files(finished)


def test_a_store_that_stays_away_stops_the_run_with_75_and_it_goes_on_later(
    run: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Flaky(patch, 10, 10**6)  # 7 labels, then some pictures
        ended = train()
    assert ended.status == 75
    assert "memory://data/img/" in ended.error
    with monkeypatch.context() as patch:
        Flaky(patch, 0, 10**6)
        patch.setattr(fsspec.filesystem("memory").__class__, "info", refused)
        assert train().status == 75  # the list does not come
    ended = train()

    assert ended.status == 0
    assert promised_files(run) == promised_files(finished)


def refused(store: object, path: str, **options: object) -> None:
    raise ConnectionError("the store is out of order")


def test_a_label_that_changes_on_the_store_is_refused(run: Path) -> None:
    train_until(run, 2)
    system = fsspec.filesystem("memory")
    path = next(path for path in system.ls("/data/img", detail=False) if path.endswith(".txt"))
    system.pipe_file(path, system.cat_file(path) + b"0 .5 .5 .2 .2\n")
    ended = train()

    assert ended.status == 2
    assert "labels of picture" in ended.error


def test_a_local_list_may_name_urls(run: Path, finished: Path, bucket: str) -> None:
    entries = fsspec.filesystem("memory").cat_file("/data/train.txt").decode().split()
    (run / "train.txt").write_text("".join(f"{bucket}/{entry}\n" for entry in entries))
    data = (run / "obj.data").read_text().replace(f"{bucket}/train.txt", "train.txt")
    (run / "obj.data").write_text(data)
    train_until(run)

    assert promised_files(run) == promised_files(finished)


def test_a_list_that_is_not_there_is_the_users_matter(run: Path, bucket: str) -> None:
    data = (run / "obj.data").read_text()
    (run / "obj.data").write_text(data.replace("train.txt", "none.txt"))

    ended = train()
    assert ended.status == 2
    assert ended.error.startswith(f"{bucket}/none.txt: does not exist")
