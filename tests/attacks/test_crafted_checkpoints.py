"""Checkpoints with right digests and wrong facts: each is damaged, and an older good one is taken.

What is accepted must be what training writes: packing its state again gives the same bytes. The
fuzz changes one to three facts of a checkpoint (JSON, entries, tensors, the archive's structure).
"""

import json
import shutil
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relume.checkpoint import container
from relume.checkpoint.archive import END, Seal, directory, local_header
from relume.checkpoint.contents import COMMENT, MANIFEST
from relume.checkpoint.state import RECORD, TrainState
from relume.errors import CheckpointError, Damaged
from relume.kernels import recreate
from relume.screen import Screen
from tests.attacks.crafted import (
    Crafted,
    as_json,
    file_of,
    resealed,
    taken_apart,
    tensors_apart,
    tensors_together,
)
from tests.checkpoint.states import inside, tiny_state, with_adam
from tests.command_line import relume
from tests.contract.small_runs import sgd_cfg, train_until, write_run
from tests.contract.starts import contents

MOMENTUM, PARTIAL = "state/momentum.safetensors", "state/partial.safetensors"
PICTURES, RECORDS = "state/pictures.safetensors", "history/iterations.bin"
KINDS: dict[str, Callable[[TrainState], TrainState]] = {
    "sgd": lambda state: state,
    "adam": with_adam,
    "inside an iteration": lambda state: inside(state, skipped=2),
}
ORDINARY, LONG = 3_000, 100_000
"""Crafted files."""
LONGEST_S, LEAST_BYTES = 5.0, 8 << 20


def base(kind: str = "sgd") -> Crafted:
    return taken_apart(container.pack(KINDS[kind](tiny_state())))


def record(craft: Crafted, **fields: object) -> Crafted:
    """Return it with other values in its last record."""
    records = np.frombuffer(craft.entries[RECORDS], RECORD).copy()
    for name, value in fields.items():
        records[name][-1] = value
    return craft.entry(RECORDS, records.tobytes())


def header(craft: Crafted, name: str, change: Callable[[dict[str, Any]], object]) -> Crafted:
    """Return it with another header in a group of tensors."""
    old, body = tensors_apart(craft.entries[name])
    changed = change(old)
    return craft.entry(name, tensors_together(changed if changed is not None else old, body))


def environment(craft: Crafted, **values: object) -> Crafted:
    return craft.json(MANIFEST, environment={**craft.manifest["environment"], **values})


def keys(craft: Crafted, **values: object) -> Crafted:
    return craft.json("recipe/keys.json", **{k.replace("__", "."): v for k, v in values.items()})


def mark(**fields: object) -> dict[str, Any]:
    return {"iteration": 1, "kind": "change", "text": "x", **fields}


def overlapping(old: dict[str, Any]) -> None:
    first, second, *_ = old.values()
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    second["data_offsets"] = first["data_offsets"]


def huge_and_empty() -> dict[str, Any]:
    return {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}


def adam_group() -> bytes:
    return base("adam").entries["state/adam_m.safetensors"]


