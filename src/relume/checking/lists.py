"""The lists of pictures that a data file names: every line, whether it leads to a file or not."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from relume.checking.findings import Finding, Verdict, of_error
from relume.checking.paths import explained
from relume.errors import DataFileError, RelumeError
from relume.formats.data_files import DataFile, label_path, listed_entries, resolve
from relume.formats.lexer import excerpt
from relume.formats.places import RemoteFile, is_url, read_regular
from relume.spec import cache_folder, cache_gigabytes
from relume.training_set import list_on_disk

ERROR, WARNING, NOTE = Verdict


@dataclass(frozen=True)
class Entry:
    """A line of a list."""

    line: int
    text: str
    path: Path | None
    """The picture; None if there is none that can be used."""
    meant: Path | None = None
    """Where there is none: the one that may be meant."""


@dataclass(frozen=True)
class PictureList:
    """A list of pictures with all its lines."""

    path: str
    entries: tuple[Entry, ...] = ()

    def place(self, entry: Entry) -> str:
        """Return `file:line` of an entry."""
        return f"{self.path}:{entry.line}"


def read_every_entry(
    key: str,
    data_file: DataFile,
    warn: Callable[[str], None] = lambda text: None,
    measures: bool = False,
) -> tuple[PictureList | None, list[Finding]]:
    """Read the list that `key` names; None if there is none that can be read.

    Args:
        key: train or valid, in which nothing is an error unless the training measures on it.
        data_file: with the key, or without.
        warn: takes a line about an object store that does not answer at once.
        measures: the training does, by -map.
    """
    verdict = ERROR if key == "train" or measures else WARNING
    if key not in data_file.values:
        what = f"the data file names no list '{key}'"
        remedy = f"add '{key} = ...'" + " to measure on other pictures" * (key == "valid")
        without = ERROR if key == "train" else NOTE
        return None, [Finding(without, what, data_file.path, "", remedy)]
    try:
        cache, gigabytes = cache_folder(data_file), cache_gigabytes(data_file)
        path, remote = list_on_disk(key, data_file, cache, gigabytes, warn)
        numbered = listed_entries(path)
    except RelumeError as error:
        return None, [of_error(f"the list '{key}' cannot be used", error, verdict)]
    folder = Path(data_file.path).parent
    name = data_file.values[key] if is_url(data_file.values[key]) else str(path)
    findings = list(text_findings(path, name))
    entries: list[Entry] = []
    for line, text in numbered:
        place = f"{name}:{line}"
        if far := remote(text):
            entry, found = _with_labels(key, verdict, line, text, far, place)
        else:
            entry, found = _entry(key, verdict, line, text, place, data_file, folder)
        entries.append(entry)
        findings += found
    picture_list = PictureList(name, tuple(entries))
    findings += _listed_twice(picture_list)
    findings += _of_two_folders(picture_list, folder)
    return picture_list, findings


def whole_name(path: Path) -> str:
    """Return the one name of a file, however it is written."""
    return str(path) if isinstance(path, RemoteFile) else os.path.abspath(path)


def same_list(data_file: DataFile) -> bool:
    """Tell whether `train` and `valid` name one file."""
    train, valid = (data_file.values.get(key) for key in ("train", "valid"))
    if train is None or valid is None or train == valid:
        return train is not None and train == valid
    try:
        return resolve(train, data_file.path).samefile(resolve(valid, data_file.path))
    except (OSError, ValueError, DataFileError):  # also one of them on an object store
        return False


def text_findings(path: Path, name: str) -> Iterator[Finding]:
    """Yield what else is to be said of a text file that could be read, under its name."""
    data = read_regular(path, sys.maxsize)
    if data.startswith(b"\xef\xbb\xbf"):
        what = "begins with a byte order mark, which Darknet takes for text; relume drops it"
        yield Finding(NOTE, what, name)
    if b"\r\n" in data:
        what = "lines end as on Windows (CR LF), which the original Darknet keeps; relume does not"
        yield Finding(NOTE, what, name)


def _entry(
    key: str,
    verdict: Verdict,
    line: int,
    text: str,
    place: str,
    data_file: DataFile,
    folder: Path,
) -> tuple[Entry, list[Finding]]:
    path = resolve(text, data_file.path)
    if not os.path.exists(path):
        reason, meant = explained(text, folder)
        detail = excerpt(text) + f" ({reason})" * bool(reason)
        what = f"a picture listed in '{key}' does not exist"
        remedy = "correct the line or remove it"
        finding = Finding(verdict, what, place, detail, remedy)
        return Entry(line, text, None, meant), [finding]
    return _with_labels(key, verdict, line, text, path, place)


def _with_labels(
    key: str, verdict: Verdict, line: int, text: str, path: Path, place: str
) -> tuple[Entry, list[Finding]]:
    """Return the entry of a picture whose labels can be found by its name."""
    try:
        label_path(path)
    except DataFileError as error:
        what = f"an entry of '{key}' has no ending of a picture that Darknet knows"
        finding = Finding(verdict, what, place, excerpt(text), error.needed)
        return Entry(line, text, None), [finding]
    return Entry(line, text, path), []


def _listed_twice(pictures: PictureList) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for entry in pictures.entries:
        if entry.path is None:
            continue
        line = first.setdefault(whole_name(entry.path), entry.line)
        if line != entry.line:
            what = "a picture is listed twice, so it counts twice in every epoch"
            detail = f"{excerpt(entry.text)}, as in line {line}"
            yield Finding(WARNING, what, pictures.place(entry), detail, "remove one of the lines")


def _of_two_folders(pictures: PictureList, folder: Path) -> Iterator[Finding]:
    """Yield relative entries that mean one file from here and another from the data file."""
    if os.path.realpath(folder) == os.path.realpath("."):
        return
    for entry in pictures.entries:
        here, there = Path(entry.text), folder / entry.text
        if entry.path is None or here.is_absolute() or isinstance(entry.path, RemoteFile):
            continue
        if os.path.isfile(here) and os.path.isfile(there) and not os.path.samefile(here, there):
            what = "a relative path leads to two files; that from the current folder is taken"
            remedy = "give the command in the folder of the data file, or write whole paths"
            yield Finding(WARNING, what, pictures.place(entry), excerpt(entry.text), remedy)
