"""The checkpoint file: round trip, one byte form per state, and no damage that passes."""

import io
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from relume.checkpoint import container
from relume.checkpoint.container import holds_state, pack, plain, read_manifest, unpack
from relume.checkpoint.contents import COMMENT, as_json
from relume.checkpoint.state import Array, Mark, Progress, TrainState
from relume.checkpoint.tensors import tensor_parts, tensors_in
from relume.errors import CheckpointError, Damaged
from tests.checkpoint.states import history_of, inside, tiny_cfg, tiny_state, with_adam

GOLDEN_BYTES = 5_450
GOLDEN_DIGEST = "ce6cbcdd8c571d073fb0d01fc3cce2a4"


@pytest.fixture(scope="module")
def packed() -> bytes:
    return pack(tiny_state())


def assert_same_state(one: TrainState, other: TrainState) -> None:
    assert pack(one) == pack(other)
    assert one.digest() == other.digest()
    assert one.progress == other.progress
    assert one.course == other.course
    assert one.environment == other.environment
    assert one.history.start == other.history.start
    assert one.history.marks == other.history.marks
    assert one.history.records.tobytes() == other.history.records.tobytes()
    assert one.recipe.cfg_text == other.recipe.cfg_text
    assert one.recipe.keys == other.recipe.keys
    assert one.recipe.names == other.recipe.names
    assert np.array_equal(one.recipe.label_digests, other.recipe.label_digests)


def test_a_state_comes_back_as_it_was(packed: bytes) -> None:
    assert_same_state(unpack(packed, "net_3.weights"), tiny_state())


def test_history_and_recipe_do_not_keep_the_file_in_memory(packed: bytes) -> None:
    data = bytes(bytearray(packed))
    before = sys.getrefcount(data)
    state = unpack(data, "net_3.weights")
    kept = (state.history, state.recipe, state.progress)

    assert sys.getrefcount(data) > before  # the tensors are views of it
    del state
    assert sys.getrefcount(data) == before
    assert len(kept[0].records) == 3


TENSORS = st.one_of(
    arrays.arrays(
        st.sampled_from(["<f4", ">f4", "<f8", "<u8", "<i4", "u1", "?"]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)


WITHOUT_NUL = NAMES.filter(lambda text: "\0" not in text)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([lambda state: state, with_adam, inside]),
    average=st.floats(allow_nan=False, allow_infinity=False, width=32),
    start=st.integers(0, 2**40),
    marks=st.lists(
        st.builds(Mark, st.just(4), st.sampled_from(["change", "environment"]), st.text()),
        max_size=2,
    ),
    names=st.lists(st.text(), max_size=3),
    environment=st.dictionaries(WITHOUT_NUL, WITHOUT_NUL, max_size=3),
)
def test_any_state_comes_back_as_it_was(
    kind: Callable[[TrainState], TrainState],
    average: float,
    start: int,
    marks: list[Mark],
    names: list[str],
    environment: dict[str, str],
) -> None:
    before = kind(tiny_state(4))
    batch = before.progress.seen // 4
    history = history_of(4, tuple(replace(mark, iteration=start + 4) for mark in marks), start)
    history.records["seen"] = history.records["seen"] // 2 * batch
    state = replace(
        before,
        progress=Progress(before.progress.seen + start * batch, average),
        history=history,
        recipe=replace(before.recipe, names=tuple(names)),
        environment={**before.environment, **environment, "threads": "1"},
    )

    assert_same_state(unpack(pack(state), "x"), state)


@settings(max_examples=60, deadline=None)
@given(group=st.dictionaries(NAMES, TENSORS, max_size=5))
def test_tensors_are_written_and_read_as_safetensors_does_it(group: dict[str, Array]) -> None:
    little = {name: array.astype(array.dtype.newbyteorder("<")) for name, array in group.items()}

    data = b"".join(tensor_parts(group))
    assert data == safetensors.numpy.save(little)
    loaded, ours = safetensors.numpy.load(data), tensors_in(memoryview(data))
    assert loaded.keys() == ours.keys()
    for name, array in loaded.items():
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape)
        assert ours[name].tobytes() == array.tobytes()


def test_a_checkpoint_is_made_without_copying_its_arrays() -> None:
    state = tiny_state()
    parts = [np.frombuffer(part, np.uint8) for part in container.packed_parts(state)]

    for array in (*state.weights.values(), *state.groups["momentum"].values()):
        assert any(np.shares_memory(array, part) for part in parts)


def test_the_plain_file_in_a_checkpoint_is_found_without_reading_the_rest(packed: bytes) -> None:
    assert container.plain_from(io.BytesIO(packed), "x") == plain(tiny_state())
    for place in (3, 500, 1000):
        damaged = bytearray(packed)
        damaged[place] ^= 1
        with pytest.raises(Damaged, match="damaged in the Darknet part"):
            container.plain_from(io.BytesIO(damaged), "x")
    with pytest.raises(Damaged, match="cannot be read"):
        container.plain_from(io.BytesIO(packed[:-100]), "x")


def test_equal_states_give_equal_bytes_whatever_the_order_of_their_parts(packed: bytes) -> None:
    state = tiny_state()
    recipe = replace(state.recipe, keys=dict(reversed(list(state.recipe.keys.items()))))
    turned = replace(
        state,
        weights=dict(reversed(list(state.weights.items()))),
        groups={
            name: dict(reversed(list(group.items())))
            for name, group in reversed(list(state.groups.items()))
        },
        recipe=recipe,
        environment=dict(reversed(list(state.environment.items()))),
    )

    assert pack(turned) == packed


