"""`relume check`: everything that would stop or spoil a training, before its first iteration.

Where training stops at the first mistake, this goes on and collects all of them.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from relume.checking.correction import Corrected, check_folder, write_corrected
from relume.checking.cost import Trial, findings_of_cost, findings_of_disk, too_large
from relume.checking.data_set import (
    DataSet,
    classes_of_valid,
    findings_of_training_boxes,
    read_data_set,
)
from relume.checking.findings import (
    MOST_PLACES,
    Finding,
    Group,
    Verdict,
    grouped,
    of_error,
    table_lines,
    wrapped,
)
from relume.checking.known import KnownPictures, format_known, known_path, read_known
from relume.checking.lists import PictureList, read_every_entry, same_list
from relume.checking.pictures import same_contents, sizes_finding
from relume.checking.settings import Settings, batch_made_smaller, findings_of_cfg, read_settings
from relume.checkpoint import storage
from relume.checkpoint.folder import newest_good
from relume.checkpoint.reading import read_bytes
from relume.command_table import Values
from relume.commands.ending import tidied_up
from relume.commands.starting_flags import compute_device
from relume.commands.training_flags import flags_of
from relume.data.loaders import available_processors
from relume.errors import DataFileError, RelumeError, StorageError
from relume.formats.picture_cost import MAX_PIXELS
from relume.formats.sections import Cfg
from relume.formats.weights import layout
from relume.memory import free_memory_bytes
from relume.schedule import count_evaluations, evaluation_interval
from relume.screen import Screen
from relume.spec import SKIP, Flags
from relume.train import environment
from relume.train.given_weights import read_weights_file
from relume.train.trial import tried

ERROR, WARNING, NOTE = Verdict
FINE, WARNINGS, ERRORS = 0, 1, 2


@dataclass
class Check:
    """What has been found so far."""

    settings: Settings
    findings: list[Finding]
    train: DataSet | None = None
    valid: DataSet | None = None
    load_s: float = 0.0
    """To read and decode one picture, by all processors together."""
    done: int = 0
    """Iterations that a run in the backup folder has behind it."""
    known: KnownPictures = field(default_factory=KnownPictures)
    said: list[str] = field(default_factory=list)
    """About object stores, to be told when standard error is open again."""

    @property
    def channels(self) -> int:
        """Of the net, as far as it is known."""
        return self.settings.cfg.net.channels if self.settings.cfg else 3


def check(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Check everything, tell it, write corrected copies if asked; return the exit status."""
    folder = Path(str(flags["-fix"])) if "-fix" in flags else None
    if folder is not None:
        check_folder(folder)
    run = flags_of(flags)
    found = Check(*read_settings(arguments[0], arguments[1]))
    tells = not flags.get("-json")
    with screen.silent_libraries():
        _check_data(found, screen, tells, run.map)
    for text in found.said:
        screen.warn(text)
    _check_run(found, arguments[2] if len(arguments) > 2 else None, flags)
    groups = grouped(found.findings)
    status = _status(groups)
    if tells:  # before the disk can refuse the correction
        _tell(groups, screen)
    told = _as_json(groups, status)
    try:
        if folder is not None:
            with tidied_up():
                corrected = _corrected(found, folder)
            told["fix"] = {k: dict(by_kind) for k, by_kind in vars(corrected).items()}
            if tells:
                _tell_corrected(corrected, folder, arguments[1], screen)
    except RelumeError as error:
        told["fix"] = {"error": str(error)}
        raise
    finally:
        if not tells:
            screen.json(told)
    return status


def _status(groups: list[Group]) -> int:
    verdicts = {group.verdict for group in groups}
    return ERRORS if ERROR in verdicts else WARNINGS if WARNING in verdicts else FINE


