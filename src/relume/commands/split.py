"""`relume split`: the lists of a data set, train and valid."""

import os
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_128_intdigest

from relume.command_table import Values
from relume.commands.outputs import Kind, Outputs
from relume.datasets.boxes import (
    Labelled,
    boxes_per_class,
    format_list,
    list_pictures,
    pictures_per_class,
    read_labelled,
    seen_from,
)
from relume.datasets.split import Classes, Digest, split_contents
from relume.errors import DataFileError, ImageError, UsageError
from relume.formats.data_files import listed_entries, read_data_file, read_names, resolve
from relume.formats.lexer import LONGEST_PATH_SHOWN, excerpt
from relume.formats.places import local_path, read_regular
from relume.screen import Screen

FRACTION = 0.2
TRAIN, VALID = "train.txt", "valid.txt"
LIST = Kind("list of pictures", is_compared=True, makes_folder=True)


@dataclass(frozen=True)
class _Line:
    """A line of a list that is there already."""

    text: str
    path: Path
    place: str


def split(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Write train.txt and valid.txt; pictures in lists that are there keep their side."""
    fraction = float(flags.get("-fraction", FRACTION))
    if not 0 < fraction < 1:
        raise UsageError("-fraction", str(fraction), "between 0 and 1, say .2")
    for source in arguments:
        local_path(source, "relume split")
    folder = local_path(str(flags.get("-out", Path(arguments[0]).parent)), "-out")
    there = [str(folder / name) for name in (TRAIN, VALID) if (folder / name).exists()]
    forced = "adds pictures and moves none" if len(there) == 2 else "splits its pictures anew"
    # No inputs: with -force the lists are read and written.
    outputs = Outputs((), flags, f"-force {forced}; or -out FOLDER")
    outputs.check([folder / TRAIN, folder / VALID], LIST)
    before: dict[str, list[_Line]] = {TRAIN: [], VALID: []}
    if flags.get("-force"):
        if len(there) == 1:  # one list alone is no split
            arguments = [*arguments, *there]
        else:
            before = {name: _lines(folder / name, screen) for name in before}
    known = {_whole(line.path) for lines in before.values() for line in lines}
    given = {_whole(path): path for source in arguments for path in list_pictures(source)}
    new = [path for whole, path in given.items() if whole not in known]
    labelled = read_labelled([*(line.path for ls in before.values() for line in ls), *new])
    digests = _digests([one.path for one in labelled], screen)
    kept = _kept_sides(before, digests)
    sides = split_contents(_classes(labelled, digests), kept, fraction)
    valid = [sides[digest] for digest in digests]
    if all(valid) or not any(valid):
        contents = len(set(digests))
        of_them = f" of {contents} different contents" if contents < len(labelled) else ""
        found = f"{len(labelled)} pictures{of_them}, all on one side"
        raise DataFileError(arguments[0], found, f"enough for -fraction {fraction:g}")
    side_of = {one.path: side for one, side in zip(labelled, valid, strict=True)}
    texts = {}
    for name, side in ((TRAIN, False), (VALID, True)):
        old = b"".join(os.fsencode(line.text) + b"\n" for line in before[name])
        texts[name] = old + format_list([path for path in new if side_of[path] == side], folder)
    names = _names(arguments, folder)
    files = {folder / name: text for name, text in texts.items()}
    deque(outputs.write_each(files, LIST), maxlen=0)
    _tell(labelled, valid, names, screen)
    screen.line(f"written: {folder / TRAIN}, {folder / VALID}")
    for source in arguments:
        if lines := _lines_to_change(source, folder):
            screen.line(f"to use them, let {source} say {', '.join(lines)}")
    return 0


def _lines_to_change(source: str, folder: Path) -> list[str]:
    """Return the lines by which a data file would name the lists; none if it does."""
    if not source.endswith(".data"):
        return []
    values, beside = read_data_file(source).values, Path(source).parent
    return [
        f"{key} = {seen_from(beside, folder / name)}"
        for key, name in (("train", TRAIN), ("valid", VALID))
        if key not in values or _whole(resolve(values[key], source)) != _whole(folder / name)
    ]


def _lines(path: Path, screen: Screen) -> list[_Line]:
    """Return the lines of a list whose pictures are still there."""
    if not path.exists():
        return []
    lines = []
    for number, text in listed_entries(path):
        local_path(text, place := f"{path}:{number}")
        lines.append(_Line(text, resolve(text, path), place))
    gone = [line for line in lines if not line.path.exists()]
    if gone:
        first = excerpt(gone[0].text, LONGEST_PATH_SHOWN)
        screen.warn(f"{gone[0].place}: {len(gone)} pictures are gone ({first}, ...)")
    return [line for line in lines if line.path.exists()]


def _kept_sides(before: Mapping[str, list[_Line]], digests: list[Digest]) -> dict[Digest, bool]:
    """Return the side of every content in the lists.

    Args:
        digests: of the lists' pictures, those of train first, and of others behind them.
    Raises:
        DataFileError: one content is on both sides.
    """
    first: dict[Digest, _Line] = {}
    rest = iter(digests)
    for line in before[TRAIN]:
        first.setdefault(next(rest), line)
    kept = dict.fromkeys(first, False)
    for line in before[VALID]:
        digest = next(rest)
        if digest in first:
            raise DataFileError(
                line.place,
                f"{line.text} is the same picture as {first[digest].text}",
                f"a picture on one side only; that one is in {first[digest].place}",
                "take one of the lines out",
            )
        kept[digest] = True
    return kept


def _classes(labelled: list[Labelled], digests: list[Digest]) -> dict[Digest, Classes]:
    classes: dict[Digest, Classes] = {}
    for one, digest in zip(labelled, digests, strict=True):
        own = frozenset(int(kind) for kind in one.boxes[:, 0])
        classes[digest] = classes.get(digest, frozenset()) | own
    return classes


def _digests(paths: list[Path], screen: Screen) -> list[Digest]:
    digests = []
    for path in screen.each(paths, len(paths), "pictures read"):
        try:
            digests.append(xxh3_128_intdigest(read_regular(path)))
        except OSError as error:
            raise ImageError(path, f"cannot be read ({error.strerror})") from error
    return digests


def _names(arguments: Iterable[str], folder: Path) -> tuple[str, ...]:
    """Return the names of the classes: of a data file, or of the one .names beside the lists."""
    for source in arguments:
        if source.endswith(".data"):
            data_file = read_data_file(source)
            if "names" in data_file.values:
                return read_names(resolve(data_file.text("names"), source))
    beside = list(folder.glob("*.names"))
    with suppress(DataFileError):  # nobody asked for it
        return read_names(beside[0]) if len(beside) == 1 else ()
    return ()


def _tell(
    labelled: list[Labelled], valid: list[bool], names: tuple[str, ...], screen: Screen
) -> None:
    """Say how every class is shared out."""
    labels = [one.boxes for one in labelled]
    held = [boxes for boxes, side in zip(labels, valid, strict=True) if side]
    classes = len(boxes_per_class(labels, len(names)))
    rows = [("all", len(labels), len(held), sum(map(len, labels)), sum(map(len, held)))]
    counts = [
        count(of, classes).tolist()
        for count in (pictures_per_class, boxes_per_class)
        for of in (labels, held)
    ]
    for kind, row in enumerate(zip(*counts, strict=True)):
        rows.append((names[kind] if kind < len(names) else f"class {kind}", *row))
    width = max(len(row[0]) for row in rows)
    valid_and_share = f"{'valid':>8} {'':7}"
    head = f"{'':{width}} {'pictures':>10} {valid_and_share} {'boxes':>10} {valid_and_share}"
    screen.line(head.rstrip())
    for name, *numbers in rows:
        pictures, valid_pictures, boxes, valid_boxes = numbers
        screen.line(
            f"{name:{width}} {pictures:>10} {_share(valid_pictures, pictures)} "
            f"{boxes:>10} {_share(valid_boxes, boxes)}"
        )


def _share(part: int, whole: int) -> str:
    return f"{part:>8} {100 * part / max(whole, 1):5.1f} %"


def _whole(path: Path) -> str:
    return os.path.abspath(path)
