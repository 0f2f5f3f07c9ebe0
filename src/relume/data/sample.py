"""One sample: the pictures that stand at a position, each augmented for itself, put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from relume.data import mixup, mosaic
from relume.data.augment import Plan, apply_to_pixels, apply_to_truths, draw_plan
from relume.data.blur import apply_blur
from relume.data.image import IMPATIENT, Pixels, ReadPicture, read_picture, whole
from relume.data.mixing import Mixing, draw_mixing
from relume.data.noise import apply_noise
from relume.data.order import rows_for
from relume.data.patience import Patience
from relume.data.reduction import reduced_plan, reduction_for
from relume.errors import ImageError, Undecodable
from relume.formats.data_files import Boxes, parse_labels
from relume.formats.picture_cost import MAX_PIXELS
from relume.formats.rows import Listed
from relume.formats.sections import Net, Yolo
from relume.lists.label_files import LabelFiles, shared_digest

MOST_BAD_TOGETHER = 1000
"""Pictures in a row that cannot be decoded: no mishap of single files any more."""


@dataclass(frozen=True)
class Source:
    """Everything a sample is made of, besides its position and the size of the net's input."""

    net: Net
    head: Yolo
    """The last [yolo], whose jitter, resize and max hold for the whole net."""
    seed: int
    image_paths: Listed[Path]
    places: Listed[str]
    """Where each image was named ("train.txt:7"), for messages."""
    labels: Sequence[Boxes] | LabelFiles
    """Per image [n, 5] float32: class, x, y, w, h relative to the picture."""
    skips_bad: bool = False
    """Whether another picture takes the place of one that cannot be decoded."""
    max_pixels: int = MAX_PIXELS
    """Of a picture; one that has more is an error."""
    with_replacement: bool = False
    """Whether every picture is drawn by itself, not once an epoch."""


@dataclass(frozen=True)
class Sample:
    """What the network sees at one position, and its truths."""

    image: Pixels
    """[height, width, C]."""
    truths: Boxes
    """[n, 5]: class, x, y, w, h relative to `image`."""
    position: int
    indices: tuple[int, ...]
    """Row in the image list of every picture it is made of."""
    digests: tuple[int, ...]
    """XXH3-64 of their files' bytes; of a long list shared with labels (lists/label_files.py)."""
    skipped: Mapping[int, int]
    """Digest by row of the pictures that could not be decoded, in whose place others stand."""


@dataclass(frozen=True)
class Part:
    """One augmented picture of a sample."""

    image: Pixels
    truths: Boxes
    size_px: tuple[int, int]
    """Width and height of the picture as it was read."""
    plan: Plan
    index: int
    digest: int
    skipped: Mapping[int, int]


def load_sample(
    source: Source, position: int, width: int, height: int, patience: Patience = IMPATIENT
) -> Sample:
    """Return the sample at `position` for a net input of width x height pixels.

    Raises:
        ImageError, Unavailable: a picture of it cannot be read or decoded.
    """
    mixing = draw_mixing(source.net, width, height, source.seed, position)
    parts = [
        _load_part(source, position, mixing, picture, (width, height), patience)
        for picture in range(mixing.pictures)
    ]
    image, truths = _put_together(source, mixing, parts, (width, height))
    return Sample(
        image=image,
        truths=truths,
        position=position,
        indices=tuple(part.index for part in parts),
        digests=tuple(part.digest for part in parts),
        skipped={row: digest for part in parts for row, digest in part.skipped.items()},
    )


def _put_together(
    source: Source, mixing: Mixing, parts: Sequence[Part], input_px: tuple[int, int]
) -> tuple[Pixels, Boxes]:
    if mixing.pictures == 1:
        return parts[0].image, parts[0].truths
    images, truths, most = [p.image for p in parts], [p.truths for p in parts], source.head.max
    if mixing.pictures == 2:
        return mixup.blend_pixels(*images), mixup.join_truths(truths, most)
    tiles = [
        mosaic.tile_of(mixing, number, part.plan, part.size_px, input_px)
        for number, part in enumerate(parts)
    ]
    joined = mosaic.join_tiles_truths(truths, tiles, input_px, source.net.mosaic_bound, most)
    return mosaic.join_pixels(images, tiles), joined


