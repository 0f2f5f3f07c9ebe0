"""The cache of remote files: bounded, shared, never trusted blindly; errors are those of a disk."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from relume.errors import DataFileError
from relume.lists.store import GENERATIONS, LOOKS, Store, entries_on

LIMIT_BYTES = 80_000
OBJECT_BYTES = 1_000


class Bucket:
    """An object store in memory that counts what is asked of it, and can be out of order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.system = fsspec.filesystem("memory")
        self.fetched: list[str] = []
        self.trouble: Exception | None = None
        original = type(self.system).cat_file

        def cat_file(system: object, path: str, **options: object) -> bytes:
            if self.trouble is not None:
                raise self.trouble
            self.fetched.append(path)
            return bytes(original(system, path, **options))

        patch.setattr(type(self.system), "cat_file", cat_file)

    def put(self, name: str, data: bytes) -> str:
        self.system.pipe_file(f"/bucket/{name}", data)
        return f"memory://bucket/{name}"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    bucket = Bucket(monkeypatch)
    yield bucket
    if bucket.system.exists("/bucket"):
        bucket.system.rm("/bucket", recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def opened(folder: Path) -> Store:
    return Store(folder, LIMIT_BYTES, pytest.fail)


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_was_fetched_is_read_from_the_cache_by_any_run(bucket: Bucket, folder: Path) -> None:
    url = bucket.put("a b.jpg", b"picture")

    assert [opened(folder).read(url) for _ in range(3)] == [b"picture"] * 3
    assert bucket.fetched == ["/bucket/a b.jpg"]


def test_a_changed_object_is_another_one(bucket: Bucket, folder: Path) -> None:
    url = bucket.put("a.jpg", b"before")
    store = opened(folder)
    assert store.read(url) == b"before"
    bucket.put("a.jpg", b"behind")

    assert store.read(url) == b"before"  # what this run began with
    assert opened(folder).read(url) == b"behind"


def test_an_object_that_changes_while_it_is_read_is_read_again(
    bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bucket.put("a.jpg", b"before")
    store = opened(folder)
    assert store._ask_version(url)
    bucket.put("a.jpg", b"behind")

    with pytest.raises(OSError, match="was changed while it was read"):
        store.read(url)
    assert store.read(url) == b"behind"


@pytest.mark.parametrize("place", [0, 3, -1])
def test_a_damaged_file_of_the_cache_is_fetched_again(
    bucket: Bucket, folder: Path, place: int
) -> None:
    url = bucket.put("a.jpg", b"picture")
    opened(folder).read(url)
    (kept,) = [path for path in folder.rglob("*") if path.is_file()]
    good = kept.read_bytes()
    bad = bytearray(good)
    bad[place] ^= 1
    for data in (bytes(bad), good[:-1], b""):
        kept.write_bytes(data)

        assert opened(folder).read(url) == b"picture"
        assert kept.read_bytes() == good
    assert len(bucket.fetched) == 4


def test_the_cache_stays_below_its_size_and_keeps_what_is_used(
    bucket: Bucket, folder: Path
) -> None:
    favourite = bucket.put("favourite", b"f" * OBJECT_BYTES)
    runs = [opened(folder), opened(folder)]
    most = LIMIT_BYTES * (1 + 1 / (GENERATIONS * LOOKS))
    for i in range(300):
        data = bytes([i % 256]) * OBJECT_BYTES
        assert runs[i % 2].read(bucket.put(str(i), data)) == data
        assert runs[0].read(favourite) == b"f" * OBJECT_BYTES
        assert size_bytes(folder) <= most
    assert size_bytes(folder) > LIMIT_BYTES / 2
    assert bucket.fetched.count("/bucket/favourite") == 1
    before = len(bucket.fetched)
    opened(folder).read("memory://bucket/299")
    assert len(bucket.fetched) == before
    opened(folder).read("memory://bucket/0")  # not used for the longest time
    assert len(bucket.fetched) == before + 1


def test_what_is_too_large_is_read_and_not_kept(bucket: Bucket, folder: Path) -> None:
    url = bucket.put("large", bytes(LIMIT_BYTES // GENERATIONS + 1))

    assert opened(folder).read(url) == bytes(LIMIT_BYTES // GENERATIONS + 1)
    assert not folder.exists()


def test_a_cache_that_cannot_be_written_is_no_error(bucket: Bucket, folder: Path) -> None:
    folder.write_text("a file in the folder's place")
    said: list[str] = []
    store = Store(folder, LIMIT_BYTES, said.append)
    url = bucket.put("a.jpg", b"picture")

    assert [store.read(url) for _ in range(3)] == [b"picture"] * 3
    assert len(said) == 1
    assert "what is fetched is not kept" in said[0]


def test_the_errors_of_a_store_are_those_of_a_disk(bucket: Bucket, folder: Path) -> None:
    url = bucket.put("a.jpg", b"picture")
    with pytest.raises(FileNotFoundError):
        opened(folder).read("memory://bucket/none.jpg")
    for trouble, expected in (
        (PermissionError("403"), PermissionError),
        (TimeoutError("slow"), OSError),
        (RuntimeError("a library's own"), OSError),
    ):
        bucket.trouble = trouble
        with pytest.raises(expected):
            opened(folder).read(url)
    bucket.trouble = None
    assert opened(folder).read(url) == b"picture"


@pytest.mark.parametrize("url", ["nosuchstore://a/b.jpg", "adl://a/b.jpg"])
def test_a_store_that_nothing_here_can_reach_is_the_users_matter(url: str, folder: Path) -> None:
    with pytest.raises(DataFileError, match=r"cannot be reached .*pip install"):
        opened(folder).read(url)


def test_a_list_is_copied_and_a_damaged_copy_is_made_again(bucket: Bucket, folder: Path) -> None:
    url = bucket.put("train.txt", b"a.jpg\n")
    path = opened(folder).copy_of_list(url)
    assert path.read_bytes() == b"a.jpg\n"
    path.write_bytes(b"b.jpg\n")
    assert opened(folder).copy_of_list(url).read_bytes() == b"a.jpg\n"
    bucket.put("train.txt", b"c.jpg\n")

    assert opened(folder).copy_of_list(url).read_bytes() == b"c.jpg\n"


def test_entries_are_urls_or_relative_to_a_list_on_a_store(folder: Path) -> None:
    local, far = entries_on(opened(folder)), entries_on(opened(folder), "s3://b/data/train.txt")

    assert str(local("gs://b/a.jpg")) == str(far("gs://b/a.jpg")) == "gs://b/a.jpg"
    assert str(far("img\\a.jpg")) == "s3://b/data/img/a.jpg"
    for entry in ("img/a.jpg", "C:/a.jpg", "C:\\a.jpg", "/a.jpg"):
        assert local(entry) is None
    assert far("/mnt/a.jpg") is None
