"""A list with all that belongs to its pictures: files, labels, what the bytes are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from relume.checking.boxes import findings_of_boxes, findings_of_sizes, useless_boxes
from relume.checking.findings import Finding, Verdict
from relume.checking.label_lines import BoxSet, LabelLines, box_set, read_all_lines
from relume.checking.lists import Entry, PictureList
from relume.checking.pictures import Known, Looked, findings_of_picture, look_at_all
from relume.formats.sections import Cfg

ERROR, WARNING, NOTE = Verdict


@dataclass(frozen=True)
class Member:
    """A picture of a list."""

    entry: Entry
    labels: LabelLines
    looked: Looked


@dataclass(frozen=True)
class DataSet:
    """A list and its pictures, as far as they exist."""

    pictures: PictureList
    members: tuple[Member, ...] = ()

    @property
    def looked(self) -> tuple[Looked, ...]:
        """Its pictures."""
        return tuple(member.looked for member in self.members)

    def boxes(self) -> BoxSet:
        """Return all its boxes."""
        paths = [member.looked.path for member in self.members]
        return box_set([member.labels for member in self.members], paths)


def read_data_set(
    pictures: PictureList,
    classes: int | None,
    channels: int,
    known: Known,
    at: Callable[[int], None],
    skips_bad: bool,
    max_pixels: int,
) -> tuple[DataSet, list[Finding]]:
    """Look at every picture of a list and at its labels.

    Args:
        pictures: the list.
        classes: of the net; None if that is not known.
        channels: of the net.
        known: which pictures need not be decoded.
        at: told how many are done.
        skips_bad: whether the data file says bad=skip.
        max_pixels: that a picture may have.
    """
    findings: list[Finding] = []
    used = [entry for entry in pictures.entries if entry.path is not None]
    paths = [entry.path for entry in used if entry.path is not None]
    labels = []
    for path in paths:
        one, found = read_all_lines(path, classes)
        labels.append(one)
        findings += found
    looked = []
    places = [pictures.place(entry) for entry in used]
    for one_looked in look_at_all(paths, places, channels, max_pixels, known, at):
        looked.append(one_looked)
        findings += findings_of_picture(one_looked, channels, skips_bad)
    members = (Member(*parts) for parts in zip(used, labels, looked, strict=True))
    return DataSet(pictures, tuple(members)), findings


def findings_of_training_boxes(
    found: BoxSet, cfg: Cfg | None, names: Sequence[str], place: str
) -> Iterator[Finding]:
    """Yield what is to be said of all boxes that are trained on."""
    if not found.pictures:
        return  # that has been said
    if not len(found.boxes):
        what = "no picture has a label with a box"
        remedy = "labels as .txt beside the pictures, or in labels/ for those in images/train2017"
        yield Finding(ERROR, what, place, "", remedy)
        return
    yield from useless_boxes(found)
    yield from findings_of_boxes(found, names, place)
    if cfg is not None:
        yield from findings_of_sizes(found, cfg, place)


def classes_of_valid(
    train: BoxSet, valid: BoxSet, names: Sequence[str], place: str
) -> Iterator[Finding]:
    """Yield classes that are measured but never trained."""
    trained = set(train.boxes[:, 0].tolist())
    for number in sorted(set(valid.boxes[:, 0].tolist()) - trained):
        name = names[int(number)] if number < len(names) else ""
        what = "a class has boxes in 'valid' but none in 'train'"
        yield Finding(WARNING, what, place, f"{number:.0f} {name}".strip(), "split anew")