CRAFTS: dict[str, Callable[[Crafted], Crafted]] = {
    "seen of 2^63": lambda c: c.seen(2**63),
    "seen of 2^64": lambda c: c.seen(2**64),
    "a negative seen": lambda c: c.json("progress.json", seen=-6),
    "a text for seen": lambda c: c.json("progress.json", seen="6"),
    "true for seen": lambda c: c.json("progress.json", seen=True),
    "seen of another iteration": lambda c: c.seen(8),
    "NaN in the average loss": lambda c: c.json("progress.json", average_loss=float("nan")),
    "infinity in the average loss": lambda c: c.json("progress.json", average_loss=1e39),
    "an average loss that is no float32": lambda c: c.json("progress.json", average_loss=0.1),
    "no average loss": lambda c: c.json("progress.json", average_loss=None),
    "a whole number for the average": lambda c: c.json("progress.json", average_loss=1),
    "a field too many": lambda c: c.json("progress.json", moon=1),
    "a list for the counters": lambda c: c.entry("progress.json", b"[1,2]"),
    "skipped pictures beyond the list": lambda c: c.json("progress.json", skipped=[3]),
    "skipped pictures that fall": lambda c: c.json("progress.json", skipped=[1, 0]),
    "a text in the skipped": lambda c: c.json("progress.json", skipped=["0"]),
    "another iteration": lambda c: c.json(MANIFEST, iteration=4),
    "a text for the iteration": lambda c: c.json(MANIFEST, iteration="3"),
    "an iteration without end": lambda c: c.json(MANIFEST, iteration=10**30),
    "a start of 2^62": lambda c: c.json("history/marks.json", start=2**62),
    "a start before the first": lambda c: c.json("history/marks.json", start=-1),
    "a start that contradicts": lambda c: c.json("history/marks.json", start=2),
    "a mark after the end": lambda c: c.json("history/marks.json", marks=[mark(iteration=9)]),
    "a mark of no kind": lambda c: c.json("history/marks.json", marks=[mark(kind="moon")]),
    "a mark without text": lambda c: c.json("history/marks.json", marks=[mark(text=1)]),
    "a list for marks": lambda c: c.entry("history/marks.json", b"[]"),
    "a record too few": lambda c: c.entry(RECORDS, c.entries[RECORDS][:-48]),
    "half a record": lambda c: c.entry(RECORDS, c.entries[RECORDS][:-8]),
    "NaN in a loss": lambda c: record(c, loss=np.nan),
    "an input without pixels": lambda c: record(c, width=0),
    "seen of a record": lambda c: record(c, seen=9),
    "an evaluation and no count": lambda c: c.entry("history/evaluations.bin", bytes(24)),
    "a course that is none": lambda c: c.json(MANIFEST, course="c0"),
    "a number for the course": lambda c: c.json(MANIFEST, course=7),
    "another recipe digest": lambda c: c.json(MANIFEST, recipe="0" * 32),
    "another state digest": lambda c: c.json(MANIFEST, state="0" * 32),
    "a list for the environment": lambda c: c.json(MANIFEST, environment=[]),
    "a NUL in the kernels": lambda c: environment(c, kernels="AVX2 MKL_CBWR=\0"),
    "a list for the kernels": lambda c: environment(c, kernels=["AVX2"]),
    "threads that are no number": lambda c: environment(c, threads="x"),
    "no thread": lambda c: environment(c, threads="0"),
    "no format": lambda c: c.json(MANIFEST, format=...),
    "format 0": lambda c: c.json(MANIFEST, format=0),
    "a text for the format": lambda c: c.json(MANIFEST, format="1"),
    "subdivisions of none": lambda c: c.json(MANIFEST, subdivision=1),
    "a seed that is no number": lambda c: keys(c, seed="x"),
    "a number for the seed": lambda c: keys(c, seed=1),
    "a batch that contradicts": lambda c: keys(c, net__batch="64"),
    "no start": lambda c: keys(c, start=...),
    "a start that is none": lambda c: keys(c, start="moon"),
    "half a character in a key": lambda c: keys(c, moon="\ud800"),
    "a list for the keys": lambda c: c.entry("recipe/keys.json", b"[]"),
    "numbers for names": lambda c: c.entry("recipe/names.json", b"[1]"),
    "a text for names": lambda c: c.entry("recipe/names.json", b'"cell"'),
    "a cfg of another net": lambda c: c.entry(
        "recipe/cfg", c.entries["recipe/cfg"].replace(b"filters=4", b"filters=5")
    ),
    "a cfg without a batch": lambda c: c.entry(
        "recipe/cfg", c.entries["recipe/cfg"].replace(b"batch=2", b"batch=0")
    ),
    "labels of more pictures": lambda c: c.entry("recipe/labels.bin", bytes(32)),
    "no momentum": lambda c: c.without(MOMENTUM),
    "no pictures": lambda c: c.without(PICTURES),
    "a group too many": lambda c: c.entry("state/ema.safetensors", c.entries[MOMENTUM]),
    "Adam's group for SGD": lambda c: c.without(MOMENTUM).entry(
        "state/adam_m.safetensors", adam_group()
    ),
    "an entry too many": lambda c: c.entry("state/notes.txt", b"x"),
    "overlapping tensors": lambda c: header(c, MOMENTUM, overlapping),
    "a tensor of another shape": lambda c: header(
        c,
        MOMENTUM,
        lambda old: {k: {**v, "shape": [1, *v["shape"]]} for k, v in old.items()},
    ),
    "an empty tensor of a huge shape": lambda c: header(
        c, MOMENTUM, lambda old: {"x": huge_and_empty(), **old}
    ),
    "a header of tensors that is none": lambda c: c.entry(MOMENTUM, b"\xff" * 40),
    "JSON that is nested deeply": lambda c: c.entry("progress.json", b"[" * 100_000),
    "a number without end": lambda c: c.entry("progress.json", b"1" * 100_000),
    "JSON in another encoding": lambda c: c.entry(
        "progress.json", c.entries["progress.json"].decode().encode("utf-16")
    ),
    "a key twice": lambda c: c.entry("progress.json", b'{"average_loss":0.125,"seen":6,"seen":6}'),
    "spaces in JSON": lambda c: c.entry("progress.json", b'{"average_loss":0.125, "seen":6}'),
    "JSON of 20 MB": lambda c: c.entry("recipe/names.json", b'["' + b"x" * (20 << 20) + b'"]'),
    "a manifest of 2 MB": lambda c: environment(c, moon="x" * (2 << 20)),
}


