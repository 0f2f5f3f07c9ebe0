"""A checkpoint file as it is stored: its manifest, its parts, and their digests. No I/O.

What is claimed by a file can be read without the rest of it. What is read of a file that has not
been verified is looked at as carefully as what has: someone may have made it.
"""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import IO, Any

import xxhash
from zlib_ng import zlib_ng

from relume.checkpoint import validation
from relume.checkpoint.archive import (
    Entry,
    Malformed,
    Read,
    Seal,
    entries_in,
    local_header,
)
from relume.checkpoint.contents import (
    COMMENT,
    DARKNET,
    DIGEST_BYTES,
    ENTRIES,
    MANIFEST,
    MOST_MANIFEST_BYTES,
    group_of_entry,
    manifest_in,
    recipe_in,
    state_of,
)
from relume.checkpoint.disk import Buffer
from relume.checkpoint.json_values import MOST_BYTES
from relume.checkpoint.state import Arrays, TrainState, digest_of_digests
from relume.checkpoint.tensors import StoredTensor, stored_tensors
from relume.formats.cfg import parse_cfg
from relume.formats.sections import Cfg
from relume.formats.weights import format_header, layout, parse_weights

PIECE_BYTES = 128 << 10
"""What is digested in several ways while the processor's cache holds it."""