def _check_data(found: Check, screen: Screen, tells: bool, measures: bool) -> None:
    """Look at both lists, their pictures and labels."""
    settings = found.settings
    data_file, cfg, operation = settings.data_file, settings.cfg, settings.operation
    if data_file is None:
        return
    lists: dict[str, PictureList | None] = {}
    for key in ("train", "valid"):
        if key == "valid" and same_list(data_file):
            what = "'valid' is the list 'train': no measure on it is to be trusted"
            place, remedy = f"{data_file.path}:{data_file.lines[key]}", "`relume split` makes two"
            found.findings.append(Finding(WARNING, what, place, "", remedy))
            continue
        lists[key], findings = read_every_entry(key, data_file, found.said.append, measures)
        found.findings += findings
    listed = [entry for one in lists.values() if one is not None for entry in one.entries]
    total = sum(entry.path is not None for entry in listed)
    path = known_path(operation.cache, operation.name) if operation else None
    if path is not None:
        found.known = read_known(path, found.channels)
    at = screen.counter(total, "pictures", tells)
    began_s = time.perf_counter()
    found.train = _data_set(found, lists["train"], at, 0)
    before = len(found.train.members) if found.train else 0
    found.valid = _data_set(found, lists.get("valid"), at, before)
    looked = [one for s in (found.train, found.valid) if s is not None for one in s.looked]
    decoded = [one for one in looked if one.facts and one.facts.digest not in found.known.facts]
    if len(decoded) == len(looked) > 0:
        found.load_s = (time.perf_counter() - began_s) / len(looked)
    if found.train is not None:
        place, boxes = found.train.pictures.path, found.train.boxes()
        found.findings += sizes_finding(found.train.looked, place)
        found.findings += findings_of_training_boxes(boxes, cfg, settings.names, place)
        valid = found.valid.looked if found.valid else ()
        found.findings += same_contents(found.train.looked, valid)
        if found.valid is not None:
            valid_place = found.valid.pictures.path
            found.findings += classes_of_valid(
                boxes, found.valid.boxes(), settings.names, valid_place
            )
    if path is not None and decoded:
        with suppress(StorageError):  # a folder that cannot be written: it is looked at below
            storage.make_folder(path.parent)
            storage.write_replaceable(path, [format_known(looked, found.channels)])


def _data_set(
    found: Check, pictures: PictureList | None, at: Callable[[int], None], before: int
) -> DataSet | None:
    if pictures is None:
        return None
    operation = found.settings.operation
    data_set, findings = read_data_set(
        pictures,
        found.settings.classes,
        found.channels,
        found.known.facts.get,
        lambda done: at(before + done),
        operation is not None and operation.bad == SKIP,
        operation.max_pixels if operation is not None else MAX_PIXELS,
    )
    found.findings += findings
    return data_set


def _check_run(found: Check, weights: str | None, flags: Values) -> None:
    """Look at the cfg, at WEIGHTS, at a run that has begun, and at what it will take."""
    settings = found.settings
    cfg, operation = settings.cfg, settings.operation
    if cfg is None:
        if weights is not None and not Path(weights).exists():
            what = "WEIGHTS cannot be used"
            found.findings.append(Finding(ERROR, what, weights, "there is no such file"))
        return
    pictures = len(found.train.pictures.entries) if found.train else 0
    found.findings += batch_made_smaller(cfg)
    found.findings += findings_of_cfg(cfg, settings.names, pictures)
    if operation is not None:
        _check_folder_of_run(found, cfg)
        found.findings += findings_of_disk(cfg, operation, bool(flags.get("-map")))
    if weights is not None:
        found.findings += _weights(Path(weights), cfg, bool(flags.get("-clear")))
    elif not found.done:
        what = "no WEIGHTS: training starts from random numbers"
        remedy = "start from the first layers of a trained net (`relume partial`)"
        found.findings.append(Finding(NOTE, what, cfg.path, "", remedy))
    found.findings += _cost(found, cfg, flags)


def _check_folder_of_run(found: Check, cfg: Cfg) -> None:
    operation = found.settings.operation
    assert operation is not None
    try:
        good, rejected = newest_good(operation.backup, operation.name)
    except RelumeError as error:
        found.findings.append(of_error("the folder for checkpoints cannot be used", error))
        return
    for item in rejected:
        what = "a checkpoint of this run cannot be used; a start takes another"
        found.findings.append(Finding(WARNING, what, str(item.path), item.reason))
    if good is not None:
        found.done = min(good.state.iteration, cfg.net.max_batches)
        what = "a run of this name has begun; the same command goes on with it"
        if good.state.iteration >= cfg.net.max_batches:
            what = "the run of this name is finished"
        found.findings.append(Finding(NOTE, what, str(good.path), good.state.place))


def _weights(path: Path, cfg: Cfg, clear: bool) -> list[Finding]:
    what, name = "WEIGHTS cannot be used", str(path)
    if path.is_dir():
        return [Finding(NOTE, "WEIGHTS is a folder: the newest good checkpoint is taken", name)]
    try:
        data = read_bytes(path)
    except OSError as error:
        return [Finding(ERROR, what, name, f"cannot be read ({error.strerror})")]
    except RelumeError as error:
        return [of_error(what, error)]
    try:
        given = read_weights_file(data, path, cfg, clear)
    except RelumeError as error:
        return [of_error(what, error)]
    if given.state is not None:
        shapes = {spec.name: spec.shape for spec in layout(cfg)}
        if {n: array.shape for n, array in given.state.weights.items()} != shapes:
            detail = f"a checkpoint of another net than {cfg.path}"
            remedy = "give the cfg it was trained with, or `relume partial` of it"
            return [Finding(ERROR, what, name, detail, remedy)]
        return [Finding(NOTE, "WEIGHTS is a checkpoint", name, given.state.place)]
    assert given.plain is not None
    layers = f"fills {given.plain.layers_filled} of {len(cfg.layers)} layers"
    iteration = given.iterations(cfg.net.batch)
    detail = layers + f", goes on at iteration {iteration}" * bool(iteration)
    return [Finding(NOTE, "WEIGHTS fit the cfg", name, detail)]


