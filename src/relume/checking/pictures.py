"""Picture files: read, decoded once, and what of them would stop or spoil a run.

What is found is a matter of a file's bytes, so it is kept by their digest (known.py).
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
from xxhash import xxh3_64_intdigest

from relume.checking.findings import Finding, Verdict
from relume.checking.lists import whole_name
from relume.checking.picture_forms import FORMS_OF_ENDINGS, form_of
from relume.data.decoding import checked_cost
from relume.data.image import decode_picture, stored_depth
from relume.data.loaders import Loaders, Task, available_processors
from relume.errors import RelumeError, TooLarge
from relume.formats.picture_cost import MAX_PIXELS
from relume.formats.places import LARGEST_BYTES, RemoteFile, open_regular, read_file, read_rest

ERROR, WARNING, NOTE = Verdict
AT_ONCE = 64
"""Pictures under way while one is waited for."""
TINY_PX = 16


@dataclass(frozen=True)
class Facts:
    """What the bytes of a picture file are."""

    digest: int
    """XXH3-64 of the bytes."""
    size_bytes: int
    width: int = 0
    """Upright, as training sees it; 0: it cannot be decoded."""
    height: int = 0
    form: str = ""
    channels: int = 0
    bits: int = 8
    orientation: int = 1
    is_whole: bool = True

    @property
    def is_bad(self) -> bool:
        """Tell whether it cannot be decoded."""
        return self.width == 0


@dataclass(frozen=True)
class Looked:
    """A picture that was looked at."""

    path: Path
    place: str
    facts: Facts | None
    """None: the file cannot be read."""
    trouble: str = ""
    """Why not."""
    is_too_large: bool = False
    file_bytes: int = 0
    modified_ns: int = 0
    """Of the file when it was read; 0 on an object store."""


Known = Callable[[int], Facts | None]
"""What is known of the bytes of a digest."""


def look_at(path: Path, place: str, channels: int, max_pixels: int, known: Known) -> Looked:
    """Read a picture, and decode it unless its bytes are known.

    Raises:
        Unavailable: memory is short; nothing is known of the picture then.
    """
    size_bytes = modified_ns = 0
    try:
        if isinstance(path, RemoteFile):
            content = read_file(path)
        else:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                content = read_rest(file, LARGEST_BYTES)
            size_bytes, modified_ns = status.st_size, status.st_mtime_ns
    except (OSError, ValueError) as error:
        return Looked(path, place, None, getattr(error, "strerror", None) or str(error))
    except RelumeError as error:  # there is no way to its store
        return Looked(path, place, None, error.found)
    try:
        checked_cost(content, place, "", max_pixels)
        facts = known(xxh3_64_intdigest(content)) or facts_of(content, channels, max_pixels)
    except TooLarge as error:
        return Looked(path, place, None, f"{error.found}; {error.needed}", is_too_large=True)
    return Looked(path, place, facts, "", False, size_bytes, modified_ns)


def facts_of(content: bytes, channels: int, max_pixels: int = MAX_PIXELS) -> Facts:
    """Return what bytes are.

    Args:
        content: of the file.
        channels: of the net, 1 or 3.
        max_pixels: that the picture may have.
    Raises:
        TooLarge: it has more.
        Unavailable: memory is short.
    """
    form = form_of(content)
    facts = Facts(
        digest=xxh3_64_intdigest(content),
        size_bytes=len(content),
        form=form.name,
        channels=form.channels,
        bits=form.bits,
        orientation=form.orientation,
        is_whole=form.is_whole,
    )
    pixels = decode_picture(content, channels, max_pixels=max_pixels)
    if pixels is None:
        return facts
    facts = replace(facts, width=pixels.shape[1], height=pixels.shape[0])
    del pixels  # before it is decoded again
    if form.channels == 0 and (stored := stored_depth(content)) is not None:
        facts = replace(facts, channels=min(stored[0], 3), bits=stored[1])
    return facts


def look_at_all(
    paths: Sequence[Path],
    places: Sequence[str],
    channels: int,
    max_pixels: int,
    known: Known,
    at: Callable[[int], None],
) -> Iterator[Looked]:
    """Yield every picture looked at, in order; threads work ahead.

    Args:
        paths: of the pictures.
        places: where each is listed.
        channels: of the net.
        max_pixels: that a picture may have.
        known: what need not be decoded again.
        at: told how many are done.
    """
    loaders = Loaders(available_processors())
    under_way: deque[Task[Looked]] = deque()
    rest = iter(zip(paths, places, strict=True))
    done = 0
    try:
        while True:
            while len(under_way) < AT_ONCE and (item := next(rest, None)):
                under_way.append(
                    loaders.submit(partial(look_at, *item, channels, max_pixels, known))
                )
            if not under_way:
                return
            looked = loaders.results([under_way.popleft()], lambda: False)
            done += 1
            at(done)
            yield from looked or ()
    finally:
        loaders.close()


def findings_of_picture(looked: Looked, channels: int, skips_bad: bool) -> Iterator[Finding]:
    """Yield what is to be said of one picture.

    Args:
        looked: the picture.
        channels: of the net.
        skips_bad: whether the data file says bad=skip.
    """
    place, path, facts = looked.place, str(looked.path), looked.facts
    if facts is None:
        what, remedy = "a picture cannot be read", "check the file and the disk"
        if looked.is_too_large:
            what = "a picture has more pixels than may be decoded"
            remedy = "replace it, take it off the list, or set max_pixels in the data file"
        yield Finding(ERROR, what, place, f"{path}: {looked.trouble}", remedy)
        return
    if facts.is_bad:
        verdict = WARNING if skips_bad else ERROR
        what = "a picture cannot be decoded" + ", and is skipped" * skips_bad
        cut = ", cut off or damaged" * (not facts.is_whole)
        detail = f"{path} ({facts.size_bytes:,} bytes{cut})"
        remedy = "replace it or take it off the list, or set bad=skip in the data file"
        yield Finding(verdict, what, place, detail, "" if skips_bad else remedy)
        return
    size = f"{path} ({facts.width}x{facts.height})"
    if not facts.is_whole:
        what = "a picture is cut off or damaged: what is missing is grey or smeared"
        yield Finding(WARNING, what, place, path, "replace it or take it off the list")
    if facts.orientation != 1:
        what = "a picture is turned by its EXIF data: training sets it upright"
        remedy = "see that its labels were made on the upright picture"
        yield Finding(WARNING, what, place, f"{size}, orientation {facts.orientation}", remedy)
    if min(facts.width, facts.height) < TINY_PX:
        yield Finding(WARNING, f"a picture is smaller than {TINY_PX} pixels", place, size)
    yield from _notes(looked, facts, channels)


def _notes(looked: Looked, facts: Facts, channels: int) -> Iterator[Finding]:
    place, path = looked.place, str(looked.path)
    if facts.channels == 4 and facts.form == "JPEG":
        what = "a picture is CMYK; its colours are converted without a profile"
        yield Finding(NOTE, what, place, path)
    if facts.bits > 8:
        what = "a picture has more than 8 bits per channel; 8 are kept"
        yield Finding(NOTE, what, place, f"{path} ({facts.bits} bits)")
    if channels == 3 and facts.channels == 1:
        yield Finding(NOTE, "a picture is grey, the net takes colour", place, path)
    if channels == 1 and facts.channels != 1:
        yield Finding(NOTE, "a picture is in colour, the net takes grey", place, path)
    expected = FORMS_OF_ENDINGS.get(Path(path).suffix.lower(), facts.form)
    if facts.form != expected:
        what = "a picture is of another form than its name says; it is read as what it is"
        yield Finding(NOTE, what, place, f"{path} ({facts.form or 'unknown'})")


def sizes_finding(looked: Sequence[Looked], place: str) -> Iterator[Finding]:
    """Yield how many pictures could be decoded, and how large they are."""
    good = [one.facts for one in looked if one.facts and not one.facts.is_bad]
    if good:
        small, large = (choose(good, key=lambda f: f.width * f.height) for choose in (min, max))
        detail = f"{len(good):,} of {len(looked):,} decoded, {small.width}x{small.height}"
        if (small.width, small.height) != (large.width, large.height):
            detail += f" to {large.width}x{large.height}"
        yield Finding(NOTE, "pictures", place, f"{detail} pixels")


def same_contents(train: Sequence[Looked], valid: Sequence[Looked]) -> Iterator[Finding]:
    """Yield pictures whose bytes stand in a list twice, or in both lists."""
    first: dict[int, Looked] = {}
    for looked in train:
        if looked.facts is None or looked.facts.is_bad:
            continue
        other = first.setdefault(looked.facts.digest, looked)
        if other is not looked and not _is_one_file(other, looked):
            what = "two files of 'train' hold the same picture, which counts twice"
            detail = f"{looked.path}, as {other.place} {other.path}"
            yield Finding(WARNING, what, looked.place, detail, "take one off the list")
    for looked in valid:
        same = first.get(looked.facts.digest) if looked.facts else None
        if same is not None:
            what = "a picture of 'valid' is trained on too, so no measure on it is to be trusted"
            detail = f"{looked.path}, as {same.place}"
            detail += "" if _is_one_file(same, looked) else f" {same.path}"
            remedy = "take it off one of the lists"
            yield Finding(WARNING, what, looked.place, detail, remedy)


def _is_one_file(one: Looked, other: Looked) -> bool:
    return whole_name(one.path) == whole_name(other.path)


def decoder() -> str:
    """Return the name of what decides whether a picture can be decoded."""
    return f"OpenCV {cv2.__version__}"
