"""TrainState <-> bytes: a Darknet weights file with an ordinary ZIP archive behind it. No I/O.

The format is written down in docs/checkpoint-format.md. The archive's entries are stored, its
offsets count from the start of the file, its comment holds XXH3-128 of every byte before the
32 digits of that digest. Nothing in it runs code when read.

A file is made as a list of parts that share the memory of the state's arrays: nothing of the
size of a network is copied on the way to the disk. What is read is taken only if writing it
again gives the same bytes: so the file holds nothing else, and nothing twice.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import xxhash
from zlib_ng import zlib_ng

from relume.checkpoint.archive import Malformed, Seal, directory, local_header
from relume.checkpoint.contents import (
    COMMENT,
    DARKNET,
    DIGEST_BYTES,
    MANIFEST,
    Parts,
    as_json,
    entries_of,
    manifest_of,
)
from relume.checkpoint.disk import Buffer
from relume.checkpoint.state import TrainState
from relume.checkpoint.stored import (
    PIECE_BYTES,
    Stored,
    cfg_of,
    damaged_part,
    digest_of,
    opened,
    reading,
    reading_from,
)
from relume.checkpoint.tensors import bytes_of
from relume.errors import CfgError, CheckpointError, Damaged, WeightsError
from relume.formats.weights import RELUME_REVISION, format_header, layout, parse_header

PLAIN_REVISION = 5


def pack(state: TrainState) -> bytes:
    """Return the checkpoint file of `state`; equal states give equal bytes."""
    return b"".join(packed_parts(state))


def packed_parts(state: TrainState) -> list[Buffer]:
    """Return the checkpoint file of `state` in parts; arrays are shared, not copied."""
    contents = contents_of(state, state.digest())
    parts, _ = file_parts(contents, seals_of(contents))
    return [*parts, digest_of(*parts).encode()]


@dataclass(frozen=True)
class Contents:
    """What stands in a checkpoint file, but for what is computed from these very bytes."""

    manifest: Mapping[str, Any]
    """Without the seals."""
    entries: Mapping[str, Parts]
    """The Darknet part under DARKNET, then every entry of the archive behind the manifest."""


def contents_of(state: TrainState, digest: bytes) -> Contents:
    """Return what goes into the file of a state, sharing its arrays.

    Args:
        state: what to write.
        digest: of the state.
    """
    darknet = darknet_parts(state, RELUME_REVISION)
    return Contents(manifest_of(state, digest), {DARKNET: darknet, **entries_of(state)})


def seals_of(contents: Contents) -> dict[str, Seal]:
    """Return the seals of all entries; this reads every byte twice."""
    return {name: seal(*parts, crc=name != DARKNET) for name, parts in contents.entries.items()}


def seal(*parts: Buffer, crc: bool = True) -> Seal:
    """Return the seal of an entry."""
    checksum = 0
    for part in parts if crc else ():
        checksum = zlib_ng.crc32(part, checksum)
    return Seal(sum(map(len, parts)), digest_of(*parts), checksum)


def file_parts(
    contents: Contents, seals: Mapping[str, Seal]
) -> tuple[list[Buffer], dict[str, int]]:
    """Return the file up to its digest, the Darknet part and the archive, in parts.

    Its length and the places in it do not depend on what the seals say of contents.

    Returns:
        The parts, and where in the file each entry begins.
    """
    said = {name: {"bytes": s.size_bytes, "xxh3-128": s.digest} for name, s in seals.items()}
    manifest = as_json({**contents.manifest, "darknet": said.pop(DARKNET), "entries": said})
    out, begins, listed = list(contents.entries[DARKNET]), {DARKNET: 0}, []
    at = seals[DARKNET].size_bytes
    for name, parts in [(MANIFEST, [manifest]), *list(contents.entries.items())[1:]]:
        sealed = seals.get(name) or seal(*parts)
        listed.append((name, sealed, at))
        header = local_header(name, sealed)
        begins[name] = at + len(header)
        at = begins[name] + sealed.size_bytes
        out += [header, *parts]
    end = directory(listed, at, COMMENT + b"0" * DIGEST_BYTES)
    return [*out, end[:-DIGEST_BYTES]], begins


def darknet_parts(state: TrainState, revision: int = PLAIN_REVISION) -> list[Buffer]:
    """Return the state's weights as Darknet's file, in parts; revision 5 is that of a plain one."""
    specs = layout(cfg_of(state.recipe.cfg_text))
    shapes = {name: array.shape for name, array in state.weights.items()}
    if shapes != {spec.name: spec.shape for spec in specs}:
        raise ValueError("the weights do not fit the cfg in the recipe")
    parts: list[Buffer] = [format_header(state.progress.seen, revision)]
    for spec in specs:
        parts.append(bytes_of(state.weights[spec.name]))
    return parts


def plain(state: TrainState) -> bytes:
    """Return the plain Darknet weights file of a state."""
    return b"".join(darknet_parts(state))


def plain_from(file: IO[bytes], place: object) -> bytes:
    """Return the plain weights file that a checkpoint begins with; only that much is read.

    Raises:
        Damaged: its Darknet part differs from what the manifest says of it.
        OSError: the disk does not give it.
    """
    try:
        stored = read_manifest_of(file)["darknet"]
    except Malformed as error:
        raise Damaged(place, f"cannot be read ({error})", "a checkpoint") from error
    file.seek(0)
    data = bytearray(file.read(stored["bytes"]))
    if len(data) != stored["bytes"] or digest_of(memoryview(data)) != stored["xxh3-128"]:
        raise Damaged(place, "damaged in the Darknet part", "an intact file")
    header = parse_header(data, str(place))
    data[: header.size_bytes] = format_header(header.seen, PLAIN_REVISION)
    return bytes(data)


def unpack(data: Buffer, place: object) -> TrainState:
    """Return the state in a checkpoint file, after all of its bytes have been verified.

    Raises:
        Damaged: a byte is missing or differs, and the message says in which part; or the bytes
            are as they were written, and are no state that training leaves.
        CheckpointError: a later version of relume has written it.
    """
    view = memoryview(data)
    _check_end(view, place)
    try:
        stored = Stored(view)
    except (Malformed, CfgError) as error:
        verify(data, place)
        raise refused(error, place) from error
    _check_digest(view, stored.digest, place)
    try:
        state, digest = stored.state(place)
        parts, _ = file_parts(contents_of(state, digest), stored.seals)
        if not _are_the_bytes(parts, view[:-DIGEST_BYTES]):
            raise Malformed("another form than that in which relume writes it")
        return state
    except (Malformed, ValueError, WeightsError) as error:
        raise refused(error, place) from error


def refused(error: Exception, place: object) -> CheckpointError:
    """Return what to raise of a file whose bytes are right, and whose contents are not."""
    if isinstance(error, Malformed) and error.is_newer:
        return CheckpointError(
            place,
            f"was written by a later version of relume ({error})",
            "that version",
            "install it, or move the file away to go on without it",
        )
    return Damaged(
        place,
        f"the digest is right but the contents cannot be read ({error})",
        "a checkpoint that this version of relume can read",
    )


def verify(data: Buffer, place: object) -> None:
    """Raise Damaged unless every byte of the checkpoint is as it was written."""
    view = memoryview(data)
    _check_end(view, place)
    _check_digest(view, xxhash.xxh3_128_hexdigest(view[:-DIGEST_BYTES]), place)


def _check_end(view: memoryview, place: object) -> None:
    if view[-DIGEST_BYTES - len(COMMENT) : -DIGEST_BYTES] != COMMENT:
        raise Damaged(
            place,
            f"the end of the checkpoint is missing or damaged ({len(view):,} bytes)",
            "a whole checkpoint",
        )


def _check_digest(view: memoryview, digest: str, place: object) -> None:
    if view[-DIGEST_BYTES:] != digest.encode():
        part = damaged_part(view)
        raise Damaged(place, f"contents do not match their digest ({part})", "an intact file")


def holds_state(data: Buffer, place: object) -> bool:
    """Tell whether a weights file claims to be a checkpoint: by its revision, or by its end."""
    tail = bytes(data[-DIGEST_BYTES - len(COMMENT) : -DIGEST_BYTES])
    return tail == COMMENT or parse_header(data, str(place)).revision == RELUME_REVISION


def read_manifest(data: Buffer) -> dict[str, Any]:
    """Return the manifest of a verified checkpoint.

    Raises:
        Malformed: it is none.
    """
    return opened(reading(memoryview(data)), len(data))[0]


def read_manifest_of(file: IO[bytes]) -> dict[str, Any]:
    """Return the manifest of a checkpoint without reading, or verifying, the rest of the file.

    Raises:
        Malformed: the file does not end like a checkpoint, or its manifest is none,
            or does not have the lengths that the file has.
        OSError: the disk does not give it.
    """
    return opened(reading_from(file), file.seek(0, os.SEEK_END))[0]


def _are_the_bytes(parts: Parts, view: memoryview) -> bool:
    """Tell whether parts, one after the other, are these bytes; those that lie there are."""
    at, base = 0, _address(view)
    for part in parts:
        there = view[at : at + len(part)]
        if len(there) != len(part):
            return False
        if len(part) and _address(part) != base + at:
            for start in range(0, len(part), PIECE_BYTES):
                stop = start + PIECE_BYTES
                if bytes(part[start:stop]) != bytes(there[start:stop]):
                    return False
        at += len(part)
    return at == len(view)


def _address(part: Buffer) -> int:
    address: int = np.frombuffer(part, np.uint8).__array_interface__["data"][0]
    return address
