"""Where the files of a VOC or COCO data set lie: annotations, their pictures, their lists.

A picture's name in an annotation is a name from elsewhere: it is looked for below known folders
only, and a name that leads out of them is an error, since label files are written beside it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from relume.datasets.annotations import Annotated, is_text, shown
from relume.datasets.coco import parse_coco
from relume.datasets.voc import parse_voc
from relume.errors import DataFileError, LabelError
from relume.formats.data_files import PICTURE_ENDINGS
from relume.formats.places import read_regular

TRAIN, VALID, TEST = "train", "valid", "test"
_VOC_SETS = {"train": TRAIN, "trainval": TRAIN, "val": VALID, "valid": VALID, "test": TEST}
_INSTANCES = "instances_"


@dataclass(frozen=True)
class AnnotatedFile:
    """An annotated picture, the list it belongs to, and where it lies."""

    picture: Annotated
    part: str
    """train, valid or test."""
    path: Path | None
    """None: it is not there."""


@dataclass(frozen=True)
class AnnotatedSet:
    """All that a VOC or COCO data set holds."""

    found: tuple[AnnotatedFile, ...]
    names: tuple[str, ...]
    """Classes: COCO's in the order of their ids, VOC's by the alphabet."""
    files: tuple[Path, ...]
    """Of annotations and lists, which were read."""
    oddities: tuple[str, ...] = ()
    """What is left out, a sentence each."""


def read_voc(folder: Path, images: Path | None) -> AnnotatedSet:
    """Read Annotations/*.xml, or all XML files below `folder`.

    Args:
        images: where pictures are looked for first.
    Raises:
        DataFileError: no annotation, or one cannot be read.
        LabelError: one cannot be understood.
    """
    inner = folder / "Annotations"
    files = sorted(inner.glob("*.xml") if inner.is_dir() else folder.rglob("*.xml"))
    if not files:
        needed = "VOC's Annotations/*.xml, or XML files beside pictures"
        raise DataFileError(folder, "holds no annotation", needed)
    stems = {file.stem for file in files}
    lists = sorted((folder / "ImageSets" / "Main").glob("*.txt"))
    parts = _voc_parts(lists, stems)
    found = []
    for file in files:
        picture = parse_voc(read_bytes(file), str(file))
        roots = [file.parent, *(folder / name for name in ("JPEGImages", "images", "."))]
        names = [file.stem + ending for ending in PICTURE_ENDINGS]
        inside = PurePosixPath(picture.file_name.replace("\\", "/"))
        names.append(inside.name)
        if leads_inside(inside):
            names.append(str(inside))
        path = _first(names, [images, *roots] if images else roots, str(file))
        for part in parts.get(file.stem, () if parts else (TRAIN,)):
            found.append(AnnotatedFile(picture, part, path))
    names_found = {thing.name for each in found for thing in each.picture.things}
    odd = (
        (sorted(parts.keys() - stems), "pictures listed in ImageSets/Main have no annotation"),
        (sorted(stems - parts.keys()) if parts else [], "annotations are in no list of ImageSets"),
    )
    oddities = tuple(f"{len(ids)} {what} ({ids[0]}, ...)" for ids, what in odd if ids)
    read = (*files, *lists)
    return AnnotatedSet(tuple(found), tuple(sorted(names_found)), read, oddities)


def read_coco(source: Path, images: Path | None) -> AnnotatedSet:
    """Read a JSON file, or those of a folder: annotations/instances_*.json, else all below it.

    Raises:
        DataFileError: no annotation, or one cannot be read.
        LabelError: one cannot be understood, or two have other categories.
    """
    found: list[AnnotatedFile] = []
    names: tuple[str, ...] = ()
    files = _coco_files(source)
    for file in files:
        coco = parse_coco(read_bytes(file), str(file))
        if names and coco.names != names:
            raise LabelError(file, "has other categories than the files before", "the same in all")
        names = coco.names
        split = file.stem.removeprefix(_INSTANCES)
        above = file.parent, file.parent.parent
        roots = [
            root / name for root in above for name in (".", split, "images", f"images/{split}")
        ]
        part = _coco_part(split, file.parent.name)
        for picture in coco.pictures:
            path = _first([picture.file_name], [images] if images else roots, picture.place)
            found.append(AnnotatedFile(picture, part, path))
    return AnnotatedSet(tuple(found), names, tuple(files))


def read_bytes(path: Path) -> bytes:
    """Return the bytes of an annotation file.

    Raises:
        DataFileError: it cannot be read.
    """
    try:
        return read_regular(path)
    except OSError as error:
        raise DataFileError(path, f"cannot be read ({error.strerror})") from error


def leads_inside(name: PurePosixPath) -> bool:
    """Tell whether a picture's name can only mean one below the folders it is looked for in."""
    return not name.is_absolute() and ".." not in name.parts and is_text(str(name))


def _first(names: Iterable[str], roots: Iterable[Path], place: str) -> Path | None:
    for name in names:
        inside = PurePosixPath(name.replace("\\", "/"))
        if not leads_inside(inside):
            needed = "a name below the folder of the pictures (-images FOLDER)"
            raise LabelError(place, f"the picture '{shown(name)}'", needed)
        for root in roots:
            if (root / inside).is_file():
                return root / inside
    return None


def _voc_parts(lists: Iterable[Path], stems: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the lists that every id is in; of train and trainval the narrower one counts."""
    files = {path.stem: path for path in lists if path.stem in _VOC_SETS}
    if "train" in files:
        files.pop("trainval", None)
    parts: dict[str, tuple[str, ...]] = {}
    for stem, path in files.items():
        for line in read_bytes(path).decode("utf-8", "surrogateescape").splitlines():
            if text := line.strip():
                # Some lists have a number behind the id, and some ids have spaces.
                name = text if text in stems else text.split()[0]
                parts[name] = (*parts.get(name, ()), _VOC_SETS[stem])
    return parts


def _coco_files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    ways = source.glob(f"annotations/{_INSTANCES}*.json"), source.glob("**/*.json")
    for way in ways:
        if files := sorted(way):
            return files
    raise DataFileError(source, "holds no annotation", "COCO's annotations/instances_*.json")


def _coco_part(split: str, folder: str) -> str:
    for text in (split.lower(), folder.lower()):
        for word, part in (("train", TRAIN), ("val", VALID), ("test", TEST)):
            if word in text:
                return part
    return TRAIN
