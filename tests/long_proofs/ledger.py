"""What has been proven, of which source, so that an interrupted proof goes on."""

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.long_proofs.piece import Outcome, Piece

ROOT = Path(__file__).parent.parent.parent
PROVEN_FOLDERS = ("src", "tests")
LIBRARIES = ("torch", "numpy", "opencv-python-headless", "safetensors", "xxhash", "matplotlib")


def digest_of_source(seed: int) -> str:
    """Return the digest of all that a proof speaks about: code, tests, libraries, seed."""
    hasher = hashlib.sha256(f"{seed} {platform.python_version()}".encode())
    for library in LIBRARIES:
        hasher.update(f" {library} {importlib.metadata.version(library)}".encode())
    for folder in PROVEN_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                hasher.update(f"\n{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return hasher.hexdigest()[:16]


@dataclass(frozen=True)
class Entry:
    """A piece that has been proven, or has failed."""

    source: str
    part: str
    name: str
    counts: dict[str, int]
    failures: list[str]
    seconds: float


class Ledger:
    """The entries of one source, in a file that keeps those of others too."""

    def __init__(self, path: Path, source: str) -> None:
        self._path = path
        self._source = source
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [Entry(**json.loads(line)) for line in lines if line.endswith("}")]
        self._entries = {(e.part, e.name): e for e in entries if e.source == source}

    def add(self, piece: Piece, outcome: Outcome, seconds: float) -> Entry:
        """Write down what came out of a piece."""
        failures, counts = list(outcome.failures), dict(outcome.counts)
        entry = Entry(self._source, piece.part, piece.name, counts, failures, round(seconds, 1))
        self._entries[piece.part, piece.name] = entry
        with self._path.open("a") as file:
            # A line that a kill cut short is closed first.
            file.write("" if self._ends_well() else "\n")
            file.write(json.dumps(asdict(entry)) + "\n")
        return entry

    def _ends_well(self) -> bool:
        data = self._path.read_bytes()
        return not data or data.endswith(b"\n")

    def proven(self, piece: Piece) -> bool:
        """Tell whether this piece has been proven; a failed one is tried again."""
        entry = self._entries.get((piece.part, piece.name))
        return entry is not None and not entry.failures

    def of_part(self, part: str) -> list[Entry]:
        """Return the entries of a part, the newest of each piece."""
        return [entry for entry in self._entries.values() if entry.part == part]
