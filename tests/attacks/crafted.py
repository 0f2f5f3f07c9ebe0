"""Checkpoints that nobody's training has left: any contents, with digests that are right."""

import json
import struct
from dataclasses import dataclass, replace
from typing import Any

import xxhash
from zlib_ng import zlib_ng

from relume.checkpoint.archive import Seal, directory, entries_in, local_header
from relume.checkpoint.contents import COMMENT, DIGEST_BYTES, MANIFEST
from relume.formats.weights import format_header

END_BYTES = len(COMMENT) + DIGEST_BYTES


@dataclass(frozen=True)
class Crafted:
    """A checkpoint in its parts; `built` puts them together with right digests."""

    darknet: bytes
    manifest: dict[str, Any]
    entries: dict[str, bytes]
    """In the order of the file, without the manifest."""

    def entry(self, name: str, data: bytes) -> "Crafted":
        """Return it with another entry, or with one more."""
        return replace(self, entries={**self.entries, name: data})

    def without(self, name: str) -> "Crafted":
        """Return it without an entry."""
        return replace(self, entries={k: v for k, v in self.entries.items() if k != name})

    def json(self, name: str, **fields: Any) -> "Crafted":
        """Return it with other fields in the JSON of an entry; None takes one out."""
        old = self.manifest if name == MANIFEST else json.loads(self.entries[name])
        new = {k: v for k, v in {**old, **fields}.items() if v is not ...}
        return replace(self, manifest=new) if name == MANIFEST else self.entry(name, as_json(new))

    def seen(self, seen: int) -> "Crafted":
        """Return it with another count of images, in header and progress."""
        header = format_header(seen % 2**64, 0x6D6C6572)
        changed = replace(self, darknet=header + self.darknet[len(header) :])
        return changed.json("progress.json", seen=seen)

    def built(self, sealed: bool = True) -> bytes:
        """Return the file; its manifest has the digests of these parts."""
        manifest = self.manifest
        if sealed:
            seals = {name: sealed_json(data) for name, data in self.entries.items()}
            manifest = {**manifest, "darknet": sealed_json(self.darknet), "entries": seals}
        return file_of(self.darknet, [(MANIFEST, as_json(manifest)), *self.entries.items()])


def file_of(darknet: bytes, entries: list[tuple[str, bytes]], between: bytes = b"") -> bytes:
    """Return the file of these entries, which may repeat a name; the digest is right."""
    out, listed = darknet, []
    for name, data in entries:
        seal = Seal(len(data), crc=zlib_ng.crc32(data))
        listed.append((name, seal, len(out)))
        out += local_header(name, seal) + data + between
    return resealed(out + directory(listed, len(out), COMMENT + b"0" * DIGEST_BYTES))


def resealed(data: bytes) -> bytes:
    """Return a file with the digest of its bytes at its end."""
    body = data[:-DIGEST_BYTES]
    return body + xxhash.xxh3_128_hexdigest(body).encode()


def taken_apart(data: bytes) -> Crafted:
    """Return the parts of an intact checkpoint."""
    entries = entries_in(lambda begin, end: data[begin:end], len(data), END_BYTES)
    contents = {name: data[entry.begin : entry.end] for name, entry in entries.items()}
    manifest = json.loads(contents.pop(MANIFEST))
    return Crafted(data[: manifest["darknet"]["bytes"]], manifest, contents)


def tensors_apart(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a group of tensors, and their bytes."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def tensors_together(header: object, body: bytes) -> bytes:
    """Return a group of tensors with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).replace(" ", "").encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def sealed_json(data: bytes) -> dict[str, Any]:
    """Return what a manifest says of a part."""
    return {"bytes": len(data), "xxh3-128": xxhash.xxh3_128_hexdigest(data)}


def as_json(value: Any) -> bytes:
    """Return canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