@pytest.mark.parametrize("what", CRAFTS)
def test_a_wrong_fact_under_right_digests_is_damage(what: str) -> None:
    data = CRAFTS[what](base()).built()
    assert data != container.pack(tiny_state())

    with pytest.raises(Damaged, match=r"^net_last\.weights: .*") as caught:
        container.unpack(data, "net_last.weights")
    assert len(str(caught.value)) < 1000


OF_PARTIAL: dict[str, Callable[[dict[str, Any]], object]] = {
    "an array is missing": lambda old: {k: v for k, v in old.items() if "gradient/2-1/" not in k},
    "a name has changed": lambda old: {k.replace("0-2", "0-4"): v for k, v in old.items()},
    "unsigned rows": lambda old: old["rows"].update(dtype="U64"),
}


@pytest.mark.parametrize("what", OF_PARTIAL)
def test_the_group_of_an_iteration_that_has_begun_is_as_its_subdivisions_are(what: str) -> None:
    craft = header(base("inside an iteration"), PARTIAL, OF_PARTIAL[what])

    with pytest.raises(Damaged):
        container.unpack(craft.built(), "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", [0, 1, 99]),
        ("rows", [0, 1, -1]),
        ("subdivisions", [0]),
        ("subdivisions", [4]),
        ("skipped_rows", [1, 1]),
    ],
)
def test_rows_and_subdivisions_that_there_are_not_are_damage(name: str, value: list[int]) -> None:
    state = inside(tiny_state(), skipped=2)
    arrays = dict(state.groups["partial"])
    arrays[name] = np.array(value, arrays[name].dtype)
    crafted = container.pack(replace(state, groups={**state.groups, "partial": arrays}))

    with pytest.raises(Damaged):
        container.unpack(crafted, "x")


def listed(craft: Crafted) -> list[tuple[str, bytes]]:
    data = craft.built()
    manifest = taken_apart(data).manifest
    return [(MANIFEST, as_json(manifest)), *craft.entries.items()]


