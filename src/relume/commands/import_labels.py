"""`relume import voc|coco`: Darknet's labels, lists, names and data file from other forms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from relume.command_table import Values
from relume.commands.outputs import Kind, Outputs
from relume.data.image import picture_size_px
from relume.datasets.annotations import Annotated, Imported, Size, to_boxes
from relume.datasets.boxes import format_labels, format_list, seen_from
from relume.datasets.layouts import TEST, TRAIN, VALID, AnnotatedSet, read_coco, read_voc
from relume.errors import DataFileError, LabelError, TooLarge, UsageError
from relume.formats.data_files import label_path, read_names
from relume.formats.places import local_path
from relume.screen import Screen

SEED = 0
"""Of the run, where nobody has chosen one."""
SIZES = ("picture", "annotation")
DATA_SET = Kind("labels and lists", is_compared=True, makes_folder=True)


@dataclass(frozen=True)
class _Present:
    """An annotated picture that is there."""

    picture: Annotated
    part: str
    path: Path


def import_voc(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Import a folder of PASCAL VOC."""
    return _import(arguments[0], flags, screen, read_voc, "-keep_difficult", "difficult")


def import_coco(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Import a JSON file of COCO, or a folder of them."""
    return _import(arguments[0], flags, screen, read_coco, "-keep_crowds", "crowds")


def _import(
    given: str,
    flags: Values,
    screen: Screen,
    read: Callable[[Path, Path | None], AnnotatedSet],
    keep_flag: str,
    doubtful: str,
) -> int:
    source, sizes = local_path(given, "relume import"), flags.get("-sizes")
    if not source.exists():
        raise UsageError(source, "does not exist", "the data set to import")
    if sizes is not None and sizes not in SIZES:
        raise UsageError("-sizes", f"'{sizes}'", f"{' or '.join(SIZES)}")
    images = local_path(str(flags["-images"]), "-images") if "-images" in flags else None
    if images is not None and not images.is_dir():
        raise UsageError("-images", f"{images} is no folder", "the folder of the pictures")
    folder = local_path(
        str(flags.get("-out", source if source.is_dir() else source.parent)), "-out"
    )
    data_set = read(source, images)
    there = [
        _Present(each.picture, each.part, each.path)
        for each in data_set.found
        if each.path is not None
    ]
    if not there:
        found = f"none of the {len(data_set.found)} pictures is there"
        raise DataFileError(source, found, "-images FOLDER, where they are")
    names, names_path = _names(data_set, flags, folder)
    lists = _lists(there, folder)
    files = {folder / f"{part}.txt": text for part, text in lists.items()}
    if "-names" not in flags:
        files[names_path] = "".join(f"{name}\n" for name in names).encode()
    files[folder / "obj.data"] = _data_file(lists, names, seen_from(folder, names_path))
    wanted = None if sizes is None else str(sizes)
    imported = _read_boxes(there, names, wanted, keep_flag in flags, screen)
    labels = _labels(there, imported)
    if twice := sorted(labels.keys() & files.keys()):
        needed = "a picture of another name, or another folder with -out"
        raise LabelError(twice[0], "is a list of this import and the labels of a picture", needed)
    written = labels | files
    inputs = [source, *data_set.files, *([names_path] if "-names" in flags else [])]
    outputs = Outputs(inputs, flags)
    for _ in screen.each(outputs.write_each(written, DATA_SET), len(written), "files written"):
        pass
    _tell(data_set, list(imported.values()), names, doubtful, keep_flag, screen)
    screen.line(f"written: {', '.join(map(str, files))}")
    if len(lists) == 1:
        screen.line(f"no list to validate on: relume split {folder / 'obj.data'} -force makes one")
    return 0


def _read_boxes(
    there: list[_Present],
    names: tuple[str, ...],
    sizes: str | None,
    keep_doubtful: bool,
    screen: Screen,
) -> dict[str, Imported]:
    """Return the boxes of every annotation, by its place."""
    classes = {name: number for number, name in enumerate(names)}
    by_place = {each.picture.place: each for each in there}
    return {
        place: to_boxes(
            each.picture, _size_px(each.picture, each.path, sizes), classes, keep_doubtful
        )
        for place, each in screen.each(by_place.items(), len(by_place), "pictures read")
    }


def _labels(there: list[_Present], imported: Mapping[str, Imported]) -> dict[Path, bytes]:
    """Return the text of every label file; two annotations of one may not differ.

    Raises:
        LabelError: they do.
    """
    labels: dict[Path, bytes] = {}
    first: dict[Path, _Present] = {}
    for each in there:
        path, text = label_path(each.path), format_labels(imported[each.picture.place].boxes)
        before = first.setdefault(path, each)
        if labels.setdefault(path, text) != text or before.path != each.path:
            raise LabelError(
                each.picture.place,
                f"its labels go into {path}, and so do those of {before.picture.place}",
                "one annotation for each label file",
            )
    return labels


def _names(data_set: AnnotatedSet, flags: Values, folder: Path) -> tuple[tuple[str, ...], Path]:
    """Return the classes in their order, and the file that names them or is going to."""
    if "-names" not in flags:
        if not data_set.names:
            raise DataFileError(folder, "no picture has an object", "one class at least")
        return data_set.names, folder / "obj.names"
    path = Path(str(flags["-names"]))
    names = read_names(path)
    if unknown := sorted(set(data_set.names) - set(names)):
        raise DataFileError(path, f"lacks '{unknown[0]}'", "the names of all classes")
    return names, path


def _size_px(picture: Annotated, path: Path, sizes: str | None) -> Size:
    """Return the size that the boxes are meant for; two that differ are not guessed between."""
    if sizes == "annotation" and picture.size_px is not None:
        return picture.size_px
    try:
        size_px = picture_size_px(path)
    except TooLarge as error:  # there is no data file yet in which max_pixels could be set
        remedy = "-sizes annotation" if picture.size_px else "save it as PNG or take it out"
        raise TooLarge(error.place, error.found, error.needed, remedy) from error
    if sizes is None and picture.size_px not in (None, size_px):
        turned = picture.size_px == size_px[::-1]
        raise LabelError(
            picture.place,
            f"{_by(picture.size_px)}, but {path} has {_by(size_px)}"
            + ", turned by EXIF or annotated so" * turned,
            "the size that the boxes are meant for",
            "-sizes picture, or -sizes annotation",
        )
    return size_px


def _by(size_px: Size | None) -> str:
    return "x".join(map(str, size_px or ()))


def _lists(there: list[_Present], folder: Path) -> dict[str, bytes]:
    parts: dict[str, list[Path]] = {}
    for each in there:
        parts.setdefault(each.part, []).append(each.path)
    return {
        part: format_list(dict.fromkeys(parts[part]), folder)
        for part in (TRAIN, VALID, TEST)
        if part in parts
    }


def _data_file(lists: Mapping[str, bytes], names: tuple[str, ...], names_path: str) -> bytes:
    """Return the text of the data file; what is no list to train on may serve to validate."""
    first = next(iter(lists))
    valid = next((part for part in (VALID, TEST) if part in lists and part != first), None)
    lines = [f"classes = {len(names)}", f"train = {first}.txt"]
    lines += [f"valid = {valid}.txt"] if valid else []
    lines += [f"names = {names_path}", "backup = backup", f"seed = {SEED}"]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _tell(
    data_set: AnnotatedSet,
    imported: list[Imported],
    names: tuple[str, ...],
    doubtful: str,
    keep_flag: str,
    screen: Screen,
) -> None:
    boxes = sum(len(one.boxes) for one in imported)
    screen.line(f"{len(imported)} pictures, {boxes} boxes, {len(names)} classes")
    if left_out := sum(one.doubtful for one in imported):
        screen.line(f"left out: {left_out} boxes marked {doubtful}; {keep_flag} keeps them")
    if empty := sum(one.empty for one in imported):
        screen.line(f"left out: {empty} boxes without a size or outside their picture")
    for oddity in data_set.oddities:
        screen.warn(f"{oddity}; they are left out")
    if missing := [each.picture for each in data_set.found if each.path is None]:
        name = f" ('{missing[0].file_name}', ...)" if missing[0].file_name else ""
        screen.warn(
            f"{missing[0].place}: {len(missing)} pictures are not there{name}; they are left out; "
            "-images FOLDER if they are elsewhere"
        )