def _cost(found: Check, cfg: Cfg, flags: Values) -> list[Finding]:
    """Train one subdivision, and reckon from it."""
    device = compute_device(flags)
    seed = 0
    if found.settings.data_file is not None:
        with suppress(DataFileError):
            seed = found.settings.data_file.integer("seed", 0)
    free = environment.free_device_memory_bytes(device)
    free = free_memory_bytes() if free is None else free
    if too := too_large(cfg, free):
        return [too]
    try:
        trial = _trial(cfg, device)
    except (RuntimeError, MemoryError) as error:  # PyTorch's: no memory
        what = "one subdivision could not be trained on this machine"
        remedy = "raise subdivisions, or lower width and height"
        return [Finding(WARNING, what, cfg.path, str(error).partition("\n")[0], remedy)]
    measured = _measured(found, cfg, flags_of(flags))
    return list(findings_of_cost(cfg, seed, trial, free, found.done, found.load_s, measured))


def _measured(found: Check, cfg: Cfg, flags: Flags) -> int:
    """Return the pictures that all evaluations to come measure on."""
    if not flags.map or found.train is None:
        return 0
    pictures = len(found.train.pictures.entries)
    measured_on = len(found.valid.pictures.entries) if found.valid else pictures
    interval = evaluation_interval(cfg.net, pictures, flags.map_epochs)
    return measured_on * count_evaluations(cfg.net, interval, found.done)


def _trial(cfg: Cfg, device: torch.device) -> Trial:
    environment.set_up(available_processors())
    images, seconds, held_bytes = tried(cfg, device)
    return Trial(images, cfg.net.width, cfg.net.height, seconds, held_bytes)


def _corrected(found: Check, folder: Path) -> Corrected:
    if found.train is None:
        raise DataFileError(
            found.settings.data_file.path if found.settings.data_file else "-fix",
            "there is no list of pictures to correct",
            "a data file that can be read, whose `train` names a list",
        )
    return write_corrected(folder, found.settings, found.train, found.valid, found.channels)


def _tell(groups: list[Group], screen: Screen) -> None:
    for line in table_lines(groups, screen.width):
        screen.line(line)
    counts = {v: sum(group.verdict is v for group in groups) for v in Verdict}
    kinds = ", ".join(
        f"{n} kind{'s' * (n != 1)} of {v.value}{'s' * (n != 1)}"
        for v, n in counts.items()
        if n and v is not NOTE
    )
    if counts[ERROR]:
        screen.line(f"{kinds}: training would stop")
    elif counts[WARNING]:
        screen.line(f"{kinds}: training would run; look at them first")
    else:
        screen.line("nothing was found that would stop or spoil the training")


def _tell_corrected(done: Corrected, folder: Path, cfg: str, screen: Screen) -> None:
    kept = ", ".join(f"{count:,} in '{key}'" for key, count in done.kept.items())
    lines = [f"{folder} holds the corrected lists: {kept} (pictures are links)"]
    for reason, places in done.taken_off.items():
        lines.append(f"{len(places):,} taken off the lists: {reason}")
        lines += [f"  {place}" for place in places[:MOST_PLACES]]
        if len(places) > MOST_PLACES:
            lines.append(f"  and {len(places) - MOST_PLACES} more; -json names all")
    lines += [f"{what}: {count:,}" for what, count in done.changed.items()]
    if done.kept.get("valid") == 0:
        lines.append("no list 'valid' is left: all its pictures are trained on")
    for line in lines:
        text = line.lstrip()
        for part in wrapped(text, "-fix: " + " " * (len(line) - len(text)), screen.width):
            screen.line(part)
    screen.line(f"-fix: now `relume check {folder / 'obj.data'} {cfg}`")


def _as_json(groups: list[Group], status: int) -> dict[str, object]:
    findings = [
        {
            "verdict": group.verdict.value,
            "what": group.what,
            "count": len(group.where),
            "where": [{"place": place, "detail": detail} for place, detail in group.where],
            "remedy": group.remedy,
        }
        for group in groups
    ]
    return {"findings": findings, "status": status}
