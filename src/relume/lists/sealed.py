"""Files of the cache: each ends with the digest of all before it, and can be made again."""

import sys
from pathlib import Path

import xxhash

from relume.checkpoint import storage
from relume.checkpoint.disk import Buffer
from relume.formats.places import read_regular

DIGEST_BYTES = 32


def read_sealed(path: Path) -> bytes | None:
    """Return what a file holds; None if there is none, or it is not as it was written."""
    try:
        data = read_regular(path, sys.maxsize)
    except OSError:
        return None
    body = data[:-DIGEST_BYTES]
    return body if xxhash.xxh3_128_hexdigest(body).encode() == data[-DIGEST_BYTES:] else None


def write_sealed(path: Path, *parts: Buffer) -> None:
    """Keep the parts, one behind the other.

    Raises:
        StorageError: the folder cannot be written.
    """
    hasher = xxhash.xxh3_128()
    for part in parts:
        hasher.update(part)
    storage.write_replaceable(path, (*parts, hasher.hexdigest().encode()))
