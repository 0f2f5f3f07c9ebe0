"""Why a path leads nowhere: what it may have been meant to be, looked for on this disk."""

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tiff")
MOST_PARTS = 40
"""Folders of a path that are looked at; more is no path."""


def explained(entry: str, folder: Path) -> tuple[str, Path | None]:
    """Return why an entry of a list may not exist, and the file that it may mean.

    Args:
        entry: as written; neither it nor its form with slashes exists.
        folder: that of the data file, from which relative paths are tried too.
    """
    bare = entry.strip().strip("'\"").replace("\\", "/")
    if bare != entry.replace("\\", "/") and (found := _first(_places(bare, folder))):
        return "has spaces or quotes around it", found
    if found := _first(_respelled(place) for place in _places(bare, folder)):
        return f"is written {found.name} there (capital letters differ)", found
    reason = "a path of Windows" if _WINDOWS.match(entry) else "not there"
    parts = [part for part in bare.split("/") if part][-MOST_PARTS:]
    for k in range(1, len(parts)):
        rest = "/".join(parts[k:])
        places = _places(rest, folder)
        if found := _first(places) or _first(_respelled(place) for place in places):
            return f"{reason}; there is {found}", found
    for place in _places(bare, folder):
        stem = place.with_suffix("") if place.name else place
        other = _first(stem.with_name(stem.name + e) for e in _ENDINGS if stem.name)
        if other:
            return f"not there; there is {other}", other
    return ("a path of Windows" if _WINDOWS.match(entry) else ""), None


def _places(text: str, folder: Path) -> list[Path]:
    return [Path(text), folder / text]


def _first(paths: "Iterator[Path | None] | list[Path]") -> Path | None:
    return next((path for path in paths if path and path.name and os.path.isfile(path)), None)


def _respelled(path: Path) -> Path | None:
    """Return the file that has this path but for capital letters."""
    here = Path(path.anchor or ".")
    for part in path.parts[bool(path.anchor) :]:
        if part not in ("..", ".") and not os.path.lexists(here / part):
            names = _names(str(here)).get(part.lower())
            if names is None:
                return None
            part = names
        here = here / part
    return here


@lru_cache(maxsize=64)
def _names(folder: str) -> dict[str, str]:
    """Return the names in a folder by their small letters."""
    try:
        return {one.name.lower(): one.name for one in sorted(Path(folder).iterdir())}
    except (OSError, ValueError):
        return {}