def compressed(craft: Crafted) -> bytes:
    """Return a file whose manifest is compressed: 64 MiB of spaces before it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    text = as_json(craft.manifest)
    body = packer.compress(b" " * (64 << 20)) + packer.compress(text) + packer.flush()
    seal = Seal(len(body))
    out = craft.darknet + local_header(MANIFEST, seal) + body
    end = bytearray(
        directory([(MANIFEST, seal, len(craft.darknet))], len(out), COMMENT + b"0" * 32)
    )
    struct.pack_into("<H", end, 10, 8)
    struct.pack_into("<L", end, 24, (64 << 20) + len(text))
    return resealed(out + bytes(end))


def end_alone(before_bytes: int) -> bytes:
    """Return a short file whose end refers to an end of 64 bits, for which there is no room."""
    end = END.pack(b"PK\5\6", 0, 0, 0, 0, 0, 0xFFFFFFFF, 50)
    return resealed(bytes(before_bytes) + end + COMMENT + b"0" * 32)


STRUCTURES: dict[str, Callable[[Crafted], bytes]] = {
    "an entry twice": lambda c: file_of(c.darknet, [*listed(c), ("recipe/cfg", b"[net]")]),
    "entries in another order": lambda c: file_of(c.darknet, [listed(c)[0], *listed(c)[:0:-1]]),
    "a manifest at the end": lambda c: file_of(c.darknet, [*listed(c)[1:], listed(c)[0]]),
    "bytes between entries": lambda c: file_of(c.darknet, listed(c), between=b"x"),
    "bytes after the Darknet part": lambda c: file_of(c.darknet + b"x", listed(c)),
    "a compressed manifest": compressed,
    "local headers that differ": lambda c: resealed(
        c.built().replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\0\x08", 2)
    ),
    "another date": lambda c: resealed(c.built().replace(b"\0\0\x21\0", b"\0\0\x22\0")),
    "wrong lengths in the manifest": lambda c: c.json(
        MANIFEST, darknet={"bytes": 2**62, "xxh3-128": "0" * 32}, entries={}
    ).built(sealed=False),
    "no entry": lambda c: file_of(c.darknet, []),
    "nothing but the end": lambda c: resealed(COMMENT + b"0" * 32),
    "no room for an end of 64 bits": lambda c: end_alone(28),
}


@pytest.mark.parametrize("what", STRUCTURES)
def test_another_structure_under_right_digests_is_damage(what: str) -> None:
    data = STRUCTURES[what](base())

    tracemalloc.start()
    try:
        with pytest.raises(Damaged):
            container.unpack(data, "x")
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + LEAST_BYTES
    finally:
        tracemalloc.stop()


HOSTILE: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**63, 2**64, 10**40, 0.5, 1e308, -0.0),
    *(float("nan"), float("inf"), "", "0", "\0", "x" * 300, "\ud800", "..", "é", "weights"),
    *([], [0], [[]], {}, {"": 0}, [1, 0], ["x"], [None], {"bytes": 3}, "0" * 32, "random"),
)


class Fuzz:
    """A checkpoint in which some facts have been changed, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.draws = np.random.Generator(np.random.Philox(seed))

    def pick(self, choices: Iterable[Any]) -> Any:
        choices = list(choices)
        return choices[self.draws.integers(len(choices))]

    def of_json(self, value: Any) -> Any:
        """Change one place in a JSON value: put in, take out, replace."""
        if isinstance(value, (dict, list)) and value and self.draws.random() < 0.85:
            places = list(value) if isinstance(value, dict) else list(range(len(value)))
            place = self.pick(places)
            changed: Any = value.copy()
            kind = self.draws.integers(8)
            if kind == 0:
                del changed[place]
            elif kind == 1 and isinstance(changed, list):
                changed.insert(place, self.pick(HOSTILE))
            elif kind == 1:
                changed[self.pick(["moon", "", "seen", "\0", "0"])] = self.pick(HOSTILE)
            else:
                changed[place] = self.of_json(value[place])
            return changed
        if type(value) is int and self.draws.random() < 0.6:
            return value + int(self.pick([-1, 1, 2, -8, 48, 2**32]))
        return self.pick(HOSTILE)

    def of_bytes(self, data: bytes) -> bytes:
        """Change, cut, double or put in some bytes."""
        at, kind = int(self.draws.integers(len(data) + 1)), self.draws.integers(6)
        width = int(self.draws.choice([1, 4, 8, 24, 48]))
        some = bytes(self.draws.integers(0, 256, width, np.uint8))
        if kind < 3:
            return data[:at] + some[: len(data) - at] + data[at + width :]
        return (data[:at], data[:at] + some + data[at:], data[:at] + data[at + width :])[kind - 3]

    def craft(self, craft: Crafted) -> Crafted:
        """Change one fact."""
        name = str(self.pick([MANIFEST, *craft.entries, "darknet", MANIFEST]))
        if name == "darknet":
            return replace(craft, darknet=self.of_bytes(craft.darknet))
        if name == MANIFEST:
            changed = self.of_json(craft.manifest)
            return replace(craft, manifest=changed if isinstance(changed, dict) else {})
        data, kind = craft.entries[name], self.draws.integers(10)
        if kind == 0:
            return craft.without(name)
        if kind == 1:
            return craft.entry(str(self.pick([*craft.entries, "state/x.safetensors", "x"])), data)
        if name.endswith(".json") and kind < 8:
            try:
                return craft.entry(name, as_json(self.of_json(json.loads(data))))
            except (ValueError, RecursionError):
                return craft
        if name.endswith(".safetensors") and kind < 6:
            try:
                old, body = tensors_apart(data)
                return craft.entry(name, tensors_together(self.of_json(old), body))
            except (ValueError, struct.error):
                return craft
        return craft.entry(name, self.of_bytes(data))

    def file(self, craft: Crafted) -> bytes:
        """Return a file with one to three changed facts."""
        for _ in range(self.draws.integers(1, 4)):
            craft = self.craft(craft)
        try:
            data = craft.built(sealed=self.draws.random() < 0.9)
        except (TypeError, AttributeError, UnicodeError, struct.error):  # no such file can be made
            return b""
        if self.draws.random() < 0.3:
            end = len(data) - 82 - int(self.draws.integers(700))
            at = int(self.draws.integers(max(0, end), len(data) - 50))
            width = int(self.draws.choice([1, 2, 4]))
            value = int(self.pick([0, 1, 255, 2**31, 2**32 - 1, len(data)]))
            data = data[:at] + value.to_bytes(8, "little")[:width] + data[at + width :]
        return resealed(data)


