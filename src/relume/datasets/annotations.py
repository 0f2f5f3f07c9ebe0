"""A picture as an annotation file of another form tells it, and how that becomes boxes and back.

Edges are kept in pixels and double precision between the two, so that boxes which are written in
another form and read again are the same numbers.
"""

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from relume.errors import LabelError
from relume.formats.data_files import Boxes
from relume.formats.lexer import excerpt

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Thing:
    """One annotated object."""

    name: str
    """Of its class."""
    left_px: float
    top_px: float
    width_px: float
    height_px: float
    doubtful: bool = False
    """VOC's `difficult`, COCO's `iscrowd`."""


@dataclass(frozen=True)
class Annotated:
    """One annotated picture."""

    file_name: str
    """As written, with slashes; below the folder of the pictures."""
    size_px: Size | None
    """As written; None where nothing or 0 is."""
    things: tuple[Thing, ...]
    place: str
    """Where it is written, for messages."""


@dataclass(frozen=True)
class Imported:
    """The boxes of one picture, and what was left out."""

    boxes: Boxes
    doubtful: int
    empty: int
    """Boxes without a size, or wholly outside the picture."""


def to_boxes(
    picture: Annotated, size_px: Size, classes: Mapping[str, int], keep_doubtful: bool
) -> Imported:
    """Return the boxes relative to a picture of this size; none is clipped.

    Args:
        classes: number of every class by its name; must have all of them.
    """
    width, height = size_px
    rows = []
    doubtful = empty = 0
    for thing in picture.things:
        right, bottom = thing.left_px + thing.width_px, thing.top_px + thing.height_px
        has_size = thing.width_px > 0 and thing.height_px > 0
        if thing.doubtful and not keep_doubtful:
            doubtful += 1
        elif (
            not has_size
            or right <= 0
            or bottom <= 0
            or max(thing.left_px - width, thing.top_px - height) >= 0
        ):
            empty += 1
        else:
            x, y = thing.left_px + thing.width_px / 2, thing.top_px + thing.height_px / 2
            shape = thing.width_px / width, thing.height_px / height
            rows.append((classes[thing.name], x / width, y / height, *shape))
    return Imported(np.array(rows, np.float32).reshape(-1, 5), doubtful, empty)


def to_things(boxes: Boxes, size_px: Size, names: tuple[str, ...]) -> tuple[Thing, ...]:
    """Return boxes relative to a picture of this size as objects in it."""
    width, height = size_px
    return tuple(
        Thing(names[int(kind)], (x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
        for kind, x, y, w, h in boxes.tolist()
    )


def class_name(text: object, place: str) -> str:
    """Return the name of a class as a line of a .names file can hold it.

    Raises:
        LabelError: it is none.
    """
    name = " ".join(text.split()) if isinstance(text, str) else ""
    if not name or not is_text(name):
        raise LabelError(place, f"name = {shown(text)}", "the name of a class")
    return name


def is_text(name: str) -> bool:
    """Tell whether a name can stand in XML, JSON and a line: no controls, no stray bytes."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def finite(text: object, place: str, what: str) -> float:
    """Return a number that an annotation file holds.

    Raises:
        LabelError: it is none, or not finite.
    """
    try:
        number = float(text) if isinstance(text, (str, int, float)) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(text, bool) or not abs(number) < 1e9:
        raise LabelError(place, f"{what} = {shown(text)}", "a number is needed")
    return number


def shown(value: object) -> str:
    """Return what a file holds as a message can show it."""
    return excerpt(str(value), 60)
