"""Annotations in the form of COCO: one JSON file for many pictures.

Category ids may have gaps; classes are numbered in their order. Segments and key points are not
read: `bbox` is the box.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from relume.datasets.annotations import Annotated, Size, Thing, class_name, finite, shown
from relume.errors import LabelError


@dataclass(frozen=True)
class CocoFile:
    """What one file says."""

    names: tuple[str, ...]
    """Of all categories, used or not, in the order of their ids."""
    pictures: tuple[Annotated, ...]


def parse_coco(data: bytes, place: str) -> CocoFile:
    """Return what a COCO annotation file says.

    Raises:
        LabelError: no JSON, or not what COCO says of objects; names what and where.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LabelError(place, f"is no JSON ({shown(error)})", "annotations of COCO") from None
    categories = _names(_rows(document, "categories", place), place)
    images: dict[object, dict[str, Any]] = {}
    for where, image in _rows(document, "images", place):
        if _id(image, "id", where) in images:
            raise LabelError(where, f"id {image['id']} is there twice", "one id for each picture")
        images[image["id"]] = image
    things: dict[object, list[Thing]] = {number: [] for number in images}
    for where, annotation in _rows(document, "annotations", place):
        image_id, category = (_id(annotation, k, where) for k in ("image_id", "category_id"))
        if image_id not in images:
            raise LabelError(where, f"image_id {image_id}", "the id of one of the images")
        if category not in categories:
            raise LabelError(where, f"category_id {category}", "the id of one of the categories")
        things[image_id].append(_thing(annotation, categories[category], where))
    pictures = tuple(
        _picture(image, tuple(things[number]), f"{place}: image {number}")
        for number, image in images.items()
    )
    return CocoFile(tuple(categories.values()), pictures)


def format_coco(names: Sequence[str], pictures: Iterable[tuple[Annotated, Size]]) -> bytes:
    """Return the file for pictures of these sizes; ids count from 1."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    categories = {name: number for number, name in enumerate(names, 1)}
    for image_id, (picture, (width, height)) in enumerate(pictures, 1):
        images.append(
            {"id": image_id, "file_name": picture.file_name, "width": width, "height": height}
        )
        annotations += (
            {
                "id": len(annotations) + number,
                "image_id": image_id,
                "category_id": categories[thing.name],
                "bbox": [thing.left_px, thing.top_px, thing.width_px, thing.height_px],
                "area": thing.width_px * thing.height_px,
                "segmentation": [],
                "iscrowd": 0,
            }
            for number, thing in enumerate(picture.things, 1)
        )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    rows = ",\n".join(f"{json.dumps(key)}: {_lines(value)}" for key, value in document.items())
    return f"{{\n{rows}\n}}\n".encode()


def _lines(rows: Sequence[object]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"


def _rows(document: object, key: str, place: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the entries of one of the lists, each with its place."""
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise LabelError(place, f"has no list '{key}'", "images, annotations and categories")
    rows = []
    for index, row in enumerate(found):
        where = f"{place}: {key}[{index}]"
        if not isinstance(row, dict):
            raise LabelError(where, shown(row), "an object with the keys of COCO")
        rows.append((where, row))
    return rows


def _names(rows: list[tuple[str, dict[str, Any]]], place: str) -> dict[object, str]:
    """Return the name of every category by its id, in the order of the ids."""
    names: dict[int, str] = {}
    for where, row in rows:
        number, name = _id(row, "id", where), class_name(row.get("name"), where)
        if number in names or name in names.values():
            raise LabelError(
                where, f"{number} '{shown(name)}'", "ids and names of categories differ"
            )
        names[number] = name
    if not names:
        raise LabelError(place, "has no category", "one at least")
    return {number: names[number] for number in sorted(names)}


def _id(row: dict[str, Any], key: str, where: str) -> int:
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise LabelError(where, f"{key} = {shown(value)}", "a whole number is needed")
    return value


def _thing(annotation: dict[str, Any], name: str, where: str) -> Thing:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise LabelError(where, f"bbox = {shown(box)}", "[left, top, width, height] is needed")
    left, top, width, height = (finite(value, where, "bbox") for value in box)
    return Thing(name, left, top, width, height, annotation.get("iscrowd") not in (None, 0, False))


def _picture(image: dict[str, Any], things: tuple[Thing, ...], where: str) -> Annotated:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise LabelError(where, f"file_name = {shown(name)}", "the name of the picture")
    sides = [finite(image.get(key) or 0, where, key) for key in ("width", "height")]
    size = (int(sides[0]), int(sides[1])) if min(sides) >= 1 else None
    return Annotated(name, size, things, where)
