"""A disk that does not give a file is asked again; what no waiting mends is said at once."""

import errno
from pathlib import Path

import pytest

from relume.data.patience import PAUSES_S, Patience
from relume.errors import ImageError, Unavailable

PATH = Path("a.jpg")
TRANSIENT = (
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOENT,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
)


class Disk:
    """Fails so often with an error, then gives the file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, failures: int) -> None:
        self.number, self.failures, self.asked = number, failures, 0
        monkeypatch.setattr("relume.data.patience.read_file", lambda path: self.read())

    def read(self) -> bytes:
        self.asked += 1
        if self.asked <= self.failures:
            raise OSError(self.number, "trouble")
        return b"picture"


def patience(
    said: list[str], slept: list[float], pauses_s: tuple[float, ...] = PAUSES_S
) -> Patience:
    return Patience(pauses_s, say=said.append, sleep=slept.append)


@pytest.mark.parametrize("number", TRANSIENT)
def test_a_file_that_comes_late_is_read_after_growing_pauses(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    said: list[str] = []
    slept: list[float] = []
    disk = Disk(monkeypatch, number, failures=3)

    content = patience(said, slept).read_bytes(PATH, "train.txt:7", "a.jpg ")

    assert (content, disk.asked) == (b"picture", 4)
    assert sum(slept) == pytest.approx(sum(PAUSES_S[:3]))  # slices of a twentieth of a second
    assert said == ["train.txt:7: a.jpg cannot be read: trouble; it is tried again"]
    assert list(PAUSES_S) == sorted(PAUSES_S)


def test_a_file_that_never_comes_can_be_asked_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, errno.EIO, failures=100)

    with pytest.raises(Unavailable) as caught:
        patience([], [], (0.5, 1.0)).read_bytes(PATH, "train.txt:7", "a.jpg ")

    assert disk.asked == 3
    assert str(caught.value) == (
        "train.txt:7: a.jpg cannot be read: trouble (tried 3 times in 1.5 s); "
        "see that the disk answers, then give the same command again"
    )


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR])
def test_what_no_waiting_mends_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    slept: list[float] = []
    disk = Disk(monkeypatch, number, failures=1)

    with pytest.raises(ImageError, match="cannot be read: trouble; check the file and the disk"):
        patience([], slept).read_bytes(PATH, "train.txt:7", "a.jpg ")

    assert (disk.asked, slept) == (1, [])


def test_without_pauses_every_error_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, errno.EIO, failures=1)

    with pytest.raises(ImageError):
        Patience().read_bytes(PATH, "a.jpg", "")

    assert disk.asked == 1


@pytest.mark.parametrize("how", ["a stop", "the end of the loading"])
def test_a_pause_is_over_when_nobody_waits_any_more(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    slept: list[float] = []
    ended: list[bool] = []
    waiting = Patience(PAUSES_S, lambda: bool(ended), sleep=slept.append)
    Disk(monkeypatch, errno.EIO, failures=100)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            ended.append(True) if how == "a stop" else waiting.end()

    monkeypatch.setattr(waiting, "_sleep", sleep)

    with pytest.raises(Unavailable):
        waiting.read_bytes(PATH, "train.txt:7", "a.jpg ")

    assert len(slept) == 3


def test_many_files_that_do_not_come_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    Disk(monkeypatch, errno.EIO, failures=4)
    reader = patience(said, [], (0.5,))
    for _ in range(2):
        with pytest.raises(Unavailable):
            reader.read_bytes(PATH, "train.txt:7", "a.jpg ")
    assert len(said) == 1

    assert reader.read_bytes(PATH, "train.txt:7", "a.jpg ") == b"picture"
    Disk(monkeypatch, errno.EIO, failures=1)
    reader.read_bytes(PATH, "train.txt:7", "a.jpg ")

    assert len(said) == 2  # the next trouble is another one
