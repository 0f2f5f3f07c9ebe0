"""VOC and COCO: known answers, what is left out, hostile files, and the way there and back."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.datasets.annotations import Annotated, Thing, to_boxes, to_things
from relume.datasets.coco import format_coco, parse_coco
from relume.datasets.voc import format_voc, parse_voc
from relume.errors import LabelError

NAMES = ("cat", "dog & <bone>", "ä 猫")
CLASSES = {name: number for number, name in enumerate(NAMES)}


def float32(numbers: list[float]) -> list[float]:
    return [float(number) for number in np.array(numbers, np.float32)]


def voc(inside: str, size: str = "<size><width>500</width><height>375</height></size>") -> bytes:
    text = f"<annotation><filename>a.jpg</filename>{size}{inside}</annotation>"
    return text.encode()


def voc_object(edges: tuple[object, ...], name: str = "cat", more: str = "") -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{edge}</{key}>" for key, edge in zip(keys, edges, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def coco(**changes: object) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 200, "height": 100}],
        "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 90, "bbox": [10, 20, 30, 40], "segmentation": [[1, 2]]},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 200, 100], "iscrowd": 1},
        ],
        **changes,
    }


def test_a_box_of_voc_is_what_darknets_script_makes_of_it() -> None:
    picture = parse_voc(voc(voc_object((8, 12, 352, 498))), "a.xml")

    # x = ((xmin + xmax) / 2 - 1) / width, w = (xmax - xmin) / width
    boxes = to_boxes(picture, (500, 500), CLASSES, keep_doubtful=False).boxes
    assert boxes.tolist() == [float32([0, 179 / 500, 254 / 500, 344 / 500, 486 / 500])]
    assert (picture.file_name, picture.size_px) == ("a.jpg", (500, 375))


def test_categories_of_coco_are_numbered_in_the_order_of_their_ids() -> None:
    read = parse_coco(json.dumps(coco()).encode(), "c.json")

    classes = {name: number for number, name in enumerate(read.names)}
    boxes = to_boxes(read.pictures[0], (200, 100), classes, keep_doubtful=True).boxes
    assert read.names == ("cat", "dog")
    assert boxes.tolist() == [
        float32([1, 0.125, 0.4, 0.15, 0.4]),
        [0, 0.5, 0.5, 1, 1],
    ]


def test_doubtful_and_empty_boxes_are_left_out_and_counted() -> None:
    picture = parse_voc(
        voc(
            voc_object((1, 1, 10, 10), more="<difficult>1</difficult>")
            + voc_object((1, 1, 10, 10), more="<difficult>0</difficult>")
            + voc_object((20, 20, 20, 30))
            + voc_object((30, 20, 20, 30))
            + voc_object((502, 20, 600, 30))
        ),
        "a.xml",
    )

    found = to_boxes(picture, (500, 375), CLASSES, keep_doubtful=False)
    kept = to_boxes(picture, (500, 375), CLASSES, keep_doubtful=True)

    assert (len(found.boxes), found.doubtful, found.empty) == (1, 1, 3)
    assert (len(kept.boxes), kept.doubtful, kept.empty) == (2, 0, 3)


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_missing_or_zero_is_none(size: str) -> None:
    assert parse_voc(voc("", size), "a.xml").size_px is None


THINGS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        *[st.floats(2**-10, 1 - 2**-10, width=32)] * 2,
        *[st.floats(2**-13, 1, width=32)] * 2,
    ),
    max_size=8,
)


@pytest.mark.parametrize("form", ["voc", "coco"])
@settings(max_examples=150, deadline=None)
@given(things=THINGS, size=st.tuples(*[st.integers(1, 20_000)] * 2))
def test_boxes_that_are_exported_and_imported_are_the_same_numbers(
    form: str, things: list[tuple[str, float, float, float, float]], size: tuple[int, int]
) -> None:
    rows = [(CLASSES[name], *box) for name, *box in things]
    boxes = np.array(rows, np.float32).reshape(-1, 5)
    picture = Annotated("a/b.jpg", size, to_things(boxes, size, NAMES), "a")

    if form == "voc":
        read = parse_voc(format_voc(picture, size), "a.xml")
    else:
        file = parse_coco(format_coco(NAMES, [(picture, size)]), "c.json")
        (read,), names = file.pictures, file.names
        assert names == NAMES
    back = to_boxes(read, size, CLASSES, keep_doubtful=False)

    assert back.boxes.tobytes() == boxes.tobytes()
    assert (read.file_name, read.size_px) == ("a/b.jpg", size)


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_before_they_grow(doctype: str, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>{doctype}<annotation>&x;</annotation>'

    with pytest.raises(LabelError, match=r"^a\.xml: has a DOCTYPE; an annotation of VOC has none"):
        parse_voc(text.encode(encoding), "a.xml")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "a.xml: is no XML (no element found: line 1, column 0); an annotation of VOC"),
        (b"<annotation>", "a.xml: is no XML (no element found: line 1, column 12); an"),
        (b"<a>&x;</a>", "a.xml: is no XML (undefined entity: line 1, column 3); an"),
        (b"<kitti/>", "a.xml: <kitti>; VOC's <annotation>"),
        (voc("<object/>"), "a.xml: object 1: name = None; the name of a class"),
        (voc("<object><name>cat</name></object>"), "a.xml: object 1: has no <bndbox>; xmin,"),
        (voc(voc_object((1, 2, 3, "x"))), "a.xml: object 1: ymax = x; a number is needed"),
        (voc(voc_object((1, 2, 3, "inf"))), "a.xml: object 1: ymax = inf; a number is needed"),
        (voc("", "<size><width>wide</width></size>"), "a.xml: width = wide; a number is needed"),
    ],
)
def test_what_is_no_annotation_of_voc_is_named(data: bytes, error: str) -> None:
    with pytest.raises(LabelError) as raised:
        parse_voc(data, "a.xml")

    assert str(raised.value).startswith(error)


IMAGE, NOTE = coco()["images"][0], coco()["annotations"][0]


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ([], "c.json: has no list 'categories'; images, annotations and categories"),
        (coco(images=None), "c.json: has no list 'images'"),
        (coco(images=[7]), "c.json: images[0]: 7; an object with the keys of COCO"),
        (coco(images=[IMAGE, IMAGE]), "c.json: images[1]: id 7 is there twice; one id for each"),
        (coco(images=[{**IMAGE, "file_name": 5}]), "c.json: image 7: file_name = 5; the name of"),
        (coco(images=[{**IMAGE, "width": "x"}]), "c.json: image 7: width = x; a number is needed"),
        (coco(categories=[]), "c.json: has no category; one at least"),
        (
            coco(categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]),
            "c.json: categories[1]: 3 'b'; ids and names of categories differ",
        ),
        (coco(categories=[{"id": "3", "name": "a"}]), "c.json: categories[0]: id = 3; a whole"),
        (
            coco(categories=[{"id": 3, "name": "\ud800"}]),
            "c.json: categories[0]: name = \\ud800; the",
        ),
        (coco(annotations=[{**NOTE, "image_id": 8}]), "c.json: annotations[0]: image_id 8; the id"),
        (coco(annotations=[{**NOTE, "category_id": 1}]), "c.json: annotations[0]: category_id 1;"),
        (
            coco(annotations=[{**NOTE, "category_id": True}]),
            "c.json: annotations[0]: category_id =",
        ),
        (coco(annotations=[{**NOTE, "bbox": [1, 2]}]), "c.json: annotations[0]: bbox = [1, 2]; ["),
        (
            coco(annotations=[{**NOTE, "bbox": [1, 2, 3, float("nan")]}]),
            "c.json: annotations[0]: bbox = nan; a number is needed",
        ),
    ],
)
def test_what_is_not_coco_is_named_with_its_place(document: object, error: str) -> None:
    with pytest.raises(LabelError) as raised:
        parse_coco(json.dumps(document).encode(), "c.json")

    assert str(raised.value).startswith(error)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_json_is_said_to_be(data: bytes) -> None:
    with pytest.raises(LabelError, match=r"^c\.json: (is no JSON|has no list)"):
        parse_coco(data, "c.json")


GOOD_VOC = format_voc(Annotated("a.jpg", (9, 9), (Thing("cat", 1, 2, 3, 4),), ""), (9, 9))
GOOD_COCO = json.dumps(coco()).encode()


@pytest.mark.parametrize(("good", "parse"), [(GOOD_VOC, parse_voc), (GOOD_COCO, parse_coco)])
@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 700), cut=st.integers(0, 20), put=st.binary(max_size=8))
def test_a_damaged_file_is_an_error_of_its_own_kind_or_none(
    good: bytes, parse: Callable[[bytes, str], object], place: int, cut: int, put: bytes
) -> None:
    damaged = good[:place] + put + good[place + cut :]

    said = ""
    try:
        parse(damaged, "file")
    except LabelError as error:
        said = str(error)

    assert len(said.splitlines()) <= 1
