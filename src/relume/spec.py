"""RunSpec = Recipe + Operation: what may change a number, and what must not.

`read_spec` reads every input of a training run and checks them against each other, before
the first iteration. A test proves that nothing in Operation changes a bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from relume.errors import DataFileError, UsageError
from relume.formats.cfg import read_cfg, recipe_keys
from relume.formats.data_files import (
    DataFile,
    ImageList,
    read_data_file,
    read_names,
    resolve,
)
from relume.formats.keys import number
from relume.formats.lexer import excerpt
from relume.formats.picture_cost import MAX_PIXELS
from relume.formats.sections import Cfg
from relume.lists.identity import list_identity
from relume.lists.label_files import LabelFiles
from relume.schedule import evaluation_interval
from relume.training_set import read_all_labels, read_images
from relume.validation_set import ValidationSet, read_validation_set

Warn = Callable[[str], None]
"""Takes one line of text for the person."""
Labels = tuple[npt.NDArray[np.float32], ...] | LabelFiles
AUTO = "auto"
"""The value of savelast that leaves the interval to the cost of saving."""

EPOCH, REPLACEMENT = "epoch", "replacement"
"""The values of `sampling`: every picture once an epoch, or each drawn by itself."""

_MOST_GIGABYTES = 1e12
"""More than all disks have."""
STOP, SKIP = "stop", "skip"
"""The values of `bad`. Neither changes a number: where a run stops there is none."""


@dataclass(frozen=True, eq=False)
class Evaluations:
    """How a run measures itself (`-map`): this changes files, and no weight."""

    valid: ValidationSet
    interval: int
    """Iterations from one to the next (schedule.py)."""
    epochs: int = 4
    iou_thresh: float = 0.5
    patience: int | None = None
    """Evaluations without a better one that end the run; None: none do."""

    def keys(self) -> dict[str, str]:
        """Return what a checkpoint keeps of it; see docs/checkpoint-format.md."""
        keys = {
            "map.valid": list_identity(self.valid.images.entries),
            "map.labels": self.valid.label_digest(),
            "map.epochs": str(self.epochs),
            "map.iou_thresh": repr(self.iou_thresh),
        }
        return keys if self.patience is None else {**keys, "map.patience": str(self.patience)}


@dataclass(frozen=True)
class Recipe:
    """All that can change a number, but for the start weights (see train/start.py)."""

    cfg: Cfg
    names: tuple[str, ...]
    images: ImageList
    labels: Labels
    """Per listed picture [N,5] float32: class, x, y, w, h relative to the picture."""
    seed: int
    sampling: str = EPOCH
    evaluations: Evaluations | None = None
    """None: without -map."""

    def keys(self) -> dict[str, str]:
        """Return every value that can change a number, canonical, one key each."""
        return {
            **recipe_keys(self.cfg),
            "seed": str(self.seed),
            "images": self.images.identity or list_identity(self.images.entries),
            # Runs that began before there was a choice have no such key.
            **({} if self.sampling == EPOCH else {"sampling": self.sampling}),
            **({} if self.evaluations is None else self.evaluations.keys()),
        }

    def label_digests(self) -> npt.NDArray[np.uint64]:
        """Return one digest per listed picture of the numbers in its label file.

        Of a long list none: its labels are read and compared when they are used.
        """
        if isinstance(self.labels, LabelFiles):
            return np.zeros(0, np.uint64)
        digests = (xxhash.xxh3_64_intdigest(boxes.tobytes()) for boxes in self.labels)
        return np.fromiter(digests, np.uint64, len(self.labels))


@dataclass(frozen=True)
class Operation:
    """What must not change a number: where files go, how often, with how many hands."""

    backup: Path
    name: str
    """The cfg's name up to the first dot, as in Darknet; it begins the name of every file."""
    savelast: int | None = None
    """Iterations between two saves; None: as often as costs at most 1 % of the time."""
    saveweights: int = 1000
    keepstate: int | None = None
    """Milestones that keep their training state, the newest ones; None: all."""
    savebudget_gb: float = 100.0
    """Gigabytes written a day, where savelast is auto."""
    workers: int = 2
    bad: str = STOP
    """What a picture that cannot be decoded does: it stops the run, or is skipped."""
    max_pixels: int = MAX_PIXELS
    """Of a picture; one that has more is an error, and never skipped."""
    read_ahead: int = 3
    """Mini-batches that may lie ready before they are needed."""
    cache: Path = Path("cache")
    """Folder of what is read once and can be had again: indexes of long lists, remote files."""
    cache_gb: float = 20.0
    """Gigabytes of remote files that are kept."""
    thresh: float = 0.25
    """Confidence above which the lines of an evaluation count; mAP has none."""


@dataclass(frozen=True)
class RunSpec:
    """One training run."""

    recipe: Recipe
    operation: Operation


