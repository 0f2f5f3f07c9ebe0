"""Corrected copies of a data set: lists, labels and data file, in a folder of their own.

Pictures are linked, not copied; no file outside the new folder is touched. What cannot be known
is not made up: a picture whose labels are missing or cannot all be read is taken off the list,
for an object without a box would be taught as background.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from relume.checking.data_set import DataSet, Member
from relume.checking.label_lines import LabelLines, read_all_lines
from relume.checking.pictures import look_at
from relume.checking.settings import Settings
from relume.checkpoint import storage
from relume.checkpoint.many_files import filled_folder
from relume.checkpoint.system_errors import as_storage_error
from relume.errors import DataFileError, UsageError
from relume.formats.data_files import label_lines, label_path
from relume.formats.lexer import LONGEST_PATH_SHOWN, excerpt
from relume.formats.picture_cost import MAX_PIXELS
from relume.formats.places import RemoteFile, local_path
from relume.lists.label_files import never_used

DATA_FILE, NAMES, PICTURES = "obj.data", "obj.names", "img"
LEFT_OUT = ("train", "valid", "names", "backup", "cache", "classes")
"""Keys of the data file that are written anew."""


@dataclass
class Corrected:
    """What a correction did."""

    kept: Counter[str] = field(default_factory=Counter)
    """Pictures by list."""
    taken_off: dict[str, list[str]] = field(default_factory=dict)
    """Lines of the lists, and what stands there, by reason."""
    changed: Counter[str] = field(default_factory=Counter)
    """Lines by what was done to them."""


def check_folder(folder: Path) -> None:
    """Raise UsageError unless corrected copies may be written into this folder."""
    with as_storage_error(folder):
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError("-fix", f"{folder} is there already", "a new folder", "name another")
    local_path(str(folder), "-fix")
    if len(str(folder.resolve()).splitlines()) != 1:
        raise UsageError("-fix", repr(str(folder)), "a name without a line break, for the lists")
    picture = folder.resolve() / PICTURES / "a.jpg"
    if label_path(picture).parent != picture.parent:
        found = f"labels of pictures in {folder} would lie elsewhere"
        raise UsageError("-fix", found, "a folder outside JPEGImages and images/train2017")


def write_corrected(
    folder: Path, settings: Settings, train: DataSet, valid: DataSet | None, channels: int
) -> Corrected:
    """Write corrected copies into a new folder, which is there when all of them are.

    Args:
        folder: new, or empty.
        settings: with a data file.
        train, valid: as they were found.
        channels: of the net.
    Raises:
        StorageError: the disk refuses.
        DataFileError: nothing would be left.
    """
    if train.members and all(
        isinstance(member.looked.path, RemoteFile) for member in train.members
    ):
        needed = "pictures on a disk, which can be linked"
        raise UsageError("-fix", "the pictures are on an object store", needed)
    done, used, seen = Corrected(), Counter[str](), set[object]()
    target = folder.resolve()
    lists = {}
    for key, data_set in (("train", train), ("valid", valid)):
        if data_set is None:
            continue
        members = []
        for place, found in _members(data_set, settings, channels):
            if member := _kept(found, place, seen, done):
                members.append(member)
        lists[key] = [(m, _new_name(m, used)) for m in members]
        done.kept[key] = len(members)
    if not lists["train"]:
        raise DataFileError(train.pictures.path, "nothing would be left after the correction")
    with filled_folder(target) as filling:
        storage.make_folder(filling / PICTURES)
        for key, named in lists.items():
            for member, name in named:
                picture = filling / PICTURES / name
                storage.link_to(picture, member.looked.path.absolute())
                labels = _corrected_labels(member.labels, done)
                storage.write_replaceable(label_path(picture), [labels])
            if named:
                text = "".join(f"{target / PICTURES / name}\n" for _, name in named)
                storage.write_replaceable(filling / f"{key}.txt", [_bytes(text)])
        kept = [key for key, named in lists.items() if named]
        _write_data_file(filling, target, settings, kept)
    return done


def _members(
    data_set: DataSet, settings: Settings, channels: int
) -> Iterator[tuple[str, Member | str]]:
    """Yield place and picture in the order of the list, those too that an entry only means."""
    found = {member.entry.line: member for member in data_set.members}
    max_pixels = settings.operation.max_pixels if settings.operation else MAX_PIXELS
    for entry in data_set.pictures.entries:
        place = data_set.pictures.place(entry)
        told = f"{place}: {excerpt(entry.text, LONGEST_PATH_SHOWN)}"
        if entry.line in found:
            yield told, found[entry.line]
        elif entry.meant is not None:
            try:
                labels, _ = read_all_lines(entry.meant, settings.classes)
            except DataFileError:
                yield told, "no ending of a picture"
                continue
            looked = look_at(entry.meant, place, channels, max_pixels, lambda digest: None)
            yield told, Member(entry, labels, looked)
        else:
            yield told, "missing"


def _kept(member: Member | str, place: str, seen: set[object], done: Corrected) -> Member | None:
    """Return the picture if it stays on its list."""
    reason = member if isinstance(member, str) else _reason_against(member, seen)
    if reason or isinstance(member, str):
        done.taken_off.setdefault(reason, []).append(place)
        return None
    if member.entry.path is None:
        done.changed["paths corrected"] += 1
    return member


def _reason_against(member: Member, seen: set[object]) -> str:
    facts, labels = member.looked.facts, member.labels
    if member.looked.is_too_large:
        return "more pixels than max_pixels"
    if facts is None or facts.is_bad:
        return "cannot be read or decoded"
    if isinstance(member.looked.path, RemoteFile):
        return "on an object store, to which nothing can be linked"
    if not facts.is_whole:
        return "cut off or damaged"
    if labels.missing:
        return "no label file"
    if labels.unreadable:
        return "labels that cannot all be read"
    if facts.digest in seen:
        return "on a list already"
    seen.add(facts.digest)
    return ""


def _new_name(member: Member, used: Counter[str]) -> str:
    path = member.looked.path
    stem = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in path.stem).strip()
    used[stem.lower()] += 1
    number = used[stem.lower()]
    if number == 1:
        return stem + path.suffix
    name = f"{stem}_{number}"
    used[name.lower()] += 1
    return name + path.suffix if used[name.lower()] == 1 else _new_name(member, used)


def _corrected_labels(labels: LabelLines, done: Corrected) -> bytes:
    """Return the label file without boxes that are none, and those over the edge cut off."""
    words = dict(label_lines(labels.path) or [])
    useless = never_used(labels.boxes)
    lines, seen = [], set[bytes]()
    for row, line in enumerate(labels.lines):
        box = labels.boxes[row]
        if useless[row]:
            done.changed["boxes left out, no size or outside the picture"] += 1
            continue
        if box.tobytes() in seen:
            done.changed["boxes left out, twice in a file"] += 1
            continue
        seen.add(box.tobytes())
        cut = _inside(box.tolist())
        if cut is None:
            lines.append(b" ".join(words[line]))
        else:
            done.changed["boxes cut off at the edge"] += 1
            lines.append(f"{box[0]:.0f} {' '.join(f'{v:.7g}' for v in cut)}".encode())
    return b"".join(line + b"\n" for line in lines)


def _inside(box: Sequence[float]) -> list[float] | None:
    """Return x, y, w, h of the part in the picture; None: all of it is, but for rounding."""
    _, x, y, w, h = box
    edges = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    inside = edges.clip(0, 1)
    if np.abs(edges - inside).max() <= 0.001:
        return None
    left, top, right, bottom = inside.tolist()
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def _write_data_file(folder: Path, target: Path, settings: Settings, lists: Sequence[str]) -> None:
    """Write data file and names into a folder that is going to be `target`."""
    assert settings.data_file is not None
    values = {k: v for k, v in settings.data_file.values.items() if k not in LEFT_OUT}
    if settings.classes is not None:
        values["classes"] = str(settings.classes)
    values |= {key: str(target / f"{key}.txt") for key in lists}
    if settings.names:
        text = "".join(f"{name}\n" for name in settings.names)
        storage.write_replaceable(folder / NAMES, [_bytes(text)])
        values["names"] = str(target / NAMES)
    values["backup"] = str(target / "backup")
    text = "".join(f"{key} = {value}\n" for key, value in values.items())
    storage.write_replaceable(folder / DATA_FILE, [_bytes(text)])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
