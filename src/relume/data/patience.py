"""Reading again what a disk does not give at once: a few tries, with growing pauses.

An error that no waiting mends (permission, a folder in the place of a file) is raised at once.
"""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from relume.errors import ImageError, Unavailable
from relume.formats.places import read_file

PAUSES_S = (0.2, 1.0, 5.0, 20.0)
"""Between the tries of a training run: what a busy server or a network needs to come back."""
POLL_S = 0.05
"""Seconds between two looks at whether waiting, for whatever, still makes sense."""
LASTING = frozenset(
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EISDIR", "ENOTDIR", "ELOOP", "ENAMETOOLONG", "EINVAL", "EFBIG")
)


T = TypeVar("T")


class Patience:
    """How long the readers of one run wait for a file, and what ends their waiting.

    Args of the constructor:
        pauses_s: seconds between the tries; none: an error is final.
        stopped: tells whether the run is to end; a pause is then over.
        say: takes a line when a file is tried again, once until one has come.
        sleep: for tests.
    """

    def __init__(
        self,
        pauses_s: tuple[float, ...] = (),
        stopped: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pauses_s = pauses_s
        self._stopped = stopped
        self._say = say
        self._sleep = sleep
        self._has_ended = False
        self._has_said = False

    def is_over(self) -> bool:
        """Tell whether nobody waits for a file any more."""
        return self._has_ended or self._stopped()

    def end(self) -> None:
        """Let nobody wait any more."""
        self._has_ended = True

    def until_available(self, read: Callable[[], T]) -> T:
        """Return what `read` returns; it is called again while the disk does not give a file.

        Raises:
            Unavailable: the last time too, or there is no more sense in waiting.
        """
        for pause_s in (*self._pauses_s, None):
            try:
                return read()
            except Unavailable as error:
                if pause_s is None or not self._has_waited(
                    pause_s, f"{error.place}: {error.found}"
                ):
                    raise
        raise AssertionError("the last pause is None")

    def read_bytes(self, path: Path, place: str, name: str) -> bytes:
        """Return the bytes of a file.

        Args:
            path: of the file.
            place: where it was named, for messages.
            name: how it is called there; empty if the place is the file itself.
        Raises:
            ImageError: it cannot be read, and trying again would not help.
            Unavailable: the disk did not give it, however often it was asked.
        """
        content = self._read(path, place, name, may_be_missing=False)
        assert content is not None
        return content

    def read_if_there(self, path: Path, place: str) -> bytes | None:
        """Return the bytes of a file, or None if the disk says that there is no such file.

        Raises:
            ImageError, Unavailable: as read_bytes.
        """
        return self._read(path, place, f"{path} ", may_be_missing=True)

    def _read(self, path: Path, place: str, name: str, may_be_missing: bool) -> bytes | None:
        for pause_s in (*self._pauses_s, None):
            try:
                content = read_file(path)
            except OSError as error:
                if may_be_missing and isinstance(error, FileNotFoundError):
                    return None
                found = f"{name}cannot be read: {error.strerror or error}"
                if error.errno in LASTING or not self._pauses_s:
                    raise ImageError(place, found, "", "check the file and the disk") from error
                if pause_s is None or not self._has_waited(pause_s, f"{place}: {found}"):
                    tries = f"(tried {len(self._pauses_s) + 1} times in {sum(self._pauses_s):g} s)"
                    again = "see that the disk answers, then give the same command again"
                    raise Unavailable(place, f"{found} {tries}", "", again) from error
            else:
                self._has_said = False
                return content
        raise AssertionError("the last pause is None")

    def _has_waited(self, pause_s: float, found: str) -> bool:
        """Wait; return False if there is no more sense in it."""
        if not self._has_said:
            self._has_said = True
            self._say(f"{found}; it is tried again")
        while pause_s > 0 and not self.is_over():
            self._sleep(min(POLL_S, pause_s))
            pause_s -= POLL_S
        return not self.is_over()