@dataclass(frozen=True)
class Flags:
    """What the command line adds to the files."""

    seed: int | None = None
    workers: int | None = None
    map: bool = False
    map_epochs: int = 4
    thresh: float = 0.25
    iou_thresh: float = 0.5


def read_spec(data: str, cfg: str, flags: Flags, warn: Warn) -> RunSpec:
    """Read and check everything that a training run is made of.

    Args:
        data: path of the .data file.
        cfg: path of the .cfg file.
        flags: what the command line says.
        warn: called with one line for what is odd but no error.
    Raises:
        InputError: a file is missing, malformed, or does not fit another.
    """
    network = read_cfg(cfg, "train")
    data_file = read_data_file(data)
    classes = network.heads[-1].classes
    check_classes(data_file, network)
    names = names_of(data_file, network)
    operation, sampling = operation_of(data_file, network, flags), sampling_of(data_file)
    seed = flags.seed if flags.seed is not None else data_file.integer("seed", 0)
    images = read_images(data_file, operation.cache, operation.cache_gb, warn)
    is_long = images.identity is not None
    labels = LabelFiles(images, classes) if is_long else read_all_labels(images, classes, warn)
    if network.net.written_batch != network.net.batch:
        warn(
            f"{cfg}:{network.net.line}: batch={network.net.written_batch} is not divisible by "
            f"subdivisions={network.net.subdivisions}; trains {network.net.batch} images per "
            "iteration, as Darknet does"
        )
    if network.net.ignored:
        warn(
            f"{cfg}:{network.net.line}: {' and '.join(network.net.ignored)} without effect, as in "
            "Darknet: cutmix is for classifiers, and it or mosaic takes the place of mixup"
        )
    measured = evaluations_of(data_file, network, len(images.paths), operation, flags, warn)
    recipe = Recipe(network, names, images, labels, seed, sampling, measured)
    return RunSpec(recipe, operation)


def check_settings(arguments: Sequence[str], flags: object, screen: object) -> None:
    """Raise what is wrong with DATA and CFG alone, before libraries load that take seconds."""
    cfg = read_cfg(arguments[1], "train")
    data_file = read_data_file(arguments[0])
    check_classes(data_file, cfg)
    operation_of(data_file, cfg, Flags())
    sampling_of(data_file)
    patience_of(data_file)


def evaluations_of(
    data_file: DataFile, cfg: Cfg, images: int, operation: Operation, flags: Flags, warn: Warn
) -> Evaluations | None:
    """Return how the run measures itself; None without -map.

    Args:
        data_file: its `valid`, else `train`, names the pictures.
        cfg: of the run.
        images: lines of the list that is trained on.
        operation: of the run.
        flags: what the command line says.
        warn: takes a line about what a person should know.
    Raises:
        InputError: the list, a label or a number cannot be used.
    """
    patience = patience_of(data_file)
    if not flags.map:
        if patience is not None:
            place = f"{data_file.path}:{data_file.lines['patience']}"
            warn(f"{place}: patience={patience} has an effect with -map only")
        return None
    key = "valid" if "valid" in data_file.values else "train"
    if key == "train":
        warn(f"{data_file.path}: names no list 'valid': -map measures on 'train', as Darknet does")
    classes, where = cfg.heads[-1].classes, (operation.cache, operation.cache_gb)
    valid = read_validation_set(data_file, key, classes, *where, warn)
    interval = evaluation_interval(cfg.net, images, flags.map_epochs)
    return Evaluations(valid, interval, flags.map_epochs, flags.iou_thresh, patience)


def patience_of(data_file: DataFile) -> int | None:
    """Return after how many evaluations without a better one the run ends; None: after none.

    Raises:
        DataFileError: the value is none.
    """
    has_patience = "patience" in data_file.values
    return _count(data_file, "patience", 1, "evaluations") if has_patience else None


def sampling_of(data_file: DataFile) -> str:
    """Return how pictures are drawn.

    Raises:
        DataFileError: `sampling` is neither of the two words.
    """
    return _choice(data_file, "sampling", (EPOCH, REPLACEMENT), ", how pictures are drawn")


def run_name(cfg: str) -> str:
    """Return NAME, the cfg's file name up to its first dot.

    Source:
        AlexeyAB/darknet 59596d78 src/utils.c basecfg.
    """
    return Path(cfg).name.partition(".")[0]


def backup_folder(data_file: DataFile) -> Path:
    """Return where checkpoints go: `backup=`, or `backup` beside the data file.

    A relative folder lies where the image list lies: below the current folder, as in
    Darknet, or else beside the data file.
    """
    text = data_file.text("backup", "")
    return _folder(data_file, text) if text else Path(data_file.path).parent / "backup"


