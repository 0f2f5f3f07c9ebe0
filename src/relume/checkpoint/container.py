"""TrainState <-> bytes: a Darknet weights file with an ordinary ZIP archive behind it. No I/O.

The format is written down in docs/checkpoint-format.md. The archive's entries are stored, its
offsets count from the start of the file, its comment holds XXH3-128 of every byte before the
32 digits of that digest. Nothing in it runs code when read.

A file is made as a list of parts that share the memory of the state's arrays: nothing of the
size of a network is copied on the way to the disk.
"""

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import IO, Any

import numpy as np
import xxhash
from zlib_ng import zlib_ng

from relume.checkpoint.disk import Buffer
from relume.checkpoint.evaluations import packed, unpacked
from relume.checkpoint.state import (
    RECORD,
    History,
    Mark,
    Progress,
    RecipeRecord,
    TrainState,
)
from relume.checkpoint.tensors import bytes_of, tensor_parts, tensors_in
from relume.errors import Damaged
from relume.formats.cfg import parse_cfg
from relume.formats.sections import Cfg
from relume.formats.weights import (
    RELUME_REVISION,
    format_header,
    layout,
    parse_header,
    parse_weights,
)

FORMAT = 1
COMMENT = b"relume/1 xxh3-128 "
DIGEST_BYTES = 32
MANIFEST = "manifest.json"
DARKNET = ""
"""No entry has this name."""
PLAIN_REVISION = 5
NOTHING = memoryview(b"")

Parts = Sequence[Buffer]


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


@dataclass(frozen=True)
class Seal:
    """What the file says of one of its parts."""

    size_bytes: int
    digest: str = "0" * DIGEST_BYTES
    """XXH3-128."""
    crc: int = 0
    """CRC-32, as archives have it."""


def contents_of(state: TrainState, digest: bytes) -> Contents:
    """Return what goes into the file of a state, sharing its arrays.

    Args:
        state: what to write.
        digest: of the state.
    """
    manifest = {
        "format": FORMAT,
        "iteration": state.iteration,
        "course": state.course,
        "recipe": state.recipe.digest(),
        "state": digest.hex(),
        "environment": dict(state.environment),
    }
    if state.subdivision:
        manifest["subdivision"] = state.subdivision
    if state.history.evaluations:
        manifest["evaluations"] = len(state.history.evaluations)
    darknet = darknet_parts(state, RELUME_REVISION)
    return Contents(manifest, {DARKNET: darknet, **_entries(state)})


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
    darknet, *entries = contents.entries.items()
    said = {name: {"bytes": s.size_bytes, "xxh3-128": s.digest} for name, s in seals.items()}
    manifest = [_json({**contents.manifest, "darknet": said.pop(DARKNET), "entries": said})]
    begins = {DARKNET: 0}
    out = _Parts(darknet[1])
    # The type asks for a whole file, but all that zipfile calls is what _Parts has.
    with zipfile.ZipFile(out, "w") as archive:  # type: ignore[call-overload]
        archive.comment = COMMENT + b"0" * DIGEST_BYTES
        for name, parts in [(MANIFEST, manifest), *entries]:
            info = _entry_info(name, seals.get(name) or seal(*parts))
            info.header_offset = out.tell()
            # As zipfile does it, which would compute the CRC again, and several times as slowly.
            out.write(info.FileHeader(info.file_size * 1.05 > zipfile.ZIP64_LIMIT))
            begins[name] = out.tell()
            for part in parts:
                out.write(part)
            archive.filelist.append(info)
            archive.start_dir = out.tell()
    *before, end = out.parts
    return [*before, end[:-DIGEST_BYTES]], begins


class _Parts:
    """A file in memory that only grows, and keeps what is written to it instead of copying it."""

    def __init__(self, begin: Parts) -> None:
        self.parts = list(begin)
        self._position = sum(map(len, begin))

    def write(self, part: Buffer) -> int:
        """Put a part at the end."""
        self.parts.append(part)
        self._position += len(part)
        return len(part)

    def tell(self) -> int:
        """Return where the file ends."""
        return self._position

    def seek(self, position: int) -> int:
        """Stand where zipfile wants to write next, which is the end."""
        assert position == self._position
        return position

    def flush(self) -> None:
        """Nothing waits."""


