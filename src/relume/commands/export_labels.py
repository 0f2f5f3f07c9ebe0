"""`relume export-labels`: the boxes of a Darknet data set in the form of COCO or VOC."""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from relume.command_table import Values
from relume.commands.outputs import Kind, Outputs
from relume.data.image import picture_size_px
from relume.datasets.annotations import Annotated, Size, class_name, is_text, to_things
from relume.datasets.boxes import Labelled, read_labelled
from relume.datasets.coco import format_coco
from relume.datasets.voc import format_voc
from relume.errors import DataFileError, UsageError
from relume.formats.data_files import (
    DataFile,
    label_path,
    read_data_file,
    read_image_list,
    read_names,
    resolve,
)
from relume.formats.places import local_path
from relume.screen import Screen
from relume.spec import max_pixels_of

FORMS = ("coco", "voc")
ANNOTATIONS = Kind("annotations", is_compared=True, makes_folder=True)
SizeOf = Callable[[Path], Size]
"""Returns width and height of a picture, in pixels."""
_PARTS = {"train": "train", "valid": "val"}
"""Keys of the data file, and what the other forms call them."""


def export_labels(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Write the annotations of DATA's lists below OUT; pictures stay where they are."""
    form, out = str(flags.get("-form", "")), Path(arguments[1])
    local_path(arguments[1], "relume export-labels")
    if form not in FORMS:
        raise UsageError("-form", f"'{form}'" if form else "is missing", " or ".join(FORMS))
    data_file = read_data_file(arguments[0])
    names_path = resolve(data_file.text("names"), data_file.path)
    names = _checked_names(names_path)
    parts = {
        _PARTS[key]: read_labelled(paths, len(names)) for key, paths in _lists(data_file).items()
    }
    every = [one.path for labelled in parts.values() for one in labelled]
    root = Path(os.path.commonpath([os.path.abspath(path.parent) for path in every]))
    size_of = partial(picture_size_px, max_pixels=max_pixels_of(data_file))
    files = dict((_coco if form == "coco" else _voc)(parts, names, root, out, size_of))
    lists = [resolve(data_file.values[key], data_file.path) for key in _lists(data_file)]
    outputs = Outputs([data_file.path, names_path, *lists, *map(label_path, every)], flags)
    for _ in screen.each(outputs.write_each(files, ANNOTATIONS), len(files), "files written"):
        pass
    boxes = sum(len(one.boxes) for labelled in parts.values() for one in labelled)
    screen.line(f"{len(set(every))} pictures, {boxes} boxes, {len(names)} classes: {out}")
    order = f" -names {names_path}" if form == "voc" else ""
    screen.line(f"read it with: relume import {form} {out} -images {root}{order}")
    return 0


def _checked_names(path: Path) -> tuple[str, ...]:
    """Return the names, by which the other forms tell classes apart."""
    names = tuple(class_name(name, str(path)) for name in read_names(path))
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise DataFileError(path, f"'{twice[0]}' is there twice", "another name for each class")
    return names


def _lists(data_file: DataFile) -> dict[str, list[Path]]:
    """Return the pictures of train and valid; of one list under both keys train alone."""
    lists: dict[str, list[Path]] = {}
    read: set[Path] = set()
    for key in _PARTS:
        if key == "valid" and key not in data_file.values:
            continue
        path = resolve(data_file.text(key), data_file.path)
        if path not in read:
            read.add(path)
            lists[key] = list(dict.fromkeys(read_image_list(path, data_file.path).paths))
    return lists


def _coco(
    parts: Mapping[str, list[Labelled]],
    names: tuple[str, ...],
    root: Path,
    out: Path,
    size_of: SizeOf,
) -> Iterator[tuple[Path, bytes]]:
    for part, labelled in parts.items():
        pictures = [_annotated(one, names, root, size_of) for one in labelled]
        yield out / "annotations" / f"instances_{part}.json", format_coco(names, pictures)


def _voc(
    parts: Mapping[str, list[Labelled]],
    names: tuple[str, ...],
    root: Path,
    out: Path,
    size_of: SizeOf,
) -> Iterator[tuple[Path, bytes]]:
    taken: dict[str, Path] = {}
    for part, labelled in parts.items():
        for one in labelled:
            if (before := taken.setdefault(one.path.stem, one.path)) != one.path:
                found = f"has the name of {before}"
                raise DataFileError(
                    one.path, found, "VOC tells pictures apart by name", "-form coco"
                )
            text = format_voc(*_annotated(one, names, root, size_of))
            yield out / "Annotations" / f"{one.path.stem}.xml", text
        ids = "".join(f"{one.path.stem}\n" for one in labelled)
        yield out / "ImageSets" / "Main" / f"{part}.txt", os.fsencode(ids)


def _annotated(
    one: Labelled, names: tuple[str, ...], root: Path, size_of: SizeOf
) -> tuple[Annotated, Size]:
    name = Path(os.path.abspath(one.path)).relative_to(root).as_posix()
    if not is_text(name):
        raise DataFileError(repr(name), "the picture's name is no text", "another name")
    size_px = size_of(one.path)
    things = to_things(one.boxes, size_px, names)
    return Annotated(name, size_px, things, str(one.path)), size_px