def crafted_files(seed: int) -> Iterator[bytes]:
    bases = [base(kind) for kind in KINDS]
    for number in count():
        if data := Fuzz(seed * 1_000_003 + number).file(bases[number % len(bases)]):
            yield data


def check_answers(files: Iterator[bytes], number: int) -> int:
    """Give files to the reader; return how many it has accepted."""
    accepted = 0
    for done, data in enumerate(files):
        if done == number:
            break
        traced = done % 25 == 0
        if traced:
            tracemalloc.start()
        began_s = time.process_time()
        with suppress(CheckpointError):
            state = container.unpack(data, "x")
            assert container.pack(state) == data
            accepted += 1
        assert time.process_time() - began_s < LONGEST_S
        if traced:
            assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + LEAST_BYTES
            tracemalloc.stop()
    return accepted


def test_whatever_is_accepted_is_what_packing_it_gives() -> None:
    accepted = check_answers(crafted_files(1), ORDINARY)

    assert 0 < accepted < ORDINARY / 4  # some values may be any: weights, names, texts


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 6))
def test_whatever_is_accepted_is_what_packing_it_gives_at_length(seed: int) -> None:
    check_answers(crafted_files(seed), LONG // 4)


# By the command line.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five iterations, stopped after the third, with two generations."""
    folder = write_run(
        tmp_path_factory.mktemp("run"), sgd_cfg(max_batches=5, batch=4, subdivisions=2)
    )
    data = folder / "obj.data"
    data.write_text(data.read_text() + "savelast = 1\n")
    train_until(folder, 3)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    monkeypatch.chdir(folder)
    return folder


LAST = Path("backup/net_last.weights")
BY_COMMAND = (
    *("seen of 2^63", "NaN in the average loss", "no momentum", "threads that are no number"),
    *("a mark after the end", "numbers for names", "overlapping tensors"),
    *("JSON that is nested deeply", "a list for marks", "half a record"),
)
IN_THE_MANIFEST = (
    *("a NUL in the kernels", "a list for the environment", "a text for the iteration"),
    "a course that is none",
)
"""Without a manifest, `strip` does not know where the weights end."""


@pytest.mark.parametrize(
    ("what", "strip_status"),
    [*((what, 0) for what in BY_COMMAND), *((what, 2) for what in IN_THE_MANIFEST)],
)
def test_a_crafted_newest_checkpoint_is_damaged_to_every_command(
    run: Path, what: str, strip_status: int
) -> None:
    crafted = CRAFTS[what](taken_apart(LAST.read_bytes())).built()
    LAST.write_bytes(crafted)
    before = contents(run)

    for words in (
        ("inspect", LAST),
        ("average", "net.cfg", "out.weights", LAST),
        ("partial", "net.cfg", LAST, "out.weights", 3),
        ("statistics", "net.cfg", LAST),
        ("detector", "test", "obj.data", "net.cfg", LAST, "img/0001.png"),
    ):
        ended = relume(*words)
        assert (ended.status, words) == (2, words), ended.err
        assert str(LAST) in ended.error

    stripped = relume("strip", LAST, "out.weights")  # saves what is intact of a damaged file
    assert stripped.status == strip_status, stripped.err
    assert stripped.status == 0 or str(LAST) in stripped.error
    Path("out.weights").unlink(missing_ok=True)

    verified = relume("verify", "backup")
    assert verified.status == 1
    assert "damaged   backup/net_last.weights" in verified.out
    assert "a start of 'net' takes backup/net.backup (iteration 2)" in verified.out
    assert contents(run) == before


@pytest.mark.parametrize("what", ["seen of 2^63", "no momentum", "a NUL in the kernels"])
def test_a_start_goes_on_from_the_good_one_beside_a_crafted_one(run: Path, what: str) -> None:
    crafted = CRAFTS[what](taken_apart(LAST.read_bytes())).built()
    LAST.write_bytes(crafted)

    ended = relume("detector", "train", "obj.data", "net.cfg", "-dont_show", "-workers", 0)

    assert ended.status == 0, ended.err
    assert "the newest good checkpoint is backup/net.backup" in ended.err
    assert "goes on from backup/net.backup (iteration 2)" in ended.err
    (aside,) = Path("backup/net.aside").rglob("net_last.weights")
    assert aside.read_bytes() == crafted


@pytest.mark.parametrize("before_bytes", [28, 75])
def test_a_short_file_that_claims_a_large_archive_is_damaged(run: Path, before_bytes: int) -> None:
    LAST.write_bytes(end_alone(before_bytes))

    inspected = relume("inspect", LAST)
    verified = relume("verify", "backup")
    ended = relume("detector", "train", "obj.data", "net.cfg", "-dont_show", "-workers", 0)

    assert inspected.status == 2, inspected.err
    assert inspected.error.startswith(f"{LAST}: ")
    assert verified.status == 1, verified.err
    assert "damaged   backup/net_last.weights" in verified.out
    assert ended.status == 0, ended.err
    assert "goes on from backup/net.backup (iteration 2)" in ended.err


def test_the_kernels_of_a_crafted_checkpoint_end_no_process(run: Path) -> None:
    """They are read before anything is verified, and before libraries are loaded."""
    for what in ("a NUL in the kernels", "a list for the kernels", "a text for the iteration"):
        LAST.write_bytes(CRAFTS[what](taken_apart(container.pack(tiny_state()))).built())
        (run / "backup" / "net.backup").unlink(missing_ok=True)
        recreate(["obj.data", "net.cfg"], {}, Screen())