def darknet_parts(state: TrainState, revision: int = PLAIN_REVISION) -> list[Buffer]:
    """Return the state's weights as Darknet's file, in parts; revision 5 is that of a plain one."""
    specs = layout(_cfg(state.recipe.cfg_text))
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
    """
    try:
        seal = read_manifest_of(file)["darknet"]
        file.seek(0)
        data = bytearray(file.read(seal["bytes"]))
    except Exception as error:  # a damaged archive can fail in any way
        raise Damaged(place, f"cannot be read ({error})", "a checkpoint") from error
    if len(data) != seal["bytes"] or digest_of(memoryview(data)) != seal["xxh3-128"]:
        raise Damaged(place, "damaged in the Darknet part", "an intact file")
    header = parse_header(data, str(place))
    data[: header.size_bytes] = format_header(header.seen, PLAIN_REVISION)
    return bytes(data)


def unpack(data: Buffer, place: object) -> TrainState:
    """Return the state in a checkpoint file, after all of its bytes have been verified.

    Raises:
        Damaged: a byte is missing or differs; the message says in which part.
    """
    verify(data, place)
    try:
        return _read(data, place)
    except Exception as error:  # the bytes are as something wrote them: what it did has no list
        raise Damaged(
            place,
            f"the digest is right but the contents cannot be read ({error})",
            "a checkpoint that this version of relume can read",
        ) from error


def verify(data: Buffer, place: object) -> None:
    """Raise Damaged unless every byte of the checkpoint is as it was written."""
    digest = bytes(data[-DIGEST_BYTES:])
    if bytes(data[-DIGEST_BYTES - len(COMMENT) : -DIGEST_BYTES]) != COMMENT:
        raise Damaged(
            place,
            f"the end of the checkpoint is missing or damaged ({len(data):,} bytes)",
            "a whole checkpoint",
        )
    if xxhash.xxh3_128_hexdigest(memoryview(data)[:-DIGEST_BYTES]).encode() != digest:
        raise Damaged(
            place, f"contents do not match their digest ({_damaged_part(data)})", "an intact file"
        )


def holds_state(data: Buffer, place: object) -> bool:
    """Tell whether a weights file claims to be a checkpoint: by its revision, or by its end."""
    tail = bytes(data[-DIGEST_BYTES - len(COMMENT) : -DIGEST_BYTES])
    return tail == COMMENT or parse_header(data, str(place)).revision == RELUME_REVISION


def read_manifest(data: Buffer) -> dict[str, Any]:
    """Return the manifest of a verified checkpoint."""
    return read_manifest_of(io.BytesIO(data))


def read_manifest_of(file: IO[bytes]) -> dict[str, Any]:
    """Return the manifest of a checkpoint without reading, or verifying, the rest of the file."""
    with zipfile.ZipFile(file) as archive:
        manifest: dict[str, Any] = json.loads(archive.read(MANIFEST))
    return manifest


def _entries(state: TrainState) -> dict[str, Parts]:
    recipe = state.recipe
    history = state.history
    marks = {"start": history.start, "marks": [asdict(mark) for mark in history.marks]}
    entries: dict[str, Parts] = {
        "progress.json": [_json(_as_json(state.progress))],
        "history/iterations.bin": [bytes_of(history.records)],
        "history/marks.json": [_json(marks)],
        "recipe/cfg": [recipe.cfg_text.encode("utf-8", "surrogateescape")],
        "recipe/keys.json": [_json(dict(recipe.keys))],
        "recipe/names.json": [_json(list(recipe.names))],
        "recipe/labels.bin": [bytes_of(recipe.label_digests)],
    }
    if history.evaluations:  # a run without has no such entries
        entries["history/evaluations.bin"] = [packed(history.evaluations)]
        entries["history/valid.bin"] = [bytes_of(history.valid_digests)]
    for group in sorted(state.groups):
        entries[f"state/{group}.safetensors"] = tensor_parts(state.groups[group])
    return entries


def _as_json(progress: Progress) -> dict[str, Any]:
    """Return the counters; the skipped pictures only where there are any."""
    values = asdict(progress)
    return values if progress.skipped else {k: v for k, v in values.items() if k != "skipped"}


def _read(data: Buffer, place: object) -> TrainState:
    entries = _stored_entries(data)
    manifest = _parsed(entries.pop(MANIFEST))
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']}, here {FORMAT}")
    recipe = RecipeRecord(
        cfg_text=str(entries.pop("recipe/cfg"), "utf-8", "surrogateescape"),
        keys=_parsed(entries.pop("recipe/keys.json")),
        names=tuple(_parsed(entries.pop("recipe/names.json"))),
        # Copied: they outlive the tensors, and a view would keep the whole file in memory.
        label_digests=np.frombuffer(bytes(entries.pop("recipe/labels.bin")), "<u8"),
    )
    marks = _parsed(entries.pop("history/marks.json"))
    history = History(
        start=marks["start"],
        records=np.frombuffer(bytes(entries.pop("history/iterations.bin")), RECORD),
        marks=tuple(Mark(**mark) for mark in marks["marks"]),
        evaluations=unpacked(entries.pop("history/evaluations.bin", NOTHING)),
        valid_digests=np.frombuffer(entries.pop("history/valid.bin", NOTHING), "<u8"),
    )
    progress = Progress(**{"skipped": (), **_parsed(entries.pop("progress.json"))})
    progress = replace(progress, skipped=tuple(progress.skipped))
    darknet = memoryview(data)[: manifest["darknet"]["bytes"]]
    weights = parse_weights(darknet, _cfg(recipe.cfg_text), str(place))
    if weights.end != "whole" or weights.trailing:
        raise ValueError("the Darknet part does not fit the cfg in the recipe")
    return TrainState(
        weights=weights.arrays,
        groups={_group_name(name): tensors_in(view) for name, view in entries.items()},
        progress=progress,
        history=history,
        recipe=recipe,
        course=manifest["course"],
        environment=manifest["environment"],
    )


def _stored_entries(data: Buffer) -> dict[str, memoryview]:
    """Return where the entries of a verified archive stand; its digest says more than CRCs."""
    view, entries = memoryview(data), {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{info.filename} is compressed")
            lengths = struct.unpack_from("<HH", view, info.header_offset + 26)
            begin = info.header_offset + 30 + sum(lengths)
            entries[info.filename] = view[begin : begin + info.file_size]
    return entries


def _parsed(data: memoryview) -> Any:
    return json.loads(bytes(data))


@lru_cache(maxsize=4)
def _cfg(text: str) -> Cfg:
    return parse_cfg(text, "recipe/cfg", "detect")


def _group_name(entry: str) -> str:
    if not (entry.startswith("state/") and entry.endswith(".safetensors")):
        raise ValueError(f"unknown entry {entry}")
    return entry.removeprefix("state/").removesuffix(".safetensors")


def _damaged_part(data: Buffer) -> str:
    """Name the first part of a damaged checkpoint that differs, as far as that can be told."""
    try:
        manifest = read_manifest(data)
        darknet = manifest["darknet"]
        if digest_of(memoryview(data)[: darknet["bytes"]]) != darknet["xxh3-128"]:
            return "damaged in the Darknet part"
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if name := archive.testzip():
                return f"damaged in {name}"
    except Exception as error:  # a damaged archive can fail in any way; this only words a message
        return f"damaged: {error}"
    return "damaged between its parts"


def digest_of(*parts: Buffer) -> str:
    """Return XXH3-128 of parts, one behind the other."""
    hasher = xxhash.xxh3_128()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def _json(value: Mapping[str, Any] | list[str]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _entry_info(name: str, seal: Seal) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = 0o644 << 16
    info.file_size = info.compress_size = seal.size_bytes
    info.CRC = seal.crc
    return info
