"""What is known of pictures from before: by the digest of their bytes, in one file that may go.

Nothing depends on it: it is made anew where it is missing, damaged, or of another decoder.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from relume.checking.lists import whole_name
from relume.checking.pictures import Facts, Looked, decoder
from relume.formats.places import RemoteFile, read_regular

FORMAT = 1
MOST_BYTES = 256 << 20
"""That are read: those of a million pictures. Parsed they take several times as much memory."""


@dataclass(frozen=True)
class KnownFile:
    """A file as it was when it was read."""

    size_bytes: int
    modified_ns: int
    digest: int


@dataclass(frozen=True)
class KnownPictures:
    """Facts by digest of the bytes, and which file had which digest."""

    facts: dict[int, Facts] = field(default_factory=dict)
    files: dict[str, KnownFile] = field(default_factory=dict)
    """By whole path."""

    def bad_among(self, paths: Sequence[Path]) -> list[int]:
        """Return which of the files, if they are as they were, cannot be decoded.

        A look at each file's size and time; its bytes are not read.
        """
        bad = {digest for digest, facts in self.facts.items() if facts.is_bad}
        suspects = {path: file for path, file in self.files.items() if file.digest in bad}
        if not suspects:
            return []
        rows = []
        for row, path in enumerate(paths):
            file = suspects.get(whole_name(path))
            if file is not None and _is_as_it_was(path, file):
                rows.append(row)
        return rows


def _is_as_it_was(path: Path, file: KnownFile) -> bool:
    if isinstance(path, RemoteFile):
        return True  # what the store says now is looked at
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (file.size_bytes, file.modified_ns)


def known_path(cache: Path, name: str) -> Path:
    """Return where a run's knowledge of its pictures lies."""
    return cache / f"{name}.pictures.json"


def read_known(path: Path, channels: int) -> KnownPictures:
    """Return what a file holds; nothing if it is missing, damaged or does not apply."""
    try:
        stored = json.loads(read_regular(path, MOST_BYTES))
        content = stored["content"]
        if stored["xxh3-128"] != _digest(content) or content["head"] != _head(channels):
            return KnownPictures()
        facts = {int(one["digest"]): Facts(**one) for one in content["facts"]}
        files = {name: KnownFile(*values) for name, values in content["files"].items()}
    except (OSError, MemoryError, ValueError, TypeError, KeyError, RecursionError):
        return KnownPictures()
    return KnownPictures(facts, files)


def format_known(looked: Iterable[Looked], channels: int) -> bytes:
    """Return the file that holds what was found of these pictures."""
    facts, files = {}, {}
    for one in looked:
        if one.facts is not None:
            facts[one.facts.digest] = asdict(one.facts)
            files[whole_name(one.path)] = [one.file_bytes, one.modified_ns, one.facts.digest]
    content = {"head": _head(channels), "facts": list(facts.values()), "files": files}
    text = json.dumps({"xxh3-128": _digest(content), "content": content}, separators=(",", ":"))
    return text.encode() + b"\n"


def _head(channels: int) -> dict[str, Any]:
    return {"format": FORMAT, "decoder": decoder(), "channels": channels}


def _digest(content: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
