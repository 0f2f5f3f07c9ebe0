"""Annotations in the form of PASCAL VOC: one XML file per picture.

Pixels count from 1 in VOC: a box begins at xmin - 1 here, and ends at xmax - 1, as in Darknet's
own script. Parts, poses and segments are not read.

Source:
    AlexeyAB/darknet 59596d78 scripts/voc_label.py convert, which leaves difficult objects out.
"""

from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax.saxutils import escape

from relume.datasets.annotations import Annotated, Size, Thing, class_name, finite, shown
from relume.errors import LabelError

FIRST_PIXEL = 1


def parse_voc(data: bytes, place: str) -> Annotated:
    """Return what a VOC annotation says.

    Raises:
        LabelError: no XML, an XML with a DOCTYPE, or no annotation of VOC.
    """
    root = _tree(data, place)
    if root.tag != "annotation":
        raise LabelError(place, f"<{shown(root.tag)}>", "VOC's <annotation>")
    things = tuple(
        _thing(element, f"{place}: object {number}")
        for number, element in enumerate(root.iterfind("object"), 1)
    )
    name = (root.findtext("filename") or "").strip()
    return Annotated(name, _size(root, place), things, place)


def format_voc(picture: Annotated, size_px: Size) -> bytes:
    """Return the annotation of a picture of this size."""
    lines = [
        "<annotation>",
        f"\t<filename>{escape(picture.file_name)}</filename>",
        "\t<size>",
        f"\t\t<width>{size_px[0]}</width>",
        f"\t\t<height>{size_px[1]}</height>",
        "\t\t<depth>3</depth>",
        "\t</size>",
        "\t<segmented>0</segmented>",
    ]
    for thing in picture.things:
        left, top = thing.left_px + FIRST_PIXEL, thing.top_px + FIRST_PIXEL
        lines += [
            "\t<object>",
            f"\t\t<name>{escape(thing.name)}</name>",
            "\t\t<pose>Unspecified</pose>",
            "\t\t<truncated>0</truncated>",
            "\t\t<difficult>0</difficult>",
            "\t\t<bndbox>",
            f"\t\t\t<xmin>{left!r}</xmin>",
            f"\t\t\t<ymin>{top!r}</ymin>",
            f"\t\t\t<xmax>{left + thing.width_px!r}</xmax>",
            f"\t\t\t<ymax>{top + thing.height_px!r}</ymax>",
            "\t\t</bndbox>",
            "\t</object>",
        ]
    return ("\n".join([*lines, "</annotation>"]) + "\n").encode()


def _tree(data: bytes, place: str) -> ElementTree.Element:
    """Parse XML. A DOCTYPE could define entities that grow to gigabytes, or name other files."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise LabelError(place, "has a DOCTYPE", "an annotation of VOC has none", "take it out")

    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:  # also unknown encodings
        raise LabelError(place, f"is no XML ({error})", "an annotation of VOC") from None


def _thing(element: ElementTree.Element, place: str) -> Thing:
    name, box = class_name(element.findtext("name"), place), element.find("bndbox")
    if box is None:
        raise LabelError(place, "has no <bndbox>", "xmin, ymin, xmax and ymax in it")
    left, top, right, bottom = (
        finite(box.findtext(key, ""), place, key) for key in ("xmin", "ymin", "xmax", "ymax")
    )
    doubtful = (element.findtext("difficult") or "0").strip() not in ("0", "")
    return Thing(
        name,
        left - FIRST_PIXEL,
        top - FIRST_PIXEL,
        right - left,
        bottom - top,
        doubtful,
    )


def _size(root: ElementTree.Element, place: str) -> Size | None:
    sides = [finite(root.findtext(f"size/{key}") or 0, place, key) for key in ("width", "height")]
    return (int(sides[0]), int(sides[1])) if min(sides) >= 1 else None