def test_the_bytes_of_a_small_checkpoint_are_pinned() -> None:
    state = tiny_state()
    recipe = replace(state.recipe, keys={"seed": "0", "start": "random"})

    progress = replace(state.progress, average_loss=0.1)

    golden = pack(replace(state, recipe=recipe, progress=progress, course="c0"))

    # A change here is a change of the format: raise container.FORMAT, keep reading the old one.
    assert len(golden) == GOLDEN_BYTES
    assert xxhash.xxh3_128_hexdigest(golden) == GOLDEN_DIGEST


def test_the_file_begins_with_darknets_own_but_for_the_revision(packed: bytes) -> None:
    expected = plain(tiny_state())

    assert packed[:8] + expected[8:12] + packed[12 : len(expected)] == expected
    assert struct.unpack_from("<3iQ", packed) == (0, 2, 0x6D6C6572, 6)
    assert packed[len(expected) :].startswith(b"PK\3\4")


def test_the_file_is_an_ordinary_archive(packed: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        infos = archive.infolist()

        assert archive.testzip() is None
        assert [info.filename for info in infos] == [
            "manifest.json",
            "progress.json",
            "history/iterations.bin",
            "history/marks.json",
            "recipe/cfg",
            "recipe/keys.json",
            "recipe/names.json",
            "recipe/labels.bin",
            "state/momentum.safetensors",
            "state/pictures.safetensors",
        ]
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}


def test_every_entry_matches_its_digest_in_the_manifest(packed: bytes) -> None:
    manifest = read_manifest(packed)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()[1:]}

    assert manifest["entries"] == {
        name: {"bytes": len(data), "xxh3-128": xxhash.xxh3_128_hexdigest(data)}
        for name, data in parts.items()
    }
    darknet = packed[: manifest["darknet"]["bytes"]]
    assert manifest["darknet"]["xxh3-128"] == xxhash.xxh3_128_hexdigest(darknet)
    assert manifest["iteration"] == 3


def test_no_host_path_or_time_stands_in_the_file(packed: bytes) -> None:
    assert sorted(read_manifest(packed)) == [
        "course", "darknet", "entries", "environment", "format", "iteration", "recipe", "state",
    ]  # fmt: skip
    assert b"/home" not in packed
    assert b"net.cfg" not in packed


@pytest.mark.parametrize(
    ("place", "part"),
    [
        (30, "damaged in the Darknet part"),
        (b"average_loss", "damaged in progress.json"),
        (b"classes=1", "damaged in recipe/cfg"),
        (b'"format"', "damaged"),
    ],
)
def test_the_damaged_part_is_named(packed: bytes, place: int | bytes, part: str) -> None:
    data = bytearray(packed)
    data[place if isinstance(place, int) else packed.index(place)] ^= 1

    with pytest.raises(Damaged, match=f"^net_3.weights: .* digest .*{part}"):
        unpack(bytes(data), "net_3.weights")


def test_a_cut_file_is_told_by_its_length(packed: bytes) -> None:
    with pytest.raises(Damaged, match=r"the end .* is missing or damaged \(5,000 bytes\)"):
        unpack(packed[:5000], "net_3.weights")


def test_plain_weights_hold_no_state() -> None:
    assert not holds_state(plain(tiny_state()), "net.weights")


def rewritten(packed: bytes, changes: dict[str, bytes | None]) -> bytes:
    """Return the checkpoint with other entries and a digest that is right all the same."""
    length = read_manifest(packed)["darknet"]["bytes"]
    out = io.BytesIO(packed[:length])
    out.seek(length)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries.update({name: data for name, data in changes.items() if data is not None})
    with zipfile.ZipFile(out, "w") as archive:
        archive.comment = COMMENT + b"0" * 32
        for name, data in entries.items():
            if changes.get(name, data) is not None:
                archive.writestr(name, data)
    body = out.getvalue()[:-32]
    return body + xxhash.xxh3_128_hexdigest(body).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"state/momentum.safetensors": b"\xff" * 40},
        {"state/unknown.bin": b""},
        {"progress.json": b"[1, 2]"},
        {"progress.json": b'{"seen": 1, "moon": 2}'},
        {"history/iterations.bin": b"odd"},
        {"recipe/cfg": b"[net]\nwidth=1"},
        {"recipe/cfg": tiny_cfg().replace("filters=4", "filters=5").encode()},
        {"manifest.json": b"[]"},
        {"recipe/keys.json": None},
        {"history/marks.json": None},
    ],
    ids=str,
)
def test_a_right_digest_over_wrong_contents_is_an_error_of_one_line(
    packed: bytes, changes: dict[str, bytes | None]
) -> None:
    with pytest.raises(Damaged, match="the digest is right but the contents cannot be read"):
        unpack(rewritten(packed, changes), "net_3.weights")


def test_the_same_entries_written_by_another_hand_are_refused(packed: bytes) -> None:
    """Equal states have equal bytes, so what has others was made by something else."""
    with pytest.raises(Damaged, match="another form than that in which relume writes it"):
        unpack(rewritten(packed, {}), "x")


def test_a_file_of_a_later_version_is_no_damaged_one(packed: bytes) -> None:
    manifest = as_json({**read_manifest(packed), "format": 2})

    with pytest.raises(CheckpointError, match="written by a later version") as caught:
        unpack(rewritten(packed, {"manifest.json": manifest}), "x")
    assert not isinstance(caught.value, Damaged)


def test_a_state_that_does_not_fit_its_cfg_is_not_written() -> None:
    state = tiny_state()
    weights = {name: array for name, array in state.weights.items() if name != "1.scales"}

    with pytest.raises(ValueError, match=r"do not fit the cfg"):
        pack(replace(state, weights=weights))
