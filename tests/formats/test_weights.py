"""weights.py."""

import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relume.errors import WeightsError
from relume.formats.cfg import parse_cfg, read_cfg
from relume.formats.sections import Cfg
from relume.formats.weights import (
    RELUME_REVISION,
    Floats,
    format_header,
    format_weights,
    layout,
    parse_header,
    parse_weights,
    partial_weights,
)
from tests.formats.nets import TEXT
from tests.shared import SHARED, needs_shared

CFG = parse_cfg(TEXT, "x.cfg", "train")
GOLDEN = SHARED / "golden" / "train"


def numbered_arrays(cfg: Cfg) -> dict[str, Floats]:
    """Return arrays whose elements are all different: 1, 2, 3, ... in file order."""
    arrays, start = {}, 1
    for spec in layout(cfg):
        stop = start + spec.size_bytes // 4
        arrays[spec.name] = np.arange(start, stop, dtype="<f4").reshape(spec.shape)
        start = stop
    return arrays


WHOLE = format_weights(numbered_arrays(CFG), CFG, seen=12)
LAYER_ENDS = {0: 20, 1: 20 + 4 * (4 * 6 + 6 * 27), 7: 20 + 4 * (4 * 6 + 6 * 27 + 6 + 6 * 18)}


def test_arrays_stand_in_darknets_order() -> None:
    assert [(spec.name, spec.shape) for spec in layout(CFG)] == [
        ("0.biases", (6,)),
        ("0.scales", (6,)),
        ("0.rolling_mean", (6,)),
        ("0.rolling_variance", (6,)),
        ("0.weights", (6, 3, 3, 3)),
        ("1.biases", (6,)),
        ("1.weights", (6, 2, 3, 3)),
        ("7.biases", (14,)),
        ("7.weights", (14, 6, 1, 1)),
    ]
    numbers = np.frombuffer(WHOLE, "<f4", offset=20)
    assert (numbers == np.arange(1, len(numbers) + 1)).all()


def test_a_whole_file_is_read_back() -> None:
    weights = parse_weights(WHOLE, CFG, "x.weights")
    assert (weights.end, weights.layers_filled, weights.trailing) == ("whole", 9, 0)
    assert weights.end_offset == len(WHOLE)
    assert (weights.header.revision, weights.header.seen) == (5, 12)
    for name, array in numbered_arrays(CFG).items():
        assert (weights.arrays[name] == array).all()
    assert format_weights(weights.arrays, CFG, seen=12) == WHOLE


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_arrays_are_read_only_views(kind: type) -> None:
    array = parse_weights(kind(WHOLE), CFG, "x.weights").arrays["0.weights"]
    assert not array.flags.writeable
    assert not array.flags.owndata


def test_bytes_behind_the_last_layer_are_counted() -> None:
    weights = parse_weights(WHOLE + b"PK...", CFG, "x.weights")
    assert (weights.end, weights.end_offset, weights.trailing) == ("whole", len(WHOLE), 5)


@given(st.integers(20, len(WHOLE) - 1))
def test_a_short_file_is_described(length: int) -> None:
    weights = parse_weights(WHOLE[:length], CFG, "x.weights")
    filled = max(layer for layer, end in LAYER_ENDS.items() if end <= length)
    inside = length > LAYER_ENDS[filled]
    assert weights.layers_filled == filled
    assert weights.end == ("inside" if inside else "layer")
    assert weights.partial_layer == (filled if inside else None)
    assert (weights.end_offset, weights.trailing) == (
        LAYER_ENDS[filled],
        length - LAYER_ENDS[filled],
    )
    assert {spec.name for spec in layout(CFG) if spec.layer < filled} == set(weights.arrays)


def test_layers_without_arrays_count_as_filled() -> None:
    assert parse_weights(WHOLE[: LAYER_ENDS[7]], CFG, "x.weights").layers_filled == 7


@given(st.integers(0, 2**64 - 1), st.sampled_from([0, 5, RELUME_REVISION]))
def test_headers_round_trip(seen: int, revision: int) -> None:
    header = parse_header(format_header(seen, revision), "x.weights")
    assert (header.major, header.minor, header.revision) == (0, 2, revision)
    assert (header.seen, header.size_bytes) == (seen, 20)


def test_before_version_0_2_seen_has_32_bits() -> None:
    data = struct.pack("<3iI", 0, 1, 0, 77) + WHOLE[20:]
    weights = parse_weights(data, CFG, "x.weights")
    assert (weights.header.seen, weights.header.size_bytes, weights.end) == (77, 16, "whole")


