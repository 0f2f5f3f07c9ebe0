"""docs/checkpoint-format.md is enough to read a checkpoint: this reader knows that page only."""

import io
import json
import struct
import zipfile
from math import prod
from typing import Any

import numpy as np
import pytest
import xxhash

from relume.checkpoint.container import pack
from tests.checkpoint.states import tiny_state

Shape = tuple[int, ...]
Tensors = dict[str, tuple[str, Shape, bytes]]
DTYPES = {"F32": "<f4", "U64": "<u8"}
STATE = tiny_state()


@pytest.fixture(scope="module")
def data() -> bytes:
    return pack(STATE)


@pytest.fixture(scope="module")
def entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def tensors_of(entry: bytes) -> Tensors:
    """Read a safetensors file: uint64 length, JSON header, bytes."""
    (length,) = struct.unpack_from("<Q", entry)
    header: dict[str, Any] = json.loads(entry[8 : 8 + length])
    body = entry[8 + length :]
    return {
        name: (DTYPES[v["dtype"]], tuple(v["shape"]), body[slice(*v["data_offsets"])])
        for name, v in header.items()
    }


def darknet_tensors(data: bytes, keys: dict[str, str], channels: int = 3) -> tuple[Tensors, int]:
    """Read the Darknet part of a net of plain convolutions; return its length, too."""
    tensors: Tensors = {}
    offset = 20
    layers = sorted(int(key.split(".")[0]) for key in keys if key.endswith("convolutional.filters"))
    for layer in layers:
        kind = f"{layer}.convolutional"
        n, k = int(keys[f"{kind}.filters"]), int(keys[f"{kind}.size"])
        names = ["biases"]
        if keys[f"{kind}.batch_normalize"] == "True":
            names += ["scales", "rolling_mean", "rolling_variance"]
        shapes: dict[str, Shape] = dict.fromkeys(names, (n,)) | {"weights": (n, channels, k, k)}
        for name, shape in shapes.items():
            end = offset + 4 * prod(shape)
            tensors[f"{layer}.{name}"] = ("<f4", shape, data[offset:end])
            offset = end
        channels = n
    return tensors, offset


def test_the_comment_ends_the_file_with_the_digest_of_all_before_it(data: bytes) -> None:
    assert data[-50:-32] == b"relume/1 xxh3-128 "
    assert data[-32:].decode() == xxhash.xxh3_128_hexdigest(data[:-32])


def test_header_and_arrays_are_where_the_page_says(data: bytes, entries: dict[str, bytes]) -> None:
    manifest = json.loads(entries["manifest.json"])

    tensors, length = darknet_tensors(data, json.loads(entries["recipe/keys.json"]))

    assert struct.unpack_from("<3iQ", data) == (0, 2, 0x6D6C6572, STATE.progress.seen)
    assert length == manifest["darknet"]["bytes"]
    for name, (_, shape, content) in tensors.items():
        assert np.array_equal(np.frombuffer(content, "<f4").reshape(shape), STATE.weights[name])


def test_the_state_digest_follows_from_the_tensors(data: bytes, entries: dict[str, bytes]) -> None:
    groups = {
        name.removeprefix("state/").removesuffix(".safetensors"): tensors_of(entry)
        for name, entry in entries.items()
        if name.startswith("state/")
    }
    groups["weights"], _ = darknet_tensors(data, json.loads(entries["recipe/keys.json"]))
    hasher = xxhash.xxh3_128()
    for group in sorted(groups):
        for name, (dtype, shape, content) in sorted(groups[group].items()):
            digest = xxhash.xxh3_128_hexdigest(content)
            hasher.update(f"{group}/{name} {dtype} {shape} {digest}\n".encode())

    assert hasher.hexdigest() == json.loads(entries["manifest.json"])["state"]
    assert hasher.digest() == STATE.digest()


def test_the_recipe_digest_follows_from_keys_and_labels(entries: dict[str, bytes]) -> None:
    keys = json.loads(entries["recipe/keys.json"])
    hasher = xxhash.xxh3_128("".join(f"{key}={keys[key]}\n" for key in sorted(keys)).encode())
    hasher.update(entries["recipe/labels.bin"])

    assert hasher.hexdigest() == json.loads(entries["manifest.json"])["recipe"]


def test_a_record_of_the_history_has_the_fields_of_the_page(entries: dict[str, bytes]) -> None:
    content = entries["history/iterations.bin"]

    assert len(content) == 48 * STATE.iteration
    for number in range(STATE.iteration):
        fields = struct.unpack("<5f2HQ16s", content[48 * number : 48 * number + 48])
        assert fields == STATE.history.records[number].tolist()