def _load_part(
    source: Source,
    position: int,
    mixing: Mixing,
    picture: int,
    input_px: tuple[int, int],
    patience: Patience,
) -> Part:
    """Return one picture of a sample, in the size of the net's input."""
    head, seed = source.head, source.seed

    @cache  # asked once while the picture is read, once when it is there
    def plan_of(width_px: int, height_px: int) -> Plan:
        plan = draw_plan(source.net, head, (width_px, height_px), input_px, seed, position, picture)
        if mixing.pictures == 4:
            return mosaic.moved_to_corner(plan, picture, seed, position)
        return plan

    def reduction_of(width_px: int, height_px: int) -> int:
        return reduction_for(plan_of(width_px, height_px), (width_px, height_px), input_px)

    index, read, boxes, digest, skipped = read_usable(
        source, position, picture, patience, reduction_of
    )
    plan = plan_of(*read.size_px)
    truths = apply_to_truths(boxes, plan, *read.size_px, *input_px, head.max)
    image = apply_to_pixels(read.pixels, reduced_plan(plan, read.size_px, read.pixels), *input_px)
    image = apply_blur(image, truths, plan.blur)
    image = apply_noise(image, plan.gaussian_noise, plan.noise)
    return Part(image, truths, read.size_px, plan, index, digest, skipped)


def read_usable(
    source: Source,
    position: int,
    picture: int,
    patience: Patience,
    reduction_of: Callable[[int, int], int] = whole,
) -> tuple[int, ReadPicture, Boxes, int, dict[int, int]]:
    """Return row, picture, boxes and digest of a picture of a sample, and those skipped for it.

    Whether a picture can be decoded is a matter of its bytes, so all of this is a function of
    (source, position, picture, the bytes of the files): the same in every thread and after
    every stop.

    Raises:
        ImageError, Unavailable: a picture cannot be read; or not decoded, and none is skipped.
    """
    skipped: dict[int, int] = {}
    size = len(source.image_paths)
    for row in rows_for(source.seed, position, size, picture, source.with_replacement):
        path, place = source.image_paths[row], source.places[row]
        try:
            read = read_picture(
                path, source.net.channels, place, patience, reduction_of, source.max_pixels
            )
            return row, read, *_with_labels(source, row, read.digest, patience), skipped
        except Undecodable as error:
            if not source.skips_bad:
                remedy = f"{error.remedy}, or set bad=skip in the data file"
                raise Undecodable(place, error.found, error.needed, remedy) from error
            _, skipped[row] = _with_labels(source, row, error.digest, patience)
        if len(skipped) == MOST_BAD_TOGETHER:
            break
    row = next(iter(skipped))
    found = f"none of the {len(skipped)} pictures tried from this one on can be decoded"
    raise ImageError(source.places[row], found, "pictures", "`relume check DATA CFG` names them")


def _with_labels(source: Source, row: int, digest: int, patience: Patience) -> tuple[Boxes, int]:
    """Return the boxes of a picture that was just read, and the digest that the state keeps."""
    if not isinstance(source.labels, LabelFiles):
        return source.labels[row], digest
    image, path, place = source.image_paths[row], source.labels.path(row), source.places[row]
    data = patience.read_if_there(path, place)
    if data is None and not image.exists():
        # Not the file is missing but the disk: its labels may be there when it comes back.
        patience.read_bytes(image, place, f"{image} ")
        data = patience.read_if_there(path, place)
    boxes = parse_labels(data, source.labels.classes, path)
    return boxes, shared_digest(digest, boxes)
