"""`relume detector valid`: detections in the files that VOC's and COCO's programs read."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from relume.command_table import Values
from relume.commands.measure import BATCH, Job, Trouble, read_job
from relume.commands.outputs import Kind, Outputs
from relume.errors import DataFileError, UsageError
from relume.evaluate.detected import Detected, Named, Settings, detect_pictures
from relume.evaluate.result_lines import (
    COCO_IDS,
    coco_entries,
    coco_image_id,
    voc_image_id,
    voc_lines,
)
from relume.formats.data_files import DataFile, read_image_list, resolve
from relume.screen import Screen

THRESH, NMS = 0.001, 0.6
VOC, COCO = "voc", "coco"
OTHER_FORMS = ("bdd", "kitti", "imagenet")
"""Of Darknet, not written here."""
_VOC_LINE = re.compile(rb"[^\n]+( -?\d+\.\d+| -?inf| nan){5}\n")
_COCO = re.compile(rb'\[\s*(\{"image_id"|\])')
KINDS = {
    VOC: Kind("results of VOC", lambda head: not head or _VOC_LINE.match(head), makes_folder=True),
    COCO: Kind("results of COCO", lambda head: not head or _COCO.match(head), makes_folder=True),
}
"""What Darknet and relume write; Darknet replaces them too."""
BASES = {VOC: "comp4_det_test_", COCO: "coco_results"}


@dataclass
class Results:
    """The texts to be written, by file."""

    form: str
    paths: tuple[Path, ...]
    """VOC: of every class; COCO: one."""
    parts: dict[Path, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = {path: [] for path in self.paths}

    def add(self, found: Detected, path: Path, image_id: int | None) -> None:
        """Take what was found in a picture."""
        if image_id is not None:
            self.parts[self.paths[0]].extend(coco_entries(found, image_id))
        else:
            for kind, line in voc_lines(found, path):
                self.parts[self.paths[kind]].append(line)

    def files(self) -> dict[Path, bytes]:
        """Return the whole files."""
        if self.form == COCO:
            return {p: "[\n{}\n]\n".format(",\n".join(e)).encode() for p, e in self.parts.items()}
        return {path: "".join(lines).encode() for path, lines in self.parts.items()}


def valid(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Detect in all pictures of `valid` and write the results; return the exit status.

    Source: AlexeyAB src/detector.c validate_detector.
    """
    job = read_job(arguments, flags)
    results = Results(form := form_of(job.data_file), _paths(job, form, flags))
    images = read_image_list(
        resolve(job.data_file.text("valid"), job.data_file.path), job.data_file.path
    )
    pictures: list[Named] = [
        (path, f"{images.path}:{line}")
        for path, line in zip(images.paths, images.lines, strict=True)
    ]
    ids = list(_image_ids(pictures)) if form == COCO else [None] * len(pictures)
    if form == VOC:
        for text in _told_of_names(pictures):
            screen.warn(text)
    trouble, began_s = Trouble(screen), time.monotonic()
    outputs = Outputs([*arguments, images.path, *images.paths], flags)
    outputs.check(results.paths, KINDS[form])
    at = screen.counter(len(pictures), "pictures")
    settings = Settings(THRESH, NMS, job.letter_box, BATCH, job.max_pixels)
    done = 0
    for batch in detect_pictures(job.network, pictures, settings, workers=job.workers):
        for item in batch:
            if isinstance(item, Detected):
                results.add(item, pictures[item.index][0], ids[item.index])
            else:
                trouble.tell(item)
        at(done := done + len(batch))
    for path in outputs.write_each(results.files(), KINDS[form]):
        screen.line(str(path))
    screen.line(f"Total Detection Time: {time.monotonic() - began_s:f} Seconds")
    return trouble.status


def form_of(data_file: DataFile) -> str:
    """Return what `eval` asks for.

    Raises:
        DataFileError: another form, or a `map` of classes.
    """
    form = data_file.text("eval", VOC)
    for key, found in (("eval", f"eval = {form}"), ("map", "map = ...")):
        if key not in data_file.values or (key == "eval" and form in BASES):
            continue
        place = f"{data_file.path}:{data_file.lines[key]}"
        if key == "map":
            what = "it numbers the classes of [region] trees anew, which relume does not have"
            raise DataFileError(place, found, what, "take the line out")
        known = "a form of Darknet that relume does not write" if form in OTHER_FORMS else ""
        raise DataFileError(place, f"{found}{f', {known}' * bool(known)}", "voc or coco")
    return form


def _paths(job: Job, form: str, flags: Values) -> tuple[Path, ...]:
    """Return where the results go."""
    folder = resolve(job.data_file.text("results", "results"), job.data_file.path)
    base = str(flags.get("-out", BASES[form]))
    if not base or "/" in base or "\0" in base:
        where = f"a name; the folder is results = {folder}"
        raise UsageError("-out", f"'{base}'", where, "set results in DATA")
    if form == COCO:
        if len(job.names) > len(COCO_IDS):
            what = f"{len(job.names)} classes, but COCO has {len(COCO_IDS)}"
            raise DataFileError(job.data_file.path, what, "eval = voc")
        return (folder / f"{base}.json",)
    for number, name in enumerate(job.names):
        if "/" in name or "\0" in name or name in job.names[:number]:
            found = f"class '{name}'" + " is there twice" * (name in job.names[:number])
            needed = "names that can name a file each, for results of VOC"
            raise DataFileError(job.data_file.text("names"), found, needed)
    return tuple(folder / f"{base}{name}.txt" for name in job.names)


def _told_of_names(pictures: list[Named]) -> Iterator[str]:
    """Yield what makes results of VOC hard to read: ids that are equal, or two words."""
    first: dict[str, str] = {}
    again, split = [], []
    for path, place in pictures:
        name = voc_image_id(path)
        if name in first:
            again.append(f"{place}: {path.name} has the id '{name}', as {first[name]}")
        first.setdefault(name, place)
        if name.split() != [name]:
            split.append(f"{place}: {path.name} has the id '{name}', which is not one word")
    for found, what in ((again, "taken for one picture"), (split, "hard to read")):
        if found:
            more = f" (and {len(found) - 1} more)" * (len(found) > 1)
            yield f"{found[0]}{more}: {what} by programs that read results of VOC"


def _image_ids(pictures: list[Named]) -> Iterator[int]:
    seen: dict[int, str] = {}
    for path, place in pictures:
        number = coco_image_id(path, place)
        if number in seen:
            found = f"{path.name} has the image id {number}, as {seen[number]}"
            raise DataFileError(place, found, "another number for each picture")
        seen[number] = place
        yield number