def opened(read: Read, size_bytes: int) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Return the manifest, and where the entries lie; the lengths that both say are the same."""
    entries = entries_in(read, size_bytes, len(COMMENT) + DIGEST_BYTES)
    if next(iter(entries), None) != MANIFEST or not entries.keys() >= {*ENTRIES}:
        raise Malformed("the entries are not those of a checkpoint")
    begin, end = entries[MANIFEST].begin, entries[MANIFEST].end
    if end - begin > MOST_MANIFEST_BYTES:
        raise Malformed(f"a manifest of {end - begin:,} bytes")
    manifest = manifest_in(read(begin, end))
    darknet_bytes = begin - len(local_header(MANIFEST, Seal(end - begin)))
    said = {name: one["bytes"] for name, one in manifest["entries"].items()}
    found = {name: one.end - one.begin for name, one in list(entries.items())[1:]}
    if manifest["darknet"]["bytes"] != darknet_bytes or said != found:
        raise Malformed("the lengths in the manifest are not those of the file")
    return manifest, entries


def reading(view: memoryview) -> Read:
    def read(begin: int, end: int) -> bytes:
        if not 0 <= begin <= end <= len(view):
            raise Malformed("the file is too short")
        return bytes(view[begin:end])

    return read


def reading_from(file: IO[bytes]) -> Read:
    def read(begin: int, end: int) -> bytes:
        if not 0 <= begin <= end:
            raise Malformed("the file is too short")
        file.seek(begin)
        data = file.read(end - begin)
        if len(data) != end - begin:
            raise Malformed("the file is too short")
        return data

    return read


def check_claims(file: IO[bytes]) -> None:
    """See to it that a file may be as large as it is: by its manifest, and the net in its cfg.

    Raises:
        Malformed, CfgError: it may not.
        OSError: the disk does not give it.
    """
    read, size_bytes = reading_from(file), file.seek(0, os.SEEK_END)
    manifest, entries = opened(read, size_bytes)
    begin, end = entries["recipe/cfg"].begin, entries["recipe/cfg"].end
    if end - begin > MOST_BYTES:
        raise Malformed("recipe/cfg is too long")
    text = str(read(begin, end), "utf-8", "surrogateescape")
    arrays = sum(spec.size_bytes for spec in layout(cfg_of(text)))
    if manifest["darknet"]["bytes"] != len(format_header(0)) + arrays:
        raise Malformed("the Darknet part does not fit the cfg in the recipe")


class Stored:
    """The parts of a checkpoint file, digested in one pass over its bytes."""

    def __init__(self, view: memoryview) -> None:
        """Digest the file.

        Raises:
            Malformed, CfgError: it is none.
        """
        self._view = view
        self._manifest, self._entries = opened(reading(view), len(view))
        self._views = {name: view[e.begin : e.end] for name, e in self._entries.items()}
        self._recipe = recipe_in(self._views)
        self._cfg = cfg_of(self._recipe.cfg_text)
        self._tensors = {
            name: stored_tensors(self._views[name])
            for name in self._entries
            if name.startswith("state/") and group_of_entry(name)
        }
        self.seals: dict[str, Seal] = {}
        """Of the Darknet part and the entries; the manifest holds them, so not its own."""
        self._digests: dict[str, str] = {}
        self.digest = self._read_through()

    def _parts(self) -> Iterator[tuple[str | None, int, int, Sequence[tuple[str, int, int]]]]:
        """Yield the parts of the file in its order: name, begin, end and the arrays in it.

        None is the name of what lies between entries.
        """
        at = self._manifest["darknet"]["bytes"]
        arrays, end = [], len(format_header(0))
        for spec in layout(self._cfg):
            arrays.append((f"weights/{spec.name}", end, end + spec.size_bytes))
            end += spec.size_bytes
        if end != at:
            raise Malformed("the Darknet part does not fit the cfg in the recipe")
        yield DARKNET, 0, at, arrays
        for name, entry in self._entries.items():
            yield None, at, entry.begin, ()
            tensors = self._tensors.get(name, ())
            yield name, entry.begin, entry.end, [_place_of(t, name, entry) for t in tensors]
            at = entry.end
        yield None, at, len(self._view) - DIGEST_BYTES, ()

    def _read_through(self) -> str:
        """Digest every byte once; return the digest of the file."""
        whole = xxhash.xxh3_128()
        for name, begin, end, arrays in self._parts():
            part, crc = xxhash.xxh3_128(), 0
            first = arrays[0][1] if arrays else end
            for array, start, stop in ((None, begin, first), *arrays):
                hasher = xxhash.xxh3_128()
                for at in range(start, stop, PIECE_BYTES):
                    piece = self._view[at : min(at + PIECE_BYTES, stop)]
                    whole.update(piece)
                    if name is not None:
                        part.update(piece)
                    if name:
                        crc = zlib_ng.crc32(piece, crc)
                    if array is not None:
                        hasher.update(piece)
                if array is not None:
                    self._digests[array] = hasher.hexdigest()
            if name not in (None, MANIFEST):
                self.seals[name] = Seal(end - begin, part.hexdigest(), crc)
        return whole.hexdigest()

    def state(self, place: object) -> tuple[TrainState, bytes]:
        """Return the state in the file, and the digest of its arrays.

        Raises:
            Malformed, WeightsError: it holds none that training leaves.
        """
        darknet = self._view[: self._manifest["darknet"]["bytes"]]
        weights = parse_weights(darknet, self._cfg, str(place)).arrays
        groups: dict[str, Arrays] = {
            group_of_entry(name): {tensor.name: tensor.array for tensor in tensors}
            for name, tensors in self._tensors.items()
        }
        state = state_of(self._manifest, self._views, weights, groups, self._recipe)
        validation.check(state, self._cfg)
        return state, digest_of_digests({"weights": weights, **groups}, self._digests)


def _place_of(tensor: StoredTensor, entry: str, where: Entry) -> tuple[str, int, int]:
    name = f"{group_of_entry(entry)}/{tensor.name}"
    return name, where.begin + tensor.begin, where.begin + tensor.end


@lru_cache(maxsize=4)
def cfg_of(text: str) -> Cfg:
    """Return the cfg in a recipe."""
    return parse_cfg(text, "recipe/cfg", "detect")


def damaged_part(view: memoryview) -> str:
    """Name the first part of a damaged checkpoint that differs, as far as that can be told."""
    try:
        manifest, entries = opened(reading(view), len(view))
    except Malformed as error:
        return f"damaged: {error}"
    darknet = manifest["darknet"]
    if digest_of(view[: darknet["bytes"]]) != darknet["xxh3-128"]:
        return "damaged in the Darknet part"
    for name, stored in manifest["entries"].items():
        if digest_of(view[entries[name].begin : entries[name].end]) != stored["xxh3-128"]:
            return f"damaged in {name}"
    return "damaged between its parts"


def digest_of(*parts: Buffer) -> str:
    """Return XXH3-128 of parts, one behind the other."""
    hasher = xxhash.xxh3_128()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()