def test_the_revision_of_a_checkpoint_reads_relm() -> None:
    assert format_header(0, RELUME_REVISION)[8:12] == b"relm"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 bytes; the header alone has 20"),
        (WHOLE[:19], "has 19 bytes; the header alone has 20"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "is a picture (JPEG), not weights; are the arguments in"),
        (b"\n<!DOCTYPE html><html>", "is a web page, not weights; download it again"),
        (b"PK\x03\x04" + bytes(50), "a ZIP archive"),
        (b"classes = 3\ntrain = train.txt\n", "is a text file; a Darknet weights file"),
        (b"\x80\x02}q\x00" + bytes(50), "a pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "run git lfs pull"),
        (struct.pack("<3iQ", 0, -2, 5, 0), "has version 0.-2"),
        (struct.pack("<3iQ", 11, 2, 5, 0), "has version 11.2; Darknet writes 0.1 or 0.2"),
        (struct.pack("<3iQ", 0, 1002, 5, 0), "transposed"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a picture (PNG), not weights"),
    ],
)
def test_what_is_no_weights_file_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(WeightsError) as error:
        parse_weights(data, CFG, "x.weights")
    assert str(error.value).startswith("x.weights: ")
    assert message in str(error.value)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: WHOLE[:20] + tail))
def test_hostile_bytes_are_described_or_refused(data: bytes) -> None:
    try:
        weights = parse_weights(data, CFG, "x.weights")
    except WeightsError:
        return
    assert weights.end_offset + weights.trailing == len(data)


@pytest.mark.parametrize("wrong", ["missing", "shape", "dtype"])
def test_arrays_that_do_not_fit_are_not_written(wrong: str) -> None:
    arrays: dict[str, np.ndarray] = {**numbered_arrays(CFG)}
    weights = arrays.pop("1.weights")
    if wrong == "shape":
        arrays["1.weights"] = weights[:, :1]
    if wrong == "dtype":
        arrays["1.weights"] = weights.astype(np.float64)
    with pytest.raises(ValueError, match=r"1\.weights"):
        format_weights(arrays, CFG, seen=0)


def test_an_array_that_is_not_contiguous_is_written_in_order() -> None:
    arrays = {name: np.asfortranarray(array) for name, array in numbered_arrays(CFG).items()}
    assert format_weights(arrays, CFG, seen=12) == WHOLE


def test_partial_keeps_leading_layers_and_forgets_seen() -> None:
    part = partial_weights(WHOLE, CFG, 3, "x.weights")
    assert part == format_header(0) + WHOLE[20 : LAYER_ENDS[7]]
    weights = parse_weights(part, CFG, "x.conv.3")
    assert (weights.end, weights.layers_filled) == ("layer", 7)
    assert partial_weights(part, CFG, 7, "x.conv.3") == part


@pytest.mark.parametrize("layers", [0, -1, 10])
def test_partial_needs_a_number_of_layers_that_exists(layers: int) -> None:
    with pytest.raises(WeightsError, match="a number from 1 to 9 is needed"):
        partial_weights(WHOLE, CFG, layers, "x.weights")


def test_partial_refuses_a_file_that_ends_too_early() -> None:
    with pytest.raises(WeightsError, match="ends before layer 8; it fills only the 7 layers"):
        partial_weights(WHOLE[:-1], CFG, 8, "x.weights")


@pytest.mark.darknet
@pytest.mark.skipif(shutil.which("darknet") is None, reason="needs Debian's package darknet")
@pytest.mark.parametrize("layers", [1, 2, 8])
def test_partial_writes_what_darknet_writes(tmp_path: Path, layers: int) -> None:
    # The original knows neither mish nor groups of routes.
    text = TEXT.replace("mish", "leaky").replace("groups=2\ngroup_id=1\n", "")
    cfg = parse_cfg(text, "x.cfg", "train")
    whole = format_weights(numbered_arrays(cfg), cfg, seen=12)
    (tmp_path / "x.cfg").write_text(text)
    (tmp_path / "x.weights").write_bytes(whole)
    command = ["darknet", "partial", "x.cfg", "x.weights", "out", str(layers)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    # Its revision is 0, as everything it writes.
    expected = format_header(0, 0) + partial_weights(whole, cfg, layers, "x.weights")[20:]
    assert (tmp_path / "out").read_bytes() == expected


@needs_shared
def test_partial_matches_the_original_on_yolov3_tiny() -> None:
    folder = SHARED / "models" / "yolov3-tiny"
    cfg = read_cfg(folder / "yolov3-tiny.cfg", "detect")
    data = (folder / "yolov3-tiny.weights").read_bytes()
    part = partial_weights(data, cfg, 15, "yolov3-tiny.weights")
    assert len(part) == 30_973_396
    digest = (GOLDEN / "partial.sha256").read_text().split()[0]
    assert hashlib.sha256(part[20:]).hexdigest() == digest


@needs_shared
def test_darknets_files_round_trip() -> None:
    models = [path for path in SHARED.glob("models/*/*.weights") if path.stat().st_size < 2**21]
    assert len(models) == 2
    for path in [*models, *GOLDEN.glob("*.weights")]:
        name = path.stem if path.with_suffix(".cfg").exists() else path.name.split(".")[0]
        cfg = read_cfg(path.parent / f"{name}.cfg", "detect")
        data = path.read_bytes()
        weights = parse_weights(data, cfg, str(path))
        assert (weights.end, weights.trailing) == ("whole", 0)
        header = weights.header
        assert format_weights(weights.arrays, cfg, header.seen, header.revision) == data
