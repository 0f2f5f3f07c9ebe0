"""What an image list is, wherever it lies: how many pictures, and a digest of its entries.

The folder that all entries have in common is left out, so a data set that was moved as a whole
is the same data set.
"""

from collections.abc import Iterable

import xxhash

from relume.formats.rows import Listed


def list_identity(entries: Listed[str]) -> str:
    """Return count and digest of an image list."""
    common: list[bytes] | None = None
    for entry in entries:
        common = common_folder(common, entry.encode("utf-8", "surrogateescape"))
    encoded = (entry.encode("utf-8", "surrogateescape") for entry in entries)
    return identity_of(encoded, len(entries), common)


def common_folder(common: list[bytes] | None, entry: bytes) -> list[bytes]:
    """Return the parts that the folder of an entry has in common with those before it, if any."""
    line = entry.replace(b"\\", b"/")
    if common is not None and (common in ([], [b""]) or line.startswith(b"/".join(common) + b"/")):
        return common
    parts = line.rpartition(b"/")[0].split(b"/")
    if common is None:
        return parts
    same = 0
    while same < min(len(parts), len(common)) and parts[same] == common[same]:
        same += 1
    return common[:same]


def identity_of(entries: Iterable[bytes], count: int, common: list[bytes] | None) -> str:
    """Return the same of entries whose common folder is known."""
    cut, hasher = len(b"/".join(common or [])), xxhash.xxh3_128()
    for entry in entries:
        hasher.update(entry.replace(b"\\", b"/")[cut:].lstrip(b"/") + b"\n")
    return f"{count} pictures {hasher.hexdigest()}"