def _folder(data_file: DataFile, text: str) -> Path:
    beside = Path(data_file.path).parent
    folder, listed = Path(text), Path(data_file.text("train", ""))
    try:
        if folder.is_absolute() or folder.is_dir():
            return folder
        if (beside / folder).is_dir() or (not listed.exists() and (beside / listed).exists()):
            return beside / folder
    except OSError:  # a name that the system refuses: told when it is used
        pass
    return folder


def cache_folder(data_file: DataFile) -> Path:
    """Return `cache=`, found as backup_folder finds its folder; or `cache` in that."""
    text = data_file.text("cache", "")
    return _folder(data_file, text) if text else backup_folder(data_file) / "cache"


def operation_of(data_file: DataFile, cfg: Cfg, flags: Flags) -> Operation:
    """Return what the data file and the command line say about everything that is no recipe.

    Raises:
        DataFileError, UsageError: a value that cannot be used.
    """
    standard = 1000 if cfg.net.max_batches < 10000 else 10000
    saveweights = _count(data_file, "saveweights", standard, "iterations")
    auto = data_file.text("savelast", AUTO) == AUTO
    savelast = None if auto else _count(data_file, "savelast", 1, "iterations", f", or {AUTO}")
    some = "keepstate" in data_file.values
    keepstate = _count(data_file, "keepstate", 1, "milestones") if some else None
    workers = 2 if flags.workers is None else flags.workers
    if workers < 0:
        raise UsageError("-workers", f"{workers}", "0 or more")
    return Operation(
        backup=backup_folder(data_file),
        name=run_name(cfg.path),
        savelast=savelast,
        saveweights=saveweights,
        keepstate=keepstate,
        savebudget_gb=_gigabytes(data_file, "savebudget", "100", "gigabytes a day, more than 0"),
        cache=cache_folder(data_file),
        cache_gb=cache_gigabytes(data_file),
        workers=workers,
        bad=_choice(data_file, "bad", (STOP, SKIP), ", for pictures that cannot be decoded"),
        max_pixels=max_pixels_of(data_file),
        thresh=flags.thresh,
    )


def _count(data_file: DataFile, key: str, default: int, unit: str, otherwise: str = "") -> int:
    """Return the value of a key that is a whole number of 1 or more."""
    value = data_file.integer(key, default, otherwise)
    if value < 1:
        place = f"{data_file.path}:{data_file.lines[key]}"
        raise DataFileError(place, f"{key}={value}", f"a number of {unit}, 1 or more{otherwise}")
    return value


def _choice(data_file: DataFile, key: str, words: tuple[str, str], what: str) -> str:
    """Return the value of a key that is one of two words, the first if it is missing."""
    text = data_file.text(key, words[0])
    if text not in words:
        place = f"{data_file.path}:{data_file.lines[key]}"
        raise DataFileError(place, f"{key}={excerpt(text)}", f"{' or '.join(words)}{what}")
    return text


def max_pixels_of(data_file: DataFile) -> int:
    """Return `max_pixels`, the pixels that a picture may have to be decoded.

    Raises:
        DataFileError: the value is none.
    """
    return _count(data_file, "max_pixels", MAX_PIXELS, "pixels")


def cache_gigabytes(data_file: DataFile) -> float:
    """Return `cache_gb`, the gigabytes of remote files that are kept.

    Raises:
        DataFileError: the value is none.
    """
    return _gigabytes(data_file, "cache_gb", "20", "gigabytes, more than 0")


def _gigabytes(data_file: DataFile, key: str, default: str, needed: str) -> float:
    text = data_file.text(key, default)
    try:
        gigabytes = number(0, _MOST_GIGABYTES)(text)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes:
        place = f"{data_file.path}:{data_file.lines[key]}"
        raise DataFileError(place, f"{key}={excerpt(text)}", needed)
    return gigabytes


def check_classes(data_file: DataFile, cfg: Cfg) -> None:
    """Raise DataFileError unless the data file has the cfg's number of classes, or none."""
    head = cfg.heads[-1]
    classes = data_file.integer("classes", head.classes)
    if classes != head.classes:
        raise DataFileError(
            f"{data_file.path}:{data_file.lines['classes']}",
            f"classes={classes}",
            f"classes={head.classes} as in {cfg.path}:{head.line}",
            "make the two agree, and `filters` before each [yolo] with them",
        )


def names_of(data_file: DataFile, cfg: Cfg) -> tuple[str, ...]:
    """Return the names of the cfg's classes; numbers where the data file names no file of them.

    Raises:
        DataFileError: the file cannot be read, or has another number of names.
    """
    classes = cfg.heads[-1].classes
    if "names" not in data_file.values:
        return tuple(str(i) for i in range(classes))
    path = resolve(data_file.text("names"), data_file.path)
    names = read_names(path)
    if len(names) != classes:
        raise DataFileError(
            path,
            f"{len(names)} names",
            f"{classes}, since {cfg.path}:{cfg.heads[-1].line} says classes={classes}",
        )
    return names
